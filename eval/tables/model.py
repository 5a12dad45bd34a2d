"""A table before it is written in some format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from cpam_bench.eval.analysis.numbers import number


@dataclass(frozen=True)
class Cell:
    """A cell: its text, whether that is the best or the second of its column, and what follows it unmarked."""

    text: str
    mark: Literal["", "best", "second"] = ""
    after: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under a common title; the first cell of a row names it."""

    title: str
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """A table before it is written in some format.

    Attributes:
        number: in the paper, or the name of a table that is another's.
        caption: what it shows, and by which protocol.
        groups: (head, number of columns) over the columns after the first; empty for none.
        heads: of the columns, the first too.
        blocks: the rows; titles are shown where they have one.
        notes: what a reader must know besides.
        data: the same as a plain table with all digits.
    """

    number: int | str
    caption: str
    groups: list[tuple[str, int]]
    heads: list[str]
    blocks: list[Block]
    notes: list[str]
    data: pd.DataFrame


def marked(values: Mapping[str, float], digits: int, higher: bool) -> dict[str, Cell]:
    """Cells of a column, the best and the second marked as printed, so that equal texts share a mark."""
    shown = {name: round(value, digits) for name, value in values.items() if not math.isnan(value)}
    best = sorted(set(shown.values()), reverse=higher)
    marks: dict[float, Literal["best", "second"]] = {value: "second" for value in best[1:2]}
    marks |= {value: "best" for value in best[:1]}
    return {
        name: Cell(number(value, digits), marks.get(shown.get(name, math.nan), "")) for name, value in values.items()
    }
