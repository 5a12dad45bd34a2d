"""Pix2Pix-Zero: a direction in text space under cross-attention guidance (Parmar et al., SIGGRAPH 2023)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cpam_bench.cpam.attention import AttentionControl, attention_map, controlled
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import ddim
from cpam_bench.cpam.editing import Capabilities, LaneCount, generator, parameter, source_caption
from cpam_bench.cpam.source import Source
from cpam_bench.cpam.text import Text
from cpam_bench.imba.common.places import get
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

REPOSITORY = "github.com/pix2pixzero/pix2pix-zero"
INVERSION = f"{REPOSITORY}, src/utils/ddim_inv.py"
EDITING = f"{REPOSITORY}, src/edit_real.py"
PIE_BENCH = "github.com/cure-lab/PnPInversion, run_editing_pix2pix_zero.py"

TEMPLATES = (
    "{}",
    "a photo of {}",
    "a close-up photo of {}",
    "a bright photo of {}",
    "a dark photo of {}",
    "a blurry photo of {}",
    "a good photo of {}",
    "a cropped photo of {}",
    "a picture of {}",
    "an image of {}",
    "a painting of {}",
    "a drawing of {}",
    "a rendering of {}",
    "a photo of {} on a street",
    "a photo of {} in a field",
    "a photo of {} in a room",
)
"""Sentences of the banks.  The paper has GPT-3 write some hundred sentences a word; as that cannot be repeated, these
follow the templates of CLIP's zero-shot classification (Radford et al. 2021)."""

_ARTICLES = {"a", "an", "the"}
_BREAKS = {"and", "at", "by", "for", "from", "in", "into", "near", "next", "of", "on", "under", "with"}


