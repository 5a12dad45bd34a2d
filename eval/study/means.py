"""Mean opinion scores: read, and as Table 3 has them, methods by questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cpam_bench.eval.analysis.numbers import number
from cpam_bench.eval.study.ratings import read_table
from cpam_bench.eval.tables.model import Block, Cell, Table, marked
from cpam_bench.imba.errors import UserError


@dataclass(frozen=True)
class Means:
    """Mean opinion scores.

    Attributes:
        title: what the numbers are.
        methods, questions: the rows' and the columns' names.
        mean: float (methods, questions).
        half: half the 95 % interval's length, of the same shape; None where only means are known.
    """

    title: str
    methods: list[str]
    questions: list[str]
    mean: np.ndarray
    half: np.ndarray | None = None


def read_means(path: Path, title: str | None = None) -> Means:
    """Read a table of means such as the published one: a column ``method`` and one column a question.

    Raises:
        UserError: the file is not such a table.
    """
    table, _ = read_table(path)
    try:
        if table.columns[0] != "method" or len(table.columns) < 2:
            raise ValueError("its columns must be method and then the questions")
        mean = table.iloc[:, 1:].map(lambda cell: float(cell or "nan")).to_numpy(dtype=float)
    except ValueError as error:
        raise UserError(f"{path} is not a table of means: {error}") from error
    return Means(title or path.stem, [str(m) for m in table["method"]], list(table.columns[1:]), mean)


def label(question: str) -> str:
    """``object_retention`` -> ``Object retention``."""
    return question.replace("_", " ").capitalize()


def cells(means: Means) -> list[list[Cell]]:
    """A list a method of a cell a question: the mean, best and second marked as printed, and half its interval."""
    rows: list[list[Cell]] = [[] for _ in means.methods]
    for q in range(len(means.questions)):
        column = marked({str(m): float(value) for m, value in enumerate(means.mean[:, q])}, 2, True)
        for m, row in enumerate(rows):
            half = math.nan if means.half is None else float(means.half[m, q])
            row.append(replace(column[str(m)], after="" if math.isnan(half) else f" ± {number(half, 2)}"))
    return rows


def beside(tables: Sequence[Means], caption: str, notes: Sequence[str], data: pd.DataFrame) -> Table:
    """Table 3 of one table of means, or of several side by side; ``data`` is the same with all digits."""
    found = [cells(means) for means in tables]
    rows = []
    for name, places in _side_by_side(tables):
        row = [Cell(name)]
        for means, made, place in zip(tables, found, places, strict=True):
            row += made[place] if place is not None else [Cell("–")] * len(means.questions)
        rows.append(row)
    groups = [(means.title, len(means.questions)) for means in tables] if len(tables) > 1 else []
    heads = ["Method", *(label(question) for means in tables for question in means.questions)]
    return Table(3, caption, groups, heads, [Block("", rows)], list(notes), data)


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _side_by_side(tables: Sequence[Means]) -> list[tuple[str, list[int | None]]]:
    """Methods of all tables in order of appearance, matched regardless of case and signs, with their row in each."""
    names: dict[str, str] = {}
    for table in tables:
        for method in table.methods:
            names.setdefault(_key(method), method)
    rows = [{_key(m): i for i, m in enumerate(table.methods)} for table in tables]
    return [(name, [row.get(key) for row in rows]) for key, name in names.items()]


def csv(means: Means) -> pd.DataFrame:
    """The paper's layout: method, then a column a question."""
    table = pd.DataFrame(np.round(means.mean, 4), columns=means.questions)
    table.insert(0, "method", means.methods)
    return table
