"""LEDITS++: edits of a perfect SDE inversion inside implicit masks (Brack et al., CVPR 2024)."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from math import exp, expm1, log
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from cpam_bench.cpam.attention import AttentionControl, attention_map, controlled, layers, quarter_stages
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import Schedule, ddim, noised
from cpam_bench.cpam.editing import Capabilities, LaneCount, generator, latent_mask, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.cpam.text import Text
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

REPOSITORY = "github.com/ml-research/ledits_pp"
EXAMPLE = f"{REPOSITORY}, README (Stable Diffusion 1.5)"
PIPELINE = f"{REPOSITORY}, pipeline_stable_diffusion_ledits.py"

CONCEPT = 1
"""Lane of the batch that is conditioned on the concept; the one before it is unconditional."""


@dataclass(frozen=True)
class Inversion:
    """A perfect inversion: from ``latents`` on, the solver with these noises leads back to z_0.

    Attributes:
        latents: z_T, (1, C, h, w) float32.
        noises: what each step adds, from noisy to clean, like the latents.
    """

    latents: Tensor
    noises: list[Tensor]


class WordsControl(AttentionControl):
    """Looks at where the concept attends to its words, in layers at a quarter of the latents' edge, down and up.

    Args:
        unet: the denoiser that it will act in.
        words: positions of the concept's words among its tokens, start, end and padding left out.

    Attributes:
        maps: of the step at hand, a layer each: (heads, pixels), how much of a query's attention is on the words.

    Raises:
        UserError: the denoiser has no cross-attention at that size.
    """

    def __init__(self, unet: Any, words: list[int]):
        names = enumerate(layers(unet, "attn2"))
        self.layers = {layer for layer, name in names if name.startswith(quarter_stages(unet))}
        if not self.layers:
            raise UserError(
                "this backbone has no cross-attention at a quarter of its latents' edge, where LEDITS++ takes its"
                " implicit masks; use leditspp:intersect=false"
            )
        self.words = words
        self.maps: list[Tensor] = []

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if layer in self.layers:
            self.maps.append(attention_map(q[CONCEPT], k[CONCEPT])[..., self.words].sum(-1))
        return super().cross_attention(q, k, v, layer)

    def mask(self, grid: tuple[int, int], threshold: float) -> Tensor:
        """M^1 of the step that has just been evaluated, bool (1, 1, h, w) of the latents' grid."""
        smooth = smoothed(torch.cat(self.maps).mean(0).reshape(1, 1, *(-(-edge // 4) for edge in grid)))
        self.maps = []
        return interpolate(above(smooth, threshold).float(), grid, mode="nearest").bool()


@dataclass(frozen=True)
class LEditsPP:
    """LEDITS++ with P_t as its one editing concept, and no source prompt.

    The guidance acts where both the concept's cross-attention (M^1) and its noise estimate (M^2) are above a quantile.
    With ``masked`` it is confined to the sample's mask besides.
    """

    name: ClassVar[str] = "leditspp"
    title: ClassVar[str] = "LEDITS++"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = f"Brack et al., LEDITS++, CVPR 2024; {REPOSITORY}"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True, caption_free=True, mask_control=True)

    guidance: float = parameter(10.0, "scale of the concept's guidance (s_e)", EXAMPLE)
    threshold: float = parameter(0.75, "quantile below which guidance is cut (lambda), in (0, 1)", EXAMPLE)
    skip: float = parameter(0.1, "share of the noise levels left out, the noisiest, in [0, 1)", EXAMPLE)
    warmup: int = parameter(0, "first steps without guidance", f"{PIPELINE}, edit_warmup_steps")
    intersect: bool = parameter(
        True,
        "implicit masks: cross-attention and noise estimate, else the estimate",
        "paper: M = M^1 M^2; use_intersect_mask",
    )
    masked: bool = parameter(False, "confine guidance to the sample's mask (user_mask)", "Table 1, mask control")

    def __post_init__(self) -> None:
        if not (0 < self.threshold < 1 and 0 <= self.skip < 1):
            raise ValueError("threshold is in (0, 1), and skip in [0, 1)")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=3 * steps)

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        """Invert, then denoise with the inversion's noises.

        Raises:
            UserError: the backbone has no cross-attention at a quarter of its latents' edge, the steps do not fit, or
                the sample has no mask and ``masked`` wants one.
        """
        backbone = source.backbone
        region = latent_mask(sample, source) if self.masked else None
        schedule = spread(backbone, source.steps, self.skip)
        inversion = invert(backbone, source.latents, schedule, generator(seed))
        return backbone.decode(self.denoise(backbone, inversion, schedule, sample.target_prompt, region))

    def denoise(
        self, backbone: Backbone, inversion: Inversion, schedule: Schedule, prompt: str, region: Tensor | None = None
    ) -> Tensor:
        """Follow an inversion back under a concept's guidance; returns z_0, (1, C, h, w) float32.

        Args:
            region: float (1, 1, h, w) that the guidance is confined to, 1 inside.
        """
        words = WordsControl(backbone.unet, backbone.word_positions(prompt)) if self.intersect else None
        told = Text.together([backbone.text(""), backbone.text(prompt)])
        latents, before = inversion.latents, None
        with controlled(backbone.unet, words) if words else nullcontext():
            for step, (timestep, alpha, _) in enumerate(schedule.levels()):
                null, concept = backbone.predict(torch.cat([latents, latents]), timestep, told).chunk(2)
                guidance = self.guidance * (concept - null)
                if region is not None:
                    guidance = guidance * region
                mask = above(guidance.abs().sum(1, keepdim=True), self.threshold)
                if words:
                    mask = mask & words.mask((latents.shape[-2], latents.shape[-1]), self.threshold)
                noise = null + guidance * mask if step >= self.warmup else null
                clean = ddim(latents, noise, alpha, 1.0)
                mean, deviation = solve(schedule, step, latents, clean, before)
                latents, before = mean + deviation * inversion.noises[step], clean
        return latents


def spread(backbone: Backbone, steps: int, skip: float) -> Schedule:
    """Steps spread evenly over all levels but the noisiest: t = 899 ... 1 for a ``skip`` of 0.1, the last to t = 0.

    Raises:
        UserError: there are more steps than levels.
    """
    alphas = backbone.alphas
    timesteps = np.linspace(len(alphas) - skip * len(alphas) - 1, 1, steps).astype(int).tolist()
    if len(set(timesteps)) < steps or min(timesteps) < 1:
        raise UserError(
            f"{steps} steps do not fit into the levels that skip={skip:g} leaves; take fewer --steps or a smaller skip"
        )
    levels = [alphas[t] for t in [*timesteps, 0]]
    return Schedule(timesteps, levels[:-1], levels[1:])


def invert(backbone: Backbone, latents: Tensor, schedule: Schedule, random: torch.Generator) -> Inversion:
    """Noise z_0, (1, C, h, w), to every level apart, and record what the solver would need to go from each to the next.

    One evaluation a step, under the null prompt (edit-friendly inversion, Huberman-Spiegelglas et al. 2024).
    """
    draws = [torch.randn(latents.shape, generator=random).to(latents.device) for _ in schedule.timesteps]
    path = [noised(latents, noise, alpha) for noise, alpha in zip(reversed(draws), schedule.alphas, strict=True)]
    path.append(latents)
    null, noises, before = backbone.text(""), [], None
    for step, (timestep, alpha, _) in enumerate(schedule.levels()):
        clean = ddim(path[step], backbone.predict(path[step], timestep, null), alpha, 1.0)
        mean, deviation = solve(schedule, step, path[step], clean, before)
        noises.append((path[step + 1] - mean) / deviation)
        path[step + 1] = mean + deviation * noises[-1]  # with its rounding, which would else add up
        before = clean
    return Inversion(path[0], noises)


def solve(schedule: Schedule, step: int, latents: Tensor, clean: Tensor, before: Tensor | None) -> tuple[Tensor, float]:
    """Mean and standard deviation of where a step of SDE-DPM-Solver++ leads (Lu et al. 2022, order 2, multistep).

    Args:
        schedule: of all steps.
        step: from 0.
        latents: that the step starts from.
        clean: z_0 as it is predicted from them.
        before: the same of the step before, or None for the first step, which is of order 1.
    """

    def half_log_snr(alpha: float) -> float:
        return 0.5 * log(alpha / (1 - alpha))

    alpha, previous = schedule.alphas[step], schedule.previous_alphas[step]
    h = half_log_snr(previous) - half_log_snr(alpha)
    if before is not None:
        ratio = (half_log_snr(alpha) - half_log_snr(schedule.alphas[step - 1])) / h
        clean = clean + (clean - before) / (2 * ratio)
    variance = -expm1(-2 * h)
    mean: Tensor = ((1 - previous) / (1 - alpha)) ** 0.5 * exp(-h) * latents + previous**0.5 * variance * clean
    return mean, ((1 - previous) * variance) ** 0.5


def above(values: Tensor, quantile: float) -> Tensor:
    """Where values (1, 1, h, w) reach their own quantile, bool."""
    return values >= torch.quantile(values.flatten(), quantile)


def smoothed(values: Tensor) -> Tensor:
    """A map (1, 1, h, w) under the authors' kernel of 3x3, exp(-d^2) along each axis, mirrored at the border."""
    line = torch.tensor([exp(-1), 1.0, exp(-1)], device=values.device)
    kernel = torch.outer(line, line) / line.sum() ** 2
    return conv2d(pad(values, (1, 1, 1, 1), mode="reflect"), kernel[None, None])
