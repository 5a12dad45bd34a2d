"""Pix2Pix-Zero: a direction in text space under cross-attention guidance (Parmar et al., SIGGRAPH 2023)."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import ClassVar

from diffusers import DDIMInverseScheduler, StableDiffusionPix2PixZeroPipeline
from PIL import Image

from cpam_bench.baselines.pipelines import generator, picture, pipeline
from cpam_bench.cpam.attention import layers
from cpam_bench.cpam.editing import Capabilities, parameter, source_caption
from cpam_bench.cpam.source import Source
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

REPOSITORY = "github.com/pix2pixzero/pix2pix-zero"
INVERSION = f"{REPOSITORY}, src/utils/ddim_inv.py"
EDITING = f"{REPOSITORY}, src/edit_real.py"

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
    reference: ClassVar[str] = (
        f"Parmar et al., Zero-shot Image-to-Image Translation, SIGGRAPH 2023; {REPOSITORY};"
        " diffusers, StableDiffusionPix2PixZeroPipeline"
    )
    capabilities: ClassVar[Capabilities] = Capabilities()

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

    def __post_init__(self) -> None:
        if self.bank:
            read_bank(self.bank)

    def inputs(self, sample: Sample) -> dict[str, str]:
        """Hash of the bank's file."""
        return {"bank_sha256": hashlib.sha256(Path(self.bank).read_bytes()).hexdigest()} if self.bank else {}

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        random = generator(seed)
        caption, steps = source_caption(sample), source.steps
        layers(source.backbone.unet, "attn2")  # which refuses other attention than a transformer block's
        parts = {
            "inverse_scheduler": DDIMInverseScheduler.from_config(source.backbone.scheduler().config),
            "caption_generator": None,
            "caption_processor": None,
        }
        banks = zip(read_bank(self.bank), objects(caption, sample.target_prompt), strict=True)
        with pipeline(StableDiffusionPix2PixZeroPipeline, source.backbone, **parts) as edit:
            before, after = (
                edit.get_embeds([sentence.replace("{}", thing) for sentence in bank]) for bank, thing in banks
            )
            noise = edit.invert(
                caption,
                source.image,
                num_inference_steps=steps,
                lambda_auto_corr=self.lambda_auto_correlation,
                lambda_kl=self.lambda_kl,
                num_reg_steps=self.rounds,
                num_auto_corr_rolls=self.rolls,
                generator=random,
            ).latents
            return picture(
                edit(
                    caption,
                    before,
                    after,
                    num_inference_steps=steps,
                    guidance_scale=self.guidance,
                    negative_prompt=caption,
                    cross_attention_guidance_amount=self.amount,
                    latents=noise,
                    generator=random,
                    output_type="np",
                )
            )


def read_bank(path: str | None) -> tuple[list[str], list[str]]:
    """Source and target sentences of a file, or :data:`TEMPLATES` for both.

    Raises:
        UserError: the file is missing, or not ``{"source": [...], "target": [...]}``.
    """
    if path is None:
        return list(TEMPLATES), list(TEMPLATES)
    try:
        banks = json.loads(Path(path).read_text(encoding="utf-8"))
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
