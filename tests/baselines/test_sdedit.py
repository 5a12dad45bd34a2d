"""SDEdit against a straight-line computation, and against diffusers' pipeline to a level of a pixel."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from editor_helpers import make_sample
from paths import TINY
from straight import ALPHAS, moved, straight

from cpam_bench.baselines.sdedit import SDEdit
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.source import Source

PROMPT = "a photo of an orange on a beach"


def edited(backbone: Backbone, strength: float = 0.75) -> np.ndarray:
    sample = make_sample()
    return np.asarray(SDEdit(strength=strength).edit(sample, Source(sample, backbone, 4), 11)).astype(int)


def test_it_is_the_straight_line_computation_and_diffusers() -> None:
    backbone, made = Backbone.load(str(TINY)), straight()
    image = backbone.fit(make_sample().read_image())
    random = torch.Generator().manual_seed(11)
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
        posterior = made.pipeline.vae.encode(pixels).latent_dist
        z0 = posterior.mean + posterior.std * torch.randn(1, 4, 16, 16, generator=random)
        z0 = z0 * made.pipeline.vae.config.scaling_factor
        # Of t = 751, 501, 251, 1 the first is left out: noise is added at 501, and taken away from there.
        z = ALPHAS[501] ** 0.5 * z0 + (1 - ALPHAS[501]) ** 0.5 * torch.randn(1, 4, 16, 16, generator=random)
        for t, after in ((501, 251), (251, 1), (1, 0)):
            away, towards = made.predict(torch.cat([z, z]), t, made.embed("", PROMPT)).chunk(2)
            z = moved(z, away + 7.5 * (towards - away), ALPHAS[t], ALPHAS[after])
        decoded = made.pipeline.vae.decode(z / made.pipeline.vae.config.scaling_factor).sample[0].clamp(-1, 1)
    wanted = ((decoded + 1) * 127.5).permute(1, 2, 0).numpy()
    ours = edited(backbone)
    assert np.abs(ours - wanted).max() <= 0.51  # rounding

    parts = made.pipeline.components | {"scheduler": backbone.scheduler()}
    pipeline = StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(PROMPT, image, 0.75, 4, guidance_scale=7.5, generator=torch.Generator().manual_seed(11)).images[0]
    assert np.abs(ours - np.asarray(theirs)).max() <= 1
    assert np.abs(edited(backbone, 0.5) - wanted).max() > 2
