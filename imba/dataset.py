"""Loading and validating data sets in the layout of the authors' release.

A data set is a folder with ``data.json`` (a list of records), ``images/`` and ``masks/``; a rendered one has ``truth/``
too.  Nothing wrong in a record or file stops :func:`load`: each becomes a :class:`Problem`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpam_bench.imba.common.remote import fetch
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import Origin
from cpam_bench.imba.sample import Altered, Kind, Sample

if TYPE_CHECKING:
    import datasets

POCKET = Path(__file__).parent / "data" / "pocket"
"""Folder of the embedded benchmark."""

MARK = ".pocket"
"""File that marks a folder as other tasks on the embedded benchmark's rendered scenes."""

_ORIENTATION = 0x0112  # EXIF tag

EXTREME_ASPECT = 4.0
"""Above this ratio of its edges an image draws a warning, because editors see it squashed to a square."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        severity: ``error`` if the sample cannot be edited or scored, else ``warning``.
        what: what is wrong; the same words for the same fault, so that faults can be grouped.
        mend: what to do about it.
        sample: id of the sample, or None if the record did not become one.
        record: index of the record in ``data.json``, counted from 0.
        file: the file, relative to the data set's folder (or as the record names it, if it is elsewhere).
    """

    severity: Literal["error", "warning"]
    what: str
    mend: str
    sample: str | None = None
    record: int | None = None
    file: str | None = None

    def __str__(self) -> str:
        where = [] if self.record is None else [f"data.json[{self.record}]"]
        where += [part for part in (self.sample, self.file) if part]
        return f"{self.severity}: {', '.join(where) or 'data set'}: {self.what}. {self.mend}."


class Record(BaseModel):
    """A record of ``data.json``: the release's six fields, and optional ones of our own."""

    model_config = ConfigDict(strict=True, extra="allow")

    img_name: str = Field(min_length=1)
    target_text: str = Field(min_length=1)
    object: Altered
    alter_mask: str | None
    retain_object: bool
    object_prompt: str
    id: str | None = None
    kind: Kind | None = None
    source_prompt: str | None = None
    several_objects: bool = False
    truth: str | None = None
    mask_origin: Origin | None = None


_MENDS = {
    "img_name": "Give the image's file name in images/",
    "target_text": "Give the target prompt as text",
    "object": 'Give "foreground", "object" or "background"',
    "alter_mask": "Give the mask's name without .png, or null if it is the image's",
    "retain_object": "Give true or false",
    "object_prompt": "Give the words of target_text that name the edited object",
    "id": "Give a text, or leave it out",
    "kind": 'Give "replace", "pose", "background", "remove" or "add", or leave it out',
    "source_prompt": "Give a caption of the image, or leave it out",
    "several_objects": "Give true or false, or leave it out",
    "truth": "Give a file name in truth/, or leave it out",
    "mask_origin": "Give what cpam-bench writes there, or leave it out",
}


