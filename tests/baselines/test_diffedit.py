"""DiffEdit against a straight-line computation, and against diffusers' pipeline where the two are the same."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from editor_helpers import make_sample
from paths import TINY
from straight import ALPHAS, distance, moved, straight
from torch import Tensor

from cpam_bench.baselines.diffedit import DiffEdit
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.source import Source

PROMPT = "a photo of an orange on a beach"
STEPS, SEED = 4, 11  # t = 751, 501, 251, 1


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


@pytest.fixture(scope="module")
def source(backbone: Backbone) -> Source:
    return Source(make_sample(), backbone, STEPS)


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


@torch.no_grad()
def mask_by_hand(z0: Tensor, ratio: float) -> Tensor:
    """Of three maps at t = 251, with guidance in both estimates, clamped, scaled and cut."""
    made = straight()
    noisy = ALPHAS[251] ** 0.5 * z0 + (1 - ALPHAS[251]) ** 0.5 * torch.randn(3, 4, 16, 16, generator=drawn())
    null, text = (made.predict(noisy, 251, made.embed(one).expand(3, -1, -1)) for one in ("", PROMPT))
    difference = ((null + 7.5 * (text - null)) - (null + 7.5 * (null - null))).abs().mean((0, 1))
    highest = ratio * difference.mean()
    return (difference.clamp(max=highest) / highest > 0.5).float()[None, None]


@pytest.mark.parametrize("ratio", [1.8, 2.2])  # a random denoiser's map has no peaks
def test_the_mask_is_the_straight_line_computation(source: Source, ratio: float) -> None:
    found = DiffEdit(maps=3, threshold_ratio=ratio).mask(make_sample(), source, SEED)
    assert torch.equal(found, mask_by_hand(source.latents.clone(), ratio))
    assert 0.1 < found.mean() < 0.9
    assert not torch.equal(found, DiffEdit(maps=3, threshold_ratio=ratio).mask(make_sample(), source, SEED + 1))


@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_straight_line_computation(source: Source, backbone: Backbone, masked: bool) -> None:
    made, z0 = straight(), source.latents.clone()
    given = torch.from_numpy(backbone.fit_mask(make_sample().read_mask())[::8, ::8]).float()[None, None]
    mask = given if masked else mask_by_hand(z0, 2.2)
    null, wanted = made.embed(""), made.embed(PROMPT)
    with torch.no_grad():
        path = {0: z0}
        for before, t in ((0, 1), (1, 251), (251, 501)):
            path[t] = moved(path[before], made.predict(path[before], t, null), ALPHAS[before], ALPHAS[t])
        z = path[501]
        for t, after in ((501, 251), (251, 1), (1, 0)):
            away, towards = made.predict(torch.cat([z, z]), t, torch.cat([null, wanted])).chunk(2)
            z = moved(z, away + 7.5 * (towards - away), ALPHAS[t], ALPHAS[after])
            z = mask * z + (1 - mask) * path[after]
    shown = edited(DiffEdit(maps=3, threshold_ratio=2.2, masked=masked), source, backbone)
    assert distance(shown, z) < 1e-5
    outside = mask.expand_as(z) == 0
    assert torch.equal(shown[outside], z0[outside])


def edited(editor: DiffEdit, source: Source, backbone: Backbone) -> Tensor:
    """The latents that an edit decodes."""
    found: list[Tensor] = []

    def decode(latents: Tensor) -> Any:
        found.append(latents.clone())
        return source.image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "decode", decode)
        editor.edit(make_sample(), source, SEED)
    return found[0]


@pytest.mark.skipif(
    not hasattr(diffusers, "StableDiffusionDiffEditPipeline"), reason="diffusers has removed its pipeline"
)
def test_mask_and_encoding_are_those_of_diffusers(source: Source, backbone: Backbone) -> None:
    parts = diffusers.StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None).components
    made = diffusers.StableDiffusionDiffEditPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "feature_extractor")},
        scheduler=backbone.scheduler(),
        inverse_scheduler=diffusers.DDIMInverseScheduler.from_config(backbone.scheduler().config),
        safety_checker=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    common: dict[str, Any] = {"image": source.latents.clone(), "num_inference_steps": STEPS, "generator": drawn()}
    theirs = made.generate_mask(
        target_prompt=PROMPT,
        source_prompt="",
        num_maps_per_mask=10,
        mask_encode_strength=0.5,
        mask_thresholding_ratio=2.2,
        guidance_scale=7.5,
        **common,
    )
    ours = DiffEdit(threshold_ratio=2.2).mask(make_sample(), source, SEED)
    assert np.array_equal(ours[0].numpy(), theirs) and 0.1 < ours.mean() < 0.9
    encoded = made.invert(prompt="", inpaint_strength=0.8, guidance_scale=1.0, **common).latents[0]
    for step, latents in zip((1, 2, 3), encoded, strict=True):
        assert distance(source.trajectory.at(step)[0], latents) < 1e-5
