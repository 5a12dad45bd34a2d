"""SDEdit: noise to an intermediate level, then denoise towards the prompt (Meng et al., ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image

from cpam_bench.baselines.pipelines import generator, picture, pipeline, require_steps
from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class SDEdit:
    """SDEdit on latents: diffusers' StableDiffusionImg2ImgPipeline with DDIM.

    The paper works in pixels and without prompts, and finds t_0 in [0.3, 0.6] best for strokes and collages.  CPAM's
    paper does not say which strength it compares with: 0.75 is that of Stable Diffusion's own script, and diffusers'
    default is 0.8.
    """

    name: ClassVar[str] = "sdedit"
    title: ClassVar[str] = "SDEdit"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "Meng et al., SDEdit, ICLR 2022; diffusers, StableDiffusionImg2ImgPipeline"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)

    strength: float = parameter(
        0.75, "noise level to start from, in (0, 1]", "github.com/CompVis/stable-diffusion, scripts/img2img.py"
    )
    guidance: float = parameter(7.5, "scale of classifier-free guidance", "CPAM, Section 5.1; diffusers")

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is in (0, 1], not {self.strength:g}")

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        require_steps(source.steps, self.strength, "strength")
        with pipeline(StableDiffusionImg2ImgPipeline, source.backbone) as edit:
            return picture(
                edit(
                    sample.target_prompt,
                    source.image,
                    strength=self.strength,
                    num_inference_steps=source.steps,
                    guidance_scale=self.guidance,
                    generator=generator(seed),
                    output_type="np",
                )
            )
