"""Masks made again from their recipes, and those that we ship for IMBA's photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from PIL import Image, ImageDraw
from scipy import ndimage

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking import contact, recipes
from cpam_bench.imba.masking.recipes import Recipe, make
from cpam_bench.imba.pocket.clicks import iou

SIZE = (90, 60)
PHOTOGRAPHS = next((p / "shared" / "imba" for p in ROOT.parents if (p / "shared" / "imba").is_dir()), None)
DRAWINGS = sorted(recipes.MASKS.glob("*.json"))
SECOND = sorted((recipes.MASKS / "second").glob("*.json"))


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


# the masks that we ship -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_a_shipped_mask_is_one_bit_of_its_pictures_size_and_has_no_specks(path: Path) -> None:
    drawing = recipes.read(path)
    with Image.open(path.with_suffix(".png")) as stored:
        assert stored.mode == "1" and stored.size == drawing.size
        mask = np.array(stored)
    assert 0.001 < mask.mean() < 0.9
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    smallest = np.bincount(labels.flat)[1:].min()
    assert smallest >= 0.0002 * mask.size, f"a part of {smallest} pixels"
    assert path.with_suffix(".png").stat().st_size < 20_000


def test_each_annotated_sample_whose_picture_there_is_has_a_mask() -> None:
    if PHOTOGRAPHS is None:
        pytest.skip("the photographs and annotations are not part of the repository")
    wanted: dict[str, set[str]] = {}
    for record in json.loads((PHOTOGRAPHS / "data.json").read_text()):
        if (PHOTOGRAPHS / "images" / record["img_name"]).exists():
            stem = record["alter_mask"] or Path(record["img_name"]).stem
            wanted.setdefault(stem, set()).add(record["target_text"])
    assert {path.stem: set(recipes.read(path).samples) for path in DRAWINGS} == wanted


@pytest.mark.parametrize("stem", ["cat_hat", "dog2_standing", "drinking_horse", "white_horse2"])
def test_a_shipped_mask_is_what_its_recipe_gives(stem: str) -> None:
    if PHOTOGRAPHS is None:
        pytest.skip("the photographs are not part of the repository")
    with Image.open(recipes.MASKS / f"{stem}.png") as stored:
        assert iou(recipes.remake(recipes.MASKS / f"{stem}.json", PHOTOGRAPHS / "images"), np.array(stored)) > 0.999


def test_twelve_objects_drawn_twice_agree() -> None:
    agreed = []
    for path in SECOND:
        drawing = recipes.read(path)
        assert drawing.iou is not None and drawing.sha256 == recipes.read(recipes.MASKS / path.name).sha256
        agreed.append(drawing.iou)
        if PHOTOGRAPHS is not None and path.stem in ("door", "white_horse2", "drinking_horse"):
            with Image.open(recipes.MASKS / f"{path.stem}.png") as stored:
                again = iou(recipes.remake(path, PHOTOGRAPHS / "images"), np.array(stored))
            assert again == pytest.approx(drawing.iou, abs=1e-3)
    assert len(agreed) == 12 and np.mean(agreed) >= 0.93


def test_the_manual_names_the_agreement_of_each_object_drawn_twice() -> None:
    page = (ROOT / "docs" / "masks.md").read_text()
    values = {path.stem: recipes.read(path).iou or 0.0 for path in SECOND}
    for stem, value in values.items():
        assert f"| {stem} | {value:.3f} |" in page
    assert f"mean {np.mean(list(values.values())):.3f}" in page


def test_a_contact_sheet_shows_each_picture_with_the_outline_of_its_mask(
    tmp_path: Path, picture: Image.Image, disc: np.ndarray
) -> None:
    picture.save(tmp_path / "disc.png")
    drawing = {"images": ["disc.png"], "size": SIZE, "sha256": "0" * 64, "marks": "the disc", "samples": ["a ball"]}
    drawing["recipe"] = {"steps": [{"tool": "ellipse", "box": [30, 15, 60, 45]}]}
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "disc.json").write_text(json.dumps(drawing))
    Image.fromarray(disc).save(masks / "disc.png")
    sheet = np.array(contact.contact_sheet(tmp_path, masks))
    scale = contact.EDGE / SIZE[0]
    ys, xs = np.nonzero((sheet == (255, 255, 0)).all(axis=-1))
    assert np.allclose([xs.min(), ys.min(), xs.max(), ys.max()], np.array([30, 15, 61, 46]) * scale + 4, atol=2)
