"""How near edits come to the picture that they should have led to, where a data set knows it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from cpam_bench.eval.scoring.score import read_scores
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError

COLUMNS = ["kind", "method", "n", "lpips_truth", "lpips_source", "closer"]


def by_kind(folder: str | Path) -> pd.DataFrame:
    """A row for every kind of edit and method of a scored run.

    Columns: kind, method, n, ``lpips_truth`` (mean LPIPS of edit and truth, whole pictures), ``lpips_source`` (the
    same of the untouched source: the row ``identity``; NaN if the run has none) and ``closer`` (the share of samples
    that inside the alteration mask are closer to the truth than to the source, by LPIPS, in [0, 1]).

    Raises:
        UserError: the run is not scored with these metrics, or its data set knows no truth.
    """
    store = Store.open(folder)
    kinds = {task.id: task.kind for sample in store.run.samples if (task := store.read_task(sample))}
    scores = read_scores(folder).pivot(index=["method", "sample"], columns="metric", values="value")
    for metric in ("lpips_truth", "lpips_truth_gain"):
        if metric not in scores:
            raise UserError(f"{folder} has no scores of {metric}; make them with: cpam-bench score {folder}")
    scores = scores.dropna(subset=["lpips_truth"]).reset_index()
    if scores.empty:
        raise UserError(
            f"{folder}: the data set {store.run.dataset['name']} does not know what its edits should lead to"
        )
    scores["kind"] = scores["sample"].map(kinds)
    untouched = scores[scores["method"] == "identity"].set_index("sample")["lpips_truth"]
    scores["lpips_source"] = scores["sample"].map(untouched)
    scores["closer"] = (scores["lpips_truth_gain"] > 0).where(scores["lpips_truth_gain"].notna()).astype(float)
    order = {label: i for i, label in enumerate(store.run.methods)}
    grouped = scores.groupby(["kind", "method"], sort=False)
    table = grouped.agg(
        n=("sample", "size"),
        lpips_truth=("lpips_truth", "mean"),
        lpips_source=("lpips_source", "mean"),
        closer=("closer", "mean"),
    ).reset_index()
    return table.sort_values(["kind", "method"], key=lambda c: c.map(order) if c.name == "method" else c)[COLUMNS]
