"""Data sets: a folder, told by its layout, as samples; what is wrong with it; and which of it is complete."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cpam_bench.imba.checks import Look, words
from cpam_bench.imba.common.files import encode_png
from cpam_bench.imba.common.hashes import are_pocket, digest, records_hash
from cpam_bench.imba.common.labels import canonical
from cpam_bench.imba.common.remote import fetch
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import LAYOUTS, Content, Layout, Recognition
from cpam_bench.imba.layouts.release import MASKS, OURS, WHAT, WHOSE, Release
from cpam_bench.imba.layouts.table import CONFIG, read_config
from cpam_bench.imba.problems import Problem, summarize
from cpam_bench.imba.sample import Sample

if TYPE_CHECKING:
    import datasets

__all__ = ["Dataset", "Problem", "load", "recognise", "require_complete", "summarize", "validate"]

POCKET = Path(__file__).parent / "data" / "pocket"
"""Folder of the embedded benchmark."""

MARK = ".pocket"
"""File that marks a folder as other tasks on the embedded benchmark's rendered scenes."""


@dataclass(frozen=True)
class Dataset:
    """A data set as loaded; iterating gives its samples.

    Attributes:
        name: ``pocket`` for the embedded benchmark, else the folder's name.
        root: its folder, absolute.
        samples: in the order of the records; a record that cannot become a sample is a problem instead.
        problems: what :func:`load` saw; :func:`validate` also looks into the files.
        fingerprint: sha256 over the records and the contents of every file they name.
        records: how many records there are.
        indices: of each sample, the index of its record.
        layout: the layout's label.
        why: how the layout was told.
        facts: what else the layout has to say of it.
        left_out: id of a sample, or place of a record that became none, -> why it is not among the samples
            (:meth:`complete`).
        masks: whose masks these are, in words; empty where they come with the data, as pocket's, or nothing is known.
        annotations: sha256 over the records alone, which tells a benchmark by what it asks for.
    """

    name: str
    root: Path
    samples: list[Sample]
    problems: list[Problem]
    fingerprint: str
    records: int
    indices: list[int] = dataclasses.field(default_factory=list)
    layout: str = "release"
    why: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    masks: str = ""
    annotations: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __getitem__(self, id: str) -> Sample:
        """The sample of that id (KeyError if there is none)."""
        for sample in self.samples:
            if sample.id == id:
                return sample
        raise KeyError(id)

    @property
    def is_pocket(self) -> bool:
        """Whether the images are rendered scenes: the embedded benchmark or a copy of it, or other tasks on them."""
        return self.name == "pocket" or are_pocket([self.fingerprint]) or (self.root / MARK).is_file()

    @property
    def is_imba(self) -> bool:
        """Whether it is in IMBA's own layout and no rendered scenes, so that the paper's counts may stand beside it."""
        return self.layout.partition(":")[0] == Release.name and not self.is_pocket

    def first(self, count: int | None) -> Dataset:
        """The first ``count`` samples (None: all) with the problems that concern them or no sample at all.

        The fingerprint stays that of the whole, because it names the data and not the selection.
        """
        return self._only(range(len(self.samples))[:count])

    def complete(self, problems: list[Problem]) -> tuple[Dataset, list[Problem]]:
        """The samples without an error, and the errors that the others and the lost records have.

        Args:
            problems: all of the data set's, as :func:`validate` finds them.
        """
        errors = [problem for problem in problems if problem.severity == "error"]
        bad = {problem.sample for problem in errors if problem.sample}
        whole = self._only([index for index, sample in enumerate(self.samples) if sample.id not in bad])
        kept = [problem for problem in whole.problems if problem.severity == "warning"]
        left_out = {problem.sample or problem.place: problem.what for problem in reversed(errors)}  # the first is said
        return dataclasses.replace(whole, problems=kept, left_out=dict(sorted(left_out.items()))), errors

    def _only(self, wanted: range | list[int]) -> Dataset:
        samples = [self.samples[index] for index in wanted]
        kept = {sample.id for sample in samples}
        problems = [problem for problem in self.problems if problem.sample is None or problem.sample in kept]
        return dataclasses.replace(
            self, samples=samples, problems=problems, indices=[self.indices[index] for index in wanted]
        )

    def to_hf(self) -> datasets.Dataset:
        """The samples as a Hugging Face data set, for its tools (map, filter, push_to_hub, the viewer).

        Columns are the fields of :class:`Sample`, with ``mask`` for the region: the alteration mask M_s, white where
        the picture is to change.  ``image``, ``mask`` and ``truth`` are Image features that decode on access, and
        ``mask_origin`` is JSON.

        Raises:
            UserError: an image or mask is missing.
        """
        import datasets

        require_complete(self)
        text, flag, picture = datasets.Value("string"), datasets.Value("bool"), datasets.Image()
        special = {
            "image": picture,
            "mask": picture,
            "truth": picture,
            "retain_object": flag,
            "several_objects": flag,
            "tags": datasets.List(text),
            "edited_words": datasets.List(text),
        }
        rows = []
        columns = [field.name for field in dataclasses.fields(Sample) if field.name not in ("fit", "frame")]
        for sample in self.samples:
            row: dict[str, Any] = {name: getattr(sample, name) for name in columns if name != "region"}
            mask = None if sample.region is None else Image.fromarray(sample.read_mask().astype(np.uint8) * 255)
            row["mask"] = mask and {"bytes": encode_png(mask), "path": None}
            row["mask_origin"] = sample.mask_origin and sample.mask_origin.model_dump_json()
            row["tags"] = list(sample.tags)
            row["edited_words"] = sample.edited_words and list(sample.edited_words)
            for name in ("image", "truth"):
                if isinstance(row[name], Image.Image):
                    row[name] = {"bytes": encode_png(row[name]), "path": None}
            rows.append({k: str(v) if isinstance(v, Path) else v for k, v in row.items()})
        names = ["mask" if name == "region" else name for name in columns]
        features = datasets.Features({name: special.get(name, text) for name in names})
        return datasets.Dataset.from_list(rows, features=features)


