"""Masks that can be made again: a recipe says what was drawn and clicked on a picture, and in which order.

Our masks for IMBA's photographs are kept that way: ``imba/data/masks/<stem>.png`` is the mask and ``<stem>.json`` its
:class:`Drawing`, with the recipe.  ``python -m cpam_bench.imba.masking.recipes IMAGES`` makes the masks again.

A recipe is a list of steps.  Each has a ``tool``, which gives a region; ``operations`` on that region, by the names of
:mod:`cpam_bench.imba.masking.operations`; and ``how`` the region joins what the steps before it made: ``add`` to it,
``cut`` it away, ``keep`` only what is in both, or ``replace`` it.  Coordinates are pixels of the picture as stored,
x to the right and y down, counted from 0 at the upper left.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image, ImageDraw
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from scipy import ndimage, sparse
from scipy.interpolate import make_interp_spline
from scipy.sparse.linalg import spsolve

from cpam_bench.imba.common.files import write_png
from cpam_bench.imba.common.places import get
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking import operations
from cpam_bench.imba.masking.drawn import from_polygons, from_strokes
from cpam_bench.imba.masking.segmenters import Clicks, GrabCut, cut
from cpam_bench.imba.pictures import read_picture

MASKS = Path(__file__).parent.parent / "data" / "masks"
"""Folder of the masks that we drew for IMBA's photographs, one ``<stem>.png`` and ``<stem>.json`` each."""

Point = tuple[float, float]
Box = tuple[float, float, float, float]
By = Literal["edges", "colours"]


class Step(BaseModel):
    """What every step has: how its region joins the mask, and what is done to the region before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    how: Literal["add", "cut", "keep", "replace"] = "add"
    operations: tuple[str, ...] = ()

    @field_validator("operations")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                operations.parse(name)
            except UserError as error:
                raise ValueError(str(error)) from error
        return names


class Outline(Step):
    """An outline by its points (x, y): straight between them, or ``curved`` as a smooth closed curve through them."""

    points: tuple[Point, ...] = Field(min_length=3)
    curved: bool = False

    def drawn(self, size: tuple[int, int]) -> np.ndarray:
        """Everything inside the outline, bool (H, W)."""
        points = curve(self.points) if self.curved else self.points
        return from_polygons([points], size).mask


class Polygon(Outline):
    """Everything inside an outline as it is drawn."""

    tool: Literal["polygon"] = "polygon"

    def region(self, image: Image.Image) -> np.ndarray:
        """The step's region, bool (H, W)."""
        return self.drawn(image.size)


class Ellipse(Step):
    """The ellipse that fills a box (left, top, right, bottom)."""

    tool: Literal["ellipse"] = "ellipse"
    box: Box

    def region(self, image: Image.Image) -> np.ndarray:
        """The step's region, bool (H, W)."""
        drawn = Image.new("1", image.size)
        ImageDraw.Draw(drawn).ellipse(self.box, fill=1)
        return np.array(drawn)


class Stroke(Step):
    """A stroke through points (x, y) with a round brush, whose diameter is given in pixels."""

    tool: Literal["stroke"] = "stroke"
    points: tuple[Point, ...] = Field(min_length=1)
    brush: float = Field(gt=0)

    def region(self, image: Image.Image) -> np.ndarray:
        """The step's region, bool (H, W)."""
        return from_strokes([self.points], self.brush, image.size).mask


class Snap(Outline):
    """An outline drawn roughly, which then follows the picture within ``band`` pixels on both sides.

    What is further inside is surely of the object, and what is further outside surely not.  The band between is decided
    ``by`` the picture's ``edges`` (random walks, :func:`walk`), or by ``colours`` (GrabCut).
    """

    tool: Literal["snap"] = "snap"
    band: float = Field(gt=0)
    by: By = "edges"

    def region(self, image: Image.Image) -> np.ndarray:
        """The step's region, bool (H, W)."""
        return follow(image, self.drawn(image.size), self.band, self.by)


class Refine(Step):
    """The mask so far takes the place of the rough outline of :class:`Snap`; it becomes what that gives."""

    tool: Literal["refine"] = "refine"
    how: Literal["replace"] = "replace"
    band: float = Field(gt=0)
    by: By = "edges"


class Clicked(Step):
    """GrabCut from a ``box`` (left, top, right, bottom), points on the object and points beside it."""

    tool: Literal["grabcut"] = "grabcut"
    box: Box | None = None
    clicks: tuple[Point, ...] = ()
    clicks_off: tuple[Point, ...] = ()

    def region(self, image: Image.Image) -> np.ndarray:
        """The step's region, bool (H, W)."""
        clicks = Clicks(self.clicks, self.clicks_off, self.box)
        return GrabCut(edge=max(image.size)).segment(image, clicks).mask


