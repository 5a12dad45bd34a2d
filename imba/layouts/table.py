"""A table of one's own: CSV, JSON lines or Parquet, and a folder of pictures; nobody must write ``data.json`` by hand.

Columns are ``image`` and ``prompt``, and where there is more to say ``mask``, ``id``, ``object``, ``kind``, ``retain``,
``source_prompt`` and ``truth``.  Where they are called otherwise, ``dataset.toml`` beside the table says so::

    table = "edits.csv"      # left out: the only table of the folder
    images = "pictures"      # folder of the pictures; left out: images/, or the table's own folder
    masks = "masks"          # folder of the masks, of what is to change: white is inside
    tags = ["scene"]         # columns that become tags, for --slice scene

    [columns]
    image = "file"
    prompt = "new caption"
"""

from __future__ import annotations

import csv
import io
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from cpam_bench.imba.common.labels import parameter
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import (
    Content,
    Files,
    Recognition,
    Refused,
    make_id,
    packed_picture,
    parquet_columns,
    parquet_rows,
    read_text,
    safe_id,
)
from cpam_bench.imba.pictures import MaskFile
from cpam_bench.imba.problems import Problem
from cpam_bench.imba.sample import Kind, Sample

CONFIG = "dataset.toml"
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
COLUMNS = ("image", "prompt", "mask", "id", "object", "kind", "retain", "source_prompt", "truth")
"""What a table may say of a sample; the first two are needed."""

_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0", "")


@dataclass(frozen=True)
class Mapped:
    """What ``dataset.toml`` says of a table."""

    table: Path
    images: str
    masks: str
    tags: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    def column(self, name: str) -> str:
        """The table's name of one of :data:`COLUMNS`."""
        return self.columns.get(name, name)


@dataclass(frozen=True)
class Table:
    """A table and a folder of pictures."""

    name: ClassVar[str] = "table"
    title: ClassVar[str] = "A table of your own: CSV, JSON lines or Parquet, with columns image, prompt, mask ..."
    reference: ClassVar[str] = "cpam-bench"

    threshold: int | None = parameter(None, "masks are inside above it, 0 to 255; none is the middle, 127", "ours")

    def recognises(self, root: Path) -> Recognition | None:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        try:
            mapped = _mapped(root)
        except UserError as error:
            return Recognition(f"{CONFIG} is here", str(error)) if (root / CONFIG).exists() else None
        try:
            columns = _columns(mapped.table)
        except UserError as error:
            return Recognition(f"{mapped.table.name} is here", str(error))
        wanted = {name: mapped.column(name) for name in ("image", "prompt")}
        if missing := [name for name, column in wanted.items() if column not in columns]:
            # The manifest of something else is no table of edits.
            if len(missing) == len(wanted) and not (root / CONFIG).exists() and root.is_dir():
                return None
            lacks = (
                f"its columns are {', '.join(columns) or 'none'}; say in {CONFIG} which is the {missing[0]}:"
                f' [columns], then {missing[0]} = "..."'
            )
            return Recognition(f"{mapped.table.name} is here", lacks)
        return Recognition(f"{mapped.table.name} has the columns {' and '.join(wanted.values())}")

    def read(self, root: Path) -> Content:
        """See :class:`cpam_bench.imba.layouts.layout.Layout`."""
        mapped = _mapped(root)
        rows = _rows(mapped.table)
        folder = mapped.table.parent
        files = Files(folder, mapped.table.name)
        samples: list[Sample] = []
        indices: list[int] = []
        records: list[Any] = []
        taken: dict[str, tuple[str, str]] = {}
        for index, row in enumerate(rows):
            records.append({str(key): value for key, value in row.items() if not _is_packed(value)})
            try:
                if isinstance(row.get(_BROKEN), str):
                    raise ValueError(row[_BROKEN])
                sample, packed = self._sample(files, mapped, index, row, taken)
                records[-1] |= packed
            except ValueError as error:
                files.problems.append(
                    Problem("error", str(error), "Mend the row", record=index, listed=mapped.table.name)
                )
                continue
            except Refused as refused:
                files.problems.append(refused.problem)
                continue
            samples.append(sample)
            indices.append(index)
        if not rows:
            files.problems.append(Problem("error", f"{mapped.table.name} holds no row", "Add some"))
        return Content(samples, files.problems, [dict(mapped.columns), records], len(rows), indices)

    def _sample(
        self, files: Files, mapped: Mapped, index: int, row: Mapping[str, Any], taken: dict[str, tuple[str, str]]
    ) -> tuple[Sample, dict[str, str]]:
        def text(name: str) -> str:
            value = row.get(mapped.column(name))
            if value is None or (isinstance(value, float) and value != value):
                return ""
            if not isinstance(value, str | int | float | bool):
                raise ValueError(f"{mapped.column(name)} is a {type(value).__name__}, not a text")
            written = str(value)
            written.encode()
            return written

        prompt, packed = text("prompt"), {}
        if not prompt.strip():
            raise ValueError(f"{mapped.column('prompt')} is empty")
        cell = row.get(mapped.column("image"))
        image: Path | Image.Image | None
        name = str(index) if _is_packed(cell) else text("image")
        if not name:
            raise ValueError(f"{mapped.column('image')} is empty")
        id = text("id")
        if id in taken:
            raise ValueError(f"id {id!a:.60} is used twice")
        if id and not safe_id(id):
            raise ValueError(f"id {id!a:.60} is not safe as a file name")
        if id:
            taken[id] = name, prompt
        else:
            id = make_id(name, prompt, taken)
        if _is_packed(cell):
            image, packed["image"] = packed_picture(cell)
        else:
            image = files.locate(mapped.images, name, "image", "Put it there", record=index, sample=id)
            image = image or files.root / mapped.images / name
        mask = truth = None
        if named := text("mask"):
            mend = "Put it there, or leave the cell empty"
            mask = files.locate(mapped.masks, named, "mask", mend, record=index, sample=id)
        if named := text("truth"):
            truth = files.locate("truth", named, "truth", "Put it there", record=index, sample=id, severity="warning")
        retain = _flag(text("retain"), mapped.column("retain"))
        kind = text("kind") or ("pose" if retain else "replace")
        if kind not in typing.get_args(Kind):
            raise ValueError(f"{mapped.column('kind')} {kind!a:.40} is none of {', '.join(typing.get_args(Kind))}")
        sample = Sample(
            id=id,
            image=image,
            region=mask and MaskFile(mask, self.threshold),
            target_prompt=prompt,
            object_prompt=text("object"),
            altered="background" if kind == "background" else "foreground",
            retain_object=retain,
            kind=typing.cast(Kind, kind),
            source_prompt=text("source_prompt") or None,
            truth=truth,
            tags=tuple(f"{column}={row[column]}" for column in mapped.tags if row.get(column) not in (None, "")),
        )
        return sample, packed


