"""CPAM and MasaCtrl against numbers computed with their authors' released code (tests/data/reference)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from paths import REFERENCE
from safetensors.torch import load_file
from torch import Tensor

from cpam_bench.baselines.masactrl import MutualControl
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editor import PreservingControl
from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.masks import target_mask
from cpam_bench.cpam.refinement import Refinement, enlarge
from cpam_bench.cpam.sampling import reconstruct, sample

DATA = REFERENCE
PROMPT = "a photo of a sitting dog"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Tensor]:
    return load_file(DATA / "vectors.safetensors")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(DATA / "tiny-sd"))


@pytest.fixture(scope="module")
def trajectory(backbone: Backbone, vectors: dict[str, Tensor]) -> Trajectory:
    return invert(backbone, vectors["latents_0"], steps=10)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def preserving(vectors: dict[str, Tensor], **settings: object) -> PreservingControl:
    return PreservingControl(vectors["mask_source"].bool(), vectors["mask_target"].bool(), **settings)  # type: ignore[arg-type]


def test_latents(backbone: Backbone, vectors: dict[str, Tensor]) -> None:
    # The reference image is no 8-bit picture, so it goes past Backbone.encode's conversion.
    with torch.inference_mode():
        mean = backbone.pipeline.vae.encode(vectors["image"]).latent_dist.mean
    assert distance(mean * backbone.pipeline.vae.config.scaling_factor, vectors["latents_0"]) < 1e-4


def test_trajectory(trajectory: Trajectory, vectors: dict[str, Tensor]) -> None:
    assert distance(torch.cat(trajectory.latents), vectors["trajectory"]) < 1e-4


def test_first_target_mask(vectors: dict[str, Tensor]) -> None:
    mask = target_mask(vectors["mask_source"].bool().numpy(), "replace")
    assert np.array_equal(mask, vectors["mask_target"].bool().numpy())


def test_plain(backbone: Backbone, trajectory: Trajectory, vectors: dict[str, Tensor]) -> None:
    assert distance(sample(backbone, trajectory, PROMPT), vectors["plain"]) < 1e-4


@pytest.mark.parametrize(("name", "retain"), [("cpam_object_retained", True), ("cpam_object_free", False)])
def test_cpam(name: str, retain: bool, backbone: Backbone, trajectory: Trajectory, vectors: dict[str, Tensor]) -> None:
    control = preserving(vectors, retain=retain)
    assert distance(sample(backbone, trajectory, PROMPT, control=control), vectors[name]) < 1e-4


@pytest.mark.parametrize(
    "change",
    [
        {"preservation": False},
        {"localization": False},
        {"start_step": 4},
        {"start_layer": 8},
        {"normal_layers": 0.1},
    ],
    ids=str,
)
def test_every_setting_matters(
    change: dict[str, object], backbone: Backbone, trajectory: Trajectory, vectors: dict[str, Tensor]
) -> None:
    control = preserving(vectors, **{"retain": True, **change})
    assert distance(sample(backbone, trajectory, PROMPT, control=control), vectors["cpam_object_retained"]) > 2e-4


def test_cpam_refined(backbone: Backbone, trajectory: Trajectory, vectors: dict[str, Tensor]) -> None:
    masks = []

    class Recording(Refinement):
        def collect(self, q: Tensor, k: Tensor, layer: int, step: int) -> Tensor | None:
            mask = super().collect(q, k, layer, step)
            if mask is not None:
                masks.append(enlarge(mask, (64, 64)))
            return mask

    refinement = Recording(backbone.word_positions(PROMPT), (16, 16), backbone.cross_layers)
    edited = sample(backbone, trajectory, PROMPT, control=preserving(vectors, retain=True, refinement=refinement))
    assert torch.equal(torch.stack(masks), vectors["cpam_refined_masks"].bool())
    assert distance(edited, vectors["cpam_refined"]) < 1e-4


@pytest.mark.parametrize(("name", "follow"), [("masactrl", True), ("masactrl_no_trajectory", False)])
def test_masactrl(
    name: str, follow: bool, backbone: Backbone, trajectory: Trajectory, vectors: dict[str, Tensor]
) -> None:
    edited = sample(backbone, trajectory, PROMPT, control=MutualControl(), follow=follow)
    assert distance(edited, vectors[name]) < 1e-4


def test_costs(backbone: Backbone, vectors: dict[str, Tensor]) -> None:
    """One denoiser evaluation a step to invert or to reconstruct, three to edit, two without a control."""
    counts = []
    start = backbone.evaluations
    trajectory = invert(backbone, vectors["latents_0"], steps=5)
    counts.append(backbone.evaluations)
    sample(backbone, trajectory, PROMPT, control=MutualControl())
    counts.append(backbone.evaluations)
    sample(backbone, trajectory, PROMPT)
    counts.append(backbone.evaluations)
    reconstruct(backbone, trajectory)
    counts.append(backbone.evaluations)
    assert np.diff([start, *counts]).tolist() == [5, 15, 10, 5]


def test_attention_is_put_back_after_an_exception(backbone: Backbone, trajectory: Trajectory) -> None:
    class Failing(MutualControl):
        def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
            raise RuntimeError("stop")

    before = dict(backbone.unet.attn_processors)
    with pytest.raises(RuntimeError, match="stop"):
        sample(backbone, trajectory, PROMPT, control=Failing())
    assert backbone.unet.attn_processors == before
