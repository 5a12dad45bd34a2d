"""Means with their uncertainty, and paired comparison of two methods."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # its parts load when they are asked for
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
RESAMPLES = 9999


@dataclass(frozen=True)
class Estimate:
    """A mean, its interval, and how many values it rests on.

    ``low`` and ``high`` are NaN where no interval can be given (fewer than two values), all three where there is none.
    """

    mean: float
    low: float
    high: float
    n: int

    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; False where there is no interval."""
        return bool(self.low > 0 or self.high < 0)


def mean_interval(
    values: ArrayLike, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean with a percentile bootstrap interval over samples (Efron and Tibshirani 1993, chapter 13).

    The percentile method is taken because it is also defined where the others are not: equal values give an interval of
    no width.  It is seeded, so the same values in the same order give the same interval.

    Args:
        values: one number a sample; NaN stands for "not measured" and is left out of everything, the count too.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    >>> mean_interval([1.0, 1.0, float("nan")])
    Estimate(mean=1.0, low=1.0, high=1.0, n=2)
    """
    data = np.asarray(values, dtype=float).ravel()
    data = data[~np.isnan(data)]
    if not len(data):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    mean = float(data.mean())
    if len(data) < 2:
        return Estimate(mean, float("nan"), float("nan"), len(data))
    if np.all(data == data[0]):  # the answer is known, and scipy would warn of a degenerate distribution
        return Estimate(mean, mean, mean, len(data))
    # A mean may be infinite, as of the PSNR of equal pictures; its standard error, which is not used, is then NaN.
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("error", scipy.stats.DegenerateDataWarning)
        interval = scipy.stats.bootstrap(
            (data,),
            np.mean,
            n_resamples=resamples,
            batch=1000,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(data))


def paired_difference(
    scores: pd.DataFrame,
    a: str,
    b: str,
    metric: str,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Mean of (a - b) over the samples that both methods have, with its interval.

    Pairing takes the difficulty of the samples out of the comparison: two intervals that overlap may well belong to
    methods that differ on every single sample.

    Args:
        scores: long table with columns method, sample, metric, value, as ``scores.csv`` has it.
        a, b: method labels.
        metric: name of a metric.
        confidence, resamples, seed: as for :func:`mean_interval`.

    Raises:
        KeyError: a method has no value of that metric.
    """
    chosen = scores[scores["metric"] == metric]
    sides = []
    for method in (a, b):
        side = chosen[chosen["method"] == method].set_index("sample")["value"]
        if side.empty:
            raise KeyError(f"no {metric} of {method}")
        sides.append(side)
    # By name, so that the order in which samples were edited cannot change the resampling.
    difference = (sides[0] - sides[1]).sort_index()
    return mean_interval(difference.to_numpy(), confidence, resamples, seed)


def ranks(values: Sequence[float], higher: bool) -> list[int]:
    """1 for the best; ties share.  ``higher`` says that large values are good."""
    return [int(rank) for rank in scipy.stats.rankdata([-value if higher else value for value in values], method="min")]


def kendall_tau(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b and its p-value; NaN for fewer than two values."""
    if len(one) < 2:
        return math.nan, math.nan
    result = scipy.stats.kendalltau(one, other)
    return float(result.statistic), float(result.pvalue)
