"""DINO (Caron et al., ICCV 2021): what a vision transformer without labels sees, loaded by transformers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cpam_bench.imba.common import hub
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.errors import UserError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, for values in [0, 1]."""


@dataclass(frozen=True)
class Dino:
    """A ViT in float32.

    Attributes:
        name: where it was loaded from.
        role: what it is there for.
        model: of transformers.
        edge: of the pictures that it takes, in pixels.
        weights_sha256: over its parameters and buffers as loaded.
    """

    name: str
    role: str
    model: nn.Module
    edge: int
    weights_sha256: str

    def keys(self, pixels: Tensor) -> Tensor:
        """Keys of the last block, class token first, all heads side by side: (B, 1 + tokens, width).

        Args:
            pixels: (B, 3, edge, edge), normalised.
        """
        layer = [part for name, part in self.model.named_modules() if name.endswith((".k_proj", ".key"))][-1]
        kept: list[Tensor] = []
        hook = layer.register_forward_hook(lambda module, given, made: kept.append(made))
        try:
            self.model(pixel_values=pixels)
        finally:
            hook.remove()
        return kept[0]

    def embedding(self, pixels: Tensor) -> Tensor:
        """The class token after the last layer, of length 1: (B, width)."""
        token = self.model(pixel_values=pixels).last_hidden_state[:, 0]
        return nn.functional.normalize(token, dim=-1)

    def describe(self) -> dict[str, Any]:
        """What ``scores.json`` keeps of it."""
        return {"scorer": self.name, "weights_sha256": self.weights_sha256, "network": self.role}


def normalised(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) less ImageNet's mean, over its deviation."""
    mean, deviation = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (pixels - mean) / deviation


def load_dino(place: str, role: str, device: str = "cpu") -> Dino:
    """A ViT from a folder or by its name on the hub.

    Raises:
        UserError: it cannot be had, or is no ViT.
    """
    from transformers import ViTModel

    def read(local: bool) -> Any:
        return ViTModel.from_pretrained(
            place, add_pooling_layer=False, torch_dtype=torch.float32, local_files_only=local
        )

    try:
        model = hub.load(place, read)
    except Exception as error:  # transformers, the hub client and safetensors each raise their own
        raise cannot_load(role, place, error) from error
    model = model.eval().requires_grad_(False).to(device)
    return Dino(place, role, model, int(model.config.image_size), weights_hash(model))


def cannot_load(role: str, place: str, error: Exception) -> UserError:
    """A network that cannot be had, in one line."""
    logging.getLogger(__name__).debug("loading %s failed", place, exc_info=True)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(
        f"the network {role} ({place}) cannot be loaded: {reason}\n"
        f"Weights on a hub are fetched once over the network; without one give --network {role}=FOLDER."
    )
