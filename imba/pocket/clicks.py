"""How good masks from clicks are, where the exact ones are known, and how they look on photographs."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from cpam_bench.imba.common.places import get
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import MadeMask
from cpam_bench.imba.masking.segmenters import Clicks, Segmenter
from cpam_bench.imba.pictures import read_picture
from cpam_bench.imba.pocket.scenes import render
from cpam_bench.imba.pocket.world import sample_scene

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class PocketObject:
    """An object of a random pocket scene: its name, the scene, the exact mask, and how a user would click on it."""

    name: str
    image: Image.Image
    mask: np.ndarray
    clicks: Clicks


def pocket_objects(count: int, seed: int = 0, margin: int = 3) -> Iterator[PocketObject]:
    """Objects with one positive point, where they are thickest, and a box that is ``margin`` pixels wider than they."""
    rng = random.Random(f"clicks/{seed}")
    scenes = (sample_scene(rng) for _ in itertools.count())
    for scene in itertools.islice((scene for scene in scenes if scene.items), count):
        index = rng.randrange(len(scene.items))
        rendered = render(scene)
        mask = rendered.masks[index]
        depth = ndimage.distance_transform_edt(mask)
        y, x = np.unravel_index(depth.argmax(), depth.shape)
        rows, columns = np.nonzero(mask)
        corners = (columns.min() - margin, rows.min() - margin, columns.max() + 1 + margin, rows.max() + 1 + margin)
        left, top, right, bottom = (float(corner) for corner in corners)
        clicks = Clicks(((float(x), float(y)),), box=(left, top, right, bottom))
        yield PocketObject(scene.items[index].name, rendered.image, mask, clicks)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bool masks, in [0, 1]."""
    return float((a & b).sum() / max((a | b).sum(), 1))


def photographs(folder: Path, count: int, clicks: Path | None = None) -> list[tuple[str, Image.Image, Clicks]]:
    """Pictures of a folder by name, and how to click on them.

    Args:
        folder: of pictures.
        count: the first so many, or of those that ``clicks`` names.
        clicks: JSON, name -> ``box`` (left, top, right, bottom) and lists ``positive`` and ``negative`` of points, as
            fractions of the picture's edges.  Without it: the middle, and a box that leaves a tenth on each side.

    Raises:
        UserError: the folder holds no picture, or a file cannot be understood.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    given: dict[str, dict[str, Any]] = {}
    if clicks is not None:
        try:
            given = {str(name): dict(value) for name, value in json.loads(get(clicks)).items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"{clicks} cannot be read ({error}); it holds an object, picture's name -> clicks"
            ) from error
    names = list(given) or sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not names:
        raise UserError(f"{folder} holds no picture")
    found = []
    for name in names[:count]:
        image = read_picture(folder / name, "photograph").convert("RGB")
        wanted = given.get(name, {"positive": [[0.5, 0.5]], "box": [0.1, 0.1, 0.9, 0.9]})
        found.append((name, image, _scaled(wanted, image.size)))
    return found


def _scaled(fractions: dict[str, Any], size: tuple[int, int]) -> Clicks:
    width, height = size
    points = {
        name: tuple((x * (width - 1), y * (height - 1)) for x, y in fractions.get(name, ()))
        for name in ("positive", "negative")
    }
    box = fractions.get("box")
    edges = None if box is None else (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    return Clicks(points["positive"], points["negative"], edges)


def measure(segmenter: Segmenter, objects: Iterator[PocketObject]) -> list[tuple[PocketObject, MadeMask, float]]:
    """Each object with the mask that its clicks give and the IoU with the exact one."""
    made = [(one, segmenter.segment(one.image, one.clicks)) for one in objects]
    return [(one, mask, iou(mask.mask, one.mask)) for one, mask in made]
