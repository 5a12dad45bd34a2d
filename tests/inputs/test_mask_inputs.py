"""Masks as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_data import box, noise, record, release
from PIL import Image, ImageFilter
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app
from cpam_bench.imba.dataset import load, require_complete, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.release import ReleaseMask
from cpam_bench.imba.masking.drawn import from_file
from cpam_bench.imba.pictures import MaskFile

SIZE = (64, 64)
INSIDE = box(SIZE) > 0


def noisy() -> np.ndarray:
    """A mask of a sixteenth of the picture, with noise of 0 to 2 beside it."""
    values = np.random.default_rng(0).integers(0, 3, (64, 64)).astype(np.uint8)
    values[INSIDE] = 255
    return values


def problem(root: Path, **options: int) -> tuple[str, str]:
    found = validate(load(root, **options))
    assert len(found) == 1, found
    return found[0].severity, str(found[0])


def test_noise_is_asked_about(tmp_path: Path) -> None:
    release(tmp_path, size=SIZE, mask=noisy())
    severity, words = problem(tmp_path)
    assert severity == "error" and "is between black and the middle" in words
    assert "6.2% is above the middle" in words and "--mask-threshold 127" in words
    with pytest.raises(UserError, match="it is not clear what the mask marks"):
        require_complete(load(tmp_path))
    data = load(tmp_path, threshold=127)
    np.testing.assert_array_equal(data.samples[0].read_mask(), INSIDE)
    assert [p.severity for p in require_complete(data)] == ["warning"]
    (tmp_path / "dataset.toml").write_text('layout = "release:threshold=0"')
    assert load(tmp_path).samples[0].read_mask().mean() > 0.6 and require_complete(load(tmp_path))


@pytest.mark.parametrize("kind", ["jpeg", "blurred"])
def test_a_mask_that_is_a_little_grey_is_told_and_used(tmp_path: Path, kind: str) -> None:
    big = Image.fromarray(np.roll(box((256, 256)), (3, 5), (0, 1)))  # across the blocks of JPEG
    release(tmp_path, size=(256, 256))
    if kind == "jpeg":
        big.save(tmp_path / "masks" / "dog.png", "JPEG", quality=60)
    else:
        big.filter(ImageFilter.GaussianBlur(2)).save(tmp_path / "masks" / "dog.png")
    severity, words = problem(tmp_path)
    assert severity == "warning" and "of the mask is between black and the middle" in words
    assert "is not black" in words and "is above the middle" in words


@pytest.mark.parametrize("values", [np.uint8(1), np.uint8(7), np.uint8(255)])
def test_masks_of_two_values_are_clear(tmp_path: Path, values: np.uint8) -> None:
    release(tmp_path, size=SIZE, mask=(INSIDE * values).astype(np.uint8))
    assert validate(load(tmp_path)) == []
    np.testing.assert_array_equal(load(tmp_path).samples[0].read_mask(), INSIDE)


def test_edit_takes_the_middle(tmp_path: Path) -> None:
    Image.fromarray(noisy()).save(tmp_path / "m.png")
    np.testing.assert_array_equal(from_file(tmp_path / "m.png", SIZE).mask, INSIDE)
    Image.fromarray(INSIDE.astype(np.uint8)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(from_file(tmp_path / "m.png", SIZE).mask, INSIDE)
    Image.fromarray((INSIDE * 40000).astype(np.uint16)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(from_file(tmp_path / "m.png", SIZE).mask, INSIDE)


def test_a_mask_in_the_alpha_channel_is_told(tmp_path: Path) -> None:
    release(tmp_path, size=SIZE)
    alpha = Image.fromarray(np.where(INSIDE, 0, 255).astype(np.uint8))
    for colour in ((0, 0, 0), (255, 255, 255)):
        picture = Image.new("RGB", SIZE, colour)
        picture.putalpha(alpha)
        picture.save(tmp_path / "masks" / "dog.png")
        _, words = problem(tmp_path)
        assert "drawn in the alpha channel (6% transparent" in words and "black and white" in words


def test_a_mask_that_vanishes_at_the_models_resolution_is_refused_before_editing(tmp_path: Path) -> None:
    dot = np.zeros((2048, 2048), np.uint8)
    dot[1001, 1001] = 255
    release(tmp_path, size=(2048, 2048), mask=dot)
    data = load(tmp_path)
    assert validate(data) == []
    (found,) = validate(data, 512)
    assert found.severity == "error" and found.file == "masks/dog.png"
    assert (
        "nothing of the region is left at the model's resolution (1 pixels of 2048 x 2048, at 512 x 512)" in found.what
    )
    with pytest.raises(UserError, match="nothing of the region is left"):
        require_complete(data, 512)
    done = CliRunner().invoke(app, ["data", "validate", str(tmp_path), "--resolution", "512"])
    assert done.exit_code == 1 and "nothing of the region is left" in done.output


def test_a_region_of_most_of_the_picture_is_questioned(tmp_path: Path) -> None:
    release(tmp_path, size=SIZE, mask=255 - box(SIZE))
    severity, words = problem(tmp_path)
    assert severity == "warning" and "touches three of its borders" in words and "inverted" in words
    release(tmp_path, record(object="background"), size=SIZE, mask=box(SIZE))
    assert validate(load(tmp_path)) == []


@pytest.mark.parametrize("there", ["masks/dog.PNG", "masks/DOG.png", "masks/dog.jpg"])
def test_a_mask_under_another_suffix_or_case_is_pointed_at(tmp_path: Path, there: str) -> None:
    release(tmp_path, size=SIZE)
    (tmp_path / "masks" / "dog.png").rename(tmp_path / there)
    (found,) = load(tmp_path).problems
    assert found.what == "the mask is there under another name" and f"{there} is there" in found.mend


@pytest.mark.parametrize("there", ["images/dog.PNG", "images/Dog.png", "images/dog.jpeg"])
def test_an_image_under_another_suffix_or_case_is_pointed_at(tmp_path: Path, there: str) -> None:
    release(tmp_path, size=SIZE)
    (tmp_path / "images" / "dog.png").rename(tmp_path / there)
    (found,) = load(tmp_path).problems
    assert found.what == "the image is there under another name" and f"{there} is there" in found.mend


def test_the_release_and_others_read_colours_their_own_way(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[INSIDE, 0] = 255
    Image.fromarray(red).save(tmp_path / "m.png")
    for mask in (ReleaseMask(tmp_path / "m.png"), MaskFile(tmp_path / "m.png")):
        np.testing.assert_array_equal(mask.read("mask"), INSIDE)
    noise(SIZE).save(tmp_path / "n.png")
    assert MaskFile(tmp_path / "n.png").read("mask").dtype == bool
