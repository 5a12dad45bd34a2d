"""Ready-made pictures as a method."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from run_helpers import FakeBackbone, Noise, editors, picture, run_all, samples

from cpam_bench.baselines.imported import Imported
from cpam_bench.eval.methods import registry
from cpam_bench.eval.methods.ready_made import require_unchanged, survey
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


def tedbench(image: str, target: str, id: str = "one") -> Sample:
    return Sample(id, Path("images") / image, None, target)


@pytest.mark.parametrize(
    ("file", "image", "target"),
    [
        # As TEdBench's repository has them (tedbench/imagic), and IMBA's names for the same pictures.
        ("apples.jpeg-A_basket_of_oranges.png", "apples.jpeg", "A basket of oranges"),
        ("bird.jpeg-A_bird_eating_a_fish.png", "bird.png", "A bird eating a fish."),
        ("bird-g83440b9c4_1920.jpg-Two_kissing_parrots.png", "two_birds.jpg", "Two kissing parrots"),
        ("cat_3.jpeg-A_photo_of_a_cat_yawning.png", "cat_3.jpeg", "a photo of a cat yawning"),
        ("cat_3-A photo of a cat yawning.JPG", "cat_3.jpeg", "A photo of a cat yawning"),
        ("one.webp", "cat_3.jpeg", "A photo of a cat yawning"),
    ],
)
def test_names(tmp_path: Path, file: str, image: str, target: str) -> None:
    (tmp_path / file).write_bytes(b"1")
    (tmp_path / "other-A_cat.png").write_bytes(b"2")
    (tmp_path / "README.md").write_text("3")
    assert Imported("mine", str(tmp_path)).picture(tedbench(image, target)) == tmp_path / file
    assert Imported("mine", str(tmp_path)).picture(tedbench(image, "Another cat", "two")) is None


def test_two_pictures_that_differ_are_told(tmp_path: Path) -> None:
    names = ["cat.jpeg-A photo of a cat.png", "cat.jpeg-A_photo_of_a_cat.png"]
    sample = tedbench("cat.jpeg", "A photo of a cat")
    for name in names:
        (tmp_path / name).write_bytes(b"same")
    assert Imported("mine", str(tmp_path)).picture(sample) == tmp_path / names[0]
    (tmp_path / names[1]).write_bytes(b"other")
    with pytest.raises(UserError, match="sample one: several pictures .*A photo of a cat.png, .*A_photo"):
        Imported("mine", str(tmp_path)).picture(sample)


def test_labels_read_back(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "s0.png")
    label = f"Imagic 2 (no)={tmp_path}"
    for wrong in (label, f"masactrl={tmp_path}", f"MasaCtrl={tmp_path}", f"=x{tmp_path}", "mine", "a:b=c"):
        with pytest.raises(UserError):
            registry.imported(wrong)
    label = f"Imagic published={tmp_path}"
    assert registry.make(label) == ("Imagic published", Imported("Imagic published", str(tmp_path)))
    assert registry.make(label)[1].title == "Imagic published (imported)"
    with pytest.raises(UserError, match="join with --import cpam=5"):
        registry.choose("cpam=5")
    with pytest.raises(UserError, match="/no/such does not exist"):
        registry.imported("mine=/no/such")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        registry.imported(f"mine={tmp_path / 'empty'}")


def test_pictures_join_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    todo = samples(3)
    picture(7, (100, 100)).convert("RGBA").save(folder / "s0.png")
    picture(8).save(folder / "S1.JPG")
    picture(9).save(folder / "nobody.png")
    label, editor = registry.make(f"mine={folder}")
    assert isinstance(editor, Imported)
    missing, stray = survey(label, editor, todo, todo)
    assert "no picture of 1 of 3 samples (s2); these edits will fail. Name pictures <sample id>.png" in missing
    assert "1 pictures are of no sample (nobody.png)" in stray
    chosen = {label: editor, **editors(Noise())}
    [failure] = run_all(tmp_path / "run", chosen, todo)
    assert failure.sample == "s2" and "sample s2: mine has no picture of it" in failure.error
    store = Store.open(tmp_path / "run")
    edit = store.read_edit(label, "s0")
    assert edit and edit.params["file"] == "s0.png"
    # Where the folder is on this disk stands nowhere.
    assert label == "mine" and edit.params.keys() == {"called", "file", "file_sha256"}
    assert not [path for path in (tmp_path / "run").rglob("*.*") if str(folder).encode() in path.read_bytes()]
    assert edit.params["file_sha256"] == hashlib.sha256((folder / "s0.png").read_bytes()).hexdigest()
    shown = np.asarray(Image.open(store.edit_path(label, "s0")))
    assert np.array_equal(shown, np.asarray(picture(7, (100, 100)).resize((64, 64), Image.Resampling.BICUBIC)))

    picture(10).save(folder / "s2.png")  # the same command takes what has come, and nothing anew
    label, editor = registry.make(f"mine={folder}")
    assert isinstance(editor, Imported)
    require_unchanged(store, label, editor, todo)
    written = store.edit_path(label, "s0").stat().st_mtime_ns
    assert run_all(tmp_path / "run", {label: editor, **editors(Noise())}, todo) == []
    assert store.edit_path(label, "s0").stat().st_mtime_ns == written

    picture(11).save(folder / "s0.png")
    with pytest.raises(UserError, match=r"s0.png is not the picture that .* has taken over for s0; delete"):
        require_unchanged(store, label, editor, todo)


def test_pictures_of_no_sample_at_all(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="no picture is of one of the samples"):
        survey("mine", Imported("mine", str(tmp_path)), samples(2), samples(1))


def test_a_damaged_picture_fails_alone(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    picture(7).save(folder / "s0.png")
    (folder / "s1.png").write_bytes((folder / "s0.png").read_bytes()[:200])
    label, editor = registry.make(f"mine={folder}")
    [failure] = run_all(tmp_path / "run", {label: editor}, samples(2))
    assert failure.sample == "s1" and "s1.png cannot be read" in failure.error


def test_a_black_picture_is_a_safety_checkers(tmp_path: Path) -> None:
    sample = samples(1)[0]
    Image.new("RGB", (64, 64)).save(tmp_path / f"{sample.id}.png")
    editor = registry.imported(f"theirs={tmp_path}")
    with pytest.raises(UserError, match="black all over"):
        editor.edit(sample, SimpleNamespace(backbone=FakeBackbone()), 0)