@dataclass(frozen=True)
class Dataset:
    """A data set as loaded; iterating gives its samples.

    Attributes:
        name: ``pocket`` for the embedded benchmark, else the folder's name.
        root: its folder, absolute.
        samples: in the order of ``data.json``; a record that cannot become a sample is a problem instead.
        problems: what :func:`load` saw; :func:`validate` also looks into the files.
        fingerprint: sha256 over the records and the contents of every file they name.
        records: how many records ``data.json`` holds.
        indices: of each sample, the index of its record.
    """

    name: str
    root: Path
    samples: list[Sample]
    problems: list[Problem]
    fingerprint: str
    records: int
    indices: list[int] = dataclasses.field(default_factory=list)

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
        """Whether the images are rendered scenes: the embedded benchmark, or other tasks on them."""
        return self.name == "pocket" or (self.root / MARK).is_file()

    def first(self, count: int | None) -> Dataset:
        """The first ``count`` samples (None: all) with the problems that concern them or no sample at all.

        The fingerprint stays that of the whole, because it names the data and not the selection.
        """
        samples = self.samples[:count]
        kept = {sample.id for sample in samples}
        problems = [problem for problem in self.problems if problem.sample is None or problem.sample in kept]
        return dataclasses.replace(self, samples=samples, problems=problems, indices=self.indices[:count])

    def to_hf(self) -> datasets.Dataset:
        """The samples as a Hugging Face data set, for its tools (map, filter, push_to_hub, the viewer).

        Columns are the fields of :class:`Sample`; ``image``, ``mask`` (the object's, as stored) and ``truth`` are Image
        features that decode on access, and ``mask_origin`` is JSON.

        Raises:
            UserError: an image or mask is missing.
        """
        import datasets

        require_complete(self)
        text, flag, picture = datasets.Value("string"), datasets.Value("bool"), datasets.Image()
        special = {"image": picture, "mask": picture, "truth": picture, "retain_object": flag, "several_objects": flag}
        names = [field.name for field in dataclasses.fields(Sample)]
        features = datasets.Features({name: special.get(name, text) for name in names})
        rows = [{name: getattr(sample, name) for name in names} for sample in self.samples]
        for row in rows:
            origin = row["mask_origin"]
            row["mask_origin"] = origin and origin.model_dump_json()
        rows = [{k: str(v) if isinstance(v, Path) else v for k, v in row.items()} for row in rows]
        return datasets.Dataset.from_list(rows, features=features)


def load(name_or_path: str | Path) -> Dataset:
    """Load ``pocket`` (the embedded benchmark) or a folder in the authors' layout, here or at any URL of fsspec's.

    Reads ``data.json`` and looks for the files it names; pixels are read by :func:`validate` and by the samples.

    Raises:
        UserError: there is no such folder, or its ``data.json`` is missing, is not JSON or is not a list.
    """
    if "://" in str(name_or_path):
        name_or_path = fetch(str(name_or_path))
    root = POCKET if str(name_or_path) == "pocket" else Path(name_or_path).expanduser()
    raw = read_records(root / "data.json", name_or_path)
    root = root.resolve()
    problems = [] if raw else [Problem("error", "data.json holds no record", "Add some", file="data.json")]
    records: dict[int, Record] = {}
    for index, item in enumerate(raw):
        record, found = _parse(index, item)
        problems += found
        if record is not None:
            records[index] = record
    ids = _ids(records, problems)
    samples, indices = [], []
    for index, record in records.items():
        try:
            sample, found = _sample(root, index, record, ids[index])
        except _Refused as refused:
            problems.append(refused.problem)
            continue
        samples.append(sample)
        indices.append(index)
        problems += found
    is_pocket = root == POCKET.resolve()
    # Another folder that happens to be called "pocket" must not pass for the embedded one.
    name = "pocket" if is_pocket else root.name if root.name != "pocket" else str(root)
    return Dataset(name, root, samples, problems, _fingerprint(root, raw, samples), len(raw), indices)


def validate(dataset: Dataset) -> list[Problem]:
    """Every problem of a data set, including those that only the pixels tell.

    Errors: a damaged image or mask; a mask of another size than its image; nothing to alter (an all-zero mask, or for
    ``background`` an object that fills the image).  Warnings: everything is altered, so that there is no background to
    score; a damaged truth; an extreme aspect ratio; an EXIF rotation.
    """
    seen: dict[object, tuple[tuple[int, int], int] | UserError] = {}
    problems = list(dataset.problems)
    for sample in dataset:
        problems += _look(dataset.root, sample, seen)
    return problems


