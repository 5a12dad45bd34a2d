"""Means of ratings, and how sure they are, when the same raters rate the same images.

A rating of a method is the mean, plus what the rater adds, plus what the image adds, plus the rest: two crossed
clusterings. Taking ratings for independent, or only one clustering into account, makes intervals far too short.  The
interval here adds what resampling the raters and what resampling the images would each add to the variance of the
mean, less what both count twice:

    V = V_raters + V_images - V_rest,   mean +- t(df) sqrt(V),   df = V^2 / (V_raters^2/(R-1) + V_images^2/(S-1))

the variances of the two cluster bootstraps in closed form (Cameron, Gelbach and Miller, 2011), for complete data the
two-way analysis of variance, with Student's t and Satterthwaite's degrees of freedom, because 20 raters are few.  The
percentile bootstrap over both (:func:`pigeonhole`; Owen, 2007) is there too.  `cpam-bench study simulate --coverage`
measures both.
"""

from __future__ import annotations

from dataclasses import dataclass

import krippendorff
import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """Means with intervals; arrays of one shape.

    Attributes:
        mean: of all ratings there are; NaN without any.
        low, high: the interval; NaN with fewer than two raters or images.
        se: standard error.
        df: Satterthwaite's degrees of freedom.
        p: two-sided p of the mean being 0 (for differences).
        count: ratings.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    se: np.ndarray
    df: np.ndarray
    p: np.ndarray
    count: np.ndarray


def two_way(values: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Mean and interval over crossed raters and images.

    Args:
        values: float (..., raters, images), NaN where there is no rating.
        confidence: of the interval.

    Returns:
        Estimates of shape (...).
    """
    there = ~np.isnan(values)
    count = there.sum((-2, -1))
    raters, images = there.any(-1).sum(-1), there.any(-2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0.0).sum((-2, -1)) / count
        rest = np.where(there, values - mean[..., None, None], 0.0)
        by_rater = raters / (raters - 1) * (rest.sum(-1) ** 2).sum(-1) / count**2
        by_image = images / (images - 1) * (rest.sum(-2) ** 2).sum(-1) / count**2
        per_rater, per_image = np.maximum(there.sum(-1), 1), np.maximum(there.sum(-2), 1)
        # Take the raters' and the images' means out; once suffices for complete data, holes need it repeated.
        for _ in range(1 if there.all() else 8):
            rest = np.where(there, rest - (rest.sum(-1) / per_rater)[..., None], 0.0)
            rest = np.where(there, rest - (rest.sum(-2) / per_image)[..., None, :], 0.0)
        left = count - raters - images + 1
        both = np.where(left > 0, (rest**2).sum((-2, -1)) / left / count, 0.0)
        # By chance the sum can fall below one of its parts, which is a lower bound in truth.
        variance = np.maximum(by_rater + by_image - both, np.maximum(by_rater, by_image))
        df = variance**2 / (by_rater**2 / (raters - 1) + by_image**2 / (images - 1))
        df = np.where(variance > 0, df, np.minimum(raters, images) - 1.0)
        se = np.sqrt(variance)
        half = stats.t.ppf(0.5 + confidence / 2, df) * se
        p = 2 * stats.t.sf(np.abs(mean) / se, df)
        p = np.where((se == 0) & (mean == 0), 1.0, p)
    return Estimate(mean, mean - half, mean + half, se, df, p, count)


def pigeonhole(values: np.ndarray, draws: int = 2000, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Percentile interval of the bootstrap that draws raters and images anew, each with replacement.

    Args:
        values: float (..., raters, images), NaN where there is no rating.
        draws: replicates; the same for all of the leading axes.
        confidence: of the interval.
        seed: of the draws.

    Returns:
        Estimates of shape (...); `se` is the replicates' standard deviation, `df` infinite, `p` NaN.
    """
    rng = np.random.default_rng(seed)
    raters, images = values.shape[-2:]
    weight_r = rng.multinomial(raters, np.full(raters, 1 / raters), size=draws).astype(float)
    weight_s = rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(float)
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.einsum("...bs,bs->...b", weight_r @ np.where(there, values, 0.0), weight_s)
        number = np.einsum("...bs,bs->...b", weight_r @ there.astype(float), weight_s)
        replicates = total / number
        count = there.sum((-2, -1))
        mean = np.where(there, values, 0.0).sum((-2, -1)) / count
        tail = (1 - confidence) / 2
        low, high = np.nanquantile(replicates, [tail, 1 - tail], axis=-1)
        se = np.nanstd(replicates, axis=-1)
    return Estimate(mean, low, high, se, np.full_like(mean, np.inf), np.full_like(mean, np.nan), count)


def alpha_ordinal(ratings: np.ndarray) -> float:
    """Krippendorff's alpha for ordinal ratings (package krippendorff).

    Args:
        ratings: float (raters, things rated), NaN where there is no rating.

    Returns:
        1 for full agreement, 0 for chance; NaN where nothing was rated twice, or all ratings are the same.
    """
    domain, codes = np.unique(ratings[~np.isnan(ratings)], return_inverse=True)
    if len(domain) < 2:
        return float("nan")
    counts = np.zeros((ratings.shape[1], len(domain)), dtype=int)
    np.add.at(counts, (np.nonzero(~np.isnan(ratings))[1], codes), 1)
    if (counts.sum(1) < 2).all() or (counts[counts.sum(1) >= 2].sum(0) > 0).sum() < 2:
        return float("nan")
    return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement="ordinal"))
