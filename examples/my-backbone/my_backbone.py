"""The smallest backbone that is not another one: a prompt is read before the text encoder's last layers (CLIP skip).

Fine-tunes of Stable Diffusion are often made and used so.  After ``pip install examples/my-backbone``,
``cpam-bench run --backbone pocket-skip:skip=2``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from cpam_bench.cpam.backbone import Backbone, Resize
from cpam_bench.cpam.backbones.stable_diffusion import Pocket, StableDiffusion
from cpam_bench.cpam.text import Text
from cpam_bench.imba.common.labels import parameter


@dataclass
class Skipping(StableDiffusion):
    """A Stable Diffusion whose text encoder leaves out its last layers."""

    skip: int = 1

    @torch.inference_mode()
    def texts(self, prompts: Sequence[str], zeros: bool = True) -> Text:
        encoder = self.pipeline.text_encoder
        ids = torch.cat([self.token_ids(prompt) for prompt in prompts]).to(self.device)
        layers = encoder(ids, output_hidden_states=True).hidden_states
        model = getattr(encoder, "text_model", encoder)  # older versions of transformers wrap it
        return Text(model.final_layer_norm(layers[-1 - self.skip]))


@dataclass(frozen=True)
class PocketSkip:
    """The pocket model, read so."""

    name: ClassVar[str] = "pocket-skip"
    title: ClassVar[str] = "pocket, last text layers left out"
    reference: ClassVar[str] = "an example"
    family: ClassVar[str] = "sd1"
    place: ClassVar[str] = Pocket.place
    kind: ClassVar[type[Backbone]] = Skipping

    skip: int = parameter(1, "layers of the text encoder left out, from the last", "an example")

    def load(self, device: str, dtype: str, resize: Resize) -> Backbone:
        backbone = Skipping.open(self.place, self.name, device, dtype, resize)
        backbone.skip = self.skip
        return backbone
