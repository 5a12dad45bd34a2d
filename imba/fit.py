"""How a picture that is not square becomes the square that a model edits, and how the edit comes back into it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.kinds import Fit

SEAM = 2.0
"""Pixels of the model over which an edit that is put back fades into the picture, inside the region's edge."""


@dataclass(frozen=True)
class Frame:
    """The rectangle of a picture that is edited, in its pixels; where it reaches beyond, the picture's edge goes on.

    Attributes:
        size: width and height of the picture.
        left, top, right, bottom: of the rectangle.
    """

    size: tuple[int, int]
    left: int
    top: int
    right: int
    bottom: int

    def take(self, picture: Image.Image) -> Image.Image:
        """The rectangle of a picture of :attr:`size`, RGB."""
        return Image.fromarray(self._take(np.asarray(picture.convert("RGB"))))

    def take_mask(self, mask: np.ndarray) -> np.ndarray:
        """The rectangle of a mask, bool (H, W) of :attr:`size`; its edge goes on beyond as the picture's does."""
        return self._take(mask)

    def _take(self, values: np.ndarray) -> np.ndarray:
        width, height = self.size
        inside = values[max(0, self.top) : min(height, self.bottom), max(0, self.left) : min(width, self.right)]
        beyond = [
            (max(0, -self.top), max(0, self.bottom - height)),
            (max(0, -self.left), max(0, self.right - width)),
            *[(0, 0)] * (values.ndim - 2),
        ]
        return np.pad(inside, beyond, mode="edge")

    def of(self, size: tuple[int, int]) -> Frame:
        """The same rectangle of the same picture at another size."""
        across, down = size[0] / self.size[0], size[1] / self.size[1]
        left, right = round(self.left * across), round(self.right * across)
        top, bottom = round(self.top * down), round(self.bottom * down)
        return Frame(size, left, top, max(left + 1, right), max(top + 1, bottom))

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A mask of what was edited, bool (h, w) of any size, as one of the whole picture: bool (H, W)."""
        edges = (self.right - self.left, self.bottom - self.top)
        resized = Image.fromarray(values.astype(np.uint8)).resize(edges, Image.Resampling.NEAREST)
        whole = Image.new("L", self.size)
        whole.paste(resized, (self.left, self.top))
        return np.asarray(whole).astype(bool)

    def put_back(self, edited: Image.Image, picture: Image.Image, region: np.ndarray | None = None) -> Image.Image:
        """The picture with the edit in it: every pixel outside of the region, and of the rectangle, is the picture's.

        Args:
            edited: what became of the rectangle, any size.
            picture: the whole picture, of :attr:`size`.
            region: bool (H, W), where the edit may show; None is the whole rectangle.  Inside its edge the edit fades
                into the picture over :data:`SEAM` of its own pixels.

        Returns:
            RGB, of :attr:`size`.
        """
        whole = picture.convert("RGB").copy()
        edges = (self.right - self.left, self.bottom - self.top)
        whole.paste(edited.convert("RGB").resize(edges, Image.Resampling.LANCZOS), (self.left, self.top))
        inside = np.zeros((self.size[1], self.size[0]), bool)
        inside[max(0, self.top) : self.bottom, max(0, self.left) : self.right] = True
        if region is not None:
            inside &= region
        if inside.all():
            return whole
        depth = distance_transform_edt(inside)
        # In a narrow region half of the way to its middle, so that the edit shows there whole.
        width = max(1.0, min(SEAM * max(edges) / max(edited.size), depth.max() / 2))
        made, after = np.array(picture.convert("RGB")), np.asarray(whole)
        made[depth >= width] = after[depth >= width]
        fading = (depth > 0) & (depth < width)
        share = depth[fading, None] / width
        made[fading] = ((1 - share) * made[fading] + share * after[fading]).round().astype(np.uint8)
        return Image.fromarray(made)


def find(size: tuple[int, int], fit: Fit, marked: np.ndarray | None = None, whose: str = "the picture") -> Frame:
    """What of a picture is edited.

    Args:
        size: its width and height.
        fit: ``squash`` takes all of it, ``pad`` the square around its middle that holds all of it, ``crop`` a square as
            large as it has, as near as can be to the middle of what is marked.
        marked: what must not be lost, bool (H, W), or None.
        whose: for messages (``sample dog``).

    Raises:
        UserError: a crop cannot hold what is marked, or the mask is of another size than the picture.
    """
    width, height = size
    if fit == "squash":
        return Frame(size, 0, 0, width, height)
    if marked is not None and marked.shape != (height, width):
        raise UserError(
            f"{whose}: its mask is {marked.shape[1]} x {marked.shape[0]} pixels, and its picture {width} x {height};"
            " bring the mask to the picture's size, with nearest neighbour"
        )
    edge = max(size) if fit == "pad" else min(size)
    left, top = (width - edge) // 2, (height - edge) // 2
    if fit == "crop" and marked is not None and marked.any():
        rows, columns = np.nonzero(marked.any(1))[0], np.nonzero(marked.any(0))[0]
        tall, wide = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        if max(tall, wide) > edge:
            raise UserError(
                f"{whose}: what is marked is {wide} x {tall} pixels, and a crop of {width} x {height} is {edge} an"
                " edge: a part of it would be lost. Take --fit pad or squash"
            )
        left = min(max(0, (int(columns[0] + columns[-1]) + 1 - edge) // 2), width - edge)
        top = min(max(0, (int(rows[0] + rows[-1]) + 1 - edge) // 2), height - edge)
    return Frame(size, left, top, left + edge, top + edge)
