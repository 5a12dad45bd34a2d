"""How well automatic metrics follow the raters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.study.ratings import Study, cube
from cpam_bench.imba.errors import UserError


def read_scores(runs: Sequence[Path]) -> pd.DataFrame:
    """The runs' scores: method, sample, metric, value.

    Raises:
        UserError: a run has no scores, or two runs score the same method.
    """
    scored = [Scored.open(run) for run in runs]
    scores = pd.concat([one.scores for one in scored], ignore_index=True)
    keys = ["method", "sample", "metric"]
    if scores.duplicated(keys).any():
        first = scores[scores.duplicated(keys)].iloc[0]
        raise UserError(
            f"{first['metric']} of {first['method']} on {first['sample']} is scored in two runs: leave one out"
        )
    return scores


def correlate(study: Study, scores: pd.DataFrame, draws: int = 200, seed: int = 0) -> pd.DataFrame:
    """Rank correlations of each metric with each question's mean opinion scores.

    Three levels: ``sample`` (every edit a point: method and sample), ``within`` (the methods ranked on one sample,
    averaged over samples: no easy or hard image can help) and ``method`` (the methods' means).  Intervals are the 2.5
    and 97.5 percentiles over a bootstrap of raters and samples; the methods are taken as given.  A metric whose small
    values are good comes out negative.

    Args:
        study: ratings.
        scores: see :func:`read_scores`.
        draws: bootstrap replicates.
        seed: of the bootstrap.

    Returns:
        metric, question, level, n (points), spearman, spearman_low, spearman_high, kendall (tau-b), kendall_low,
        kendall_high; a metric that is constant or known for fewer than three points is NaN.

    Raises:
        UserError: study and runs have no method or sample in common.
    """
    values, methods, questions, people, samples = cube(study.ratings)
    scored = scores[scores["method"].isin(methods) & scores["sample"].isin(samples)]
    if scored.empty:
        raise UserError(
            "the study and the runs have no picture in common: the study has "
            f"{', '.join(methods)}; the scores have {', '.join(sorted(scores['method'].unique())) or 'none'}"
        )
    rng = np.random.default_rng(seed)
    # Row 0 is the study itself; the others draw raters and samples anew.
    rater_draw = np.vstack([np.arange(len(people)), rng.integers(len(people), size=(draws, len(people)))])
    sample_draw = np.vstack([np.arange(len(samples)), rng.integers(len(samples), size=(draws, len(samples)))])
    rows = []
    for metric, part in scored.groupby("metric"):
        score = (
            part.pivot(index="method", columns="sample", values="value")
            .reindex(index=methods, columns=samples)
            .to_numpy()
        )
        for q, question in enumerate(questions):
            results: dict[str, list[tuple[float, float]]] = {"sample": [], "within": [], "method": []}
            for chosen, picked in zip(rater_draw, sample_draw, strict=True):
                opinion = _mean(values[:, q][:, chosen][:, :, picked], 1)
                metric_values = score[:, picked]
                holes = np.isnan(opinion) | np.isnan(metric_values)
                a, b = np.where(holes, np.nan, opinion), np.where(holes, np.nan, metric_values)
                results["sample"].append(_both(a.ravel(), b.ravel()))
                results["within"].append(_within(a, b))
                results["method"].append(_both(_mean(a, 1), _mean(b, 1)))
            paired = ~np.isnan(_mean(values[:, q], 1)) & ~np.isnan(score)
            counts = {"sample": paired.sum(), "within": paired.any(0).sum(), "method": paired.any(1).sum()}
            for level, pairs in results.items():
                found = np.array(pairs)
                low, high = _quantiles(found[1:])
                rows.append(
                    {
                        "metric": metric,
                        "question": question,
                        "level": level,
                        "n": int(counts[level]),
                        "spearman": found[0, 0],
                        "spearman_low": low[0],
                        "spearman_high": high[0],
                        "kendall": found[0, 1],
                        "kendall_low": low[1],
                        "kendall_high": high[1],
                    }
                )
    return pd.DataFrame(rows)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what there is; NaN where there is nothing."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(there, values, 0.0).sum(axis) / there.sum(axis)
    return mean


def _quantiles(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """2.5 and 97.5 percentiles a column, over the replicates in which the correlation exists."""
    low, high = np.full(2, np.nan), np.full(2, np.nan)
    for i in range(2):
        column = found[:, i][~np.isnan(found[:, i])] if len(found) else found
        if len(column):
            low[i], high[i] = np.quantile(column, [0.025, 0.975])
    return low, high


def _both(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b of what both have."""
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if len(a) < 3 or (a == a[0]).all() or (b == b[0]).all():
        return float("nan"), float("nan")
    return float(stats.spearmanr(a, b).statistic), float(stats.kendalltau(a, b).statistic)


def _within(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Mean over samples (columns) of the correlation over methods (rows); all columns at once, as there are many draws.

    Samples with holes, or on which opinion or metric rank nothing, have no correlation and are left out.
    """
    full = ~(np.isnan(a) | np.isnan(b)).any(0)
    a, b = a[:, full], b[:, full]
    if a.shape[0] < 3 or not a.shape[1]:
        return float("nan"), float("nan")
    rho = _cosine(_centred_ranks(a), _centred_ranks(b))
    i, j = np.triu_indices(len(a), 1)
    tau = _cosine(np.sign(a[i] - a[j]), np.sign(b[i] - b[j]))  # tau-b is the cosine of the pairs' signs
    return rho, tau


def _centred_ranks(values: np.ndarray) -> np.ndarray:
    ranks: np.ndarray = stats.rankdata(values, axis=0)
    ranks -= ranks.mean(0)
    return ranks


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = np.sqrt((a**2).sum(0) * (b**2).sum(0))
    there = length > 0
    return float(((a * b).sum(0)[there] / length[there]).mean()) if there.any() else float("nan")