def require_complete(dataset: Dataset) -> list[Problem]:
    """Make sure that every sample can be edited and scored; called before any editing.

    Returns:
        the warnings, for the caller to show.

    Raises:
        UserError: with the list of errors, grouped.
    """
    problems = validate(dataset)
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        lines = "\n".join(f"  {line}" for line in summarize(errors, len(dataset)))
        raise UserError(
            f"The data set {dataset.name} ({dataset.root}) is not complete:\n{lines}\n"
            f"cpam-bench data validate {dataset.root} lists every one."
        )
    return [problem for problem in problems if problem.severity == "warning"]


def summarize(problems: Iterable[Problem], samples: int, files: int = 4) -> list[str]:
    """One line a kind of problem: how many samples it touches and the first few files or records.

    Args:
        problems: to be grouped by what is wrong and its mend.
        samples: how many samples the data set has.
        files: how many names a line shows.
    """
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.what, problem.mend), []).append(problem)
    lines = []
    for (what, mend), group in groups.items():
        touched = {problem.sample for problem in group if problem.sample}
        names = list(dict.fromkeys(_name(problem) for problem in group))
        listed = ", ".join(names[:files]) + (f" and {len(names) - files} more" if len(names) > files else "")
        every = samples > 1 and len(touched) == samples
        count = (
            "every sample" if every else f"{len(touched)} of {samples} samples" if touched else "no sample made of it"
        )
        lines.append(f"{what} ({count}): {listed}. {mend}.")
    return lines


def _name(problem: Problem) -> str:
    record = "" if problem.record is None else f"data.json[{problem.record}]"
    if problem.sample is None and record:
        return f"{record} ({problem.file})" if problem.file else record
    return problem.file or problem.sample or "data.json"


# --------------------------------------------------------------------------------------------------------------------
# records


def read_records(path: Path, asked: str | Path) -> list[Any]:
    layout = "a data set is a folder with data.json, images/ and masks/, or the name pocket"
    try:
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        what = f"{path.parent} has no data.json" if path.parent.is_dir() else f"there is no data set {asked}"
        raise UserError(f"{what}; {layout}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (see byte {error.start}). Save it as UTF-8.") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}). Mend it there, or fetch it again.") from error
    if not isinstance(raw, list):
        raise UserError(f"{path} holds a {type(raw).__name__}, where a list of records is expected; {layout}.")
    return raw


def _parse(index: int, item: Any) -> tuple[Record | None, list[Problem]]:
    """The record, or None, and what is wrong with its fields."""
    named = item.get("img_name") if isinstance(item, dict) else None
    file = ascii(named)[1:-1] if isinstance(named, str) else None
    if not isinstance(item, dict):
        what = f"the record is a {type(item).__name__}, not an object"
        return None, [Problem("error", what, "Write {...} with the fields of the layout", record=index)]
    try:
        record = Record.model_validate(item)
    except ValidationError as error:
        problems = []
        for fault in error.errors():
            field = str(fault["loc"][0])
            missing = fault["type"] == "missing" and len(fault["loc"]) == 1
            wrong = "is missing" if missing else f"is wrong: {fault['msg']}, not {fault['input']!a:.60}"
            problems.append(Problem("error", f"field {field} {wrong}", _MENDS[field], record=index, file=file))
        return None, problems
    unknown = [
        Problem("warning", f"unknown field {key!a} is ignored", "Check its spelling", record=index, file=file)
        for key in record.model_extra or {}
    ]
    return record, unknown


