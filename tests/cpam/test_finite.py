"""NaN and infinite latents end an edit and name the step; none becomes a black picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from editor_helpers import make_sample
from paths import TINY

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.finite import NotFinite
from cpam_bench.cpam.inversion import invert
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry

STEPS = 4
EDITORS = ["cpam", "masactrl:step=1", "ddim", "fpe", "pnp:inversion_steps=0", "sdedit", "diffedit", "leditspp"]


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


def broken_after(backbone: Backbone, calls: int, value: float = float("nan")) -> None:
    """From so many calls on, the denoiser predicts what is no number."""
    predict = backbone.predict_with_gradient
    count = 0

    def predict_then_break(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return predict(*arguments) * (1.0 if count <= calls else value)

    backbone.predict_with_gradient = predict_then_break  # type: ignore[method-assign]


def test_the_step_of_the_inversion_is_named(backbone: Backbone) -> None:
    latents = Source(make_sample(), backbone, STEPS).latents
    broken_after(backbone, 2)
    with pytest.raises(NotFinite, match="inversion: .* from step 3 of 4 on"):
        invert(backbone, latents, STEPS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_step_of_the_sampling_is_named(backbone: Backbone, value: float) -> None:
    sample = make_sample()
    source = Source(sample, backbone, STEPS)
    assert len(source.trajectory.latents) == STEPS + 1
    broken_after(backbone, 1, value)
    with pytest.raises(NotFinite, match="sampling: .* from step 2 of 4 on"):
        registry.make("cpam")[1].edit(sample, source, 0)


@pytest.mark.parametrize("label", EDITORS)
def test_no_editor_makes_a_picture_of_it(backbone: Backbone, label: str) -> None:
    sample = make_sample(source_prompt="a photo of an apple on a beach")
    source = Source(sample, backbone, STEPS)
    assert len(source.trajectory.latents) == STEPS + 1
    broken_after(backbone, 0)
    with pytest.raises(NotFinite):
        registry.make(label)[1].edit(sample, source, 0)


def test_pixels_that_are_no_numbers_are_no_picture(backbone: Backbone) -> None:
    with torch.no_grad():
        backbone.pipeline.vae.decoder.conv_out.bias += float("nan")
    with pytest.raises(NotFinite, match="decoding"):
        backbone.decode(torch.zeros(1, 4, 16, 16))
