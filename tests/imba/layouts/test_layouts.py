"""Data sets of others, told by what a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from run_helpers import picture, square

from cpam_bench.imba.dataset import load
from cpam_bench.imba.errors import UserError


def save(path: Path, size: tuple[int, int] = (64, 64), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size).save(path)


@pytest.fixture
def pie_bench(tmp_path: Path) -> Path:
    """Ten pictures, one of each type."""
    root = tmp_path / "pie"
    entries: dict[str, Any] = {}
    for type in range(10):
        key = f"{type}000000000{type:02d}"
        save(root / "annotation_images" / f"{type}_x" / f"{key}.jpg", (512, 512), type)
        entries[key] = {
            "image_path": f"{type}_x/{key}.jpg",
            "original_prompt": "a [cat] on a wall",
            "editing_prompt": "a [dog] on a wall",
            "editing_instruction": "make it a dog",
            "editing_type_id": str(type),
            "blended_word": "cat dog" if type == 1 else "",
            "mask": [512 * 10 + 20, 30, 512 * 512 - 5, 100],
        }
    (root / "mapping_file.json").write_text(json.dumps(entries))
    return root


def test_pie_bench_is_read_to_the_letter(pie_bench: Path) -> None:
    data = load(pie_bench)
    assert data.layout == "pie-bench" and "mapping_file.json" in data.why
    assert len(data) == 10
    sample = data.samples[1]
    assert (sample.target_prompt, sample.source_prompt) == ("a dog on a wall", "a cat on a wall")
    assert sample.edited_words == ("cat", "dog") and data.samples[2].edited_words is None
    expected = np.zeros((512, 512), bool)
    expected[10, 20:50] = True
    expected[[0, -1], :] = expected[:, [0, -1]] = True  # the frame, and the length that runs over the end
    assert (sample.read_mask() == expected).all()
    assert data.samples[9].read_mask().all()  # a style is of the whole picture
    kinds = [one.kind for one in data]
    assert [kinds[i] for i in (1, 2, 3, 5, 8)] == ["replace", "add", "remove", "pose", "background"]
    assert data.samples[5].retain_object and any(tag.startswith("type=5") for tag in data.samples[5].tags)


def test_a_folder_that_is_nearly_one_is_told_so(pie_bench: Path) -> None:
    (pie_bench / "annotation_images").rename(pie_bench / "pictures")
    with pytest.raises(UserError, match=r"mapping_file\.json is here, and annotation_images/ is not"):
        load(pie_bench)


def test_a_broken_record_costs_no_other(pie_bench: Path) -> None:
    path = pie_bench / "mapping_file.json"
    entries = json.loads(path.read_text())
    first, second, *_ = entries
    entries[first]["mask"] = [5]
    (pie_bench / "annotation_images" / entries[second]["image_path"]).unlink()
    path.write_text(json.dumps(entries))
    data = load(pie_bench)
    assert len(data) == 9
    assert any(first in str(problem) for problem in data.problems)
    assert any(second in str(problem) for problem in data.problems)


def test_tedbench_has_no_masks_unless_some_are_given(tmp_path: Path) -> None:
    root = tmp_path / "tedbench"
    save(root / "originals" / "dog.jpeg")
    save(root / "originals" / "cat.jpeg")
    records = [
        {"img_name": "dog.jpeg", "target_text": "A photo of a sitting dog."},
        {"img_name": "cat.jpeg", "target_text": "A photo of a cat."},
    ]
    (root / "input_list.json").write_text(json.dumps(records))
    (root / "masks").mkdir()
    Image.fromarray(square().astype(np.uint8) * 255).save(root / "masks" / "dog.png")
    data = load(root)
    assert data.layout == "tedbench" and len(data) == 2
    assert data.samples[1].region is None
    assert (data.samples[0].read_mask() == square()).all()


TABLES = {
    "edits.csv": "file,caption,region\na.png,a red dog,a.png\n",
    "edits.jsonl": '{"file": "a.png", "caption": "a red dog", "region": "a.png"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_ones_own(tmp_path: Path, name: str) -> None:
    save(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    Image.fromarray(square().astype(np.uint8) * 255).save(tmp_path / "masks" / "a.png")
    (tmp_path / name).write_text(TABLES[name])
    (tmp_path / "dataset.toml").write_text(
        f'table = "{name}"\nimages = "images"\nmasks = "masks"\n\n[columns]\n'
        'image = "file"\nprompt = "caption"\nmask = "region"\n'
    )
    data = load(tmp_path)
    (sample,) = data.samples
    assert data.layout == "table" and sample.target_prompt == "a red dog"
    assert (sample.read_mask() == square()).all()
