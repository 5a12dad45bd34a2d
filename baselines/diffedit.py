"""DiffEdit: a mask from two noise estimates, then decoding inside of it (Couairon et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from diffusers import DDIMInverseScheduler, StableDiffusionDiffEditPipeline
from PIL import Image

from cpam_bench.baselines.pipelines import generator, latent_mask, picture, pipeline, require_steps
from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample

PIPELINE = "diffusers, StableDiffusionDiffEditPipeline"


@dataclass(frozen=True)
class DiffEdit:
    """DiffEdit with the null prompt in place of the source's caption, as its paper's default.

    By default it finds its own mask, which is what the method is about and what CPAM's paper compares with ("when
    generating masks based on noise estimation", Section 5.4); with ``masked`` it takes the sample's instead.
    """

    name: ClassVar[str] = "diffedit"
    title: ClassVar[str] = "DiffEdit"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = f"Couairon et al., DiffEdit, ICLR 2023; {PIPELINE}"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True, caption_free=True, mask_control=True)

    maps: int = parameter(10, "noise maps that the mask is averaged over", f"paper, Section 3.2; {PIPELINE}")
    encode_strength: float = parameter(
        0.5, "noise level that the mask is found at, in (0, 1]", f"paper, Section 3.2; {PIPELINE}"
    )
    threshold_ratio: float = parameter(3.0, "clamp of the map, as a multiple of its mean", PIPELINE)
    strength: float = parameter(0.8, "noise level to encode to and decode from, in (0, 1]", PIPELINE)
    guidance: float = parameter(7.5, "scale of classifier-free guidance", f"CPAM, Section 5.1; {PIPELINE}")
    masked: bool = parameter(False, "take the sample's mask instead of the method's own", "Table 1, mask control")

    def __post_init__(self) -> None:
        for name in ("encode_strength", "strength"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is in (0, 1], not {getattr(self, name):g}")
        if self.maps < 1 or self.threshold_ratio <= 0:
            raise ValueError("maps is 1 or more, and threshold_ratio above 0")

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        require_steps(source.steps, self.strength, "strength")
        require_steps(source.steps, self.encode_strength, "encode_strength")
        random = generator(seed)
        inverse = DDIMInverseScheduler.from_config(source.backbone.scheduler().config)
        with pipeline(StableDiffusionDiffEditPipeline, source.backbone, inverse_scheduler=inverse) as edit:
            mask = latent_mask(sample, source) if self.masked else self._mask(edit, sample, source, random)
            # Null prompt without guidance, one evaluation a step: guidance of null against null gives the same.
            latents = edit.invert(
                "",
                source.image,
                inpaint_strength=self.strength,
                num_inference_steps=source.steps,
                guidance_scale=1.0,
                generator=random,
            ).latents
            return picture(
                edit(
                    sample.target_prompt,
                    mask,
                    latents,
                    inpaint_strength=self.strength,
                    num_inference_steps=source.steps,
                    guidance_scale=self.guidance,
                    output_type="np",
                )
            )

    def _mask(self, edit: Any, sample: Sample, source: Source, random: Any) -> Any:
        return edit.generate_mask(
            source.image,
            target_prompt=sample.target_prompt,
            source_prompt="",
            num_maps_per_mask=self.maps,
            mask_encode_strength=self.encode_strength,
            mask_thresholding_ratio=self.threshold_ratio,
            num_inference_steps=source.steps,
            guidance_scale=self.guidance,
            generator=random,
        )