@dataclass(frozen=True)
class Pix2PixZero:
    """Pix2Pix-Zero; the source's caption is its prompt and, as in its repository, its negative prompt."""

    name: ClassVar[str] = "pix2pix-zero"
    title: ClassVar[str] = "Pix2Pix-Zero"
    edits: ClassVar[bool] = True
    needs_caption: ClassVar[bool] = True
    reference: ClassVar[str] = f"Parmar et al., Zero-shot Image-to-Image Translation, SIGGRAPH 2023; {REPOSITORY}"
    capabilities: ClassVar[Capabilities] = Capabilities()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pie-bench": {"guidance": 7.5, "between": "prompts", "all_steps": True, "least_roll": 0, "shift": True}
    }

    amount: float = parameter(0.1, "step of the cross-attention guidance", EDITING)
    guidance: float = parameter(5.0, "scale of classifier-free guidance", EDITING)
    lambda_auto_correlation: float = parameter(20.0, "weight of the noise's auto-correlation loss", INVERSION)
    lambda_kl: float = parameter(20.0, "weight of the noise's KL loss", INVERSION)
    rounds: int = parameter(5, "rounds of regularisation a step", INVERSION)
    rolls: int = parameter(5, "auto-correlation steps a round", INVERSION)
    bank: str | None = parameter(
        None,
        'JSON file {"source": [...], "target": [...]} of sentences, "{}" for the object; else templates',
        f"{REPOSITORY}, src/make_edit_direction.py",
    )
    between: Literal["objects", "prompts"] = parameter(
        "objects",
        "what the direction leads between: a bank's sentences on the two objects, or the two prompts as they are",
        f"src/make_edit_direction.py; prompts: {PIE_BENCH}",
        later=True,
    )
    all_steps: bool = parameter(
        False, "invert in the first and the last step too", f"{INVERSION}; true: {PIE_BENCH}", later=True
    )
    least_roll: int = parameter(
        1, "smallest roll of the auto-correlation loss, 0 or 1", f"{INVERSION}; 0: {PIE_BENCH}", later=True
    )
    trajectory: bool = parameter(
        False,
        "direct inversion: take the source branch from the inversion at each step; needs all_steps",
        PIE_BENCH,
        later=True,
    )
    shift: bool = parameter(
        False, "with trajectory: move the target by what puts the source back", f"true: {PIE_BENCH}", later=True
    )

    def __post_init__(self) -> None:
        if self.least_roll not in (0, 1):
            raise ValueError("least_roll is 0 or 1")
        if self.trajectory and not self.all_steps:
            raise ValueError("trajectory=true needs all_steps=true: the inversion must have passed every step")
        if self.bank and self.between == "prompts":
            raise ValueError("between=prompts reads no bank")
        if self.bank:
            read_bank(self.bank)

    def inputs(self, sample: Sample) -> dict[str, str]:
        """Hash of the bank's file."""
        return {"bank_sha256": hashlib.sha256(get(Path(self.bank))).hexdigest()} if self.bank else {}

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=4 * steps - (0 if self.all_steps else 2), gradient=2 * steps)

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        """Invert under the caption, then denoise along the direction.

        Raises:
            UserError: the sample has no caption, or the steps are too few to invert.
        """
        backbone, random, caption = source.backbone, generator(seed), source_caption(sample)
        direction = self.direction(backbone, caption, sample.target_prompt)
        path = self.invert(backbone, backbone.encode(source.image, random), caption, source.steps, random)
        return backbone.decode(self.denoise(backbone, path, caption, direction, source.steps))

    def direction(self, backbone: Backbone, caption: str, prompt: str) -> Text:
        """From what the caption names to what the prompt names, one lane.

        The mean of a bank's embeddings less that of the other's, or one prompt's embedding less the other's.  Where the
        denoiser is told the prompt in one vector besides (SDXL), the direction is of that too.
        """
        if self.between == "prompts":
            return backbone.text(prompt).plus(backbone.text(caption), -1)
        before, after = objects(caption, prompt)
        banks = zip(read_bank(self.bank), (before, after), strict=True)
        source, target = (
            backbone.texts([sentence.replace("{}", thing) for sentence in bank]).each(
                lambda part: part.mean(0, keepdim=True)
            )
            for bank, thing in banks
        )
        return target.plus(source, -1)

    def invert(
        self, backbone: Backbone, latents: Tensor, caption: str, steps: int, random: torch.Generator
    ) -> list[Tensor]:
        """z_0, (1, C, h, w) -> [z_0 ... z_T], by DDIM under the caption with regularised noise (Section 3.1).

        Of the run's steps the first and the last are left out, as in the authors' code: of 50, t = 21 ... 961 remain.
        The noise predicted at t moves latents from level t - 1, at which z_0 is taken to be, to the next step's.  With
        ``all_steps`` none is left out, and the last step ends at the last level of training.

        Args:
            random: draws the rolls of the regularisation.

        Raises:
            UserError: no step remains.
        """
        alphas, told = backbone.alphas, backbone.text(caption)
        timesteps = backbone.schedule(steps).timesteps[::-1]
        if not self.all_steps:
            timesteps = timesteps[1:-1]
        if not timesteps:
            raise UserError(f"Pix2Pix-Zero inverts without the first and the last step; take more --steps than {steps}")
        stride, last = len(alphas) // steps, len(alphas) - 1
        path = [latents]
        for timestep in timesteps:
            noise = self.regularise(backbone.predict(path[-1], timestep, told), random)
            path.append(ddim(path[-1], noise, alphas[timestep - 1], alphas[min(timestep - 1 + stride, last)]))
        return path

    def regularise(self, noise: Tensor, random: torch.Generator) -> Tensor:
        """A noise estimate (1, C, h, w) led towards Gaussian white noise (Section 3.1)."""
        for _ in range(self.rounds):
            for _ in range(self.rolls if self.lambda_auto_correlation > 0 else 0):
                gradient = gradient_of(lambda values: auto_correlation(values, random, self.least_roll), noise)
                noise = noise - self.lambda_auto_correlation / self.rolls * gradient
            if self.lambda_kl > 0:
                noise = noise - self.lambda_kl * gradient_of(divergence, noise)
        return noise

    def denoise(self, backbone: Backbone, path: Sequence[Tensor], caption: str, direction: Text, steps: int) -> Tensor:
        """z_T -> edited z_0, (1, C, h, w) float32: along the direction, held to the caption's attention (Section 3.3).

        The caption is the negative prompt as well, so that the source's own lane is one, and its maps are those of
        both.  It is denoised beside the target, and no map outlives its step.  Five evaluations a step, two of them
        with a gradient.

        Args:
            path: of :meth:`invert`, of which z_T is read, and with ``trajectory`` all.
        """
        described = backbone.text(caption)
        wanted = described.plus(direction)
        both = Text.together([described, wanted])
        control = MapsControl()
        source = target = path[-1]
        with controlled(backbone.unet, control):
            for step, (timestep, alpha, previous_alpha) in enumerate(backbone.schedule(steps).levels()):
                control.task = "keep"
                source = ddim(source, backbone.predict(source, timestep, described), alpha, previous_alpha)
                strayed = torch.zeros_like(source)
                if self.trajectory:
                    strayed, source = path[-2 - step] - source, path[-2 - step]
                control.task = "compare"

                def distance(lanes: Tensor, timestep: int = timestep) -> Tensor:
                    control.distance = torch.zeros((), device=lanes.device)
                    backbone.predict_with_gradient(lanes, timestep, both)
                    return control.distance

                lanes = torch.cat([target, target])
                lanes = lanes - self.amount * gradient_of(distance, lanes)
                control.task = "plain"
                away, towards = backbone.predict(lanes, timestep, both).chunk(2)
                # As in the authors' code, the latents that go on are those of the lane without the direction.
                target = ddim(lanes[:1], away + self.guidance * (towards - away), alpha, previous_alpha)
                if self.shift:
                    target = target + strayed
        return target


