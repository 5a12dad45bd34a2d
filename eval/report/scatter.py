"""CLIPScore against background LPIPS: where the points, intervals, ticks and labels of the picture stand.

How much the altered region changed at all is the points' area, where that was measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

WIDTH, HEIGHT = 720, 440
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 16, 52
RADIUS, LARGEST = 5.0, 11.0
"""Of a point in pixels, and of that whose region changed most."""
_CHARACTER, _LINE = 7.2, 15  # of a label in pixels, roughly
LONGEST = 30
"""Characters of a label; a longer one would leave the picture, or cover much of it."""


@dataclass(frozen=True)
class Point:
    """A method: its place, radius and interval's ends (None where there is none), and where its label stands.

    ``text`` has the whole name and the values.
    """

    name: str
    reference: bool
    x: float
    y: float
    radius: float
    left: float | None
    right: float | None
    low: float | None
    high: float | None
    label_x: float
    label_y: float
    anchor: str
    label: str
    text: str


@dataclass(frozen=True)
class Scatter:
    """The picture: ticks are (place, text), and ``sizes`` (radius, text) says what the points' area means."""

    points: list[Point]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    sizes: list[tuple[float, str]]
    missing: list[str]

    @property
    def description(self) -> str:
        """The same in words, for those who cannot see it."""
        return "; ".join(point.text for point in self.points)


def scatter(
    rows: pd.DataFrame, references: Sequence[str], x: str | None, y: str | None, area: str | None = None
) -> Scatter | None:
    """Lay out a leaderboard's rows; None if no method has both metrics.

    Args:
        rows: of a leaderboard, with ``method``, and both metrics with _low and _high.
        references: methods that only bound the scale.
        x, y: labels of the metrics, None where they were not measured.
        area: label of the metric that the points' area shows, if any: in proportion, from the least area on.
    """
    if x is None or y is None or x not in rows or y not in rows:
        return None
    drawn = rows[rows[x].notna() & rows[y].notna()]
    if drawn.empty:
        return None
    across = _Axis.over(drawn, x, LEFT, WIDTH - RIGHT)
    up = _Axis.over(drawn, y, HEIGHT - BOTTOM, TOP)
    records = drawn.to_dict("records")
    places = [(across(row[x]), up(row[y])) for row in records]
    changes = [float(row[area]) if area else math.nan for row in records]
    most = max((change for change in changes if not math.isnan(change)), default=0.0)
    radii = [_radius(change, most) for change in changes]
    taken = [(px - r - 1, py - r - 1, px + r + 1, py + r + 1) for (px, py), r in zip(places, radii, strict=True)]
    points = []
    labels = shortened([str(row["method"]) for row in records])
    for row, label, (px, py), radius, change in zip(records, labels, places, radii, changes, strict=True):
        name = str(row["method"])
        label_x, label_y, anchor, box = _label(label, px, py, taken)
        taken.append(box)
        (left, right), (low, high) = _ends(across, row, x), _ends(up, row, y)
        text = f"{name}: CLIPScore {row[y]:.2f}, background LPIPS {row[x]:.4f}"
        if not math.isnan(change):
            text += f", LPIPS of the altered region to the source {change:.4f}"
        ends = (left, right, low, high)
        points.append(Point(name, name in references, px, py, radius, *ends, label_x, label_y, anchor, label, text))
    missing = [str(name) for name in rows.loc[~rows["method"].isin(drawn["method"]), "method"]]
    sizes = [(_radius(share * most, most), f"{share * most:.2f}") for share in (0, 0.5, 1)] if most else []
    return Scatter(points, across.ticks(), up.ticks(), sizes, missing)


def shortened(names: Sequence[str]) -> list[str]:
    """Labels of at most :data:`LONGEST` characters: a method without its parameters, or both ends of what is longer.

    Parameters stay where they tell methods of one name apart.
    """
    alone = Counter(name.partition(":")[0] for name in names)
    return [_shortened(name, alone[name.partition(":")[0]] == 1) for name in names]


def _shortened(name: str, alone: bool) -> str:
    if len(name) > LONGEST and alone and ":" in name:
        name = f"{name.partition(':')[0]}:…"
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}"


def _radius(change: float, most: float) -> float:
    """Of a point, so that its area over the least one is in proportion to a change of at most ``most``."""
    share = 0.0 if math.isnan(change) or not most else max(change, 0.0) / most
    least = RADIUS if math.isnan(change) or not most else RADIUS / 2
    return round(math.sqrt(least**2 + share * (LARGEST**2 - least**2)), 1)


@dataclass(frozen=True)
class _Axis:
    values: tuple[float, ...]  # of the ticks; the outer two are the axis's ends
    start: float
    end: float

    @classmethod
    def over(cls, rows: pd.DataFrame, metric: str, start: float, end: float) -> _Axis:
        from matplotlib.ticker import MaxNLocator

        found = pd.concat([rows[metric], rows[f"{metric}_low"], rows[f"{metric}_high"]]).dropna()
        low, high = float(found.min()), float(found.max())
        if low == high:
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        ticks = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return cls(tuple(float(tick) for tick in ticks), start, end)

    def __call__(self, value: float) -> float:
        share = (value - self.values[0]) / (self.values[-1] - self.values[0])
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, str]]:
        return [(self(value), f"{value:.6g}") for value in self.values]


def _ends(axis: _Axis, row: Mapping[Any, Any], metric: str) -> tuple[float | None, float | None]:
    """Both ends of an interval on an axis."""
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    return (None, None) if math.isnan(low) else (axis(low), axis(high))


def _label(
    name: str, x: float, y: float, taken: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float, str, tuple[float, float, float, float]]:
    """Place a label beside its point where it covers the least of what is there already."""
    width = len(name) * _CHARACTER
    best = None
    for dx, dy, anchor in (
        (9, -7, "start"), (9, 16, "start"), (-9, -7, "end"), (-9, 16, "end"),
        (9, -22, "start"), (9, 31, "start"), (-9, -22, "end"), (-9, 31, "end"),
    ):  # fmt: skip
        left = x + dx if anchor == "start" else x + dx - width
        box = (left, y + dy - _LINE + 3, left + width, y + dy + 3)
        outside = (
            max(0, LEFT - left) + max(0, left + width - WIDTH) + max(0, -box[1]) + max(0, box[3] - HEIGHT + BOTTOM)
        )
        cost = 50 * outside + sum(_overlap(box, other) for other in taken) + 0.5 * abs(dy)
        if best is None or cost < best[0]:
            best = (cost, x + dx, y + dy, anchor, box)
    assert best is not None
    return best[1:]


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
