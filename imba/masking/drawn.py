"""Masks that a user draws or brings: a file, polygons, brush strokes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import MadeMask, Origin
from cpam_bench.imba.pictures import MaskFile

Points = Sequence[tuple[float, float]]


def from_file(path: Path, size: tuple[int, int]) -> MadeMask:
    """A mask from a picture, of which the brighter half is marked.

    Args:
        path: the file.
        size: width and height of the picture that it belongs to.

    Raises:
        UserError: it cannot be read, has another size, or marks nothing.
    """
    mask = MaskFile(path, turn=True).read("mask")
    if mask.shape == size and mask.shape[::-1] != size:
        raise UserError(
            f"mask {path} is {mask.shape[1]} x {mask.shape[0]} pixels and its picture, upright, {size[0]} x {size[1]};"
            " turn the mask as the picture is shown, and do not resize it"
        )
    if mask.shape[::-1] != size:
        raise UserError(
            f"mask {path} is {mask.shape[1]} x {mask.shape[0]} pixels and its picture {size[0]} x {size[1]};"
            " resize the mask with nearest neighbour"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _made(mask, "file", {"name": path.name, "sha256": digest}, f"mask {path} is black everywhere")


def from_polygons(polygons: Sequence[Points], size: tuple[int, int]) -> MadeMask:
    """Everything inside any of the polygons, corners (x, y).

    Raises:
        UserError: a polygon has fewer than three corners, or none touches the picture.
    """
    drawn = Image.new("1", size)
    for polygon in polygons:
        if len(polygon) < 3:
            raise UserError(f"a polygon needs three corners or more, and this one has {len(polygon)}")
        ImageDraw.Draw(drawn).polygon([(x, y) for x, y in polygon], fill=1, outline=1)
    inputs: dict[str, Any] = {"polygons": [[[x, y] for x, y in polygon] for polygon in polygons]}
    return _made(np.array(drawn), "polygon", inputs, "no polygon touches the picture")


def from_strokes(strokes: Sequence[Points], width: float, size: tuple[int, int]) -> MadeMask:
    """Everything under strokes of a round brush, each a path of points (x, y).

    Args:
        strokes: the paths; one of a single point is a dot.
        width: the brush's diameter in pixels.
        size: width and height of the picture.

    Raises:
        UserError: the brush has no width, or no stroke touches the picture.
    """
    if width <= 0:
        raise UserError("a brush needs a width of more than 0 pixels")
    drawn = Image.new("1", size)
    draw, radius = ImageDraw.Draw(drawn), width / 2
    for stroke in strokes:
        path = [(x, y) for x, y in stroke]
        if len(path) > 1:
            draw.line(path, fill=1, width=max(1, round(width)), joint="curve")
        for x, y in path:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    inputs = {"strokes": [[[x, y] for x, y in stroke] for stroke in strokes], "width": width}
    return _made(np.array(drawn), "strokes", inputs, "no stroke touches the picture")


def _made(mask: np.ndarray, tool: str, inputs: dict[str, Any], empty: str) -> MadeMask:
    if not mask.any():
        raise UserError(f"{empty}: it marks nothing to alter")
    return MadeMask(mask, Origin(tool=tool, inputs=inputs))