class MapsControl(AttentionControl):
    """Plain attention, whose cross-attention maps of the source are kept for a step and compared with the target's.

    Attributes:
        task: ``keep`` the maps, ``compare`` with those kept, or ``plain``.
        distance: the square distance of the maps since it was set, summed over layers, tokens and words, and averaged
            over lanes and heads; a scalar with a gradient.
    """

    def __init__(self) -> None:
        self.task: Literal["keep", "compare", "plain"] = "plain"
        self.distance = torch.zeros(())
        self._kept: dict[int, Tensor] = {}

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.task == "keep":
            self._kept[layer] = attention_map(q, k)
        elif self.task == "compare":
            difference = attention_map(q, k) - self._kept[layer]
            self.distance = self.distance + (difference**2).sum((-2, -1)).mean()
        return super().cross_attention(q, k, v, layer)


def gradient_of(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Gradient of a scalar function at values, of their shape."""
    with torch.inference_mode(False), torch.enable_grad():
        at = values.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(at), at)
    return gradient


def auto_correlation(noise: Tensor, random: torch.Generator, least: int = 1) -> Tensor:
    """How much a noise (1, C, h, w) is like itself elsewhere, a scalar.

    For each channel and each scale of a pyramid down to 8x8, one random roll along each axis, of ``least`` at least.
    As in the newest version of the authors' code a roll is never 0 by default: that would be the noise's variance.
    """
    loss = torch.zeros((), device=noise.device)
    for channel in noise.split(1, dim=1):
        while True:
            edge = channel.shape[2]
            roll = int(torch.randint(least, max(edge // 2, 2), (1,), generator=random))
            for axis in (2, 3):
                loss = loss + (channel * channel.roll(roll, axis)).mean() ** 2
            if edge <= 8:
                break
            channel = avg_pool2d(channel, 2)
    return loss


def divergence(noise: Tensor) -> Tensor:
    """Of a noise's distribution to the standard normal, as the authors write it (twice the KL divergence), a scalar."""
    variance = noise.var()
    return variance + noise.mean() ** 2 - 1 - torch.log(variance + 1e-7)


def read_bank(path: str | None) -> tuple[list[str], list[str]]:
    """Source and target sentences of a file, or :data:`TEMPLATES` for both.

    Raises:
        UserError: the file is missing, or not ``{"source": [...], "target": [...]}``.
    """
    if path is None:
        return list(TEMPLATES), list(TEMPLATES)
    try:
        banks = json.loads(get(Path(path)))
        source, target = banks["source"], banks["target"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'bank {path} cannot be read as {{"source": [...], "target": [...]}}: {error}') from error
    for name, bank in (("source", source), ("target", target)):
        if not (isinstance(bank, list) and bank and all(isinstance(sentence, str) for sentence in bank)):
            raise UserError(f"bank {path}: {name} must be a list of sentences, and not empty")
    return source, target


def objects(caption: str, prompt: str) -> tuple[str, str]:
    """What the source's caption and the target prompt call the object that differs.

    The words in which they differ, from the article before them to the next preposition; the whole texts where nothing
    is shared.

    >>> objects("a photo of an apple on a beach", "a photo of an orange on a beach")
    ('an apple', 'an orange')
    >>> objects("a photo of a teddy bear in a meadow", "a photo of a jumping teddy bear in a meadow")
    ('a teddy bear', 'a jumping teddy bear')
    >>> objects("a photo of a dog and a car in a meadow", "a photo of a dog in a meadow")
    ('a dog and a car', 'a dog')
    """
    before, after = _words(caption), _words(prompt)
    head = _shared(before, after)
    tail = _shared(before[head:][::-1], after[head:][::-1])
    if head == tail == 0:
        return " ".join(before), " ".join(after)
    ends = len(before) - tail, len(after) - tail
    first = [words[head] for words, end in zip((before, after), ends, strict=True) if head < end]
    start = head
    if len(first) < 2 or not _ARTICLES.issuperset(first):
        start = max((index for index in range(head) if before[index] in _ARTICLES), default=0)
    shared = len(list(takewhile(lambda word: word not in _BREAKS, before[ends[0] :])))
    return " ".join(before[start : ends[0] + shared]), " ".join(after[start : ends[1] + shared])


def _shared(before: list[str], after: list[str]) -> int:
    """How many words two texts begin with together."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))))


def _words(text: str) -> list[str]:
    text = re.sub(r"^(an?|the)\s+(photo|picture|image|photograph|photography)\s+of\s+", "", text.strip().lower())
    return re.findall(r"[\w'-]+", text)
