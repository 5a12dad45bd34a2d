"""Drawing the masks of a data set, by several people and with damaged pictures among its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import noise, record, release
from PIL import Image

from cpam_bench.eval.studio.page import as_text
from cpam_bench.eval.studio.session import Session, Studio, open_file
from cpam_bench.imba.collect import add_mask, add_sample, mask_version, without_mask
from cpam_bench.imba.dataset import load
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import MadeMask, Origin


def made(left: int = 2) -> MadeMask:
    mask = np.zeros((16, 20), bool)
    mask[4:9, left : left + 5] = True
    return MadeMask(mask, Origin(tool="strokes"))


def lacking(root: Path, *names: str) -> Path:
    release(root, *(record(name, f"A cat {i}.") for i, name in enumerate(names)))
    for mask in (root / "masks").iterdir():
        mask.unlink()
    return root


def studio(root: Path) -> Studio:
    return Studio(None, None, root)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [False, True])
def test_the_second_of_two_tabs_is_told(tmp_path: Path, own: bool) -> None:
    root = lacking(tmp_path, "a.png", "a.png")
    first, _ = without_mask(root)
    tabs = [Session(), Session()]
    for tab in tabs:
        studio(root).reopen(tab, first)
    add_mask(root, first, made(), own=own, seen=tabs[0].seen)
    before = (root / "data.json").read_bytes()
    with pytest.raises(UserError, match=rf"{first}: its mask .* is there already and is left as it is; .* another tab"):
        add_mask(root, first, made(9), own=True, seen=tabs[1].seen)
    assert (root / "data.json").read_bytes() == before and len(list((root / "masks").iterdir())) == 1
    np.testing.assert_array_equal(load(root)[first].read_mask(), made().mask)


def test_a_second_mask_of_its_own_replaces_the_first(tmp_path: Path) -> None:
    root = lacking(tmp_path, "a.png", "a.png")
    first, second = without_mask(root)
    add_mask(root, first, made(), own=True)
    session = Session()
    studio(root).reopen(session, first)
    assert session.seen == mask_version(load(root)[first])
    assert add_mask(root, first, made(9), own=True, seen=session.seen) == [first]
    assert [path.name for path in (root / "masks").iterdir()] == [f"{first}.png"]
    np.testing.assert_array_equal(load(root)[first].read_mask(), made(9).mask)
    assert without_mask(root) == [second]


def test_a_shared_mask_is_not_changed_under_the_others(tmp_path: Path) -> None:
    root = lacking(tmp_path, "a.png", "a.png")
    first, second = without_mask(root)
    add_mask(root, first, made())
    seen = mask_version(load(root)[first])
    with pytest.raises(UserError, match=f"also serves {second}"):
        add_mask(root, first, made(9), seen=seen)
    assert add_mask(root, first, made(9), own=True, seen=seen) == [first]
    np.testing.assert_array_equal(load(root)[second].read_mask(), made().mask)
    np.testing.assert_array_equal(load(root)[first].read_mask(), made(9).mask)


def test_a_damaged_picture_is_passed_over_and_named(tmp_path: Path) -> None:
    root = lacking(tmp_path, "a.png", "b.png")
    (root / "images" / "a.png").write_bytes(b"no picture")
    session = Session()
    sample, passed = studio(root).reopen_first(session, without_mask(root))
    assert sample is not None and sample.id == session.sample == "b-a-cat-1"
    assert len(passed) == 1 and "sample a-a-cat-0: image" in passed[0]
    (root / "images" / "b.png").write_bytes(b"no picture")
    sample, passed = studio(root).reopen_first(session, without_mask(root))
    assert sample is None and len(passed) == 2


@pytest.mark.parametrize(
    "changes", [{"retain_object": "false"}, {"kind": "swap"}, {"object_prompt": 7}, {"target_prompt": ["a"]}]
)
def test_what_a_crafted_client_sends_is_typed(tmp_path: Path, changes: dict[str, Any]) -> None:
    release(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*") if path.name != ".lock")
    values: dict[str, Any] = {"target_prompt": "a cat", "kind": "replace"} | changes
    with pytest.raises(UserError):
        add_sample(tmp_path, noise(), made(), **values)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.name != ".lock") == before
    assert len(json.loads((tmp_path / "data.json").read_text())) == 1


def test_prompts_are_shown_as_text() -> None:
    assert as_text("# a **b** <img src=x> [c](d)\n\x1b") == r"\# a \*\*b\*\* \<img src\=x\> \[c\]\(d\) \\x1b"


def test_a_phones_picture_is_opened_upright_and_a_huge_one_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise((20, 16)).save(tmp_path / "a.jpg", exif=exif)
    session = Session()
    open_file(session, str(tmp_path / "a.jpg"))
    assert session.need_picture().size == (16, 20)
    Image.new("1", (12000, 12000)).save(tmp_path / "b.png")
    with pytest.raises(UserError, match="12000 x 12000 pixels, more than"):
        open_file(session, str(tmp_path / "b.png"))
