"""Table 2: CLIPScore and background LPIPS, as published and with what a run measured beside it.

What was measured is matched with the published methods by the editors' titles ("CPAM", "MasaCtrl"), and only for
methods at their defaults: another configuration is another method.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from cpam_bench.eval.analysis.leaderboard import origin
from cpam_bench.eval.analysis.numbers import FEW
from cpam_bench.eval.analysis.slices import Slice, slices
from cpam_bench.eval.analysis.statistics import Estimate, mean_interval
from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.tables.beside import PART, Metric, compare, notes, verdict
from cpam_bench.eval.tables.model import Block, Cell, Table, marked
from cpam_bench.eval.tables.published import CAPTIONS, MARKING, lines, match, name, published
from cpam_bench.imba.build import published_annotations

_SD15 = {"sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"}


METRICS = (
    Metric("clip_score", "clip_score", "CLIPScore ↑", 2, True),
    Metric("lpips_background", "lpips_background", "LPIPS (background) ↓", 3, False),
)


def table2() -> Table:
    """Table 2 as published."""
    paper = published(2)
    columns = [
        marked(dict(zip(paper["method"], paper[m.name].astype(float), strict=True)), m.digits, m.higher)
        for m in METRICS
    ]
    rows = [[Cell(name(method)), *(column[method] for column in columns)] for method in paper["method"]]
    heads = ["Method", *(metric.title for metric in METRICS)]
    return Table(2, CAPTIONS[2], [], heads, [Block("", rows)], [MARKING[2]], paper)


def table2_beside(folder: str | Path, slice: Slice | None = None) -> Table:
    """Table 2 with a run's means beside the published values.

    A metric has the published value, the mean with its 95 % interval, and the rank among the methods that both have (in
    parentheses that of the published values); Kendall's tau (b) compares the two orders, of five methods at least.
    Where the two were measured of comparable things there is their difference too.

    Args:
        folder: of a run that has been scored.
        slice: a block of rows for every kind of edit, for objects retained or not, for one object or several.

    Raises:
        UserError: there is no such run, or it has not been scored.
    """
    scored = Scored.open(folder)
    scored.require(*(metric.name for metric in METRICS))
    edits = {row.name: row.facts.edits for row in scored.rows}
    titles = {row.name: row.facts.title for row in scored.rows if row.facts.edits}
    paper = published(2).set_index("method").astype(float)
    matched, own = match(titles, list(paper.index))
    statement, comparable = _protocol(scored)
    blocks, records, few = [], [], False
    for title, part in slices(scored, slice).items():
        labels = sorted(edits, key=lambda label: not edits[label])  # stable: reference rows last
        means = {label: {m.name: mean_interval(part.values(label, m.name)) for m in METRICS} for label in labels}
        few |= any(0 < one.n < FEW for found in means.values() for one in found.values())
        rows, found = _beside(paper, means, matched, set(titles), comparable)
        blocks.append(Block(f"{title} ({len(part.samples)} samples)" if slice else "", rows))
        records += [({"slice": title} if slice else {}) | record | {"protocol": statement} for record in found]
    caption = f"{CAPTIONS[2]} {statement}{origin(scored)}"
    if slice:
        caption += PART
    unmatched = None if matched else "No method of the run is one of the paper's at its defaults."
    below = notes("methods", comparable, own, few, not all(edits.values()), unmatched)
    data = pd.DataFrame(records)
    data = data.astype({column: "Int64" for column in data if "_rank" in str(column)})
    measured = "pocket [95 %]" if scored.is_pocket else "measured [95 %]"
    each = ["paper", measured, *(["difference"] if comparable else []), "rank (paper's)"]
    heads = ["Method", "n", *(each * len(METRICS))]
    groups = [("", 1), *((metric.title, len(each)) for metric in METRICS)]
    return Table(2, caption, groups, heads, blocks, [*below, MARKING[2]], data)


def _protocol(scored: Scored) -> tuple[str, bool]:
    """What was measured and how the paper did it, for the caption; and whether the two can be compared.

    They can where the run is of IMBA, or a part of it, and of no pocket parts: the values are on one scale then.  IMBA
    is what has the authors' annotations, whatever its folder is called.
    """
    run = scored.run
    of_imba = run.dataset.annotations == published_annotations()
    clip, lpips = (scored.metrics[metric.name].scorer or "unknown" for metric in METRICS)
    parts = [
        ("data set", f"{run.dataset.name} ({scored.count} samples)", "IMBA (104 samples)"),
        ("backbone", f"{run.backbone.name} ({run.backbone.resolution} px)", "SD 1.5"),
        ("steps", f"{run.steps}", "50"),
        ("CLIP", clip, "not named"),
        ("LPIPS", f"{lpips.removeprefix('LPIPS ')}, masked", "not named"),
    ]
    same = {
        "data set": of_imba and len(run.samples) == 104,
        "backbone": run.backbone.name in _SD15 and run.backbone.resolution == 512,
        "steps": run.steps == 50,
    }
    measured = ", ".join(f"{what} {here}" for what, here, _ in parts)
    other = ", ".join(f"{what} {there}" for what, _, there in parts)
    statement = f"Measured ({verdict(same, 'agrees where the paper says')}): {measured}. The paper: {other}."
    if scored.is_pocket:
        statement += " Pocket: small models on drawn scenes, whose values are not comparable with the paper's."
    return statement, of_imba and not scored.is_pocket


def _beside(
    paper: pd.DataFrame,
    means: Mapping[str, Mapping[str, Estimate]],
    matched: Mapping[str, str],
    editing: set[str],
    comparable: bool,
) -> tuple[list[list[Cell]], list[dict[str, Any]]]:
    """The rows of a block and the same as records: published methods first, then what only was measured, then tau."""
    names = lines(list(paper.index), matched, list(means))
    rows: dict[str, list[Cell]] = {}
    records: dict[str, dict[str, Any]] = {}
    for row, label in names.items():
        counts = {estimate.n for estimate in means[label].values()} if label else set()
        title = f"{row} (reference)" if label and label not in editing else name(row)
        rows[row] = [Cell(title), Cell("/".join(str(n) for n in sorted(counts, reverse=True)) or "–")]
        records[row] = {"method": row, "label": label}
    last = [Cell("Kendall's tau"), Cell("")]
    for metric in METRICS:
        printed = {str(row): float(value) for row, value in paper[metric.name].items()}
        found = {row: means[label][metric.name] for row, label in names.items() if label}
        competing = {row for row, label in names.items() if label in editing}
        compared = compare(metric, names, printed, found, competing, comparable)
        for row in names:
            rows[row] += compared.cells[row]
            records[row] |= compared.records[row]
        last += [Cell("")] * (3 if comparable else 2)
        last.append(compared.tau)
    return [*rows.values(), last], list(records.values())
