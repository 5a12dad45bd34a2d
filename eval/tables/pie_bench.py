"""PIE-Bench's table (Ju et al. 2024): inversions and editors, alone and beside what a run measured by its protocol.

Its units are those of the published table and of nothing else here.  Rows are matched by label: an inversion with an
editor is a configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from cpam_bench.eval.analysis.leaderboard import origin
from cpam_bench.eval.analysis.numbers import FEW
from cpam_bench.eval.analysis.slices import Slice, slices
from cpam_bench.eval.analysis.statistics import mean_interval
from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.tables.beside import PART, Metric, compare, notes, verdict
from cpam_bench.eval.tables.model import Block, Cell, Table, marked
from cpam_bench.eval.tables.published import CAPTIONS, PIE_BENCH, lines, published
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.pie_bench import are_of

METRICS = (
    Metric("structure_distance", "structure_distance", "structure distance ×10³ ↓", 2, False, 1e3),
    Metric("psnr", "psnr_background:cap=none,frame=true", "PSNR (background) ↑", 2, True),
    Metric("lpips", "lpips_background:frame=true,net=squeeze", "LPIPS (background) ×10³ ↓", 2, False, 1e3),
    Metric("mse", "mse_background:frame=true", "MSE (background) ×10⁴ ↓", 2, False, 1e4),
    Metric("ssim", "ssim_background:frame=true", "SSIM (background) ×10² ↑", 2, True, 1e2),
    Metric("clip_whole", "clip_score:via=transformers", "CLIPScore (whole) ↑", 2, True),
    Metric("clip_edited", "clip_score_region:frame=true,via=transformers", "CLIPScore (edited region) ↑", 2, True),
)
"""The seven in the published order and units; their labels are those of ``--protocol pie-bench``."""

SAMPLES = 700
_SD14 = {"sd14", "CompVis/stable-diffusion-v1-4"}


def pie_bench() -> Table:
    """The table as published."""
    paper = published(PIE_BENCH)
    columns = [
        marked(dict(zip(paper["method"], paper[m.name].astype(float), strict=True)), m.digits, m.higher)
        for m in METRICS
    ]
    rows = [[Cell(method), *(column[method] for column in columns)] for method in paper["method"]]
    heads = ["Inversion + editor", *(metric.title for metric in METRICS)]
    return Table(PIE_BENCH, CAPTIONS[PIE_BENCH], [], heads, [Block("", rows)], [], paper)


def pie_bench_beside(folder: str | Path, slice: Slice | None = None) -> Table:
    """The table with a run's means beside the published values, a block a metric.

    A row has the published value, the mean with its 95 % interval, and the rank among the rows that both have; below
    them stands Kendall's tau (b) of the two orders, of five rows at least.  Where both were measured of PIE-Bench, and
    not by the pocket parts, there is their difference too.

    Args:
        folder: of a run that has been scored with ``--protocol pie-bench``.
        slice: blocks of its own for every editing type (``type``), or by another tag of the samples.

    Raises:
        UserError: there is no such run, or it has not been scored so.
    """
    scored = Scored.open(folder)
    if missing := [metric.label for metric in METRICS if metric.label not in scored.metrics]:
        raise UserError(
            f"{folder} has no {missing[0]}; measure it with: cpam-bench score {folder} --protocol pie-bench"
        )
    paper = published(PIE_BENCH).set_index("method")
    edits = {row.name: row.facts.edits for row in scored.rows}
    matched = {str(row): label for row, label in paper["label"].items() if label in edits}
    names = lines([str(row) for row in paper.index], matched, sorted(edits, key=lambda name: not edits[name]))
    titles = {row: f"{row} (reference)" if label and not edits[label] else row for row, label in names.items()}
    competing = {row for row, label in names.items() if label and edits[label]}
    statement, comparable = _protocol(scored)
    blocks: list[Block] = []
    records: list[dict[str, Any]] = []
    undefined: dict[tuple[int, int], list[str]] = {}
    few = False
    for title, part in slices(scored, slice).items():
        told = {row: {"method": row, "label": label} for row, label in names.items()}
        for metric in METRICS:
            printed = {str(row): float(value) for row, value in paper[metric.name].items()}
            values = {row: part.values(label, metric.label) * metric.scale for row, label in names.items() if label}
            found = {row: mean_interval(mine) for row, mine in values.items()}
            few |= any(0 < one.n < FEW for one in found.values())
            if not slice and (without := sum(len(values[row]) - found[row].n for row in found)):
                undefined.setdefault((without, sum(map(len, values.values()))), []).append(metric.title)
            compared = compare(metric, names, printed, found, competing, comparable)
            rows = [
                [Cell(titles[row]), Cell(str(found[row].n) if row in found else "–"), *compared.cells[row]]
                for row in names
            ]
            head = f"{title} ({len(part.samples)} samples): {metric.title}" if slice else metric.title
            blocks.append(Block(head, [*rows, _last(compared.tau, comparable)]))
            told = {row: record | compared.records[row] for row, record in told.items()}
        records += [({"slice": title} if slice else {}) | record for record in told.values()]
    own = [
        f"{', '.join(heads)}: not defined for {without} of {of} edits, which the means leave out."
        for (without, of), heads in undefined.items()
    ]
    unmatched = None if matched else "No method of the run is a row of the table, by its label."
    below = notes("rows", comparable, own, few, not all(edits.values()), unmatched)
    data = pd.DataFrame([record | {"protocol": statement} for record in records])
    data = data.astype({column: "Int64" for column in data if "_rank" in str(column)})
    measured = "pocket [95 %]" if scored.is_pocket else "measured [95 %]"
    heads = ["Inversion + editor", "n", "published", measured, *(["difference"] if comparable else [])]
    caption = f"{CAPTIONS[PIE_BENCH]} {statement}{origin(scored)}"
    if slice:
        caption += PART
    return Table(PIE_BENCH, caption, [], [*heads, "rank (published)"], blocks, below, data)


def _last(tau: Cell, comparable: bool) -> list[Cell]:
    return [Cell("Kendall's tau"), *[Cell("")] * (4 if comparable else 3), tau]


def _protocol(scored: Scored) -> tuple[str, bool]:
    """What was measured and how the authors did it, for the caption; and whether the two can be compared."""
    run = scored.run
    dino, lpips, clip = (scored.metrics[METRICS[i].label].scorer or "unknown" for i in (0, 2, 5))
    count = len(scored.samples)
    is_theirs = are_of(scored.task(sample)[1].tags for sample in scored.samples)
    same = {
        "data set": is_theirs and count == SAMPLES,
        "backbone": run.backbone.name in _SD14 and run.backbone.resolution == 512,
        "steps": run.steps == 50,
    }
    agreement = verdict(same, "agrees in data set, backbone and steps")
    statement = (
        f"Measured ({agreement}): data set {run.dataset.name} ({scored.count} samples), backbone {run.backbone.name}"
        f" ({run.backbone.resolution} px), steps {run.steps}, DINO {dino}, CLIP {clip}, {lpips}. The authors: PIE-Bench"
        f" ({SAMPLES} samples), SD 1.4 (512 px; SD 1.5 in half precision for PnP), 50 steps, DINO ViT-B/8, CLIP"
        " ViT-L/14 of OpenAI, LPIPS SqueezeNet."
    )
    if scored.is_pocket:
        statement += " Pocket: small models or drawn scenes, whose values are not comparable with published ones."
    return statement, is_theirs and not scored.is_pocket