def load(name_or_path: str | Path, layout: str | None = None, threshold: int | None = None) -> Dataset:
    """Load ``pocket`` (the embedded benchmark), or a data set in any layout, here or at any URL of fsspec's.

    Reads the records and looks for the files they name; pixels are read by :func:`validate` and by the samples.

    Args:
        name_or_path: ``pocket``, a folder, a table, or a URL.
        layout: its label, ``NAME:KEY=VALUE,...``; None takes what ``dataset.toml`` says, or recognises it.
        threshold: masks are inside above it, 0 to 255; None is the layout's own.

    Raises:
        UserError: there is no such data set, no layout recognises it, or its records cannot be read.
    """
    if "://" in str(name_or_path):
        name_or_path = fetch(str(name_or_path))
    root = POCKET if str(name_or_path) == "pocket" else Path(name_or_path).expanduser()
    made, seen = _layout(root, name_or_path, layout)
    if threshold is not None:
        made = _with_threshold(made, threshold)
    root = root.resolve()
    content = made.read(root)
    folder = root if root.is_dir() else root.parent
    label = canonical(made.name, made)
    files = _digests(folder, content)
    fingerprint = _fingerprint(content, files, label)
    name = root.name
    if name == "pocket" and root != POCKET.resolve():
        # Another folder that happens to be called "pocket" must not pass for the embedded one.
        name = f"pocket-{fingerprint[:8]}"
    return Dataset(
        name,
        folder,
        content.samples,
        content.problems + [problem for sample in content.samples for problem in words(sample)],
        fingerprint,
        content.count,
        content.indices,
        label,
        seen.why,
        content.facts,
        masks=_whose_masks(folder, content, files) if made.name == Release.name else "",
        annotations=records_hash(content.records),
    )


def recognise(root: Path) -> list[tuple[Layout, Recognition]]:
    """The layouts that know a folder, those that can read it first; layouts that are broken are passed over."""
    loaded, _ = LAYOUTS.load_all()
    found = []
    for cls in loaded.values():
        made = cls()
        if seen := made.recognises(root):
            found.append((made, seen))
    return sorted(found, key=lambda pair: bool(pair[1].lacks))


