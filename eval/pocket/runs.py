"""What runs on the pocket scenes say of the pocket backbone: whether a good method can be told from a bad one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from cpam_bench.eval.analysis.statistics import kendall_tau
from cpam_bench.eval.analysis.truth import by_kind
from cpam_bench.eval.pocket.check import Figure
from cpam_bench.eval.scoring.scored import read_scores
from cpam_bench.eval.store.store import Store
from cpam_bench.eval.tables.table2 import METRICS, table2_beside
from cpam_bench.imba.errors import UserError

CLOSER = {"replace": 90.0, "background": 90.0, "remove": 95.0, "add": 60.0, "pose": 50.0}
"""Kind of edit -> floor of the share of CPAM's edits that are closer to the truth than to the source, in percent."""

TAU = {"clip_score": 0.4, "lpips_background": 0.6}
"""Metric -> floor of Kendall's tau with the paper's order."""


def edits(folder: str | Path, method: str = "cpam") -> list[Figure]:
    """The share of a method's edits that come closer to the truth than to the source, by kind (see ``by_kind``).

    Raises:
        UserError: the run has no such method, is not scored with these metrics, or knows no truth.
    """
    if method not in Store.open(folder).run.methods:
        raise UserError(f"{folder} has no {method}; run it with: cpam-bench run --methods {method} --out {folder}")
    table = by_kind(folder)
    own = table[table["method"] == method].set_index("kind")
    where = f"{method}, {Path(folder).name}"
    return [
        Figure(f"{kind}: closer to the truth ({where}, n = {own['n'][kind]})", 100 * own["closer"][kind], least, "%")
        for kind, least in CLOSER.items()
        if kind in own.index
    ]


def null_text(folder: str | Path) -> list[Figure]:
    """Null-text inversion against the references: it edits (CLIPScore) and holds the background (LPIPS).

    Raises:
        UserError: the run lacks ``p2p-nti``, ``identity`` or ``ddim``, or is not scored.
    """
    means = read_scores(folder).groupby(["metric", "method"])["value"].mean()
    needed = [("clip_score", "identity"), ("lpips_background", "ddim")]
    needed += [(metric, "p2p-nti") for metric, _ in needed]
    if missing := [f"{metric} of {method}" for metric, method in needed if (metric, method) not in means]:
        raise UserError(f"{folder} has no {', no '.join(missing)}")
    gain = means["clip_score", "p2p-nti"] - means["clip_score", "identity"]
    loss = means["lpips_background", "p2p-nti"] - means["lpips_background", "ddim"]
    return [
        Figure("p2p-nti: CLIPScore less identity's", float(gain), 0.0, ""),
        Figure("p2p-nti: background LPIPS less ddim's", float(loss), 0.0, "", higher=False),
    ]


def order(folder: str | Path, resamples: int = 1000, seed: int = 0) -> list[Figure]:
    """Kendall's tau of the measured order of the methods with that of the paper's Table 2, a figure a metric.

    The name holds a 95 % percentile bootstrap interval over samples: the same samples are drawn for every method.

    Raises:
        UserError: the run is not scored, or fewer than two of its methods are the paper's.
    """
    beside, scores = table2_beside(folder).data, read_scores(folder)
    figures = []
    for metric in METRICS:
        printed = beside.dropna(subset=[f"{metric.name}_published", metric.name]).set_index("label")
        if len(printed) < 2:
            raise UserError(f"{folder}: an order needs two of the paper's methods; found {len(printed)}")
        wide = scores[scores["metric"] == metric.name].pivot(index="sample", columns="method", values="value")
        values = wide[list(printed.index)].to_numpy()
        there = printed[f"{metric.name}_published"].to_list()
        rng = np.random.default_rng(seed)
        drawn = [
            kendall_tau(there, np.nanmean(values[rng.integers(len(values), size=len(values))], axis=0).tolist())[0]
            for _ in range(resamples)
        ]
        low, high = np.nanpercentile(drawn, (2.5, 97.5))
        tau = kendall_tau(there, printed[metric.name].to_list())[0]
        title = f"Kendall's tau with Table 2, {metric.title} (n = {len(printed)} methods) [{low:+.2f}, {high:+.2f}]"
        figures.append(Figure(title, tau, TAU.get(metric.name, math.nan), ""))
    return figures


def figures(folder: str | Path) -> list[Figure]:
    """What a run gives: of its edits by CPAM always, of null-text inversion and of the order if it has the methods.

    Raises:
        UserError: there is no such run, it has no CPAM, is not scored, or knows no truth.
    """
    methods = Store.open(folder).run.methods
    found = edits(folder)
    if {"p2p-nti", "identity", "ddim"} <= methods.keys():
        found += null_text(folder) + order(folder)
    return found
