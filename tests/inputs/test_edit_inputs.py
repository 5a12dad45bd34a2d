"""One picture on the command line: what is taken of it is said, and what cannot be edited is refused before it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_data import box
from paths import TINY
from PIL import Image
from run_helpers import picture
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app
from cpam_bench.imba.errors import UserError

SIZE = (64, 48)


def edited(folder: Path, *more: str, prompt: str = "a red thing") -> str:
    """What is said of an edit of two steps."""
    arguments = ["edit", str(folder / "a.png"), "--prompt", prompt, "--mask", str(folder / "m.png"), "--steps", "2"]
    arguments += ["--backbone", str(TINY), "--method", "ddim", "--out", str(folder / "out.png"), *more]
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None:
        raise done.exception
    assert (folder / "out.png").is_file()
    return done.output


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    picture(0, SIZE).save(tmp_path / "a.png")
    Image.fromarray(box(SIZE)).save(tmp_path / "m.png")
    return tmp_path


def deep(path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, SIZE[0] * SIZE[1]).reshape(SIZE[1], SIZE[0]).astype(np.uint16)).save(path)


def clear(path: Path) -> None:
    seen = picture(0, SIZE)
    seen.putalpha(128)
    seen.save(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: picture(0, SIZE).quantize(16).save(path), "the picture has a palette"),
        (lambda path: picture(0, SIZE).convert("CMYK").save(path, "JPEG"), "the picture is CMYK"),
        (deep, "the picture has more than 8 bits"),
        (clear, "the picture is transparent in places"),
    ],
)
def test_one_line_says_what_was_taken(folder: Path, make, words: str) -> None:  # type: ignore[no-untyped-def]
    make(folder / "a.png")
    said = edited(folder)
    assert said.count(words) == 1
    kept = np.asarray(Image.open(folder / "out.png")).astype(int)  # outside of the mask
    assert kept.shape == (SIZE[1], SIZE[0], 3) and kept[:4].std() > 0.5


def test_prompts_are_looked_at(folder: Path) -> None:
    said = edited(folder, "--object-prompt", "dog", prompt="[猫]の写真")
    for words in ("square brackets", "the object prompt is not in the target prompt", "another script than Latin"):
        assert said.count(words) == 1
    assert "target prompt" not in edited(folder, "--overwrite")


def test_what_cannot_be_edited_is_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(UserError, match="--prompt is empty"):
        edited(folder, prompt=" \t ")
    Image.fromarray(box(SIZE).T).save(folder / "m.png")
    with pytest.raises(UserError, match="turn the mask as the picture is shown, and do not resize it"):
        edited(folder)
    dot = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    dot[21, 21] = 255
    Image.fromarray(dot).save(folder / "m.png")
    with pytest.raises(UserError, match="nothing of the mask is left at the model's resolution"):
        edited(folder)
    assert not (folder / "out.png").exists()