def slug(text: str, limit: int) -> str:
    """Lower-case ASCII letters, digits, ``_`` and ``-``; a text that is cut or has no such letters ends in its hash."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")
    if name and len(name) <= limit:
        return name
    return f"{name[:limit]}-{_hash(text)}".strip("-")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def _identity(record: Record) -> str:
    """What makes two records the same task."""
    fields = {"img_name", "target_text", "object", "alter_mask", "retain_object", "object_prompt", "kind"}
    return json.dumps(record.model_dump(include=fields), sort_keys=True)


def _ids(records: dict[int, Record], problems: list[Problem]) -> dict[int, str]:
    """An id a record: its own, else ``<image's stem>-<target text>``.

    Records whose ids would be the same are told apart by a hash of what they say, so that no id depends on the order
    of the records; only true duplicates are numbered, in their order.
    """
    base: dict[int, str] = {}
    for index, record in records.items():
        if record.id is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}", record.id):
            what = f"id {record.id!a:.60} is not safe as a file name"
            mend = "Use at most 120 letters, digits, dots, dashes and underscores"
            problems.append(Problem("error", what, mend, record=index, file=record.img_name))
        elif record.id is not None:
            base[index] = record.id
            continue
        base[index] = f"{slug(Path(record.img_name).stem, 40)}-{slug(record.target_text, 70)}"
    # File systems may not tell upper from lower case.
    tasks: dict[str, set[str]] = {}
    for index, id in base.items():
        tasks.setdefault(id.lower(), set()).add(_identity(records[index]))
    ids: dict[int, str] = {}
    firsts: dict[str, int] = {}
    taken: set[str] = set()
    for index, id in base.items():
        identity = _identity(records[index])
        if len(tasks[id.lower()]) > 1:
            if records[index].id == id:
                what, mend = f"id {id} is used by several records", "Give each record its own id"
                problems.append(Problem("error", what, mend, record=index, file=records[index].img_name))
            id = f"{id}-{_hash(identity)}"
        first = firsts.setdefault(identity, index)
        if first != index:
            what = f"the record repeats data.json[{first}]"
            mend = "Remove one of them, or the sample counts twice"
            problems.append(Problem("warning", what, mend, record=index, file=records[index].img_name))
        number, free = 1, id
        while free.lower() in taken:
            number += 1
            free = f"{id}-{number}"
        taken.add(free.lower())
        ids[index] = free
    return ids


# --------------------------------------------------------------------------------------------------------------------
# files


class _Refused(Exception):
    """The record names a file that must not be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def unsafe(root: Path, folder: str, name: str) -> str | None:
    """Why ``root/folder/name`` must not be read or written, or None if it lies inside ``root/folder``."""
    # Windows' rules know both separators and drives, so they cover every system.
    pure = PureWindowsPath(name)
    if pure.drive or pure.root or ".." in pure.parts or "\0" in name:
        return f"{name!a:.100} climbs out of {folder}/"
    try:
        if not (root / folder / name).resolve().is_relative_to(root.resolve()):
            return f"{name!a:.100} is a link out of the data set"
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, no valid characters
        return f"{name!a:.100} is no usable file name ({error})"
    return None


def mask_name(img_name: str, alter_mask: str | None) -> str:
    """File name of a record's mask: ``<alter_mask>.png``, or the image's stem if that is null."""
    return f"{(alter_mask or str(Path(img_name).with_suffix(''))).removesuffix('.png')}.png"


def _sample(root: Path, index: int, record: Record, id: str) -> tuple[Sample, list[Problem]]:
    problems: list[Problem] = []

    def locate(folder: str, name: str, what: str, mend: str, severity: Literal["error", "warning"]) -> Path | None:
        reason = unsafe(root, folder, name)
        if reason:
            mend = "Copy the file into the data set and name it there"
            raise _Refused(Problem("error", f"the {what} is refused: {reason}", mend, record=index))
        path = root / folder / name
        try:
            found = path.is_file()
        except OSError:  # a name that is too long for the file system
            found = False
        if not found:
            problems.append(Problem(severity, f"the {what} is missing", mend, id, index, f"{folder}/{name}"))
        return path if found else None

    image = locate("images", record.img_name, "image", "Put it there", "error")
    mend = "Draw a PNG of the image's size, white on the object"
    mask = locate("masks", mask_name(record.img_name, record.alter_mask), "mask", mend, "error")
    truth = record.truth and locate("truth", record.truth, "truth", "Put it there", "warning")
    kind: Kind = "background" if record.object == "background" else "pose" if record.retain_object else "replace"
    sample = Sample(
        id=id,
        image=image or root / "images" / record.img_name,
        mask=mask,
        target_prompt=record.target_text,
        object_prompt=record.object_prompt,
        altered=record.object,
        retain_object=record.retain_object,
        kind=record.kind or kind,
        source_prompt=record.source_prompt,
        several_objects=record.several_objects,
        truth=truth or None,
        mask_origin=record.mask_origin,
    )
    return sample, problems


