"""What can be done to a mask once it is made; each keeps its size.

Operations are written ``grow=5``, ``shrink=2`` (pixels), ``smooth=2`` (pixels: rounds the outline and drops what is
thinner), ``fill`` (holes), ``hull`` (convex hull), ``largest`` (the largest connected part) and ``invert``.
"""

from __future__ import annotations

import numpy as np
import scipy  # its parts load when they are asked for; what reads records alone does without

from cpam_bench.imba.errors import UserError

_WITH_PIXELS = ("grow", "shrink", "smooth")
NAMES = ("grow=PIXELS", "shrink=PIXELS", "smooth=PIXELS", "fill", "hull", "largest", "invert")


def split(text: str) -> list[str]:
    """The operations of a comma-separated list, checked.

    Raises:
        UserError: there is no such operation.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        parse(name)
    return names


def parse(text: str) -> tuple[str, int]:
    """Name and pixels (0 where it takes none) of an operation.

    Raises:
        UserError: there is no such operation.
    """
    name, equals, value = text.partition("=")
    if name in _WITH_PIXELS and value.isascii() and value.isdigit() and 0 < int(value) <= 4096:
        return name, int(value)
    if not equals and name in ("fill", "hull", "largest", "invert"):
        return name, 0
    raise UserError(f"unknown operation {text!r} on a mask; there are: {', '.join(NAMES)}")


def apply(mask: np.ndarray, text: str) -> np.ndarray:
    """One operation on a mask, bool (H, W)."""
    name, pixels = parse(text)
    if name == "grow":
        return within(mask, pixels)
    if name == "shrink":
        return ~within(~mask, pixels)
    if name == "smooth":
        return smooth(mask, pixels)
    if name == "fill":
        filled: np.ndarray = scipy.ndimage.binary_fill_holes(mask)
        return filled
    if name == "hull":
        return convex_hull(mask)
    if name == "largest":
        return largest(mask)
    return ~mask


def within(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Everything at most that far from the mask (dilation by a disc); an empty mask stays empty."""
    if not mask.any():
        return mask.copy()
    near: np.ndarray = scipy.ndimage.distance_transform_edt(~mask) <= pixels
    return near


def smooth(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The mask where a Gaussian of that standard deviation finds more of it than not; the rim counts as going on."""
    blurred: np.ndarray = scipy.ndimage.gaussian_filter(mask.astype(np.float32), pixels, mode="nearest")
    return blurred > 0.5


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask whose pixels touch, corners included."""
    labels, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    if count < 2:
        return mask.copy()
    largest: np.ndarray = labels == np.bincount(labels.flat)[1:].argmax() + 1
    return largest


def convex_hull(mask: np.ndarray) -> np.ndarray:
    """All pixels inside the convex hull of the mask; a mask without an area (a point, a line) is its own hull."""
    points = np.argwhere(mask)
    try:
        corners = points[scipy.spatial.ConvexHull(points).vertices]
    except (scipy.spatial.QhullError, ValueError):
        return mask.copy()
    grid = np.argwhere(np.ones_like(mask))
    inside: np.ndarray = (scipy.spatial.Delaunay(corners).find_simplex(grid) >= 0).reshape(mask.shape) | mask
    return inside