class Coloured(Step):
    """Every pixel whose colour is nearer to that at one of ``points`` than to that at any of ``points_off`` (x, y).

    For what no outline can follow, such as leaves before the sky.  Distances are in CIELAB, points count by the mean
    of 3 x 3 pixels.
    """

    tool: Literal["colour"] = "colour"
    points: tuple[Point, ...] = Field(min_length=1)
    points_off: tuple[Point, ...] = Field(min_length=1)

    def region(self, image: Image.Image) -> np.ndarray:
        """The step's region, bool (H, W)."""
        import cv2

        lab = cv2.cvtColor(np.asarray(image, np.float32) / 255, cv2.COLOR_RGB2LAB)
        clicks = Clicks(self.points, self.points_off).inside(image.size)
        means = cv2.blur(lab, (3, 3), borderType=cv2.BORDER_REPLICATE)
        on, off = (
            np.min([((lab - means[int(y), int(x)]) ** 2).sum(axis=-1) for x, y in points], axis=0)
            for points in (clicks.positive, clicks.negative)
        )
        near: np.ndarray = on < off
        return near


AnyStep = Annotated[Polygon | Ellipse | Stroke | Snap | Refine | Clicked | Coloured, Field(discriminator="tool")]


class Recipe(BaseModel):
    """How a mask is made: the steps, then ``operations`` on the whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: tuple[AnyStep, ...] = Field(min_length=1)
    operations: tuple[str, ...] = ()

    _known = field_validator("operations")(Step._known.__func__)  # type: ignore[attr-defined]


class Drawing(BaseModel):
    """A mask of a photograph: what it marks, for what, and how it was made.

    Attributes:
        images: file names of the photograph in IMBA (one of them stands there under two names).
        size: its width and height.
        sha256: of its pixels (:func:`pixels_hash`).
        marks: in words, what the mask marks.
        samples: the target prompts that use it.
        recipe: how it was made.
        iou: of a second mask, its IoU with the first.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: tuple[str, ...] = Field(min_length=1)
    size: tuple[int, int]
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    marks: str = Field(min_length=1)
    samples: tuple[str, ...] = Field(min_length=1)
    recipe: Recipe
    iou: float | None = None


def read(path: Path) -> Drawing:
    """A drawing from its JSON file.

    Raises:
        UserError: it cannot be read or is none.
    """
    try:
        return Drawing.model_validate_json(get(path))
    except (OSError, ValidationError) as error:
        raise UserError(f"the recipe {path} cannot be used: {error}") from error


def pixels_hash(image: Image.Image) -> str:
    """SHA-256 over the picture's pixels as RGB: of ``image.convert("RGB").tobytes()``, row by row, a byte a channel."""
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def make(recipe: Recipe, image: Image.Image) -> np.ndarray:
    """The mask that a recipe gives on a picture: bool (H, W), True on what is marked.

    Raises:
        UserError: a step finds nothing where it was pointed to, or nothing is left of the mask.
    """
    image = image.convert("RGB")
    mask = np.zeros(image.size[::-1], bool)
    for step in recipe.steps:
        found = follow(image, mask, step.band, step.by) if isinstance(step, Refine) else step.region(image)
        region = _after(found, step.operations)
        joined = {"add": mask | region, "cut": mask & ~region, "keep": mask & region, "replace": region}
        mask = joined[step.how]
    mask = _after(mask, recipe.operations)
    if not mask.any():
        raise UserError("the recipe's steps leave nothing of the mask")
    return mask


def remake(path: Path, images: Path) -> np.ndarray:
    """The mask of a drawing's file, made again from its photograph, bool (H, W).

    Raises:
        UserError: the photograph is missing, or is not the one that was drawn on.
    """
    drawing = read(path)
    file = images / drawing.images[0]
    image = read_picture(file, "photograph").convert("RGB")
    if image.size != drawing.size or pixels_hash(image) != drawing.sha256:
        raise UserError(f"{file} is not the photograph that {path.name} was drawn on: its pixels differ")
    return make(drawing.recipe, image)


def curve(points: Sequence[Point], between: int = 12) -> list[Point]:
    """A smooth closed curve through points (a periodic cubic spline), as a polygon of ``between`` corners a point."""
    corners = np.array([*points, points[0]], float)
    spline = make_interp_spline(np.arange(len(corners)), corners, k=3, bc_type="periodic")
    at = np.arange(len(points) * between) / between
    return [(float(x), float(y)) for x, y in spline(at)]


