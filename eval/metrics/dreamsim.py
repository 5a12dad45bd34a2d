"""DreamSim (Fu et al., NeurIPS 2023): how alike two pictures look to people, by the package of its authors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cpam_bench.eval.metrics.dino import cannot_load
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.errors import UserError

ROLE = "dreamsim"


@dataclass(frozen=True)
class DreamSim:
    """The model as its package gives it.

    Attributes:
        model: two batches of pictures, (B, 3, 224, 224) in [0, 1] -> distance (B,), one less the cosine of embeddings.
        prepare: a picture -> (1, 3, 224, 224).
        weights_sha256: over its parameters and buffers as loaded.
        device: that it is on.
    """

    model: Callable[[Tensor, Tensor], Tensor]
    prepare: Callable[[Image.Image], Tensor]
    weights_sha256: str
    device: str

    def distance(self, one: Sequence[Image.Image], other: Sequence[Image.Image]) -> Tensor:
        """Of each picture to the other of its place: (B,)."""
        both = (torch.cat([self.prepare(picture) for picture in pictures]) for pictures in (one, other))
        return self.model(*(pixels.to(self.device) for pixels in both)).reshape(len(one))

    def describe(self) -> dict[str, Any]:
        """What ``scores.json`` keeps of it."""
        return {"scorer": "DreamSim ensemble", "weights_sha256": self.weights_sha256, "network": ROLE}


def load_dreamsim(place: str | None, device: str = "cpu") -> DreamSim:
    """The ensemble, whose weights the package fetches once into a folder.

    Args:
        place: that folder; None is ``dreamsim`` beside what torch keeps of its hub.
        device: a torch device.

    Raises:
        UserError: the package is not installed, or its weights cannot be had.
    """
    if importlib.util.find_spec("dreamsim") is None:
        raise UserError("dreamsim_identity needs the package of DreamSim's authors; install it: pip install dreamsim")
    folder = Path(place or Path(torch.hub.get_dir()) / "dreamsim").expanduser()
    try:
        from dreamsim import dreamsim

        folder.mkdir(parents=True, exist_ok=True)
        model, prepare = dreamsim(pretrained=True, device=device, cache_dir=str(folder))
    except Exception as error:  # of the package, of what it is made of, and of the network
        raise cannot_load(ROLE, str(folder), error) from error
    return DreamSim(model.eval(), prepare, weights_hash(model), device)
