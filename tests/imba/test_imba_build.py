"""Building IMBA from a TEdBench download, here a made-up one."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image

from cpam_bench.imba.build import build, publish
from cpam_bench.imba.dataset import load, validate
from cpam_bench.imba.errors import DiskFull, UserError
from cpam_bench.imba.layouts.release import MASKS, OURS


def record(img_name: str, target_text: str, alter_mask: str | None = None) -> dict[str, object]:
    return {
        "img_name": img_name,
        "target_text": target_text,
        "object": "foreground",
        "alter_mask": alter_mask,
        "retain_object": False,
        "object_prompt": "",
    }


RECORDS = [
    record("cat.jpeg", "A photo of a cat wearing a hat.", "cat_hat"),
    record("bird.jpeg", "A bird."),
    record("bird.png", "A bird looking backwards."),
    record("two_birds.jpg", "Two kissing parrots."),
    record("ball.png", "a rugby ball", "ball_mask"),
]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A download with a bird under one extension, the renamed birds, no ball, and a pair that IMBA has not."""
    originals = tmp_path / "tedbench" / "originals"
    originals.mkdir(parents=True)
    for seed, name in enumerate(["cat.jpeg", "bird.jpeg", "bird-g83440b9c4_1920.jpg", "extra.jpeg"]):
        noise = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
        Image.fromarray(noise).save(originals / name)
    pairs = [
        ("cat.jpeg", "A photo of a cat wearing a hat"),  # without the full stop
        ("bird.jpeg", "A bird."),
        ("bird.jpeg", "A bird looking backwards."),
        ("bird-g83440b9c4_1920.jpg", "Two kissing parrots."),
        ("extra.jpeg", "Something else."),
    ]
    listed = [{"img_name": name, "target_text": text} for name, text in pairs]
    (tmp_path / "tedbench" / "input_list.json").write_text(json.dumps(listed))
    (tmp_path / "data.json").write_text(json.dumps(RECORDS, indent=1))
    masks = tmp_path / "drawn"
    masks.mkdir()
    for stem in ("cat_hat", "bird", "two_birds"):
        mask = np.zeros((12, 10), np.uint8)
        mask[3:6, 3:6] = 255
        Image.fromarray(mask).save(masks / f"{stem}.png")
    return {"tedbench": tmp_path / "tedbench", "annotations": tmp_path / "data.json", "out": tmp_path / "imba"}


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_it_matches_across_names_and_says_what_it_could_not(inputs: dict[str, Path], tmp_path: Path) -> None:
    before = tree(inputs["tedbench"])
    report = build(**inputs, masks=tmp_path / "drawn")
    assert tree(inputs["tedbench"]) == before
    made = tree(inputs["out"])
    assert set(made) == {
        "data.json",
        "dataset.toml",
        *(f"images/{name}" for name in ("cat.jpeg", "bird.jpeg", "bird.png", "two_birds.jpg")),
        *(f"masks/{name}.png" for name in ("cat_hat", "bird", "two_birds")),
    }
    assert made["images/bird.png"] == before["originals/bird.jpeg"]
    assert made["images/two_birds.jpg"] == before["originals/bird-g83440b9c4_1920.jpg"]
    assert not any(path.is_symlink() for path in inputs["out"].rglob("*"))
    assert (report.images, report.masks) == (4, 3)
    assert report.missing_images == ["ball.png"] and report.missing_masks == ["ball_mask.png"]
    assert report.renamed == {"bird.png": "bird.jpeg", "two_birds.jpg": "bird-g83440b9c4_1920.jpg"}
    assert report.only_annotated == [("ball.png", "a rugby ball")]
    assert report.only_tedbench == [("extra.jpeg", "Something else.")]
    problems = validate(load(inputs["out"]))
    assert {p.file for p in problems} == {"images/ball.png", "masks/ball_mask.png"}


def test_a_second_run_completes_and_changes_nothing(inputs: dict[str, Path], tmp_path: Path) -> None:
    build(**inputs)
    first = {p: p.stat().st_mtime_ns for p in inputs["out"].rglob("*") if p.is_file()}
    (inputs["out"] / "images" / ".cpam-bench-0f.part").write_bytes(b"a killed run")
    report = build(**inputs, masks=tmp_path / "drawn")
    assert report.masks == 3
    assert {p: p.stat().st_mtime_ns for p in first} == first
    assert not list(inputs["out"].rglob("*.part"))


@pytest.mark.parametrize("name", ["notes.txt", "images/other.png", "data.json"])
def test_another_folder_is_refused_and_left_alone(inputs: dict[str, Path], name: str) -> None:
    path = inputs["out"] / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match=rf"{name}.*Give a new or empty folder"):
        build(**inputs)
    assert tree(inputs["out"]) == {name: b"mine"}


