"""Masks from files, drawings, clicks and words, and what can be done to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mask_models import write_clipseg, write_sam, write_sam2
from paths import TINY
from PIL import Image, ImageDraw

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.words import select
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking import operations
from cpam_bench.imba.masking.drawn import from_file, from_polygons, from_strokes
from cpam_bench.imba.masking.made import MadeMask, Origin
from cpam_bench.imba.masking.segmenters import SAM, Clicks, ClipSeg, GrabCut, Sam, for_clicks, for_words
from cpam_bench.imba.pictures import outline, overlay
from cpam_bench.imba.pocket import clicks as check

SIZE = (90, 60)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    """A red disc on a green field, not square."""
    image = Image.effect_noise(SIZE, 30).convert("RGB")
    image = Image.blend(image, Image.new("RGB", SIZE, (60, 150, 70)), 0.7)
    ImageDraw.Draw(image).ellipse((30, 15, 60, 45), fill=(210, 40, 30))
    return image


@pytest.fixture(scope="module")
def disc() -> np.ndarray:
    drawn = Image.new("1", SIZE)
    ImageDraw.Draw(drawn).ellipse((30, 15, 60, 45), fill=1)
    return np.array(drawn)


# drawn ---------------------------------------------------------------------------------------------------------------


def test_a_file_follows_the_layouts_rule_and_must_fit(tmp_path: Path, disc: np.ndarray) -> None:
    Image.fromarray(disc.astype(np.uint8)).save(tmp_path / "faint.png")  # 1 of 255 is marked too
    made = from_file(tmp_path / "faint.png", SIZE)
    assert np.array_equal(made.mask, disc)
    assert made.origin.tool == "file" and len(made.origin.inputs["sha256"]) == 64
    with pytest.raises(UserError, match="90 x 60 pixels and its picture, upright, 60 x 90; turn the mask"):
        from_file(tmp_path / "faint.png", (60, 90))
    with pytest.raises(UserError, match="90 x 60 pixels and its picture 60 x 91; resize"):
        from_file(tmp_path / "faint.png", (60, 91))
    Image.new("L", SIZE).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="black everywhere"):
        from_file(tmp_path / "black.png", SIZE)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.png cannot be read"):
        from_file(tmp_path / "text.png", SIZE)


def test_polygons_and_strokes() -> None:
    polygon = from_polygons([[(10, 10), (29, 10), (29, 29), (10, 29)], [(50, 0), (200, 0), (200, 9), (50, 9)]], SIZE)
    assert polygon.mask[10:30, 10:30].all() and polygon.mask[:10, 50:].all()
    assert polygon.mask.sum() == 20 * 20 + 10 * 40
    stroke = from_strokes([[(10, 30), (70, 30)], [(80, 50)]], 11, SIZE)
    rows = np.flatnonzero(stroke.mask[:, 40])
    assert 10 <= len(rows) <= 12 and abs(rows.mean() - 30) <= 0.5
    assert stroke.mask[50, 80] and stroke.mask[50, 84] and not stroke.mask[50, 88]
    assert stroke.origin.inputs["width"] == 11
    for wrong in (lambda: from_polygons([[(1, 1), (2, 2)]], SIZE), lambda: from_strokes([[(900, 900)]], 5, SIZE)):
        with pytest.raises(UserError, match=r"three corners|no stroke"):
            wrong()


# operations ----------------------------------------------------------------------------------------------------------


def test_operations(disc: np.ndarray) -> None:
    ring = disc & ~operations.apply(disc, "shrink=5")
    assert not ring[30, 45] and operations.apply(ring, "fill")[30, 45]
    grown = operations.apply(disc, "grow=4")
    assert (grown & disc).sum() == disc.sum()
    assert np.flatnonzero(grown.any(0)).min() == 26 and np.flatnonzero(grown.any(1)).max() == 49
    two = disc.copy()
    two[0:3, 0:3] = True
    assert np.array_equal(operations.apply(two, "largest"), disc)
    assert operations.apply(two, "hull").sum() > two.sum()
    assert np.array_equal(operations.apply(two, "invert"), ~two)
    assert operations.split(" grow=3, fill ,") == ["grow=3", "fill"]
    for wrong in ("grow", "grow=-1", "grow=x", "fill=2", "swell=3"):
        with pytest.raises(UserError, match=r"there are: grow=PIXELS"):
            operations.split(wrong)


def test_operations_are_recorded_and_must_leave_something(disc: np.ndarray) -> None:
    made = MadeMask(disc, Origin(tool="file")).then(["grow=2"]).then(["fill", "shrink=1"])
    assert made.origin.operations == ["grow=2", "fill", "shrink=1"]
    with pytest.raises(UserError, match="nothing is left"):
        made.then(["shrink=40"])


def test_the_overlay_reddens_the_mask_alone_and_outlines_it_in_two_tones(
    picture: Image.Image, disc: np.ndarray
) -> None:
    """Yellow beside black is seen on any ground, and on the red of this disc."""
    before, after = np.asarray(picture).astype(int), np.asarray(overlay(picture, disc)).astype(int)
    inner, outer = outline(disc)
    assert (after[inner] == (255, 255, 0)).all() and (after[outer] == 0).all()
    assert inner.any() and not (inner & ~disc).any() and outer.any() and not (outer & disc).any()
    assert np.array_equal(before[~disc & ~outer], after[~disc & ~outer])
    assert (after[disc] != before[disc]).any(-1).all()


# clicks --------------------------------------------------------------------------------------------------------------


def test_grabcut_finds_what_is_clicked_on(picture: Image.Image, disc: np.ndarray) -> None:
    for clicks in (
        Clicks(((45.0, 30.0),)),
        Clicks(((45.0, 30.0),), box=(25, 10, 66, 50)),
        Clicks(box=(25, 10, 66, 50)),
        Clicks(((45.0, 30.0),), ((5.0, 5.0),), (25, 10, 66, 50)),
        Clicks(box=(25, -40, 66, 50)),  # cut to the picture
    ):
        made = GrabCut().segment(picture, clicks)
        assert check.iou(made.mask, disc) > 0.9, clicks
        assert made.origin.inputs["box" if clicks.box else "positive"]
        assert np.array_equal(made.mask, GrabCut().segment(picture, clicks).mask)
    large = picture.resize((1800, 1200), Image.Resampling.LANCZOS)
    made = GrabCut().segment(large, Clicks(((900.0, 600.0),), box=(500, 200, 1320, 1000)))
    assert made.mask.shape == (1200, 1800)
    assert check.iou(made.mask[::20, ::20], disc) > 0.85


@pytest.mark.parametrize(
    ("clicks", "message"),
    [
        (Clicks(((90.0, 5.0),)), "90,5 is outside of the picture of 90 x 60"),
        (Clicks(negative=((5.0, 5.0),)), "say where the object is"),
        (Clicks(box=(50, 20, 40, 50)), "marks nothing of the picture"),
        (Clicks(box=(0, 0, 90, 60)), "draw the box tighter"),
    ],
)
def test_clicks_that_do_not_fit(picture: Image.Image, clicks: Clicks, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GrabCut().segment(picture, clicks)


def test_clicks_on_pocket_objects_reach_their_floor() -> None:
    measured = check.measure(GrabCut(), check.pocket_objects(20))
    assert sum(value for *_, value in measured) / len(measured) >= 0.8


@pytest.mark.parametrize("write", [write_sam, write_sam2])
def test_sam_loads_from_a_folder_and_takes_points_and_boxes(
    write: object, tmp_path: Path, picture: Image.Image
) -> None:
    folder = write(tmp_path / "model")  # type: ignore[operator]
    sam = for_clicks(str(folder))
    assert isinstance(sam, Sam)
    one = sam.segment(picture, Clicks(((45.0, 30.0),)))
    assert one.mask.shape == (60, 90) and one.mask.dtype == bool
    assert one.origin.tool == write.__name__.removeprefix("write_")  # type: ignore[attr-defined]
    assert one.origin.weights == str(folder) and len(one.origin.weights_sha256 or "") == 64
    seen = []
    hook = sam.model.vision_encoder.register_forward_hook(lambda *_: seen.append(1))
    boxed = Clicks(((45.0, 30.0),), ((3.0, 3.0),), (25, 10, 66, 50))
    again = sam.segment(picture, boxed)
    assert not seen  # the picture is encoded already
    assert not np.array_equal(one.mask, again.mask)
    sam.segment(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), boxed)
    assert seen
    hook.remove()


def test_models_that_are_not_there_or_no_segmenters(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SAM .*nothing' cannot be loaded"):
        for_clicks(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"CLIPSeg .* cannot be loaded"):
        for_words(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="neither SAM nor SAM 2"):
        for_clicks(str(write_clipseg(tmp_path / "clipseg")))


def test_without_weights_grabcut_stands_in_and_says_so(
    picture: Image.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # a machine that has none of them
    stand_in = for_clicks()
    assert isinstance(stand_in, GrabCut)
    note = stand_in.segment(picture, Clicks(((45.0, 30.0),))).origin.note
    assert note and SAM in note
    assert for_words() is None


# words ---------------------------------------------------------------------------------------------------------------


def test_clipseg_loads_from_a_folder(tmp_path: Path, picture: Image.Image) -> None:
    folder = write_clipseg(tmp_path / "clipseg")
    model = for_words(str(folder), threshold=0.4)
    assert isinstance(model, ClipSeg)
    made = model.select(picture, "a dog")
    assert made.mask.shape == (60, 90) and made.mask.any()
    assert made.origin.inputs == {"words": "a dog", "threshold": 0.4}
    with pytest.raises(UserError, match="finds no “a dog”"):
        ClipSeg(str(folder), threshold=1.01).select(picture, "a dog")


def test_cross_attention_gives_a_mask_of_the_pictures_size(picture: Image.Image) -> None:
    backbone = Backbone.load(str(TINY))
    before = dict(backbone.unet.attn_processors)
    coarse = select(backbone, picture, "a dog", steps=2, snap=False)
    assert coarse.mask.shape == (60, 90) and 0 < coarse.mask.mean() < 1
    assert coarse.origin.tool == "cross-attention" and coarse.origin.inputs["words"] == "a dog"
    assert dict(backbone.unet.attn_processors) == before
    snapped = select(backbone, picture, "a dog", steps=2)
    assert snapped.mask.any() and snapped.origin.inputs["snap"] is True
    with pytest.raises(UserError, match="in words"):
        select(backbone, picture, "  ")


def test_photographs_and_their_clicks(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "a.png")
    picture.save(tmp_path / "b.jpg")
    assert [name for name, *_ in check.photographs(tmp_path, 10)] == ["a.png", "b.jpg"]
    clicks = tmp_path / "clicks.json"
    clicks.write_text('{"b.jpg": {"positive": [[0.5, 0.5]], "box": [0.2, 0.1, 0.8, 0.9]}}')
    [(name, _, given)] = check.photographs(tmp_path, 10, clicks)
    assert name == "b.jpg" and given.box == pytest.approx((18, 6, 72, 54)) and given.positive == ((44.5, 29.5),)
    clicks.write_text("[]")
    with pytest.raises(UserError, match="name -> clicks"):
        check.photographs(tmp_path, 10, clicks)
