"""A published column beside what a run measured: values, differences, ranks, and how far the two orders agree."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cpam_bench.eval.analysis.numbers import DAGGER, interval, number
from cpam_bench.eval.analysis.statistics import Estimate, kendall_tau, ranks
from cpam_bench.eval.tables.model import Cell, marked

LEAST = 5
"""Methods that an order must have for a Kendall's tau to say anything."""

PART = " A block holds some of the samples, the published numbers all."
"""What the caption of a sliced table says besides."""

_NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Metric:
    """A column of a published table.

    Attributes:
        name: its column in the published file.
        label: of the same metric in ``scores.csv``.
        title: its head.
        digits: that are printed.
        higher: whether large values are good.
        scale: what a measured value is multiplied by to have the published unit.
    """

    name: str
    label: str
    title: str
    digits: int
    higher: bool
    scale: float = 1.0


@dataclass(frozen=True)
class Compared:
    """A published column beside a measured one.

    Attributes:
        cells: row -> the published value, the measured one with its interval, their difference where they can be
            compared, and both ranks.
        records: row -> the same as columns of a plain table.
        tau: Kendall's tau of the two orders.
    """

    cells: dict[str, list[Cell]]
    records: dict[str, dict[str, Any]]
    tau: Cell


def compare(
    metric: Metric,
    rows: Collection[str],
    printed: Mapping[str, float],
    found: Mapping[str, Estimate],
    competing: Collection[str],
    comparable: bool,
) -> Compared:
    """Set a run beside what is published.

    Args:
        metric: the column.
        rows: all that the table has.
        printed: row -> published value.
        found: row -> measured mean, in the published unit.
        competing: rows whose measured values are marked; reference rows only bound the scale.
        comparable: whether both were measured of the same things, so that a difference says something.
    """
    common = [row for row in printed if row in found and found[row].n]
    there, here = [printed[row] for row in common], [found[row].mean for row in common]
    places = zip(ranks(here, metric.higher), ranks(there, metric.higher), strict=True)
    placed = dict(zip(common, places, strict=True))
    tau, p = kendall_tau(there, here) if len(common) >= LEAST else (math.nan, math.nan)
    of_paper = marked(printed, metric.digits, metric.higher)
    of_run = marked({row: found[row].mean for row in found if row in competing}, metric.digits, metric.higher)
    cells: dict[str, list[Cell]] = {}
    records: dict[str, dict[str, Any]] = {}
    for row in rows:
        estimate = found.get(row, _NOTHING)
        value = printed.get(row, math.nan)
        difference = estimate.mean - value if comparable else math.nan
        rank, rank_published = placed.get(row, (None, None))
        cell = of_run.get(row, Cell(number(estimate.mean, metric.digits)))
        shown = interval(estimate.low, estimate.high, metric.digits, n=estimate.n)
        cells[row] = [of_paper.get(row, Cell("–")), replace(cell, after=f" {shown}" if shown else "")]
        if comparable:
            cells[row].append(Cell(number(difference, metric.digits, sign=True)))
        cells[row].append(Cell(f"{rank} ({rank_published})" if rank else "–"))
        columns = {
            "published": value,
            "": estimate.mean,
            "low": estimate.low,
            "high": estimate.high,
            "n": estimate.n,
            "difference": difference,
            "rank": rank,
            "rank_published": rank_published,
            "tau": tau,
            "tau_p": p,
            "tau_methods": len(common),
        }
        records[row] = {f"{metric.name}_{key}".rstrip("_"): entry for key, entry in columns.items()}
    why = f", p = {p:.2f}" if not math.isnan(p) else f": fewer than {LEAST}" if len(common) < LEAST else ""
    return Compared(cells, records, Cell(f"{number(tau, 2, sign=True)} (n = {len(common)}{why})"))


def verdict(same: Mapping[str, bool], agrees: str) -> str:
    """In what a run differs from what was published, or the words for a run that does not."""
    different = [what for what, equal in same.items() if not equal]
    return f"differs in {', '.join(different)}" if different else agrees


def notes(
    rows: str, comparable: bool, own: Sequence[str], few: bool, bounded: bool, unmatched: str | None
) -> list[str]:
    """What is said below a table.

    Args:
        rows: what the table calls them.
        comparable: as of :func:`compare`.
        own: what this table says besides.
        few: whether an interval is over too few samples.
        bounded: whether there are reference rows.
        unmatched: what to say where no row has both values, or None.
    """
    found = [f"Rank and Kendall's tau are over the {rows} with both a published and a measured value."]
    if not comparable:
        found[0] += " There is no difference between the two: they were not measured of comparable things."
    found += own
    if few:
        found.append(f"{DAGGER}.")
    if bounded:
        found.append("Reference rows bound the scale: they are neither marked nor ranked.")
    return [*found, unmatched] if unmatched else found
