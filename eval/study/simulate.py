"""Simulated raters: for planning a study, and for testing the statistics against a truth that is known.

The default sizes of the effects are assumptions, not measurements: raters differ by half a point, images by half a
point, both differ from method to method by 0.3, and the same rater would rate the same picture otherwise by 0.9
another day.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import norm

from cpam_bench.eval.study.intervals import Estimate, pigeonhole, two_way

SCALE = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)


@dataclass(frozen=True)
class Spread:
    """Standard deviations of the effects, in points of a 1 to 6 scale (in fifths of the range of another).

    Attributes:
        rater: how much stricter or milder a rater is, on a question.
        rater_method: how much a rater likes a method more than others do.
        image: how much easier or harder an image is, on a question.
        image_method: how much better a method does on an image than elsewhere.
        noise: what is left.
    """

    rater: float = 0.5
    rater_method: float = 0.3
    image: float = 0.5
    image_method: float = 0.5
    noise: float = 0.9

    @property
    def total(self) -> float:
        """Standard deviation of one rating before it is put on the scale."""
        parts = (self.rater, self.rater_method, self.image, self.image_method, self.noise)
        return float(np.sqrt(sum(part**2 for part in parts)))


def latent(means: np.ndarray, spread: Spread, scale: Sequence[float] = SCALE) -> np.ndarray:
    """Where the unrounded ratings must be centred for the ratings on the scale to have these means.

    Rounding to the scale and cutting off at its ends move a mean; the normal distribution says by how much.

    Args:
        means: of any shape, within the scale.
        spread: of the effects.
        scale: its values.
    """
    values = np.asarray(scale, dtype=float)
    step = (values[-1] - values[0]) / 5
    edges = (values[1:] + values[:-1]) / 2

    def expected(centre: float) -> float:
        return float(values[0] + (np.diff(values) * norm.sf(edges, centre, spread.total * step)).sum())

    reach = 12 * (spread.total + 1) * step
    solve = [
        brentq(lambda c, mean=mean: expected(c) - mean, values[0] - reach, values[-1] + reach) for mean in means.ravel()
    ]
    centres: np.ndarray = np.asarray(solve, dtype=float).reshape(means.shape)
    return centres


def draw(
    means: np.ndarray,
    raters: int,
    images: int,
    rng: np.random.Generator,
    spread: Spread | None = None,
    scale: Sequence[float] = SCALE,
    centres: np.ndarray | None = None,
) -> np.ndarray:
    """One study: ratings on the scale, float (methods, questions, raters, images).

    Args:
        means: the truth, float (methods, questions): the means over all raters and images that there might be.
        raters, images: drawn from those.
        rng: what draws them.
        spread: of the effects.
        scale: its values.
        centres: :func:`latent` of the means, if it is known already.
    """
    spread = spread or Spread()
    values = np.asarray(scale, dtype=float)
    step = (values[-1] - values[0]) / 5
    methods, questions = means.shape
    centres = latent(means, spread, scale) if centres is None else centres

    def normal(deviation: float, *shape: int) -> np.ndarray:
        effect: np.ndarray = rng.standard_normal(shape) * deviation * step
        return effect

    wanted = (
        centres[:, :, None, None]
        + normal(spread.rater, 1, questions, raters, 1)
        + normal(spread.rater_method, methods, questions, raters, 1)
        + normal(spread.image, 1, questions, 1, images)
        + normal(spread.image_method, methods, questions, 1, images)
        + normal(spread.noise, methods, questions, raters, images)
    )
    ratings: np.ndarray = values[np.searchsorted((values[1:] + values[:-1]) / 2, wanted)]
    return ratings


def as_table(values: np.ndarray, methods: Sequence[str], questions: Sequence[str], careless: int = 0) -> pd.DataFrame:
    """Ratings as a long table with the columns that `aggregate` reads.

    Args:
        values: float (methods, questions, raters, images).
        methods, questions: names.
        careless: of the raters, the last so many are marked as having taken half a second a picture.
    """
    m, q, r, s = (axis.ravel() for axis in np.indices(values.shape))
    raters = values.shape[2]
    return pd.DataFrame(
        {
            "rater": [f"r{i + 1:02d}" for i in r],
            "method": [methods[int(i)] for i in m],
            "sample": [f"s{i + 1:03d}" for i in s],
            "question": [questions[int(i)] for i in q],
            "rating": values.ravel(),
            "seconds": np.where(r >= raters - careless, 0.5, 12.0),
        }
    )


def add_careless(
    values: np.ndarray, count: int, rng: np.random.Generator, scale: Sequence[float] = SCALE
) -> np.ndarray:
    """The last `count` raters answer without looking: by turns one value throughout, and at random."""
    values = values.copy()
    raters = values.shape[2]
    for turn, rater in enumerate(range(raters - count, raters)):
        shape = values[:, :, rater].shape
        values[:, :, rater] = scale[len(scale) // 2] if turn % 2 == 0 else rng.choice(np.asarray(scale), size=shape)
    return values


@dataclass(frozen=True)
class Coverage:
    """How often intervals hold the truth, over simulated studies.

    Attributes:
        studies: how many.
        means: share of intervals of means (all methods and questions) that hold the true mean.
        lowest, highest: the same of the single method and question with the least and the most.
        differences: share of intervals of paired differences that hold the true difference.
        false_alarms: share of pairs of equal methods that are told apart at p < 0.05 (uncorrected).
        width: mean width of the means' intervals.
    """

    studies: int
    means: float
    lowest: float
    highest: float
    differences: float
    false_alarms: float
    width: float


def coverage(
    means: np.ndarray,
    studies: int = 500,
    raters: int = 20,
    images: int = 50,
    spread: Spread | None = None,
    scale: Sequence[float] = SCALE,
    missing: float = 0.0,
    bootstrap: int = 0,
    seed: int = 0,
) -> Coverage:
    """Simulate studies, aggregate each as `aggregate` does, and count how often the truth is within the intervals.

    Args:
        means: the truth, float (methods, questions).
        studies, raters, images: how many.
        spread, scale: of the ratings.
        missing: share of ratings that are not there, at random.
        bootstrap: replicates of the percentile bootstrap; 0 for the t interval.
        seed: of the simulation.
    """
    spread = spread or Spread()
    methods, questions = means.shape
    # A method as good as the first, so that there is a pair without a difference.
    truth = np.concatenate([means, means[:1]])
    centres = latent(truth, spread, scale)
    hits = np.zeros((methods, questions))
    pair_hits, alarms, width = 0.0, 0.0, 0.0
    for values in _studies(truth, studies, raters, images, spread, scale, centres, missing, seed):
        estimate = _estimate(values[:-1], bootstrap, seed)
        hits += (estimate.low <= means) & (means <= estimate.high)
        width += float((estimate.high - estimate.low).mean())
        gaps = two_way(values[1:] - values[:-1])  # neighbours; the last is compared with the first below
        actual = truth[1:] - truth[:-1]
        pair_hits += float(((gaps.low <= actual) & (actual <= gaps.high)).mean())
        alarms += float((two_way(values[-1] - values[0]).p < 0.05).mean())
    return Coverage(
        studies,
        float(hits.mean() / studies),
        float(hits.min() / studies),
        float(hits.max() / studies),
        pair_hits / studies,
        alarms / studies,
        width / studies,
    )


def _studies(
    truth: np.ndarray,
    studies: int,
    raters: int,
    images: int,
    spread: Spread,
    scale: Sequence[float],
    centres: np.ndarray,
    missing: float,
    seed: int,
) -> Iterator[np.ndarray]:
    for study in range(studies):
        rng = np.random.default_rng([seed, study])
        values = draw(truth, raters, images, rng, spread, scale, centres)
        yield np.where(rng.random(values.shape) < missing, np.nan, values) if missing else values


def _estimate(values: np.ndarray, bootstrap: int, seed: int) -> Estimate:
    return pigeonhole(values, bootstrap, seed=seed) if bootstrap else two_way(values)


def power(
    difference: float,
    raters: Sequence[int],
    images: int = 50,
    studies: int = 500,
    comparisons: int = 36,
    spread: Spread | None = None,
    scale: Sequence[float] = SCALE,
    seed: int = 0,
) -> pd.DataFrame:
    """How many raters show a difference between two methods.

    Args:
        difference: between the two means, around the scale's middle.
        raters: numbers of raters to try.
        images, studies: how many.
        comparisons: pairs tested together; 36 for nine methods.
        spread, scale: of the ratings.
        seed: of the simulation.

    Returns:
        raters; power: share of studies with p < 0.05; power_holm: with p < 0.05 / comparisons, which is what Holm's
        correction asks of the pair that it looks at first, so a lower bound; half: half the mean length of the
        interval.
    """
    spread = spread or Spread()
    middle = (scale[0] + scale[-1]) / 2
    truth = np.array([[middle - difference / 2], [middle + difference / 2]])
    centres = latent(truth, spread, scale)
    rows = []
    for number in raters:
        values = np.stack(list(_studies(truth, studies, number, images, spread, scale, centres, 0.0, seed)))
        estimate = two_way(values[:, 1] - values[:, 0])
        rows.append(
            {
                "raters": number,
                "power": float((estimate.p < 0.05).mean()),
                "power_holm": float((estimate.p < 0.05 / comparisons).mean()),
                "half": float((estimate.high - estimate.low).mean() / 2),
            }
        )
    return pd.DataFrame(rows)