_BROKEN = "\0broken"
"""Key of a row that could not be read, with the reason."""


def _is_packed(value: Any) -> bool:
    return isinstance(value, bytes | Mapping)


def _flag(text: str, column: str) -> bool:
    if text.strip().lower() not in _TRUE + _FALSE:
        raise ValueError(f"{column} {text!a:.40} is neither true nor false")
    return text.strip().lower() in _TRUE


def _mapped(root: Path) -> Mapped:
    """The table of a folder (or the table itself) and what ``dataset.toml`` beside it says.

    Raises:
        UserError: there is no table, or there are several and none is named.
    """
    folder = root if root.is_dir() else root.parent
    said = read_config(folder)
    named = said.get("table")
    if named is not None and not isinstance(named, str):
        raise UserError(f"{folder / CONFIG}: table is no text. Give the table's file name.")
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if root.is_file():
        table = root
    elif named:
        table = folder / named
    elif len(tables) == 1:
        table = tables[0]
    else:
        names = ", ".join(path.name for path in tables[:5])
        raise UserError(
            f"{folder} has several tables ({names}). Say in {CONFIG} which it is: table = ..."
            if tables
            else f"{folder} has no table ({', '.join(SUFFIXES)})."
        )
    columns = said.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(value, str) for value in columns.values()):
        raise UserError(f"{folder / CONFIG}: [columns] is to name a column of the table for each field.")
    if unknown := [name for name in columns if name not in COLUMNS]:
        raise UserError(f"{folder / CONFIG}: {unknown[0]!a} is no field; there are: {', '.join(COLUMNS)}.")
    folders = {}
    for name in ("images", "masks"):
        given = said.get(name, name if (folder / name).is_dir() else "")
        if not isinstance(given, str):
            raise UserError(f"{folder / CONFIG}: {name} is no text. Give a folder.")
        folders[name] = given
    tags = said.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UserError(f"{folder / CONFIG}: tags is no list of columns.")
    return Mapped(table, folders["images"], folders["masks"], tuple(tags), columns)


def read_config(folder: Path) -> dict[str, Any]:
    """What ``dataset.toml`` of a folder says; nothing where there is none.

    Raises:
        UserError: it is no TOML.
    """
    path = folder / CONFIG
    if not path.exists():
        return {}
    try:
        return tomllib.loads(read_text(path, ""))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML ({error}). Mend it there.") from error


def _columns(table: Path) -> list[str]:
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        return parquet_columns(table)
    if suffix == ".jsonl":
        return list(dict.fromkeys(key for row in _rows(table)[:20] for key in row if key != _BROKEN))
    text = read_text(table, f"{table} is not there. Put it there, or name another in {CONFIG}.")
    return next(iter(csv.reader(io.StringIO(text), delimiter=_delimiter(text))), [])


def _rows(table: Path) -> list[dict[str, Any]]:
    """The rows of a table; one that cannot be read holds its reason under :data:`_BROKEN`."""
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        return parquet_rows(table)
    text = read_text(table, f"{table} is not there. Put it there, or name another in {CONFIG}.")
    if suffix == ".jsonl":
        return [_json_row(line) for line in text.splitlines() if line.strip()]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    before = csv.field_size_limit(max(len(text), 1))
    try:
        return [
            {_BROKEN: "the row has another number of cells than the head"}
            if None in row or None in row.values()
            else row
            for row in reader
        ]
    except csv.Error as error:
        raise UserError(
            f"{table} is no CSV that can be read ({error}, line {reader.line_num}). Mend it there."
        ) from error
    finally:
        csv.field_size_limit(before)


def _json_row(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return {_BROKEN: f"the line is not JSON ({str(error)[:100]})"}
    return row if isinstance(row, dict) else {_BROKEN: f"the line is a {type(row).__name__}, not an object"}


def _delimiter(text: str) -> str:
    """What separates the cells of a CSV: the one of comma, semicolon and tab that its first line has most of."""
    head = text.partition("\n")[0]
    return max(",;\t", key=head.count)
