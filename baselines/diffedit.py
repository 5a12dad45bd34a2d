"""DiffEdit: a mask from two noise estimates, then decoding inside of it (Couairon et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from cpam_bench.cpam.diffusion import ddim, noised
from cpam_bench.cpam.editing import Capabilities, LaneCount, first_step, generator, latent_mask, parameter
from cpam_bench.cpam.sampling import guide
from cpam_bench.cpam.source import Source
from cpam_bench.cpam.text import Text
from cpam_bench.imba.sample import Sample

PIPELINE = "diffusers, StableDiffusionDiffEditPipeline"


@dataclass(frozen=True)
class DiffEdit:
    """DiffEdit with the null prompt in place of the source's caption, as its paper's default.

    By default it finds its own mask, which is what the method is about and what CPAM's paper compares with ("when
    generating masks based on noise estimation", Section 5.4); with ``masked`` it takes the sample's instead.  Its
    encoding, DDIM under the null prompt, is the inversion that all methods share.
    """

    name: ClassVar[str] = "diffedit"
    title: ClassVar[str] = "DiffEdit"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = f"Couairon et al., DiffEdit, ICLR 2023; {PIPELINE}"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True, caption_free=True, mask_control=True)

    maps: int = parameter(10, "noise maps that the mask is averaged over", "paper, Section 3.2")
    encode_strength: float = parameter(0.5, "noise level that the mask is found at, in (0, 1]", "paper, Section 3.2")
    threshold_ratio: float = parameter(
        3.0, "clamp of the map, as a multiple of its mean; the mask is above half of it", PIPELINE
    )
    strength: float = parameter(
        0.8, "noise level to encode to and decode from, in (0, 1]", f"{PIPELINE}; paper, its encoding ratio: 0.8, 0.9"
    )
    guidance: float = parameter(7.5, "scale of classifier-free guidance", f"CPAM, Section 5.1; {PIPELINE}")
    masked: bool = parameter(False, "take the sample's mask instead of the method's own", "Table 1, mask control")

    def __post_init__(self) -> None:
        for name in ("encode_strength", "strength"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is in (0, 1], not {getattr(self, name):g}")
        if self.maps < 1 or self.threshold_ratio <= 0:
            raise ValueError("maps is 1 or more, and threshold_ratio above 0")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=2 * (int(self.strength * steps) + (0 if self.masked else self.maps)), shared=True)

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        backbone = source.backbone
        first = first_step(source.steps, self.strength, "strength")
        mask = latent_mask(sample, source) if self.masked else self.mask(sample, source, seed)
        null, wanted = backbone.text(""), backbone.text(sample.target_prompt)
        trajectory = source.trajectory
        latents = trajectory.at(first)
        for step, (timestep, alpha, previous_alpha) in enumerate(trajectory.schedule.levels()):
            if step >= first:
                noise = guide(backbone, latents, timestep, null, wanted, self.guidance)
                decoded = ddim(latents, noise, alpha, previous_alpha)
                latents = mask * decoded + (1 - mask) * trajectory.at(step + 1)
        return backbone.decode(latents)

    def mask(self, sample: Sample, source: Source, seed: int) -> Tensor:
        """Where the prompt changes the noise estimate: float32 (1, 1, h, w), 1 where the edit may alter (Step 1).

        Guidance would only scale what is clamped and cut in relation to its mean, so that none is used.
        """
        backbone, latents = source.backbone, source.latents
        schedule = backbone.schedule(source.steps)
        level = first_step(source.steps, self.encode_strength, "encode_strength")
        noises = torch.randn((self.maps, *latents.shape[1:]), generator=generator(seed)).to(latents.device)
        texts = Text.together([backbone.text(""), backbone.text(sample.target_prompt)])
        total = torch.zeros_like(latents[:, :1])
        for noise in noises.split(1):  # one by one, for twenty lanes are many
            noisy = noised(latents, noise, schedule.alphas[level])
            reference, query = backbone.predict(torch.cat([noisy, noisy]), schedule.timesteps[level], texts).chunk(2)
            total += (query - reference).abs().mean(1, keepdim=True)
        # Clamped at a multiple of the mean, scaled to [0, 1] and cut at 0.5.
        return (total > 0.5 * self.threshold_ratio * total.mean()).float()