def _layout(root: Path, asked: str | Path, label: str | None) -> tuple[Layout, Recognition]:
    if not _exists(root):
        raise UserError(f"there is no data set {asked}; {WHAT}.")
    if label:
        return LAYOUTS.make(label)[1], Recognition("it was asked for")
    said = read_config(root).get("layout") if root.is_dir() else None
    if said is not None:
        if not isinstance(said, str):
            raise UserError(
                f'{root / CONFIG}: layout is no text. Write it as on the command line: "release:threshold=127".'
            )
        return LAYOUTS.make(said)[1], Recognition(f"{CONFIG} says so")
    found = recognise(root)
    whole = [pair for pair in found if not pair[1].lacks]
    if len(whole) > 1:
        names = "; ".join(f"{made.name}: {seen.why}" for made, seen in whole)
        raise UserError(f"{root} may be of several layouts ({names}). Say which by --layout {whole[0][0].name}.")
    if whole:
        return whole[0]
    if found:
        nearly = "; ".join(f"as {made.name}, {seen.why}, and {seen.lacks}" for made, seen in found)
        raise UserError(f"{root} is nearly a data set: {nearly}.")
    raise UserError(
        f"{root} has no data.json; {WHAT}. cpam-bench datasets lists the other layouts that are read."
        if root.is_dir()
        else f"{root} is no table that is read; {WHAT}."
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or not one
        return False


def _with_threshold(made: Layout, threshold: int) -> Layout:
    if not any(field.name == "threshold" for field in dataclasses.fields(made)):  # type: ignore[arg-type]
        raise UserError(f"--mask-threshold: the layout {made.name} has no masks that are read by a threshold.")
    if not 0 <= threshold < 255:
        raise UserError(f"--mask-threshold {threshold} is not within 0 to 254.")
    return dataclasses.replace(made, threshold=threshold)  # type: ignore[type-var, return-value]


def _digests(root: Path, content: Content) -> dict[str, str | None]:
    """Each file that the samples name -> sha256 of its contents, None if it is missing."""
    paths = {path for s in content.samples for path in (s.image, s.region_file, s.truth) if isinstance(path, Path)}
    return {path.relative_to(root).as_posix(): digest(path) for path in paths}


def _fingerprint(content: Content, files: Mapping[str, str | None], label: str) -> str:
    """sha256 over the records (whatever their spacing), the files, and the layout where it is not the release as it
    is."""
    what = [content.records, files] + ([] if label == Release.name else [label])
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _whose_masks(root: Path, content: Content, files: Mapping[str, str | None]) -> str:
    """Whose the masks of a data set in IMBA's layout are: told by their bytes, and by what its builder noted."""
    if root == POCKET.resolve() or (root / MARK).is_file():
        return ""
    names = {path.relative_to(root).as_posix() for s in content.samples if (path := s.region_file) is not None}
    known = {name: files[name] for name in sorted(names)}
    ours = [name for name, found in known.items() if found and found == digest(MASKS / Path(name).name)]
    said = read_config(root).get(WHOSE)
    whole = hashlib.sha256(json.dumps(known).encode()).hexdigest()[:8]
    others = f"from {said} ({whole})" if isinstance(said, str) and said else "the data set's own"
    if len(ours) == len(known):
        return OURS if known else ""
    return f"{others}, but {len(ours)} of {len(known)} {OURS}" if ours else others


def validate(dataset: Dataset, resolution: int | None = None) -> list[Problem]:
    """Every problem of a data set, including those that only the pixels tell.

    Errors: a damaged image or mask; a mask of another size than its image; nothing to alter; a mask of which it is not
    clear what it marks; a region of which nothing is left at the model's resolution.  Warnings: everything is altered,
    so that there is no background to score; a damaged truth; an extreme aspect ratio; an EXIF rotation; what was taken
    of pictures that are more than 8-bit RGB.

    Args:
        dataset: as loaded.
        resolution: of the backbone, where it is known.
    """
    look = Look(dataset.root, resolution)
    return [*dataset.problems, *(problem for sample in dataset for problem in look.at(sample))]


def require_complete(dataset: Dataset, resolution: int | None = None) -> list[Problem]:
    """Make sure that every sample can be edited and scored; called before any editing.

    Returns:
        the warnings, for the caller to show.

    Raises:
        UserError: with the list of errors, grouped.
    """
    problems = validate(dataset, resolution)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        lines = "\n".join(f"  {line}" for line in summarize(errors, len(dataset)))
        raise UserError(
            f"The data set {dataset.name} ({dataset.root}) is not complete:\n{lines}\n"
            f"cpam-bench data validate {dataset.root} lists every one."
        )
    return [problem for problem in problems if problem.severity == "warning"]
