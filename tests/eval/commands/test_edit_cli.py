"""``cpam-bench edit``, and ``data masks-check``."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from paths import TINY
from PIL import Image
from run_helpers import method_file

import cpam_bench.eval.commands.main
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.imba.dataset import POCKET
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pocket.clicks import pocket_objects
from cpam_bench.imba.pocket.world import article

APPLE = POCKET / "images" / "replace-apple-to-orange.png"
BOX = ("--box", "25,40,105,120")


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cpam-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cpam_bench.eval.commands.main.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture
def edit(cli: Any) -> Any:
    def call(
        *more: object, image: Path = APPLE, prompt: str = "a photo of an orange on a beach"
    ) -> tuple[int, str, str]:
        fixed = ("--prompt", prompt, "--backbone", TINY, "--steps", "2", "--device", "cpu")
        result: tuple[int, str, str] = cli("edit", image, *fixed, *more)
        return result

    return call


def test_a_folder_holds_all_that_was_made_and_how(edit: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    more = ("--object-prompt", "an orange", "--compare", "masactrl:step=1,layer=2", "--mask-ops", "grow=2,fill")
    code, printed, said = edit(*BOX, *more, "--show-target-mask", "--out", out)
    assert code == 0 and "mask by grabcut" in said
    names = {path.name for path in out.iterdir()}
    assert {"source.png", "mask.png", "cpam.png", "sheet.png", "edit.json"} < names and len(names) == 6
    assert set(printed.split()) == {str(out / name) for name in names}
    record = json.loads((out / "edit.json").read_text())
    assert record["mask"]["operations"] == ["grow=2", "fill"] and record["mask"]["inputs"] == {
        "box": [25, 40, 105, 120]
    }
    assert record["kind"] == "replace" and list(record["methods"]) == ["cpam", "masactrl:layer=2,step=1"]
    assert record["methods"]["cpam"]["parameters"]["guidance"] == 7.5
    mask = np.asarray(Image.open(out / "mask.png"))
    exact = np.asarray(Image.open(POCKET / "masks" / APPLE.name)) > 0
    assert set(np.unique(mask)) == {0, 255} and (mask[exact] > 0).mean() > 0.95
    # The sheet: source, region, two edits and CPAM's M_t.
    assert Image.open(out / "sheet.png").width == 5 * 264 + 8
    before = (out / "cpam.png").read_bytes()
    assert edit(*BOX, *more, "--out", out)[0] == 2
    assert edit(*BOX, *more, "--out", out, "--overwrite")[0] == 0
    assert (out / "cpam.png").read_bytes() == before  # seeded


def test_a_file_gets_the_edit_and_the_sheet_beside_it(edit: Any, tmp_path: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.open(APPLE).convert("RGB").resize((200, 120)).save(wide)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.pad(np.full((60, 60), 255, np.uint8), ((30, 30), (70, 70)))).save(mask)
    out = tmp_path / "edit.jpg"
    code, _, _ = edit("--mask", mask, "--kind", "remove", "--out", out, "--original-size", image=wide)
    assert code == 0 and Image.open(out).size == (200, 120) and Image.open(out).format == "JPEG"
    assert {path.name for path in tmp_path.iterdir()} == {"wide.png", "mask.png", "edit.jpg", "edit-sheet.png"}


@pytest.mark.parametrize(
    "way",
    [
        ("--polygon", "30,50 100,50 100,110 30,110"),
        ("--stroke", "64,60,64,100", "--brush", "40"),
        ("--click", "64,80", "--click-off", "5,5"),
        ("--select", "an apple"),
    ],
)
def test_every_way_to_say_what_to_alter(edit: Any, way: tuple[str, ...], tmp_path: Path) -> None:
    code, _, said = edit(*way, "--out", tmp_path / "out", "--kind", "background", "--retain")
    assert code == 0, said
    record = json.loads((tmp_path / "out" / "edit.json").read_text())
    tools = {"--polygon": "polygon", "--stroke": "strokes", "--click": "grabcut", "--select": "cross-attention"}
    assert record["mask"]["tool"] == tools[way[0]] and record["kind"] == "background"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--box", "25,40,105"), "--box '25,40,105' is not X0,Y0,X1,Y1"),
        (("--click", "nan,4"), "is not X,Y"),
        (("--click", "640,80"), "outside of the picture"),
        (("--polygon", "1,2 3"), "is not X,Y,X,Y"),
        (("--polygon", "1,2 3,4"), "three corners"),
        ((*BOX, "--select", "a dog"), "not several"),
        ((*BOX, "--mask-ops", "swell=2"), "unknown operation 'swell=2'"),
        ((*BOX, "--mask-ops", "shrink=90"), "nothing is left"),
        ((*BOX, "--method", "cpan"), "did you mean cpam"),
        ((*BOX, "--compare", "masactrl:step=soon"), "does not fit"),
        ((*BOX, "--mask-with", "/nowhere/sam"), "cannot be loaded"),
        (("--mask", "/nowhere/mask.png"), "does not exist"),
        (("--out", "picture.bmp"), "give a .png, a .jpg, or a folder"),
        ((), "Give one of --mask FILE, --click X,Y"),
        (("--polygon", "0,0 128,0 128,128 0,128"), "nearly all of it. Mark the object alone, or give --large-mask"),
        ((*BOX, "--raw", "--original-size"), "give one of them"),
        ((*BOX, "--method-file", "/nowhere/mine.py:Mine"), "cannot be read"),
        ((*BOX, "--steps", "1000"), "steps must be between 1 and 999"),
    ],
)
def test_misuse_is_one_message_and_exit_code_2(
    edit: Any, more: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = () if "--out" in more else ("--out", tmp_path / "out")
    code, _, said = edit(*more, *out)
    assert code == 2 and message in " ".join(said.split())
    assert not (tmp_path / "out").exists()


def test_what_is_no_picture(edit: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    code, _, said = edit(*BOX, "--out", tmp_path / "out", image=tmp_path / "text.png")
    assert code == 2 and "cannot be read" in said
    assert edit(*BOX, "--out", tmp_path / "out", image=tmp_path / "none.png")[0] == 2
    assert edit(*BOX, "--out", tmp_path / "out", prompt=" ")[0] == 2


def wide(folder: Path, orientation: int = 1) -> tuple[Path, np.ndarray, Path, np.ndarray]:
    """A picture of 200 x 120 pixels, as a viewer shows it, and its mask of 60 x 60: files and pixels."""
    shown = Image.open(APPLE).convert("RGB").resize((200, 120))
    stored = shown if orientation == 1 else shown.transpose(Image.Transpose.ROTATE_90)  # 6 turns it back
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(folder / "wide.png", exif=exif)
    marked = np.pad(np.ones((60, 60), bool), ((30, 30), (70, 70)))
    Image.fromarray(marked).save(folder / "marked.png")
    return folder / "wide.png", np.asarray(shown), folder / "marked.png", marked


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_the_result_has_the_pictures_size_and_its_pixels_outside_of_the_mask(
    edit: Any, tmp_path: Path, fit: str, orientation: int
) -> None:
    file, shown, mask, marked = wide(tmp_path, orientation)
    out = tmp_path / "out"
    code, _, said = edit("--mask", mask, "--fit", fit, "--out", out, "--compare", "masactrl", image=file)
    assert code == 0, said
    for name in ("cpam", "masactrl"):
        made = np.asarray(Image.open(out / f"{name}.png"))
        assert np.array_equal(made[~marked], shown[~marked]) and not np.array_equal(made[marked], shown[marked])
    assert np.array_equal(np.asarray(Image.open(out / "source.png")), shown)
    record = json.loads((out / "edit.json").read_text())
    frames = {"squash": [0, 0, 200, 120], "crop": [40, 0, 160, 120], "pad": [0, -40, 200, 160]}
    assert record["fit"] == fit and record["frame"] == frames[fit] and record["size"] == [200, 120]


def test_the_models_square_on_request_and_what_may_spill(edit: Any, tmp_path: Path) -> None:
    file, shown, mask, marked = wide(tmp_path)
    assert edit("--mask", mask, "--raw", "--out", tmp_path / "raw", image=file)[0] == 0
    assert {Image.open(tmp_path / "raw" / f"{name}.png").size for name in ("source", "cpam")} == {(128, 128)}
    for more in ((), ("--no-spill",)):
        out = tmp_path / f"pose{len(more)}"
        assert edit("--mask", mask, "--kind", "pose", *more, "--out", out, image=file)[0] == 0
        made = np.asarray(Image.open(out / "cpam.png"))
        far = np.pad(np.zeros((100, 100), bool), ((10, 10), (50, 50)), constant_values=True)
        assert np.array_equal(made[far], shown[far])
        assert np.array_equal(made[~marked], shown[~marked]) == bool(more)


def test_a_large_mask_is_taken_where_it_is_meant(edit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = ("--polygon", "0,0 128,0 128,128 0,128", "--large-mask")
    assert edit(*everything, "--out", tmp_path / "out")[0] == 0
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for number, answer in enumerate((True, False)):
        monkeypatch.setattr("typer.confirm", lambda *_, answer=answer, **__: answer)
        code, _, said = edit(*everything[:2], "--steps", "1", "--out", tmp_path / str(number))
        assert code == (0 if answer else 2) and ("nothing is edited" in said) != answer


def test_a_method_out_of_a_file(edit: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(method_file())
    out = tmp_path / "out"
    code, _, said = edit("--method-file", tmp_path / "mine.py:Mine", "--compare", "mine:by=9", "--out", out, "--raw")
    assert code == 0, said
    source, one, nine = (
        np.asarray(Image.open(out / name)).astype(int) for name in ("source.png", "mine.png", "mine@by-9.png")
    )
    assert np.array_equal(one, (source + 1).clip(0, 255)) and np.array_equal(nine, (source + 9).clip(0, 255))
    method = json.loads((out / "edit.json").read_text())["methods"]["mine"]
    digest = hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    assert method["parameters"]["method_file_sha256"] == digest and method["package"].startswith("mine.py, sha256")
    assert str(tmp_path) not in (out / "edit.json").read_text()


def test_methods_that_need_no_mask_go_without(edit: Any, tmp_path: Path) -> None:
    assert edit("--method", "masactrl", "--out", tmp_path / "out")[0] == 0
    assert not (tmp_path / "out" / "mask.png").exists()


def test_masks_check_measures_and_draws(cli: Any, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.open(APPLE).convert("RGB").save(photos / "a.jpg")
    code, printed, _ = cli("data", "masks-check", "--count", "3", "--photos", photos, "--out", tmp_path / "sheet.png")
    assert code == 0 and "mean IoU" in printed and "a.jpg:" in printed
    assert Image.open(tmp_path / "sheet.png").width > 400


def test_masks_check_counts_what_words_do_not_find(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = objects = list(pocket_objects(3, 0))
    exact = {one.image.tobytes(): one.mask for one in others}
    asked = []

    def select(backbone: Backbone, image: Image.Image, words: str) -> SimpleNamespace:
        asked.append(words)
        if image.tobytes() not in exact:
            raise UserError(f"{words} is not in the picture")
        return SimpleNamespace(mask=exact[image.tobytes()])

    monkeypatch.setattr("cpam_bench.cpam.words.select", select)
    code, printed, _ = cli("data", "masks-check", "--count", "3", "--words")
    assert asked == [f"{article(one.name)} {one.name}" for one in objects]
    assert f"{first.name}: {asked[0]} is not in the picture" in printed
    assert code == 0 and "2 of 3 found, mean IoU 1.000" in printed
