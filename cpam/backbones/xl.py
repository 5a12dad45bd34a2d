"""SDXL: two text encoders, the prompt in one vector, and the picture's sizes (Podell et al., ICLR 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from cpam_bench.cpam.backbone import Backbone, Published
from cpam_bench.cpam.text import Text
from cpam_bench.imba.errors import UserError


@dataclass
class StableDiffusionXL(Backbone):
    """An SDXL base model.

    The prompt goes to both encoders.  The picture is said to be whole, and of the backbone's resolution.  The
    autoencoder runs in float32 where its configuration says that it must (``force_upcast``).
    """

    reads: ClassVar[tuple[str, ...]] = ("StableDiffusionXLPipeline",)
    opener: ClassVar[Any] = StableDiffusionXLPipeline
    parts: ClassVar[tuple[str, ...]] = ("vae", "unet", "text_encoder", "text_encoder_2")
    single: ClassVar[str] = "conditioner.embedders.1."

    @classmethod
    def family_of(cls, unet: Mapping[str, Any]) -> str:
        return "sdxl"

    @classmethod
    def dtypes(cls, dtype: torch.dtype) -> Any:
        # Loaded in float32, for what was rounded to half precision stays so.
        return {"default": dtype, "vae": torch.float32}

    def __post_init__(self) -> None:
        if not self.pipeline.vae.config.force_upcast:
            self.pipeline.vae.to(self.dtype)

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str], zeros: bool = True) -> Text:
        hidden, pooled = [], torch.empty(0)
        encoders = (self.pipeline.text_encoder, self.pipeline.text_encoder_2)
        for tokenizer, encoder in zip((self.pipeline.tokenizer, self.pipeline.tokenizer_2), encoders, strict=True):
            length = tokenizer.model_max_length
            ids = tokenizer(
                list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids
            output = encoder(ids.to(self.device), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]  # of the last encoder, its projection
        text = Text(torch.cat(hidden, -1), pooled)
        if zeros and self.pipeline.config.force_zeros_for_empty_prompt:
            told = torch.tensor([bool(prompt) for prompt in prompts], device=self.device)
            text = text.each(lambda part: part * told.view(-1, *[1] * (part.ndim - 1)))
        edge = float(self.resolution)
        sizes = torch.tensor([[edge, edge, 0.0, 0.0, edge, edge]], device=self.device).expand(len(prompts), -1)
        return Text(text.hidden, text.pooled, sizes)

    def added(self, text: Text) -> dict[str, Tensor]:
        if text.pooled is None or text.sizes is None:
            raise UserError(
                f"backbone {self.name!r} takes more than hidden states; a method must hand on what Backbone.text gives"
            )
        return {"text_embeds": text.pooled.to(self.dtype), "time_ids": text.sizes}


@dataclass(frozen=True)
class SDXL(Published):
    """SDXL 1.0, its base model at 1024 px."""

    name: ClassVar[str] = "sdxl"
    title: ClassVar[str] = "SDXL 1.0 base (1024 px)"
    reference: ClassVar[str] = "huggingface.co/stabilityai/stable-diffusion-xl-base-1.0"
    family: ClassVar[str] = "sdxl"
    place: ClassVar[str] = "stabilityai/stable-diffusion-xl-base-1.0"
    kind: ClassVar[type[Backbone]] = StableDiffusionXL
