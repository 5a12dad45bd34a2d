import math

import numpy as np
import pandas as pd
import pytest

from cpam_bench.eval.analysis.statistics import mean_interval, paired_difference

NAN = float("nan")


def test_interval_holds_the_mean_and_is_repeatable():
    values = np.random.default_rng(3).normal(5, 2, 40)
    first, again = mean_interval(values), mean_interval(values)
    assert first == again
    assert first.n == 40
    assert first.mean == pytest.approx(values.mean())
    # The normal approximation is close at this size.
    half = 1.96 * values.std(ddof=1) / math.sqrt(40)
    assert first.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert first.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_interval_covers_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = sum(
        estimate.low <= 1.0 <= estimate.high
        for estimate in (mean_interval(rng.exponential(1, 40), resamples=499) for _ in range(200))
    )
    assert 0.87 <= hits / 200 <= 0.99


def test_nan_is_left_out_of_mean_and_count():
    assert mean_interval([1.0, NAN, 3.0]).n == 2
    assert mean_interval([1.0, NAN, 3.0]).mean == 2.0


@pytest.mark.parametrize("values", [[], [NAN, NAN]])
def test_nothing_measured(values):
    estimate = mean_interval(values)
    assert estimate.n == 0
    assert math.isnan(estimate.mean) and math.isnan(estimate.low)


def test_one_value_has_no_interval():
    estimate = mean_interval([4.0])
    assert (estimate.mean, estimate.n) == (4.0, 1)
    assert math.isnan(estimate.low) and math.isnan(estimate.high)
    assert not estimate.excludes_zero()


def test_equal_values_have_an_interval_of_no_width():
    assert (mean_interval([2.0] * 5).low, mean_interval([2.0] * 5).high) == (2.0, 2.0)


def _scores(**methods):
    rows = [(method, f"s{i}", "lpips", value) for method, values in methods.items() for i, value in enumerate(values)]
    return pd.DataFrame(rows, columns=["method", "sample", "metric", "value"])


def test_pairing_finds_a_difference_that_the_spread_hides():
    base = np.random.default_rng(0).normal(0, 10, 20)
    shift = 0.5 + 0.1 * np.random.default_rng(1).normal(size=20)
    scores = _scores(a=base + shift, b=base)
    difference = paired_difference(scores, "a", "b", "lpips")
    assert difference.excludes_zero() and 0.4 < difference.mean < 0.6
    opposite = paired_difference(scores, "b", "a", "lpips")
    assert opposite.mean == pytest.approx(-difference.mean)
    one, other = (mean_interval(scores[scores.method == m].value) for m in "ab")
    assert one.low < other.high and other.low < one.high


def test_pairing_is_over_common_samples_and_not_by_row():
    scores = _scores(a=[1.0, 2.0, 3.0], b=[1.0, 1.0, NAN])
    scores = pd.concat([scores, pd.DataFrame([("b", "other", "lpips", 99.0)], columns=scores.columns)])
    difference = paired_difference(scores, "a", "b", "lpips")
    assert (difference.n, difference.mean) == (2, 0.5)
    shuffled = paired_difference(scores.sample(frac=1, random_state=1), "a", "b", "lpips")
    assert shuffled == difference


def test_pairing_with_an_unknown_method():
    with pytest.raises(KeyError, match="no lpips of c"):
        paired_difference(_scores(a=[1.0]), "a", "c", "lpips")