def test_several_files_of_a_stem_count_only_if_they_are_the_same(inputs: dict[str, Path]) -> None:
    originals = inputs["tedbench"] / "originals"
    (originals / "ball.jpeg").write_bytes(b"one")
    (originals / "ball.webp").write_bytes(b"another")
    (originals / "ball.txt").write_bytes(b"no picture")
    assert build(**inputs).missing_images == ["ball.png"]
    (originals / "ball.webp").write_bytes(b"one")
    assert build(**inputs).renamed["ball.png"] == "ball.jpeg"


@pytest.mark.parametrize(
    ("field", "value"), [("img_name", "../../x.png"), ("alter_mask", "/etc/x"), ("img_name", None)]
)
def test_annotations_that_climb_out_write_nothing(inputs: dict[str, Path], field: str, value: object) -> None:
    inputs["annotations"].write_text(json.dumps([*RECORDS, RECORDS[0] | {field: value}]))
    with pytest.raises(UserError, match="record 5"):
        build(**inputs)
    assert not inputs["out"].exists()


@pytest.mark.parametrize("gone", ["input_list.json", "originals"])
def test_what_is_no_download_is_named(inputs: dict[str, Path], gone: str) -> None:
    (inputs["tedbench"] / gone).rename(inputs["tedbench"] / "elsewhere")
    with pytest.raises(UserError, match=f"{inputs['tedbench']} has no .*{gone}"):
        build(**inputs)


def test_a_folder_of_masks_that_is_not_there(inputs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder of masks"):
        build(**inputs, masks=tmp_path / "nowhere")


def test_a_full_disk_is_one_message_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if data == b"second":
            written(path, data[:1])
            raise OSError(28, os.strerror(28), str(path))
        return written(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFull, match="the disk is full: .*b could not be written"):
        publish(tmp_path / "out", {"a": b"first", "b": b"second"})
    assert not (tmp_path / "out" / "b").exists()
    monkeypatch.undo()
    publish(tmp_path / "out", {"a": b"first", "b": b"second"})
    assert tree(tmp_path / "out") == {"a": b"first", "b": b"second"}


def test_a_data_set_says_whose_its_masks_are(inputs: dict[str, Path], tmp_path: Path) -> None:
    build(**inputs, masks=tmp_path / "drawn")
    assert re.fullmatch(r"from drawn \([0-9a-f]{8}\)", load(inputs["out"]).masks)
    (inputs["out"] / "dataset.toml").unlink()
    assert load(inputs["out"]).masks == "the data set's own"
    shutil.copyfile(MASKS / "bird.png", inputs["out"] / "masks" / "bird.png")
    assert load(inputs["out"]).masks == f"the data set's own, but 1 of 3 {OURS}"
    for name in ("cat_hat", "two_birds"):
        shutil.copyfile(MASKS / f"{name}.png", inputs["out"] / "masks" / f"{name}.png")
    assert load(inputs["out"]).masks == OURS and load("pocket").masks == ""


@pytest.mark.skipif(not (ROOT.parent / "shared" / "imba").is_dir(), reason="IMBA's photographs are not at hand")
def test_imba_is_built_with_the_masks_that_come_along(tmp_path: Path) -> None:
    """All but the one sample whose photograph is missing."""
    imba = ROOT.parent / "shared" / "imba"
    download = tmp_path / "tedbench"
    (download / "originals").mkdir(parents=True)
    for path in (imba / "images").iterdir():
        shutil.copyfile(path, download / "originals" / path.name)
    (download / "input_list.json").write_text("[]")
    report = build(download, imba / "data.json", tmp_path / "IMBA")
    assert load(tmp_path / "IMBA").masks == OURS
    assert report.masks == 48 and report.missing_masks == ["ball.png"]
    bad = {problem.sample for problem in validate(load(tmp_path / "IMBA")) if problem.severity == "error"}
    assert len(bad) <= 2


def test_links_out_of_the_download_are_not_followed(inputs: dict[str, Path], tmp_path: Path) -> None:
    originals = inputs["tedbench"] / "originals"
    (tmp_path / "secret.png").write_bytes(b"a secret")
    (originals / "ball.png").symlink_to(tmp_path / "secret.png")
    (originals / "elsewhere").symlink_to(tmp_path)
    (originals / "loop.png").symlink_to(originals / "loop.png")
    (originals / "linked.jpeg").symlink_to(originals / "cat.jpeg")  # of the download itself
    assert build(**inputs).missing_images == ["ball.png"]
    assert b"a secret" not in tree(inputs["out"]).values()
