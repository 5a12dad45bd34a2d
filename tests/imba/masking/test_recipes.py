"""Masks made again from their recipes, and those that we ship for IMBA's photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking import recipes
from cpam_bench.imba.masking.recipes import Recipe, make
from cpam_bench.imba.pocket.clicks import iou

SIZE = (90, 60)
PHOTOGRAPHS = Path(__file__).parent.parent.parent / "shared" / "imba" / "images"


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A red disc on a noisy green field, not square."""
    noise = Image.effect_noise(SIZE, 30).convert("RGB")
    image = Image.blend(noise, Image.new("RGB", SIZE, (60, 150, 70)), 0.7)
    ImageDraw.Draw(image).ellipse((30, 15, 60, 45), fill=(210, 40, 30))
    return image


@pytest.fixture(scope="module")
def disc() -> np.ndarray:
    drawn = Image.new("1", SIZE)
    ImageDraw.Draw(drawn).ellipse((30, 15, 60, 45), fill=1)
    return np.array(drawn)


ROUGH = [[33, 14], [58, 17], [63, 31], [56, 43], [35, 47], [27, 29]]


def made(image: Image.Image, *steps: dict[str, Any], operations: tuple[str, ...] = ()) -> np.ndarray:
    recipe = Recipe.model_validate_json(json.dumps({"steps": steps, "operations": operations}))
    return make(recipe, image)


@pytest.mark.parametrize("by", ["edges", "colours"])
def test_a_rough_outline_snaps_to_the_object_and_gives_the_same_bits_again(
    picture: Image.Image, disc: np.ndarray, by: str
) -> None:
    rough = made(picture, {"tool": "polygon", "points": ROUGH})
    step = {"tool": "snap", "points": ROUGH, "band": 6, "by": by}
    snapped = made(picture, step)
    assert iou(rough, disc) < 0.92 < 0.95 < iou(snapped, disc)
    assert np.array_equal(made(picture, step), snapped)


def test_an_outline_without_an_edge_stays_about_where_it_was_drawn() -> None:
    flat = Image.new("RGB", SIZE, (90, 90, 90))
    drawn = made(flat, {"tool": "ellipse", "box": [20, 10, 60, 50]})
    points = [[40, 10], [54, 16], [60, 30], [54, 44], [40, 50], [26, 44], [20, 30], [26, 16]]
    snapped = made(flat, {"tool": "snap", "points": points, "band": 5, "curved": True})
    assert iou(snapped, drawn) > 0.9


def test_what_an_outline_leaves_undecided_is_not_empty(picture: Image.Image) -> None:
    with pytest.raises(UserError, match="nothing is further than 40 pixels inside"):
        made(picture, {"tool": "snap", "points": ROUGH, "band": 40})


def test_a_snapped_object_may_go_out_of_the_picture(picture: Image.Image) -> None:
    half = picture.crop((45, 0, 90, 60))
    points = [[-5, 13], [4, 14], [17, 24], [17, 38], [6, 46], [-5, 46]]
    snapped = made(half, {"tool": "snap", "points": points, "band": 4})
    assert snapped[16:44, 0].all() and not snapped[:, 20:].any()


def test_steps_add_cut_and_keep_in_order(picture: Image.Image) -> None:
    square = {"tool": "polygon", "points": [[10, 10], [29, 10], [29, 29], [10, 29]]}
    dot = {"tool": "stroke", "points": [[20, 20]], "brush": 8}
    right = {"tool": "polygon", "points": [[20, 0], [89, 0], [89, 59], [20, 59]]}
    ring = made(picture, square, dot | {"how": "cut"})
    assert ring[11, 11] and not ring[20, 20]
    assert made(picture, square, dot | {"how": "cut"}, dot)[20, 20]
    kept = made(picture, square, right | {"how": "keep"})
    assert not kept[:, :20].any() and kept[15, 25]
    with pytest.raises(UserError, match="leave nothing"):
        made(picture, square, right | {"how": "keep", "operations": ["shrink=1", "invert"]}, square | {"how": "cut"})


