"""Ratings as a table, whatever they come from: a study's folder, a long CSV file, or another study's wide table.

The table's columns: rater, method, sample, question (str), rating (float), role ("edit", "repeat" or "control"),
expected ("high", "low" or ""; of controls), seconds (float; per picture, NaN if unknown).
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import secrets
import sqlite3
import tomllib
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cpam_bench.eval.study import database
from cpam_bench.eval.study.design import Plan
from cpam_bench.imba.common.files import no_formula, write_atomic
from cpam_bench.imba.common.places import get
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import read_text

KEYS = ["rater", "method", "sample", "question"]
COLUMNS = [*KEYS, "rating", "role", "expected", "seconds"]


class Mapping(BaseModel):
    """How another study's table is to be read (a TOML file).

    Attributes:
        rater, sample, method, question, rating, role, seconds: the columns that say so, where the table has them.
        pattern: a regular expression over the names of the columns that hold ratings, with groups ``(?P<method>...)``,
            ``question``, ``sample`` or ``rater``, for wide tables.
        columns: name of a column that holds ratings -> what it is, such as ``{method = "CPAM", question =
            "realistic"}``.
        fixed: what is the same for the whole table, such as ``{question = "satisfaction"}``.
        rename: "method" or "question" -> old name -> new name.
        missing: numbers or words that stand for no rating.
        scale: the lowest and the highest rating that could be given, or all of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    rater: str | None = None
    sample: str | None = None
    method: str | None = None
    question: str | None = None
    rating: str | None = None
    role: str | None = None
    seconds: str | None = None
    pattern: str | None = None
    columns: dict[str, dict[str, str]] = {}
    fixed: dict[str, str] = {}
    rename: dict[str, dict[str, str]] = {}
    missing: list[float | str] = []
    scale: list[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(default=None, min_length=2)


@dataclass(frozen=True)
class Study:
    """Ratings, and what is known of their study.

    Attributes:
        ratings: see the module.
        scale: the values that can be given; those that were, if the study does not say.
        labels: question -> what a table's head calls it.
        planned: ratings of edits planned; 0 if unknown.
        raters: raters planned and not erased; 0 if unknown.
        erased: raters erased.
        notes: what was left out in reading, in words.
    """

    ratings: pd.DataFrame
    scale: list[float]
    labels: dict[str, str]
    planned: int = 0
    raters: int = 0
    erased: int = 0
    notes: tuple[str, ...] = ()


def read(path: Path, mapping: Path | None = None) -> Study:
    """Read a study's folder or a CSV file.

    Raises:
        UserError: it is neither, or a row is wrong.
    """
    if path.is_dir() or path.suffix == ".db":
        return read_study(path)
    return read_csv(path, read_mapping(mapping) if mapping else None)


_QUERY = """SELECT rater.label AS rater, coalesce(method.label, '(' || control || ')') AS method, sample.name AS sample,
    question.name AS question, rating.value AS rating, role, coalesce(control, '') AS control, task.seconds AS seconds
    FROM rating JOIN task ON task.id = rating.task JOIN rater ON rater.id = task.rater
    JOIN picture ON picture.id = task.picture JOIN sample ON sample.id = picture.sample
    LEFT JOIN method ON method.id = picture.method JOIN question ON question.id = rating.question
    ORDER BY rater.id, task.position, question.id"""


def read_study(folder: Path) -> Study:
    """Read what a study holds so far; the server may go on meanwhile."""
    connection = database.connect(folder, read_only=True)
    try:
        with database.reading(folder):
            return _read_study(connection)
    finally:
        connection.close()


def _read_study(connection: sqlite3.Connection) -> Study:
    about = database.meta(connection)
    found = connection.execute(_QUERY)
    table = pd.DataFrame(found.fetchall(), columns=[name for name, *_ in found.description])
    plan = Plan.model_validate(about["plan"])
    planned = connection.execute("SELECT count(*) FROM task WHERE role = 'edit'").fetchone()[0] * len(plan.questions)
    raters = connection.execute("SELECT count(*) FROM rater").fetchone()[0]
    expected = {(kind, q.id): getattr(q, kind) or "" for q in plan.questions for kind in ("same", "other")}
    pairs = zip(table.pop("control"), table["question"], strict=True)
    table["expected"] = [expected.get(pair, "") for pair in pairs]
    labels = {q.id: q.label for q in plan.questions}
    return Study(table[COLUMNS], plan.scale.values, labels, int(planned), int(raters), int(about.get("erased", 0)))


def read_mapping(path: Path) -> Mapping:
    """Read a mapping.

    Raises:
        UserError: the file is missing or not a mapping.
    """
    text = read_text(path, f"there is no mapping {path}")
    try:
        return Mapping.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise UserError(f"cannot read the mapping {path}: {error}") from error


def read_csv(path: Path, mapping: Mapping | None = None) -> Study:
    """Read a CSV file: long with the columns of :data:`KEYS` and `rating`, or anything else by a mapping.

    Raises:
        UserError: a column is missing, a rating is not a number, or a picture is rated twice by one rater.
    """
    raw, notes = read_table(path)
    table = _map(raw, mapping, path) if mapping else raw
    if absent := [column for column in [*KEYS, "rating"] if column not in table]:
        raise UserError(
            f"{path} has no column {', '.join(absent)} (it has {', '.join(map(str, raw.columns[:12]))}): "
            "rename its columns, or say with --mapping FILE.toml how it is to be read"
        )
    for column, default in (("role", "edit"), ("expected", ""), ("seconds", "")):
        if column not in table:
            table[column] = default
    table["role"] = table["role"].replace("", "edit")
    for column in KEYS:
        tidy = table[column].map(_tidy)
        if changed := sorted(set(table.loc[tidy != table[column], column]))[:3]:
            count = int((tidy != table[column]).sum())
            listed = ", ".join(repr(name) for name in changed)
            notes.append(
                f"{count} names in the column {column} of {path.name} had blanks at their ends or letters of two parts"
                f" ({listed}): they are taken without"
            )
        table[column] = tidy
    blank = table["rating"].str.strip().str.lower().isin(["", "na", "nan", "n/a", "null", "none"])
    if mapping:
        blank |= table["rating"].isin([str(m) for m in mapping.missing])
        blank |= pd.to_numeric(table["rating"], errors="coerce").isin(
            [m for m in mapping.missing if not isinstance(m, str)]
        )
    if blank.any():
        notes.append(f"{int(blank.sum())} of {len(table)} cells of {path.name} hold no rating")
        table = table[~blank]
    numbers = pd.to_numeric(table["rating"], errors="coerce")
    bad = numbers.isna() | ~np.isfinite(numbers)
    if bad.any():
        row = table[bad].iloc[0]
        raise UserError(
            f"{path}, line {int(table.index[bad.to_numpy()][0]) + 2}: the rating {row['rating']!r} is not a number"
        )
    table = table.assign(rating=numbers.astype(float), seconds=pd.to_numeric(table["seconds"], errors="coerce"))
    if mapping and mapping.scale:
        low, high = min(mapping.scale), max(mapping.scale)
        known = mapping.scale if len(mapping.scale) > 2 else None
        outside = ~table["rating"].isin(known) if known else ~table["rating"].between(low, high)
        if outside.any():
            line = int(table.index[outside.to_numpy()][0]) + 2
            raise UserError(
                f"{path}, line {line}: the rating {table[outside].iloc[0]['rating']:g} is not on the scale"
                f" ({', '.join(f'{value:g}' for value in mapping.scale)}); mend it, or name it among the missing"
            )
    if wrong := sorted(set(table["role"]) - {"edit", "repeat", "control"}):
        raise UserError(f"{path}: role {wrong[0]!r} is none of edit, repeat, control")
    for column in KEYS:
        if (table[column].str.strip() == "").any():
            raise UserError(f"{path}: a row has no {column}: fill it in, or remove the row")
    twice = table[(table["role"] == "edit") & table.duplicated([*KEYS, "role"], keep=False)]
    if len(twice):
        first = " / ".join(str(twice.iloc[0][key]) for key in KEYS)
        raise UserError(
            f"{path}: {len(twice)} rows rate what the same rater has rated in another row, the first {first}: "
            "mark the later ones with role=repeat, or remove them"
        )
    if table.empty:
        raise UserError(f"{path} holds no rating")
    scale = sorted(float(value) for value in (mapping and mapping.scale) or table["rating"].unique())
    if not (mapping and mapping.scale):
        notes.append(
            f"the scale is not said: it is taken to be {scale[0]:g} to {scale[-1]:g}, as rated (scale in a mapping)"
        )
    labels = {q: q.replace("_", " ").capitalize() for q in table["question"].unique()}
    return Study(table[COLUMNS].reset_index(drop=True), scale, labels, notes=tuple(notes))


def _tidy(name: str) -> str:
    """A name without blanks at its ends, in Unicode's composed form, and without what escapes it in our exports."""
    return re.sub(r"^'(?=[=+@-])", "", unicodedata.normalize("NFC", name.strip()))


def read_table(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The cells of a table as text, and what had to be found out of how the file is written.

    Raises:
        UserError: it cannot be read, is not UTF-8 (or UTF-16 that says so), or a row is longer or shorter.
    """
    notes = []
    try:
        data = get(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
        notes.append(f"{path.name} is written in UTF-16, and read as such")
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: its text is not {encoding.upper().removesuffix('-SIG')}; save it as CSV in UTF-8"
        ) from None
    head = text.partition("\n")[0]
    separator = max((",", ";", "\t"), key=head.count)
    if separator != ",":
        notes.append(f"the cells of {path.name} are parted by {'semicolons' if separator == ';' else 'tabs'}")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        numbered = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: {error}") from error
    if not numbered:
        raise UserError(f"{path} is empty")
    (_, columns), *rows = numbered
    for line, row in rows:
        if len(row) != len(columns):
            raise UserError(
                f"{path}, line {line}: it has {len(row)} cells, and the head {len(columns)};"
                " put quotes around cells that hold the separator, or mend the row"
            )
    # By line, for messages: the first after the head is line 2.
    index = [line - 2 for line, _ in rows]
    table = pd.DataFrame([row for _, row in rows], index, columns=[name.strip() for name in columns], dtype=str)
    if separator != ",":
        commas = table.apply(lambda column: column.str.fullmatch(r"\s*-?\d+,\d+\s*")).fillna(False)
        if commas.any(axis=None):
            notes.append(f"{int(commas.to_numpy().sum())} numbers of {path.name} have decimal commas, read as points")
            table = table.where(~commas, table.apply(lambda column: column.str.replace(",", ".", regex=False)))
    return table, notes


def _map(raw: pd.DataFrame, mapping: Mapping, path: Path) -> pd.DataFrame:
    named = {k: getattr(mapping, k) for k in ("rater", "sample", "method", "question", "rating", "role", "seconds")}
    if not (mapping.pattern or mapping.columns):  # a long table, whose columns may be called as ours are
        named = {key: column or (key if key in raw else None) for key, column in named.items()}
    named = {key: column for key, column in named.items() if column is not None}
    if absent := [column for column in [*named.values(), *mapping.columns] if column not in raw]:
        raise UserError(f"{path} has no column {', '.join(absent)}, which the mapping names")
    holds: dict[str, dict[str, str]] = dict(mapping.columns)
    if mapping.pattern:
        for column in raw.columns:
            match = re.fullmatch(mapping.pattern, column)
            if match and column not in named.values():
                holds.setdefault(column, {k: v for k, v in match.groupdict().items() if v})
        if not holds:
            raise UserError(f"{path}: no column's name matches the mapping's pattern {mapping.pattern!r}")
    ids = raw[list(named.values())].set_axis(list(named), axis=1)
    if holds:
        parts: list[pd.DataFrame] = [ids.assign(**facts, rating=raw[column]) for column, facts in holds.items()]
        table = pd.concat(parts)  # the index stays the row's, for messages
    else:
        table = ids.copy()
    for key, value in mapping.fixed.items():
        table[key] = value
    for key, names in mapping.rename.items():
        if key not in table:
            raise UserError(f"{path}: the mapping renames {key!r}, which the table does not have")
        table[key] = table[key].replace(names)
    return table


def export(folder: Path) -> pd.DataFrame:
    """A study's ratings under pseudonyms drawn anew at each export, without times of day or orders.

    It reads back as a long CSV file.
    """
    table = read_study(folder).ratings.copy()
    labels = sorted(table["rater"].unique())
    shuffled = secrets.SystemRandom().sample(range(len(labels)), len(labels))
    table["rater"] = table["rater"].map({label: f"p{i + 1:02d}" for label, i in zip(labels, shuffled, strict=True)})
    table["seconds"] = table["seconds"].round(1)
    return table.sort_values([*KEYS, "role", "rating"]).reset_index(drop=True)


def cube(ratings: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str], list[str], list[str]]:
    """The ratings of edits as float (methods, questions, raters, samples), NaN where there are none, with the axes'
    names.

    Methods and questions come in the order in which they are met first; raters and samples are sorted.
    """
    edits = ratings[ratings["role"] == "edit"]
    axes: list[list[str]] = [
        list(edits["method"].unique()),
        list(edits["question"].unique()),
        sorted(edits["rater"].unique()),
        sorted(edits["sample"].unique()),
    ]
    values = np.full([len(axis) for axis in axes], np.nan)
    columns = ("method", "question", "rater", "sample")
    index = [pd.Categorical(edits[c], categories=axis).codes for c, axis in zip(columns, axes, strict=True)]
    values[tuple(np.asarray(i, dtype=int) for i in index)] = edits["rating"].to_numpy()
    return values, axes[0], axes[1], axes[2], axes[3]


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table, whole or not at all; texts that a spreadsheet would take for formulas are escaped."""
    text = table.map(no_formula).to_csv(index=False, lineterminator="\n")
    write_atomic(path, text.encode())


def write_text(text: str, path: Path) -> None:
    """Write a text, whole or not at all."""
    write_atomic(path, text.encode())
