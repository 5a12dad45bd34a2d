"""Whether an object that is to be kept is still itself; only of samples that say so.

Source and edit are cropped to the box of the object's mask and black outside the mask, padded with black to a square.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from cpam_bench.eval.metrics.metric import Need

if TYPE_CHECKING:
    from torch import Tensor

    from cpam_bench.eval.metrics.metric import Batch
    from cpam_bench.eval.metrics.networks import Networks

_CROPPED = (
    "of source and edit, each cropped to the box of the retained object's mask and black outside it, padded to a"
    " square; only of samples whose object is to be kept"
)


@dataclass(frozen=True)
class DinoIdentity:
    """DINO-I of the retained object (Ruiz et al., CVPR 2023): cosine of DINO ViT-S/16's class tokens of both crops.

    Shapes: pictures (B, H, W, 3) and objects' masks (B, H, W) give (B,). Range [-1, 1], 1 for equal crops, higher is
    better. Not defined where no object is to be kept.

    Example: ``cpam-bench score RUN --metrics dino_identity``
    """

    name: ClassVar[str] = "dino_identity"
    title: ClassVar[str] = "DINO-I (retained object)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (-1, 1)
    needs: ClassVar[tuple[Need, ...]] = ("retained",)

    def protocol(self, networks: Networks) -> dict[str, Any]:
        dino = networks.dino("dino-identity")
        words = f"cosine of DINO's class tokens at {dino.edge} pixels (bicubic), {_CROPPED}"
        return {"protocol": words, **dino.describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        dino = networks.dino("dino-identity")

        def embed(crops: list[Image.Image]) -> Tensor:
            import torch

            from cpam_bench.eval.metrics.dino import normalised

            small = [np.asarray(one.resize((dino.edge, dino.edge), Image.Resampling.BICUBIC)) for one in crops]
            pixels = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).to(batch.device).float() / 255
            return dino.embedding(normalised(pixels))

        return _cosine(batch, embed)


@dataclass(frozen=True)
class ClipIdentity:
    """CLIP-I of the retained object (Ruiz et al., CVPR 2023): cosine of CLIP's embeddings of both crops.

    Shapes: pictures (B, H, W, 3) and objects' masks (B, H, W) give (B,). Range [-1, 1], 1 for equal crops, higher is
    better. Not defined where no object is to be kept.

    Example: ``cpam-bench score RUN --metrics clip_identity``
    """

    name: ClassVar[str] = "clip_identity"
    title: ClassVar[str] = "CLIP-I (retained object)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (-1, 1)
    needs: ClassVar[tuple[Need, ...]] = ("retained",)

    def protocol(self, networks: Networks) -> dict[str, Any]:
        return {"protocol": f"cosine of CLIP's embeddings {_CROPPED}", **networks.clip().describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        return _cosine(batch, networks.clip().images)


@dataclass(frozen=True)
class DreamSimIdentity:
    """How far the retained object looks from itself to people: DreamSim (Fu et al., NeurIPS 2023) of both crops.

    Needs the package of its authors (``pip install dreamsim``), which fetches some gigabyte of weights once.

    Shapes: pictures (B, H, W, 3) and objects' masks (B, H, W) give (B,). Range [0, 2], 0 for equal crops, lower is
    better. Not defined where no object is to be kept.

    Example: ``cpam-bench score RUN --metrics dreamsim_identity``
    """

    name: ClassVar[str] = "dreamsim_identity"
    title: ClassVar[str] = "DreamSim (retained object)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, 2)
    needs: ClassVar[tuple[Need, ...]] = ("retained",)

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = f"DreamSim's distance, one less the cosine of its embeddings, at 224 pixels (bicubic), {_CROPPED}"
        return {"protocol": words, **networks.dreamsim().describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        return networks.dreamsim().distance(*_crops(batch))


@dataclass(frozen=True)
class PocketIdentity:
    """What stands in for DINO-I on pocket scenes: cosine of the pocket classifier's features of both crops.

    It knows the sixteen things of the pocket scenes and nothing else.

    Shapes: pictures (B, H, W, 3) and objects' masks (B, H, W) give (B,). Range [0, 1], 1 for equal crops, higher is
    better. Not defined where no object is to be kept.

    Example: ``cpam-bench score RUN --metrics pocket_identity``
    """

    name: ClassVar[str] = "pocket_identity"
    title: ClassVar[str] = "pocket classifier's features (retained object)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, 1)
    needs: ClassVar[tuple[Need, ...]] = ("retained",)

    def protocol(self, networks: Networks) -> dict[str, Any]:
        from cpam_bench.imba.common.hashes import weights_hash

        words = f"cosine of the pocket classifier's features {_CROPPED}; only fit for pocket scenes"
        digest = weights_hash(networks.classifier())
        return {"protocol": words, "scorer": "pocket classifier", "weights_sha256": digest}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        return _cosine(batch, networks.classifier().features)


def _cosine(batch: Batch, embed: Callable[[list[Image.Image]], Tensor]) -> Tensor:
    before, after = _crops(batch)
    source = batch.of_source(lambda chosen: embed([before[index] for index in chosen]))
    return (source * embed(after)).sum(-1)


def _crops(batch: Batch) -> tuple[list[Image.Image], list[Image.Image]]:
    """The retained objects in the sources, and in the edits."""

    def of(pictures: np.ndarray) -> list[Image.Image]:
        return [crop(picture, kept) for picture, kept in zip(pictures, batch.retained, strict=True)]

    return of(batch.source), of(batch.edit)


def crop(picture: np.ndarray, kept: np.ndarray) -> Image.Image:
    """A picture (H, W, 3) uint8 cropped to the box of a mask, bool (H, W), black outside it, padded to a square."""
    rows, columns = (np.flatnonzero(kept.any(axis)) for axis in (1, 0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inside = (picture * kept[..., None])[box]
    height, width = inside.shape[:2]
    edge = max(height, width)
    square = np.zeros((edge, edge, 3), np.uint8)
    top, left = (edge - height) // 2, (edge - width) // 2
    square[top : top + height, left : left + width] = inside
    return Image.fromarray(square)
