"""PIE-Bench (Ju et al. 2024): 700 pictures of ten types of edits, with captions and masks; and PIE-Bench++.

``mapping_file.json`` is one object keyed by ids of twelve digits; pictures are under ``annotation_images/``.  A mask is
run lengths, and not COCO's: pairs (start from 0, length) over the rows of the 512 x 512 picture, one after the other, a
length cut at the end.  Inside a run is what is to be edited; then the outermost rows and columns count as edited.
Square brackets in the prompts mark what differs; they are taken out.

PIE-Bench++ (Huang et al. 2024, ParallelEdits; Parquet on the hub) has the same pictures and masks and longer prompts,
in which several things differ.  Its ``edit_action`` and ``aspect_mapping`` are not read: the type is that of the file's
folder, and the object that of the first pair of blended words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import (
    Content,
    Files,
    Recognition,
    Refused,
    field_text,
    packed_picture,
    parquet_columns,
    parquet_rows,
    read_json,
    safe_id,
)
from cpam_bench.imba.problems import Problem
from cpam_bench.imba.sample import Kind, Sample

LISTED = "mapping_file.json"
FOLDER = "annotation_images"
SIZE = 512
"""Edge of PIE-Bench's pictures and masks, in pixels."""

TYPES: dict[str, tuple[str, Kind]] = {
    "0": ("random", "add"),
    "1": ("change object", "replace"),
    "2": ("add object", "add"),
    "3": ("delete object", "remove"),
    "4": ("change content", "add"),
    "5": ("change pose", "pose"),
    "6": ("change color", "add"),
    "7": ("change material", "add"),
    "8": ("change background", "background"),
    "9": ("change style", "add"),
}
"""``editing_type_id`` -> its name, and the kind of CPAM's that it is edited as: "add" is also "modify a region"."""

STYLE = "9"
"""The type that is outside of CPAM's kinds: it is edited as a whole picture."""

PLUS = "prompts=PIE-Bench++"
"""The tag of the samples of PIE-Bench++, whose pictures are PIE-Bench's and whose prompts are not."""

_PLUS = {"id", "image", "source_prompt", "target_prompt", "mask"}
"""Columns by which a Parquet file is known as PIE-Bench++."""


@dataclass(frozen=True)
class Runs:
    """A mask by run lengths.

    Attributes:
        runs: start, length, start, length, ...
        whole: the whole picture is edited, whatever the runs say.
    """

    runs: tuple[int, ...]
    whole: bool = False

    def read(self, what: str) -> np.ndarray:
        """The region: bool (512, 512); see :class:`cpam_bench.imba.sample.Region`."""
        flat = np.full(SIZE * SIZE, self.whole)
        for start, length in zip(self.runs[::2], self.runs[1::2], strict=True):
            flat[start : start + length] = True
        mask = flat.reshape(SIZE, SIZE)
        mask[[0, -1], :] = mask[:, [0, -1]] = True
        return mask


@dataclass(frozen=True)
class PIEBench:
    """PIE-Bench as its authors hand it out, and PIE-Bench++ as it is on the hub."""

    name: ClassVar[str] = "pie-bench"
    title: ClassVar[str] = "PIE-Bench: mapping_file.json and annotation_images/; PIE-Bench++: Parquet"
    reference: ClassVar[str] = "Ju et al. 2024, Direct Inversion; Huang et al. 2024, ParallelEdits"

    def recognises(self, root: Path) -> Recognition | None:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        listed, pictures = (root / LISTED).exists(), (root / FOLDER).is_dir()
        if listed and pictures:
            return Recognition(f"{LISTED} and {FOLDER}/ are here")
        if listed:
            return Recognition(f"{LISTED} is here", f"{FOLDER}/ is not; put PIE-Bench's pictures there")
        if pictures:
            return Recognition(f"{FOLDER}/ is here", f"{LISTED} is not; put it there")
        tables = _parquet(root)
        if tables and set(parquet_columns(tables[0])) >= _PLUS:
            return Recognition(f"{len(tables)} Parquet files of PIE-Bench++ are here")
        return None

    def read(self, root: Path) -> Content:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        if not (root / LISTED).exists() and (tables := _parquet(root)):
            return _read_plus(root, tables)
        raw = read_json(root / LISTED, f"{root} has no {LISTED}; PIE-Bench is {LISTED} and {FOLDER}/.")
        if not isinstance(raw, dict):
            raise UserError(f"{root / LISTED} holds a {type(raw).__name__}, where an object keyed by ids is expected.")
        files = Files(root, LISTED)
        samples, indices = [], []
        for index, (key, item) in enumerate(raw.items()):
            try:
                entry = _entry(key, item)
                image = files.locate(FOLDER, entry["image_path"], "image", "Put it there", record=key, sample=key)
                samples.append(_sample(key, image or root / FOLDER / entry["image_path"], entry, files.problems))
                indices.append(index)
            except ValueError as error:
                files.problems.append(_wrong(key, error, LISTED))
            except Refused as refused:
                files.problems.append(refused.problem)
        return Content(samples, files.problems, raw, len(raw), indices)


def _wrong(key: str, error: ValueError, listed: str) -> Problem:
    return Problem("error", str(error), "Mend the record, or fetch the file again", record=key[:60], listed=listed)


def _entry(key: str, item: Any) -> dict[str, str]:
    if not isinstance(item, dict):
        raise ValueError(f"the record is a {type(item).__name__}, not an object")
    if not safe_id(key):
        raise ValueError("the record's key is not safe as a file name")
    texts = ("image_path", "original_prompt", "editing_prompt", "editing_type_id", "blended_word")
    entry = {name: field_text(item, name) for name in texts}
    if missing := [name for name in ("image_path", "editing_prompt", "editing_type_id") if not entry[name]]:
        raise ValueError(f"field {missing[0]} is missing")
    return {**entry, "mask": _text_of_runs(item.get("mask"))}


