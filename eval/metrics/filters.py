"""Ways to resize a picture, which scores depend on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Name = Literal["bicubic", "bilinear", "lanczos", "nearest", "bicubic-plain", "bilinear-plain"]
"""Filters by name; plain: not antialiased."""


@dataclass(frozen=True)
class Filter:
    """A way to resize: Pillow's filters always smooth before they shrink (antialias), torch's need not.

    Attributes:
        name: in labels.
        words: in tables.
        pillow: Pillow's filter, or None for torch's mode of that name, without antialiasing.
    """

    name: Name
    words: str
    pillow: Image.Resampling | None
    mode: str = ""

    def picture(self, image: Image.Image, edge: int) -> Image.Image:
        """Resize a square picture to an edge in pixels."""
        if self.pillow is not None:
            return image.resize((edge, edge), self.pillow)
        import torch
        from torch.nn.functional import interpolate

        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        small = interpolate(pixels, (edge, edge), mode=self.mode, align_corners=False).round().clamp(0, 255)
        return Image.fromarray(small[0].permute(1, 2, 0).to(torch.uint8).numpy())

    def array(self, array: np.ndarray, edge: int) -> np.ndarray:
        """The same of an array: uint8 (H, W, 3), or a bool mask (H, W)."""
        return np.asarray(self.picture(Image.fromarray(array), edge))


NEAREST = Filter("nearest", "nearest", Image.Resampling.NEAREST)

FILTERS: dict[Name, Filter] = {
    one.name: one
    for one in (
        Filter("bicubic", "bicubic", Image.Resampling.BICUBIC),
        Filter("bilinear", "bilinear", Image.Resampling.BILINEAR),
        Filter("lanczos", "lanczos", Image.Resampling.LANCZOS),
        NEAREST,
        Filter("bicubic-plain", "bicubic, not antialiased", None, "bicubic"),
        Filter("bilinear-plain", "bilinear, not antialiased", None, "bilinear"),
    )
}
