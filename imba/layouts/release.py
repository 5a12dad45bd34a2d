"""The authors' release of IMBA, with all of its quirks, which live here alone.

A folder with ``data.json`` (a list of records), ``images/`` and ``masks/``; a rendered one has ``truth/`` too.

- A mask marks the *object*, and what is not zero is inside; it is read from the green channel if it has more than three
  channels, else from the first.
- The field ``object`` says what is altered.  For ``background`` the region M_s is the complement of the object; one
  record says ``object``, which means ``foreground``.
- The mask's file is ``<alter_mask>.png``, or has the image's stem if that is null.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpam_bench.imba.common.labels import parameter
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import (
    Content,
    Files,
    Recognition,
    Refused,
    read_json,
    safe_id,
    short_hash,
    slug,
)
from cpam_bench.imba.masking.made import Origin
from cpam_bench.imba.pictures import MaskFile
from cpam_bench.imba.problems import Problem
from cpam_bench.imba.sample import Altered, Kind, Sample

MASKS = Path(__file__).parents[1] / "data" / "masks"
"""Masks that come along for IMBA's photographs: ours, for the authors published none."""

OURS = "ours, drawn for cpam-bench, and not the authors', who published none"
"""Whose the masks in :data:`MASKS` are."""

WHOSE = "masks"
"""Key of ``dataset.toml`` under which a build notes the name of the folder that its masks are from."""

WHAT = "a data set is a folder with data.json, images/ and masks/, or the name pocket"


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
    tags: list[str] = Field(default_factory=list)
    edited_words: list[str] | None = Field(default=None, min_length=2, max_length=2)


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
    "edited_words": "Give a word of source_prompt and one of target_text, or leave it out",
    "tags": 'Give a list of texts such as "type=pose", or leave it out',
}


@dataclass(frozen=True)
class ReleaseMask(MaskFile):
    """A mask of the release: of the object, with ``complement`` where the background is what changes."""

    complement: bool = False

    usual: ClassVar[int] = 0

    def read(self, what: str) -> np.ndarray:
        """See :meth:`MaskFile.read`: the alteration mask M_s."""
        inside = super().read(what)
        return ~inside if self.complement else inside

    def channel(self, values: np.ndarray) -> np.ndarray:
        """Green of more than three channels, else the first."""
        return values if values.ndim == 2 else np.asarray(values[..., 1 if values.shape[2] > 3 else 0])


@dataclass(frozen=True)
class Release:
    """IMBA as its authors publish it."""

    name: ClassVar[str] = "release"
    title: ClassVar[str] = "IMBA's: data.json, images/ and masks/ of the objects"
    reference: ClassVar[str] = "the authors' release of CPAM"

    threshold: int | None = parameter(
        None, "masks are inside above it, 0 to 255; none is the release's rule, not zero", "the authors' release"
    )

    def recognises(self, root: Path) -> Recognition | None:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        listed = root / "data.json"
        if not listed.exists():
            if (root / "images").is_dir() and (root / "masks").is_dir():
                return Recognition(
                    "images/ and masks/ are here", "data.json, the list of records, is not; put it there"
                )
            return None
        return Recognition("data.json is here")

    def read(self, root: Path) -> Content:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        raw = read_records(root / "data.json", root)
        problems = [] if raw else [Problem("error", "data.json holds no record", "Add some", file="data.json")]
        records: dict[int, Record] = {}
        for index, item in enumerate(raw):
            record, found = _parse(index, item)
            problems += found
            if record is not None:
                records[index] = record
        ids = _ids(records, problems)
        samples, indices = [], []
        files = Files(root)
        for index, record in records.items():
            try:
                samples.append(self._sample(files, index, record, ids[index]))
                indices.append(index)
            except Refused as refused:
                files.problems.append(refused.problem)
        return Content(samples, problems + files.problems, raw, len(raw), indices)

    def _sample(self, files: Files, index: int, record: Record, id: str) -> Sample:
        image = files.locate("images", record.img_name, "image", "Put it there", record=index, sample=id)
        mend = "Draw a PNG of the image's size, white on the object"
        name = mask_name(record.img_name, record.alter_mask)
        mask = files.locate("masks", name, "mask", mend, record=index, sample=id)
        truth = record.truth and files.locate(
            "truth", record.truth, "truth", "Put it there", record=index, sample=id, severity="warning"
        )
        background = record.object == "background"
        kind: Kind = "background" if background else "pose" if record.retain_object else "replace"
        if record.kind is not None and (record.kind == "background") != background:
            what = f'kind "{record.kind}" contradicts object "{record.object}"'
            mend = "The object's mask is inverted by object alone; make the two agree"
            files.problems.append(Problem("warning", what, mend, id, index))
        return Sample(
            id=id,
            image=image or files.root / "images" / record.img_name,
            region=mask and ReleaseMask(mask, self.threshold, complement=background),
            target_prompt=record.target_text,
            object_prompt=record.object_prompt,
            altered=record.object,
            retain_object=record.retain_object,
            kind=record.kind or kind,
            source_prompt=record.source_prompt,
            several_objects=record.several_objects,
            truth=truth or None,
            mask_origin=record.mask_origin,
            tags=tuple(record.tags),
            edited_words=(words[0], words[1]) if (words := record.edited_words) else None,
        )


def read_records(path: Path, asked: str | Path) -> list[Any]:
    """The list of records in a JSON file.

    Raises:
        UserError: it is not there, or is not a list in JSON.
    """
    missing = f"{path.parent} has no {path.name}" if path.parent.is_dir() else f"there is no data set {asked}"
    raw = read_json(path, f"{missing}; {WHAT}.")
    if not isinstance(raw, list):
        raise UserError(f"{path} holds a {type(raw).__name__}, where a list of records is expected; {WHAT}.")
    return raw


def mask_name(img_name: str, alter_mask: str | None) -> str:
    """File name of a record's mask: ``<alter_mask>.png``, or the image's stem if that is null."""
    stem = img_name if not Path(img_name).name else str(Path(img_name).with_suffix(""))
    return f"{(alter_mask or stem).removesuffix('.png')}.png"


def object_region(sample: Sample, region: np.ndarray) -> np.ndarray:
    """The object's mask of a sample, bool (H, W), from its region, and the other way round."""
    return ~region if sample.altered == "background" else region


def _parse(index: int, item: Any) -> tuple[Record | None, list[Problem]]:
    """The record, or None, and what is wrong with its fields."""
    named = item.get("img_name") if isinstance(item, dict) else None
    file = ascii(named)[1:-1][:200] if isinstance(named, str) else None
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
        Problem("warning", f"unknown field {key!a:.100} is ignored", "Check its spelling", record=index, file=file)
        for key in record.model_extra or {}
    ]
    return record, unknown


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
        if record.id is not None and not safe_id(record.id):
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
            id = f"{id}-{short_hash(identity)}"
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
