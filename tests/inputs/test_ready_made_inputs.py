"""Ready-made pictures as people have them."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_helpers import FakeBackbone, picture, square

from cpam_bench.baselines.imported import Imported
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods.ready_made import survey
from cpam_bench.eval.methods.registry import make
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


def sample(size: tuple[int, int] = (64, 64), id: str = "one") -> Sample:
    return Sample(id, picture(0, size), square(), "a red thing")


def edit(editor: Imported, one: Sample) -> np.ndarray:
    return np.asarray(editor.edit(one, Source(one, FakeBackbone(), 1), 0))  # type: ignore[arg-type]


def strip(path: Path, panels: int, edge: int = 64) -> Image.Image:
    """A strip of squares, of which the last is the edit; returns that."""
    whole = Image.new("RGB", (panels * edge, edge))
    for index in range(panels):
        whole.paste(picture(index, (edge, edge)), (index * edge, 0))
    whole.save(path)
    return picture(panels - 1, (edge, edge))


def test_a_strip_of_four_panels_is_refused_unless_its_last_is_asked_for(tmp_path: Path) -> None:
    last = strip(tmp_path / "one.png", 4)
    with pytest.raises(
        UserError, match=r"sample one: .*one\.png is 256 x 64 pixels, and its source 64 x 64.*panel last"
    ):
        survey("x", Imported("x", str(tmp_path)), [sample()], [sample()])
    with pytest.raises(UserError, match="no picture of that aspect"):
        edit(Imported("x", str(tmp_path)), sample())
    label, editor = make(f"x={tmp_path}", "last")
    assert isinstance(editor, Imported) and label == "x"
    assert survey("x", editor, [sample()], [sample()]) == []
    np.testing.assert_array_equal(edit(editor, sample()), np.asarray(last))


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (96, 64), (97, 64)])
def test_the_sources_aspect_and_the_models_square_are_taken(tmp_path: Path, size: tuple[int, int]) -> None:
    picture(1, size).save(tmp_path / "one.png")
    assert edit(Imported("x", str(tmp_path)), sample((192, 128))).shape == (64, 64, 3)


@pytest.mark.parametrize("size", [(64, 96), (200, 64), (64, 400)])
def test_any_other_aspect_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    picture(1, size).save(tmp_path / "one.png")
    for panel in ("whole", "last"):
        with pytest.raises(UserError, match=f"is {size[0]} x {size[1]} pixels"):
            edit(Imported("x", str(tmp_path), panel), sample((192, 128)))  # type: ignore[arg-type]


def test_a_picture_that_is_black_all_over_is_noticed(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "one.png")
    with pytest.raises(UserError, match=r"one\.png is black all over, as a safety checker leaves it"):
        edit(Imported("x", str(tmp_path)), sample())


def test_sixteen_bits_stay_grey(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(64, 0)
    Image.fromarray(values).save(tmp_path / "one.png")
    levels = edit(Imported("x", str(tmp_path)), sample())[0, :, 0].astype(int)
    assert np.abs(levels - np.linspace(0, 255, 64)).max() <= 1


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_found_by_their_normal_form(tmp_path: Path, form: str) -> None:
    one = Sample("x", Path("images") / "Löwe.png", square(), "ein Löwe")
    picture(1).save(tmp_path / f"{unicodedata.normalize(form, 'Löwe.png-ein_Löwe')}.png")
    assert Imported("x", str(tmp_path)).picture(one) is not None


def test_a_pipe_is_a_failed_edit_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "one.png")
    picture(1).save(tmp_path / "two.png")
    both = [sample(id="one"), sample(id="two")]
    assert survey("x", Imported("x", str(tmp_path)), both, both) == []
    assert edit(Imported("x", str(tmp_path)), both[1]).any()
    with pytest.raises(UserError, match=r"sample one: .*one\.png is no regular file"):
        edit(Imported("x", str(tmp_path)), both[0])
