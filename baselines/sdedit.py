"""SDEdit: noise to an intermediate level, then denoise towards the prompt (Meng et al., ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image

from cpam_bench.cpam.diffusion import ddim, noised
from cpam_bench.cpam.editing import Capabilities, LaneCount, first_step, generator, parameter
from cpam_bench.cpam.sampling import guide
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample

SCRIPT = "github.com/CompVis/stable-diffusion, scripts/img2img.py"


@dataclass(frozen=True)
class SDEdit:
    """SDEdit on latents, denoised by DDIM from the level that the noise is added at (Algorithm 1).

    The paper works in pixels and without prompts, and finds t_0 in [0.3, 0.6] best for strokes and collages.  CPAM's
    paper does not say which strength it compares with: 0.75 is that of Stable Diffusion's own script, and diffusers'
    default is 0.8.  That script adds noise of one step more (t = 741 of 50 steps) than it then takes away (from 721).
    """

    name: ClassVar[str] = "sdedit"
    title: ClassVar[str] = "SDEdit"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "Meng et al., SDEdit, ICLR 2022; diffusers, StableDiffusionImg2ImgPipeline"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)

    strength: float = parameter(0.75, "noise level to start from, in (0, 1]", SCRIPT)
    guidance: float = parameter(7.5, "scale of classifier-free guidance", "CPAM, Section 5.1; diffusers")

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is in (0, 1], not {self.strength:g}")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=2 * int(self.strength * steps))

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        backbone, random = source.backbone, generator(seed)
        first = first_step(source.steps, self.strength, "strength")
        levels = list(backbone.schedule(source.steps).levels())[first:]
        null, wanted = backbone.text(""), backbone.text(sample.target_prompt)
        clean = backbone.encode(source.image, random)
        noise = torch.randn(clean.shape, generator=random).to(clean.device)
        latents = noised(clean, noise, levels[0][1])
        for timestep, alpha, previous_alpha in levels:
            predicted = guide(backbone, latents, timestep, null, wanted, self.guidance)
            latents = ddim(latents, predicted, alpha, previous_alpha)
        return backbone.decode(latents)
