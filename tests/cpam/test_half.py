"""What half precision changes of an edit."""

from __future__ import annotations

import numpy as np
import pytest

import cpam_bench.imba.dataset
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editor import CPAM
from cpam_bench.cpam.source import Source

STEPS = 5


def edited(dtype: str) -> np.ndarray:
    sample = cpam_bench.imba.dataset.load("pocket").samples[0]
    source = Source(sample, Backbone.load("pocket", dtype=dtype), STEPS)
    return np.asarray(CPAM().edit(sample, source, 0)).astype(float)


@pytest.fixture(scope="module")
def whole() -> np.ndarray:
    return edited("float32")


@pytest.mark.parametrize(("dtype", "least"), [("float16", 50.0), ("bfloat16", 38.0)])
def test_half_precision_agrees_with_float32(dtype: str, least: float, whole: np.ndarray) -> None:
    """In decibels of the peak signal-to-noise ratio; of 10 steps 61 and 47 were measured."""
    error = ((edited(dtype) - whole) ** 2).mean()
    assert error > 0 and 10 * np.log10(255**2 / error) > least
