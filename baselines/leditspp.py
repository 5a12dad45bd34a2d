"""LEDITS++: edits of an edit-friendly SDE inversion inside implicit masks (Brack et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from diffusers import DPMSolverMultistepScheduler, LEditsPPPipelineStableDiffusion
from PIL import Image

from cpam_bench.baselines.pipelines import generator, latent_mask, picture, pipeline
from cpam_bench.cpam.attention import quarter_stages
from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

EXAMPLE = "github.com/ml-research/ledits_pp, README (Stable Diffusion 1.5)"
PIPELINE = "diffusers, LEditsPPPipelineStableDiffusion"


@dataclass(frozen=True)
class LEditsPP:
    """LEDITS++ with P_t as its one editing concept, and no source prompt.

    The guidance acts where the concept's cross-attention and its noise estimate are both above a quantile.  With
    ``masked`` it is confined to the sample's mask besides.  As a backbone is a Stable Diffusion 1.x or 2.x, diffusers'
    other pipeline, for XL, is not used.
    """

    name: ClassVar[str] = "leditspp"
    title: ClassVar[str] = "LEDITS++"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = f"Brack et al., LEDITS++, CVPR 2024; {PIPELINE}"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True, caption_free=True, mask_control=True)

    guidance: float = parameter(10.0, "scale of the concept's guidance (s_e)", EXAMPLE)
    threshold: float = parameter(0.75, "quantile below which guidance is cut (lambda), in (0, 1)", EXAMPLE)
    skip: float = parameter(0.1, "share of the noisiest steps left out, in [0, 1)", EXAMPLE)
    warmup: int = parameter(0, "first steps without guidance", PIPELINE)
    intersect: bool = parameter(True, "implicit masks: cross-attention and noise estimate, else the estimate", PIPELINE)
    masked: bool = parameter(False, "confine guidance to the sample's mask (user_mask)", "Table 1, mask control")

    def __post_init__(self) -> None:
        if not (0 < self.threshold < 1 and 0 <= self.skip < 1):
            raise ValueError("threshold is in (0, 1), and skip in [0, 1)")

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        backbone = source.backbone
        if backbone.resolution % 32:
            raise UserError(
                f"LEDITS++ needs a resolution divisible by 32, and {backbone.name} has {backbone.resolution}"
            )
        stages = quarter_stages(backbone.unet)
        if self.intersect and not any(
            ".attn2." in name and name.startswith(stages) for name in backbone.unet.attn_processors
        ):
            raise UserError(
                f"{backbone.name} has no cross-attention at a quarter of its latents' edge, where LEDITS++ takes its"
                " implicit masks; use leditspp:intersect=false"
            )
        mask = latent_mask(sample, source).to(backbone.device, backbone.dtype) if self.masked else None
        solver = DPMSolverMultistepScheduler.from_config(
            backbone.scheduler().config, algorithm_type="sde-dpmsolver++", solver_order=2
        )
        with pipeline(LEditsPPPipelineStableDiffusion, backbone, solver) as edit:
            edit.invert(source.image, num_inversion_steps=source.steps, skip=self.skip, generator=generator(seed))
            return picture(
                edit(
                    editing_prompt=[sample.target_prompt],
                    edit_guidance_scale=self.guidance,
                    edit_warmup_steps=self.warmup,
                    edit_threshold=self.threshold,
                    user_mask=mask,
                    use_intersect_mask=self.intersect,
                    output_type="np",
                )
            )