def _text_of_runs(mask: Any) -> str:
    """Run lengths as text, of the list of numbers that PIE-Bench has."""
    if isinstance(mask, list):
        return " ".join(map(str, mask))
    if isinstance(mask, str):
        return mask
    raise ValueError(f"field mask is a {type(mask).__name__}, not a list of numbers")


def parse_runs(text: str) -> tuple[int, ...]:
    """Run lengths from numbers with spaces or commas between.

    Raises:
        ValueError: a number is none, or negative, or one of a pair is missing.
    """
    parts = re.split(r"[\s,]+", text.strip("[] \n")) if text.strip("[] \n") else []
    if not all(part.isascii() and part.isdigit() and len(part) <= 9 for part in parts):
        raise ValueError("field mask holds something else than whole numbers")
    if len(parts) % 2:
        raise ValueError("field mask holds a start without a length")
    return tuple(map(int, parts))


def are_of(tags: Iterable[Sequence[str]]) -> bool:
    """Whether samples are PIE-Bench's own, by the tags of each; those of PIE-Bench++ are not."""
    types = {f"type={type} {name}" for type, (name, _) in TYPES.items()}
    return all(types.intersection(mine) and PLUS not in mine for mine in tags)


def without_brackets(prompt: str) -> tuple[str, list[str]]:
    """A prompt without its square brackets, and what stood in them."""
    marked = [part.strip() for part in re.findall(r"\[([^\[\]]*)\]", prompt)]
    return prompt.replace("[", "").replace("]", ""), [part for part in marked if part]


def _sample(
    key: str, image: Path | Image.Image, entry: Mapping[str, str], problems: list[Problem], listed: str = LISTED
) -> Sample:
    type = entry["editing_type_id"]
    if type not in TYPES:
        raise ValueError(f"editing_type_id {type!a:.20} is none of 0 to 9")
    name, kind = TYPES[type]
    target, differs = without_brackets(entry["editing_prompt"])
    if not target.strip():
        raise ValueError("editing_prompt is empty")
    source, _ = without_brackets(entry["original_prompt"])
    words = entry["blended_word"].split()
    region = Runs(parse_runs(entry["mask"]), whole=type == STYLE)
    if type == STYLE:
        what = "change style is outside CPAM's kinds of edits: the whole picture is edited"
        problems.append(Problem("warning", what, "Leave these samples out if that matters", key, key, None, listed))
    tags = [f"type={type} {name}", *(f"differs={words}" for words in ["; ".join(differs)] if words)]
    if isinstance(image, Path):
        parts = [re.sub(r"^\d+_", "", part) for part in Path(entry["image_path"]).parts[1:-1]]
        tags += [f"{label}={part}" for label, part in zip(("scene", "subject"), parts, strict=False)]
    return Sample(
        id=key,
        image=image,
        region=region,
        target_prompt=target,
        object_prompt=words[1] if len(words) > 1 else "",
        altered="background" if kind == "background" else "foreground",
        retain_object=kind == "pose",
        kind=kind,
        source_prompt=source or None,
        edited_words=(words[0], words[1]) if len(words) == 2 else None,
        tags=tuple(tags),
    )


def _parquet(root: Path) -> list[Path]:
    """The Parquet files of a folder, in its folders of types or in itself."""
    return sorted([*root.glob("*.parquet"), *root.glob("[0-9]_*/*.parquet")]) if root.is_dir() else []


def _read_plus(root: Path, tables: Iterable[Path]) -> Content:
    samples: list[Sample] = []
    problems: list[Problem] = []
    records: list[Any] = []
    indices: list[int] = []
    for table in tables:
        listed = table.relative_to(root).as_posix()
        type = next((part[0] for part in table.relative_to(root).parts if re.match(r"\d_", part)), "")
        for row in parquet_rows(table):
            index = len(records)
            key = str(row.get("id"))
            records.append({name: value for name, value in row.items() if name != "image"})
            try:
                image, records[-1]["image"] = packed_picture(row.get("image"))
                pairs = _pairs(field_text(row, "blended_words"))
                entry = {
                    "image_path": "",
                    "original_prompt": field_text(row, "source_prompt"),
                    "editing_prompt": field_text(row, "target_prompt"),
                    "editing_type_id": type or "0",
                    "blended_word": " ".join(pairs[0]) if pairs else "",
                    "mask": field_text(row, "mask"),
                }
                if not safe_id(key) or key in {sample.id for sample in samples}:
                    raise ValueError("the record's id is not safe as a file name, or is used twice")
                sample = _sample(key, image, entry, problems, listed)
                samples.append(replace(sample, tags=(*sample.tags, PLUS)))
                indices.append(index)
            except ValueError as error:
                problems.append(_wrong(key, error, listed))
    facts = {"PIE-Bench++": "edit_action and aspect_mapping are not read; types are those of the folders"}
    return Content(samples, problems, records, len(records), indices, facts)


def _pairs(text: str) -> list[list[str]]:
    """Source and target words of PIE-Bench++'s ``blended_words``: ``["cat,dog", "chair,chair"]``."""
    try:
        listed = json.loads(text) if text else []
    except ValueError:
        listed = re.findall(r"[\w-]+,\s*[\w-]+", text)
    found = [str(pair).split(",") for pair in listed] if isinstance(listed, list) else []
    return [[word.strip() for word in pair] for pair in found if len(pair) == 2]