def follow(image: Image.Image, rough: np.ndarray, band: float, by: By) -> np.ndarray:
    """A rough mask, bool (H, W), whose outline follows the picture within ``band`` pixels (:class:`Snap`).

    Raises:
        UserError: the mask is nowhere thicker than the band.
    """
    sure, off = ~operations.within(~rough, band), ~operations.within(rough, band)
    if not sure.any():
        raise UserError(f"nothing is further than {band:g} pixels inside the outline; give a narrower band")
    # Far from the outline there is nothing to decide, and the colours of the surroundings are those that matter.
    rows, columns = np.nonzero(~off)
    margin = int(2 * band) + 1
    part = (
        slice(max(0, rows.min() - margin), rows.max() + margin + 1),
        slice(max(0, columns.min() - margin), columns.max() + margin + 1),
    )
    found = rough.copy()
    decide = walk if by == "edges" else _by_colours
    found[part] = decide(np.asarray(image.convert("RGB"))[part], sure[part], off[part], rough[part])
    return found


def walk(pixels: np.ndarray, sure: np.ndarray, off: np.ndarray, rough: np.ndarray, contrast: float = 4.0) -> np.ndarray:
    """Which undecided pixels a random walk leaves towards the object rather than the background (Grady 2006).

    Steps between pixels of different colour are rare, so that the outline runs along edges; where there are none it
    runs in the middle.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        sure, off: bool (H, W), what is surely of the object, and surely not.
        rough: bool (H, W), the outline as drawn; what has neither around it stays so.
        contrast: the distance of two neighbours in CIELAB at which a step between them becomes rare.

    Returns:
        bool (H, W), True on the object.
    """
    import cv2

    lab = cv2.cvtColor(np.ascontiguousarray(pixels, np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab = np.stack([ndimage.gaussian_filter(lab[..., i], 0.8) for i in range(3)], axis=-1)
    number = np.arange(sure.size).reshape(sure.shape)
    pairs, weights = [], []
    for axis in (0, 1):
        first = np.delete(number, -1, axis).ravel()
        second = np.delete(number, 0, axis).ravel()
        step = (np.diff(lab, axis=axis) ** 2).sum(axis=-1).ravel()
        pairs.append((first, second))
        weights.append(np.exp(-step / (2 * contrast**2)) + 1e-5)
    first, second = (np.concatenate([pair[i] for pair in pairs]) for i in (0, 1))
    weight = np.concatenate(weights)
    near = sparse.coo_matrix((weight, (first, second)), shape=(sure.size, sure.size)).tocsr()
    near = near + near.T
    laplacian = sparse.diags(np.asarray(near.sum(axis=1)).ravel()) - near
    free = np.flatnonzero(~(sure | off))
    found = sure.copy().ravel()
    if len(free) and (sure.any() and off.any()):
        fixed = np.flatnonzero(sure)
        rows = laplacian.tocsr()[free]
        towards = -rows[:, fixed].sum(axis=1)
        found[free] = spsolve(rows[:, free].tocsc(), np.asarray(towards).ravel()) > 0.5
    else:
        found[free] = rough.ravel()[free]
    return found.reshape(sure.shape)


def _by_colours(pixels: np.ndarray, sure: np.ndarray, off: np.ndarray, rough: np.ndarray) -> np.ndarray:
    import cv2

    seeds = np.where(rough, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    seeds[sure], seeds[off] = cv2.GC_FGD, cv2.GC_BGD
    return cut(pixels[..., ::-1].copy(), seeds, 5)


def _after(mask: np.ndarray, names: Sequence[str]) -> np.ndarray:
    for name in names:
        mask = operations.apply(mask, name)
    return mask


def main() -> None:
    """Make the masks of a folder of recipes again."""
    parser = argparse.ArgumentParser(prog="python -m cpam_bench.imba.masking.recipes", description=main.__doc__)
    parser.add_argument("images", type=Path, help="folder of IMBA's photographs")
    parser.add_argument("--masks", type=Path, default=MASKS, help="folder of the recipes; the masks are written there")
    parser.add_argument("--only", nargs="*", metavar="STEM", help="these alone")
    given = parser.parse_args()
    for path in sorted(given.masks.glob("*.json")):
        if given.only and path.stem not in given.only:
            continue
        mask = remake(path, given.images)
        write_png(path.with_suffix(".png"), Image.fromarray(mask))
        print(f"{path.stem}: {mask.mean():.1%} of the picture")


if __name__ == "__main__":
    main()
