"""How a picture that is not square becomes one, and how an edit comes back into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_helpers import FakeBackbone, picture

from cpam_bench.baselines.imported import Imported
from cpam_bench.cpam.source import Source
from cpam_bench.imba.checks import Look
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.fit import Frame, find
from cpam_bench.imba.kinds import Fit
from cpam_bench.imba.sample import Sample

SIZE = (120, 60)


def marked(left: int, right: int, top: int = 20, bottom: int = 40) -> np.ndarray:
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[top:bottom, left:right] = True
    return mask


def sample(mask: np.ndarray | None, fit: Fit = "squash", **more: object) -> Sample:
    return Sample("one", picture(1, SIZE), mask, "a red thing", fit=fit, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fit", "mask", "frame"),
    [
        ("squash", None, (0, 0, 120, 60)),
        ("pad", marked(0, 120), (0, -30, 120, 90)),
        ("crop", None, (30, 0, 90, 60)),
        ("crop", marked(50, 70), (30, 0, 90, 60)),
        ("crop", marked(100, 120), (60, 0, 120, 60)),
        ("crop", marked(0, 10), (0, 0, 60, 60)),
        ("crop", marked(30, 90, 0, 60), (30, 0, 90, 60)),
    ],
)
def test_what_is_edited(fit: Fit, mask: np.ndarray | None, frame: tuple[int, ...]) -> None:
    assert find(SIZE, fit, mask) == Frame(SIZE, *frame)
    turned = find(SIZE[::-1], fit, None if mask is None else mask.T)
    assert (turned.top, turned.left, turned.bottom, turned.right) == frame


def test_a_crop_that_would_lose_what_is_marked_is_refused() -> None:
    with pytest.raises(UserError, match=r"sample one: what is marked is 61 x 20 pixels, .*Take --fit pad or squash"):
        sample(marked(30, 91), "crop").read_image()
    # Of a background it is the object that must stay; the background is larger than any crop.
    background = sample(~marked(90, 110), "crop", altered="background", kind="background")
    assert background.find_frame() == Frame(SIZE, 60, 0, 120, 60)
    found = Look(Path("/"), None).at(sample(marked(30, 91), "crop"))
    assert [(p.severity, p.sample) for p in found] == [("error", "one")] and "would lose a part" in found[0].what
    assert not [p for p in Look(Path("/"), None).at(sample(marked(30, 90), "crop")) if p.severity == "error"]
    with pytest.raises(UserError, match="its mask is 60 x 120 pixels"):
        sample(marked(30, 90).T, "pad").read_mask()


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_and_mask_are_fitted_alike(fit: Fit) -> None:
    white = np.where(marked(90, 110)[..., None], 255, 0).astype(np.uint8).repeat(3, 2)
    one = Sample("one", Image.fromarray(white), marked(90, 110), "x", fit=fit, truth=Image.fromarray(white))
    truth = one.read_truth()
    assert truth is not None
    for loaded in (one, one.loaded()):
        pixels, mask = np.asarray(loaded.read_image()), loaded.read_mask()
        assert pixels.shape[:2] == mask.shape and mask.shape[0] == mask.shape[1] and mask.sum() == 20 * 20
        assert np.array_equal(pixels[..., 0] > 0, mask) and np.array_equal(np.asarray(truth), pixels)
        assert loaded.find_frame() == one.find_frame()
    source = Source(one, FakeBackbone(), 1)  # type: ignore[arg-type]
    again = Source(one.loaded(), FakeBackbone(), 1)  # type: ignore[arg-type]
    assert source.image.tobytes() == again.image.tobytes() and np.array_equal(source.mask, again.mask)


def test_a_pad_goes_on_with_the_edges_colours() -> None:
    padded = np.asarray(sample(None, "pad").read_image())
    stored = np.asarray(picture(1, SIZE))
    assert np.array_equal(padded[30:90], stored)
    assert (padded[:30] == stored[0]).all() and (padded[90:] == stored[-1]).all()


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_what_is_put_back_changes_no_pixel_outside(fit: Fit) -> None:
    region, whole = marked(50, 80), picture(1, SIZE)
    frame = find(SIZE, fit, region)
    black = Image.new("RGB", (16, 16))
    made = np.asarray(frame.put_back(black, whole, region))
    assert made.shape == (60, 120, 3) and np.array_equal(made[~region], np.asarray(whole)[~region])
    assert not made[29:31, 64:66].any()  # away from the edge it is the edit alone
    without = np.asarray(frame.put_back(black, whole))
    inside = np.zeros_like(region)
    inside[max(0, frame.top) : frame.bottom, max(0, frame.left) : frame.right] = True
    assert np.array_equal(without[~inside], np.asarray(whole)[~inside]) and not without[30, 65].any()
    assert frame.spread(np.ones((4, 4), bool)).sum() == inside.sum()


def test_ready_made_pictures_of_the_whole_are_fitted_as_their_source_is(tmp_path: Path) -> None:
    one = sample(marked(90, 110), "crop")
    editor = Imported("x", str(_saved(picture(1, (240, 120)), tmp_path)))
    made = editor.edit(one, Source(one, FakeBackbone(), 1), 0)  # type: ignore[arg-type]
    half = picture(1, (240, 120)).crop((120, 0, 240, 120))
    assert made.tobytes() == FakeBackbone().fit(half).tobytes()
    assert editor.edit(one.loaded(), Source(one, FakeBackbone(), 1), 0).tobytes() == made.tobytes()  # type: ignore[arg-type]
    editor = Imported("x", str(_saved(half, tmp_path)))  # the square that was edited is taken as it is
    assert editor.edit(one.loaded(), Source(one, FakeBackbone(), 1), 0).tobytes() == made.tobytes()  # type: ignore[arg-type]


def _saved(image: Image.Image, folder: Path) -> Path:
    image.save(folder / "one.png")
    return folder


@pytest.mark.parametrize("wrong", [{"kind": "swap"}, {"altered": "sky"}, {"fit": "stretch"}])
def test_words_that_are_none_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))} is '{next(iter(wrong.values()))}', and must be one of"):
        replace(sample(None), **wrong)  # type: ignore[arg-type]
