"""The embedded benchmark: the committed files are what the specifications render to, and every task makes sense."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from cpam_bench.imba.dataset import POCKET, load, validate
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, render
from cpam_bench.imba.pocket.tasks import (
    TASK_KINDS,
    TASKS,
    Task,
    build,
    object_mask,
    random_tasks,
    source_scene,
    truth_scene,
)
from cpam_bench.imba.pocket.world import OBJECTS

BUILT_WITH = ("13.0.0", "2.3.3")
"""Pillow and its zlib-ng when the files were committed."""


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pocket")
    build(out)
    return out


def test_the_committed_files_are_what_the_builder_makes(built: Path) -> None:
    """Byte for byte with the same Pillow and zlib.

    Another zlib packs the same pixels into other bytes, and another Pillow may round the edge of a drawn shape
    otherwise, so with those the decoded pixels are compared, and a few may differ.
    """
    committed, made = tree(POCKET), tree(built)
    assert set(committed) == set(made)
    assert committed["data.json"] == made["data.json"]
    if (features.version("pil"), features.version("zlib_ng")) == BUILT_WITH:
        assert committed == made
    for name in committed:
        if name.endswith(".png"):
            left, right = (np.asarray(Image.open(root / name), np.float32) for root in (POCKET, built))
            assert left.shape == right.shape and np.abs(left - right).mean() < 1, name


def test_building_twice_gives_the_same_bytes(built: Path, tmp_path: Path) -> None:
    build(tmp_path)
    assert tree(tmp_path) == tree(built)


def test_it_is_complete_and_covers_what_it_should() -> None:
    pocket = load("pocket")
    assert len(pocket) == 24 and validate(pocket) == []
    groups = Counter("several" if s.kind == "replace" and s.several_objects else s.kind for s in pocket)
    assert groups == {"pose": 8, "replace": 5, "add": 4, "several": 3, "background": 2, "remove": 2}
    scenes = [task.source for task in TASKS]
    assert {item.name for scene in scenes for item in scene.items} == set(OBJECTS)
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    seeds = [scene.background_seed for scene in scenes]
    assert len(set(seeds)) == 24 and min(seeds) >= 20_000_000
    # Flags as the release sets them: of poses alone the object is retained.
    assert all(s.retain_object == (s.kind == "pose") for s in pocket)
    assert all((s.altered == "background") == (s.kind == "background") for s in pocket)


def test_prompts_name_what_the_truth_shows() -> None:
    pocket = load("pocket")
    assert [s.id for s in pocket] == [task.id for task in TASKS]
    for sample in pocket:
        truth = truth_scene(sample.id)
        assert sample.source_prompt != sample.target_prompt
        assert sample.target_prompt.endswith(BACKGROUNDS[truth.background]) == (sample.kind == "background")
        assert all(item.name in sample.target_prompt for item in truth.items)
        assert (sample.object_prompt in sample.target_prompt) == (sample.kind != "remove")
        assert (sample.object_prompt in (sample.source_prompt or "")) == (sample.kind == "remove")
    by_id = {s.id: s for s in pocket}
    assert by_id["replace-apple-to-orange"].target_prompt == "a photo of an orange"
    assert by_id["add-dog-cap"].target_prompt == "a photo of a dog wearing a cap"
    assert by_id["remove-cake"].target_prompt == "a photo of a dog"
    assert by_id["background-cat-beach"].source_prompt == "a photo of a cat at night"
    assert by_id["background-cat-beach"].object_prompt == "a beach"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_the_mask_fits_the_edit(task: Task) -> None:
    before, after = render(source_scene(task.id)), render(truth_scene(task.id))
    own = before.masks[task.edited]
    mask = object_mask(task)
    changed = np.abs(np.asarray(before.image, int) - np.asarray(after.image, int)).max(-1)
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert not border.any(), "the object leaves the picture"
    assert own.sum() > 700, "the object is too small to be edited at 16 x 16 latents"
    if task.kind in ("replace", "background"):
        np.testing.assert_array_equal(mask, own)
    if task.kind == "pose":
        assert mask[own].all() and mask[after.masks[0]].all() and mask.sum() < 0.45 * mask.size
    if task.kind == "add":
        assert not mask[own].all() and 400 < mask.sum() < 2500
    if task.kind in ("pose", "add"):
        assert changed[~mask].max() <= 12, "the truth changes what the metric takes for background"
    if task.kind == "remove":
        other = 1 - task.edited
        assert mask[own].all() and not mask[before.masks[other]].any()
        # Outside, the truth lacks the object's shadow and nothing else.
        assert changed[~mask & ~before.masks[other]].max() < 90
        assert changed[before.masks[other]].max() <= 12
    if task.kind == "background":
        np.testing.assert_array_equal(own, after.masks[0])


def test_an_unknown_id_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        truth_scene("nothing")


def test_random_tasks_are_complete_samples_like_the_benchmarks(tmp_path: Path) -> None:
    tasks = random_tasks(12, seed=3)
    build(tmp_path / "drawn", tasks)
    data = load(tmp_path / "drawn")
    assert data.is_pocket and data.name == "drawn" and validate(data) == []
    groups = Counter("several" if s.kind == "replace" and s.several_objects else s.kind for s in data)
    assert groups == dict.fromkeys(TASK_KINDS, 2)
    assert all(s.truth is not None and s.source_prompt != s.target_prompt for s in data)


def test_without_scenery_only_changed_backgrounds_are_named(tmp_path: Path) -> None:
    build(tmp_path, random_tasks(12, seed=3), scenery=False)
    for sample in load(tmp_path):
        named = any(sample.target_prompt.endswith(words) for words in BACKGROUNDS.values())
        assert named == (sample.kind == "background")
        assert sample.kind == "remove" or sample.object_prompt in sample.target_prompt


def test_random_tasks_follow_from_seed_and_number_alone() -> None:
    tasks = random_tasks(12, seed=3)
    assert random_tasks(7, seed=3) == tasks[:7] and random_tasks(12, seed=4) != tasks
    many = random_tasks(300)
    assert len({task.id for task in many}) == len({task.source for task in many}) == 300
    assert min(task.source.background_seed for task in many) >= 2**31  # none was trained on
    assert {task.kind for task in random_tasks(5, kinds=["remove"])} == {"remove"}
    for kinds in (["remove", "nothing"], []):
        with pytest.raises(UserError, match="unknown kinds of task"):
            random_tasks(1, kinds=kinds)