def test_operations_work_on_a_step_and_on_the_whole(picture: Image.Image, disc: np.ndarray) -> None:
    clicked = made(
        picture, {"tool": "grabcut", "box": [26, 11, 64, 49], "clicks": [[45, 30]], "clicks_off": [[28, 12]]}
    )
    assert iou(clicked, disc) > 0.95
    square = {"tool": "polygon", "points": [[10, 10], [29, 10], [29, 29], [10, 29]]}
    speck = {"tool": "stroke", "points": [[70, 10]], "brush": 2}
    assert made(picture, square | {"operations": ["grow=3"]})[20, 7]
    assert made(picture, square, speck)[10, 70] and not made(picture, square, speck, operations=("smooth=2",))[10, 70]


def test_colours_divide_the_picture_by_the_nearest_of_the_points(picture: Image.Image, disc: np.ndarray) -> None:
    step = {"tool": "colour", "points": [[45, 30]], "points_off": [[10, 10], [80, 50]]}
    assert iou(made(picture, step, operations=("smooth=1",)), disc) > 0.95
    with pytest.raises(UserError, match="outside of the picture"):
        made(picture, step | {"points_off": [[90, 10]]})


def test_a_smooth_curve_goes_through_its_points() -> None:
    points = [(10.0, 10.0), (40.0, 5.0), (60.0, 30.0), (20.0, 40.0)]
    drawn = np.array(recipes.curve(points))
    assert all(np.abs(drawn - point).sum(axis=1).min() < 1e-9 for point in points)
    assert np.linalg.norm(np.diff(drawn, axis=0), axis=1).max() < 6


@pytest.mark.parametrize(
    "step",
    [
        {"tool": "lasso", "points": ROUGH},
        {"tool": "polygon", "points": ROUGH[:2]},
        {"tool": "polygon", "points": ROUGH, "band": 3},
        {"tool": "snap", "points": ROUGH, "band": 0},
        {"tool": "ellipse", "box": [1, 2, 3, 4], "operations": ["sharpen"]},
        {"tool": "ellipse", "box": [1, 2, 3, 4], "how": "xor"},
    ],
)
def test_a_recipe_that_says_what_there_is_not_is_refused(tmp_path: Path, step: dict[str, Any]) -> None:
    drawing = {"images": ["a.png"], "size": SIZE, "sha256": "0" * 64, "marks": "it", "samples": ["x"]}
    path = tmp_path / "a.json"
    path.write_text(json.dumps(drawing | {"recipe": {"steps": [{"tool": "ellipse", "box": [1, 2, 3, 4]}]}}))
    assert recipes.read(path).images == ("a.png",)
    path.write_text(json.dumps(drawing | {"recipe": {"steps": [step]}}))
    with pytest.raises(UserError, match=r"a\.json cannot be used"):
        recipes.read(path)


def test_the_command_makes_masks_again_and_knows_another_picture(
    tmp_path: Path, picture: Image.Image, disc: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir(), masks.mkdir()
    picture.save(images / "disc.png")
    drawing = {
        "images": ["disc.png"],
        "size": SIZE,
        "sha256": recipes.pixels_hash(picture),
        "marks": "the disc",
        "samples": ["a ball"],
        "recipe": {"steps": [{"tool": "ellipse", "box": [30, 15, 60, 45]}]},
    }
    (masks / "disc.json").write_text(json.dumps(drawing))
    monkeypatch.setattr("sys.argv", ["recipes", str(images), "--masks", str(masks)])
    recipes.main()
    with Image.open(masks / "disc.png") as written:
        assert written.mode == "1" and np.array_equal(np.array(written), disc)
    picture.rotate(180).save(images / "disc.png")
    with pytest.raises(UserError, match="not the photograph that disc.json was drawn on"):
        recipes.main()
