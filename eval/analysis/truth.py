"""How near edits come to the picture that they should have led to, where a data set knows it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.imba.errors import UserError

COLUMNS = ["kind", "method", "n", "lpips_truth", "lpips_source", "lpips_truth_gain", "closer"]
TITLES = {
    "lpips_truth": "LPIPS, edit to truth (whole picture)",
    "lpips_source": "LPIPS, source to truth (whole picture)",
    "lpips_truth_gain": "gain to truth (region)",
    "closer": "closer to the truth than to the source (region)",
}
"""Heads of the columns; each says over what it is measured."""


def by_kind(folder: str | Path) -> pd.DataFrame:
    """A row for every kind of edit and method of a scored run.

    Columns: kind, method, n, ``lpips_truth`` (mean LPIPS of edit and truth, whole pictures), ``lpips_source`` (the
    same of the untouched source: the row ``identity``; NaN if the run has none), ``lpips_truth_gain`` (mean LPIPS of
    edit and source less that of edit and truth, inside the alteration mask; NaN if there is none) and ``closer`` (the
    share of samples in which that gain is above 0, in [0, 1]).

    Raises:
        UserError: the run is not scored with these metrics, or its data set knows no truth.
    """
    scored = Scored.open(folder)
    scored.require("lpips_truth", "lpips_truth_gain")
    scores = scored.scores.pivot(index=["method", "sample"], columns="metric", values="value")
    if scores.empty:
        raise UserError(f"{folder} has no edits that are scored; run it and then: cpam-bench score {folder}")
    scores = scores.dropna(subset=["lpips_truth"]).reset_index()
    if scores.empty:
        raise UserError(f"{folder}: the data set {scored.run.dataset.name} does not know what its edits should lead to")
    scores["kind"] = [scored.task(sample)[1].kind for sample in scores["sample"]]
    untouched = scores[scores["method"] == "identity"].set_index("sample")["lpips_truth"]
    scores["lpips_source"] = scores["sample"].map(untouched)
    scores["closer"] = (scores["lpips_truth_gain"] > 0).where(scores["lpips_truth_gain"].notna()).astype(float)
    order = {row.name: i for i, row in enumerate(scored.rows)}
    grouped = scores.groupby(["kind", "method"], sort=False)
    table = grouped.agg(
        n=("sample", "size"),
        lpips_truth=("lpips_truth", "mean"),
        lpips_source=("lpips_source", "mean"),
        lpips_truth_gain=("lpips_truth_gain", "mean"),
        closer=("closer", "mean"),
    ).reset_index()
    return table.sort_values(["kind", "method"], key=lambda c: c.map(order) if c.name == "method" else c)[COLUMNS]