def _fingerprint(root: Path, raw: list[Any], samples: list[Sample]) -> str:
    """sha256 over the records (whatever their spacing) and each file's name and contents (None if it is missing)."""
    paths = {path for s in samples for path in (s.image, s.mask, s.truth) if isinstance(path, Path)}
    files = {path.relative_to(root).as_posix(): digest(path) for path in paths}
    return hashlib.sha256(json.dumps([raw, files], sort_keys=True).encode()).hexdigest()


def digest(path: Path) -> str | None:
    """sha256 of a file's contents, or None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _look(root: Path, sample: Sample, seen: dict[object, tuple[tuple[int, int], int] | UserError]) -> list[Problem]:
    """Problems in the pixels of a sample; ``seen`` keeps size and rotation of images that several samples share."""
    problems: list[Problem] = []

    def report(severity: Literal["error", "warning"], file: object, what: str, mend: str) -> None:
        name = file.relative_to(root).as_posix() if isinstance(file, Path) and file.is_relative_to(root) else None
        problems.append(Problem(severity, what, mend, sample.id, file=name))

    damaged, again = "is damaged, cut short or not a picture", "Fetch the file again"
    size: tuple[int, int] | None = None
    if not isinstance(sample.image, Path) or sample.image.is_file():  # load() has told of a missing one
        key = sample.image if isinstance(sample.image, Path) else id(sample.image)
        if key not in seen:
            seen[key] = _facts(sample)
        facts = seen[key]
        if isinstance(facts, UserError):
            report("error", sample.image, f"the image {damaged}", again)
        else:
            size, rotation = facts
            if max(size) > EXTREME_ASPECT * min(size):
                what = f"the image is {size[0]} x {size[1]} pixels and will be squashed to a square"
                report("warning", sample.image, what, "Crop it if that matters")
            if rotation != 1:
                what = "the image carries a rotation (EXIF), which is not applied"
                report("warning", sample.image, what, "Save it upright if it shows lying, and its mask with it")
    if sample.truth is not None:
        try:
            truth = sample.read_truth()
            if truth is not None and size not in (None, truth.size):
                report("warning", sample.truth, "the truth has another size than the image", "Render it again")
        except UserError:
            report("warning", sample.truth, f"the truth {damaged}", again)
    if sample.mask is None:
        return problems
    try:
        region = sample.read_mask()
    except UserError:
        report("error", sample.mask, f"the mask {damaged}", again)
        return problems
    height, width = region.shape
    if size not in (None, (width, height)):
        what = f"the mask is {width} x {height} pixels, its image is not"
        report("error", sample.mask, what, "Resize the mask to the image's size, with nearest neighbour")
    is_background = sample.altered == "background"
    if not region.any():
        what = f"the mask {'fills the image' if is_background else 'is empty'}: there is nothing to alter"
        report("error", sample.mask, what, "Make it white on the object and black elsewhere")
    elif region.all():
        what = f"the mask {'is empty' if is_background else 'fills the image'}: there is no background to score"
        report("warning", sample.mask, what, "Make it white on the object and black elsewhere")
    return problems


def _facts(sample: Sample) -> tuple[tuple[int, int], int] | UserError:
    """Size and EXIF orientation of a sample's image, or why it cannot be read."""
    try:
        picture = sample.read_image()
    except UserError as error:
        return error
    return picture.size, int(picture.getexif().get(_ORIENTATION, 1))
