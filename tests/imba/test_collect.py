"""Adding samples and masks to data sets."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from run_helpers import picture

from cpam_bench.imba.collect import add_mask, add_sample, without_mask
from cpam_bench.imba.dataset import load, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import MadeMask, Origin


def made(size: tuple[int, int] = (80, 60)) -> MadeMask:
    mask = np.zeros(size[::-1], bool)
    mask[20:40, 20:60] = True
    return MadeMask(mask, Origin(tool="polygon", inputs={"polygons": [[[20, 20]]]}, operations=["grow=2"]))


def add(root: Path, **changes: object) -> str:
    values: dict[str, object] = {"target_prompt": "a red thing", "kind": "replace", "object_prompt": "thing"}
    return add_sample(root, picture(1, (80, 60)), made(), **{**values, **changes})  # type: ignore[arg-type]


def lacking(root: Path, *records: dict[str, object]) -> Path:
    """A data set whose masks are missing."""
    (root / "images").mkdir(parents=True)
    base = {"object": "foreground", "alter_mask": None, "retain_object": False, "object_prompt": ""}
    written = []
    for record in records:
        picture(3, (80, 60)).save(root / "images" / str(record["img_name"]))
        written.append(base | record)
    (root / "data.json").write_text(json.dumps(written))
    return root


def test_samples_are_whole_valid_and_told_apart(tmp_path: Path) -> None:
    root = tmp_path / "new" / "set"
    ids = [add(root), add(root), add(root, kind="background", retain_object=True, source_prompt="a thing")]
    assert ids == ["thing-a-red-thing", "thing-a-red-thing-2", "thing-a-red-thing-3"]
    data = load(root)
    assert [sample.id for sample in data] == ids and validate(data) == []
    first, _, last = data
    assert np.array_equal(first.read_mask(), made().mask)
    assert first.mask_origin == made().origin
    assert last.altered == "background" and last.retain_object and last.source_prompt == "a thing"
    assert np.array_equal(last.read_mask(), ~made().mask)
    assert json.loads(str(data.to_hf()[0]["mask_origin"]))["operations"] == ["grow=2"]
    assert not list(root.rglob("*.part"))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    add(tmp_path)
    stray = tmp_path / "images" / "thing-a-red-thing-2.png"
    stray.write_bytes(b"somebody's")
    assert add(tmp_path) == "thing-a-red-thing-3"
    assert stray.read_bytes() == b"somebody's"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"no data set \(notes.txt\)"):
        add(tmp_path / "other")


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for changes, message in (({"target_prompt": "  "}, "target prompt"),):
        with pytest.raises(UserError, match=message):
            add(tmp_path / "set", **changes)
    with pytest.raises(UserError, match="60 x 80 pixels, its image 80 x 60"):
        add_sample(tmp_path / "set", picture(1, (80, 60)), made((60, 80)), target_prompt="a", kind="add")
    empty = MadeMask(np.zeros((60, 80), bool), Origin(tool="strokes"))
    with pytest.raises(UserError, match="marks nothing"):
        add_sample(tmp_path / "set", picture(1, (80, 60)), empty, target_prompt="a", kind="add")
    assert not (tmp_path / "set").exists()


def _many(root: str) -> None:
    for _ in range(5):
        add(Path(root))


def test_several_processes_add_to_one_data_set(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_many, args=(str(tmp_path / "set"),)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    data = load(tmp_path / "set")
    assert len(data) == 15 and validate(data) == []


def test_a_missing_mask_is_added_and_the_rest_of_the_record_kept(tmp_path: Path) -> None:
    root = lacking(
        tmp_path, {"img_name": "a.png", "target_text": "one", "mine": 7}, {"img_name": "b.png", "target_text": "two"}
    )
    first, second = without_mask(root)
    assert add_mask(root, first, made()) == [first]
    assert without_mask(root) == [second]
    record = json.loads((root / "data.json").read_text())[0]
    assert record["mine"] == 7 and record["alter_mask"] is None and record["mask_origin"]["tool"] == "polygon"
    assert np.array_equal(load(root)[first].read_mask(), made().mask)
    before = (root / "masks" / "a.png").read_bytes()
    with pytest.raises(UserError, match="is there already"):
        add_mask(root, first, made())
    assert (root / "masks" / "a.png").read_bytes() == before
    with pytest.raises(UserError, match="has no sample nobody"):
        add_mask(root, "nobody", made())


def test_samples_of_one_image_share_a_mask_or_have_their_own(tmp_path: Path) -> None:
    root = lacking(
        tmp_path,
        {"img_name": "a.png", "target_text": "one"},
        {"img_name": "a.png", "target_text": "two"},
        {"img_name": "a.png", "target_text": "three"},
    )
    one, two, three = without_mask(root)
    assert add_mask(root, two, made(), own=True) == [two]
    assert without_mask(root) == [one, three]
    other = MadeMask(~made().mask, Origin(tool="strokes"))
    assert add_mask(root, one, other) == [one, three]
    data = load(root)
    assert [sample.id for sample in data] == [one, two, three] and without_mask(root) == []
    assert np.array_equal(data[two].read_mask(), made().mask)
    assert np.array_equal(data[three].read_mask(), ~made().mask)
    assert {problem.severity for problem in validate(data)} == {"warning"}  # most of the picture, as it is drawn here


def test_a_mask_of_its_own_is_not_the_one_that_its_image_gives(tmp_path: Path) -> None:
    root = lacking(
        tmp_path,
        {"img_name": "a.png", "target_text": "one", "id": "a"},
        {"img_name": "a.png", "target_text": "two", "id": "b"},
    )
    assert add_mask(root, "a", made(), own=True) == ["a"]
    assert without_mask(root) == ["b"]
    assert (root / "masks" / "a-2.png").is_file() and load(root)["a"].region_file == root / "masks" / "a-2.png"


def test_a_record_with_a_wrong_origin_is_a_problem(tmp_path: Path) -> None:
    root = lacking(
        tmp_path, {"img_name": "a.png", "target_text": "one", "mask_origin": {"tool": "sam", "operations": ["jump"]}}
    )
    problems = [str(problem) for problem in load(root).problems]
    assert any("mask_origin is wrong" in problem and "jump" in problem for problem in problems)


def test_links_out_of_the_data_set_are_not_followed(tmp_path: Path) -> None:
    root = lacking(tmp_path / "set", {"img_name": "a.png", "target_text": "one"})
    (tmp_path / "outside").mkdir()
    (root / "masks").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError):
        add_mask(root, "a-one", made())
    assert not list((tmp_path / "outside").iterdir())
