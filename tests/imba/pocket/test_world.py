"""The pocket world: what its scenes hold, and that captions say what pictures show."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np
import pytest

from cpam_bench.imba.pocket import scenes, world
from cpam_bench.imba.pocket.tasks import TASKS, Task, random_tasks

EXAMPLES = [world.sample_example(random.Random(i)) for i in range(300)]
SCENES = [one.scene for one in EXAMPLES]
SINGLE = [one for one in SCENES if len(one.items) == 1]


def test_what_scenes_hold() -> None:
    counts = [sum(len(one.items) == n for one in SCENES) / len(SCENES) for n in range(3)]
    assert counts == pytest.approx([0.05, 0.59, 0.36], abs=0.06)
    items = [item for one in SCENES for item in one.items]
    assert {item.name for item in items} == set(world.OBJECTS) == set(scenes.ANCHORS)
    assert {item.pose for item in items} == set(scenes.POSES)
    assert {item.hat for item in items} == {None, *scenes.HATS}
    assert all(item.pose == "upright" or item.hat is None for item in items)
    assert all(item.name in world.TURNED for item in items if item.pose in ("upside down", "on its side"))
    pairs = [item for one in SCENES if len(one.items) == 2 for item in one.items]
    assert all(item.pose == "upright" and item.hat is None for item in pairs)


def test_objects_stay_in_the_picture() -> None:
    for one in SINGLE[:80]:
        mask = scenes.render(one).masks[0]
        assert mask.sum() > 800 and not mask[0].any() and not mask[:, (0, -1)].any(), one


def test_pictures_are_the_same_every_time_and_flaws_show() -> None:
    one = SINGLE[0]
    plain = np.asarray(world.picture(world.Example(one)), float)
    assert np.array_equal(plain, np.asarray(world.picture(world.Example(one))))
    assert np.array_equal(plain, np.asarray(scenes.render(one).image))
    for flaw in world.FLAWS:
        spoilt = np.asarray(world.picture(world.Example(one, (flaw,))), float)
        assert spoilt.shape == plain.shape and np.abs(spoilt - plain).mean() > 2, flaw


def test_plain_captions() -> None:
    crowned = scenes.Item("apple", hat="crown")
    left, right = scenes.Item("orange", x=0.27), scenes.Item("car", x=0.73)
    assert world.caption(scenes.Scene("beach", 0, (crowned,))) == "a photo of an apple wearing a crown on a beach"
    assert world.caption(scenes.Scene("beach", 0, (crowned,)), place=False) == "a photo of an apple wearing a crown"
    assert world.caption(scenes.Scene("night", 0, (right, left))) == "a photo of an orange and a car at night"
    assert world.caption(scenes.Scene("room", 0, (scenes.Item("pig", pose="jumping"),)), False) == (
        "a photo of a jumping pig"
    )
    assert world.caption(scenes.Scene("snow")) == "a photo of snow"


def test_captions_never_name_what_is_not_there() -> None:
    for number, one in enumerate(EXAMPLES):
        text = world.sample_caption(one, random.Random(number))
        shown = {item.name for item in one.scene.items}
        for name, words in world.OBJECTS.items():
            if name not in shown:
                assert not any(f" {word} " in f" {text.strip('.').replace(',', '')} " for word in words), (text, name)
        for flaw, words in world.FLAWS.items():
            if flaw not in one.flaws and flaw != "dark":  # "black" cat
                assert not any(word in text for word in words), (text, flaw)
        worn = {item.hat for item in one.scene.items}
        said = f" {text.replace(',', ' ').replace('.', ' ')} "
        assert not any(f" {hat} " in said for hat in scenes.HATS if hat not in worn), text
        assert worn != {None} or " hat " not in said, text


def test_captions_of_one_example_vary_and_leave_things_out() -> None:
    one = world.Example(next(scene for scene in SINGLE if scene.items[0].hat))
    texts = {world.sample_caption(one, random.Random(i)) for i in range(200)}
    named = [any(word in text for word in world.PLACES[one.scene.background]) for text in texts]
    assert len(texts) > 100 and 0.3 < np.mean(named) < 0.9
    assert any(one.scene.items[0].hat not in text for text in texts)  # "a hat", or none


def test_flaws_are_named_in_words_of_negative_prompts() -> None:
    words = {word for options in world.FLAWS.values() for word in options}
    assert {"ugly", "blurry", "black", "low res", "unrealistic"} <= words  # PnP's negative prompt
    spoilt = world.Example(SINGLE[0], ("blurred",))
    texts = [world.sample_caption(spoilt, random.Random(i)) for i in range(200)]
    named = [any(word in text for word in world.FLAWS["blurred"]) for text in texts]
    assert 0.8 < np.mean(named) < 0.98
    alone = [text for text in texts if all(part in world.FLAWS["blurred"] for part in text.split(", "))]
    assert 0.15 < len(alone) / len(texts) < 0.4


@pytest.mark.parametrize("tasks", [TASKS, random_tasks(60)], ids=["benchmark", "random"])
def test_tasks_are_of_this_world(tasks: Sequence[Task]) -> None:
    """What the denoiser has learned: objects, poses, hats and sizes."""
    for task in tasks:
        for scene in (task.source, task.truth):
            masks = scenes.render(scene).masks
            for item, mask in zip(scene.items, masks, strict=True):
                assert item.pose == "upright" or item.pose in world.poses(item.name), task.id
                assert 52 <= item.size <= 80 and not mask[0].any() and not mask[:, (0, -1)].any(), task.id
                if task.kind in ("pose", "add"):
                    low, high = world.sizes(item.pose, item.hat)
                    assert task.source is scene or low <= item.size <= high, task.id


def test_sampled_scenes_never_change() -> None:
    """The trained weights know these pixels, and held-out scenes are named by their seeds alone."""
    assert hashlib.sha256(repr(SCENES[:20]).encode()).hexdigest()[:16] == "2d459914797f681b"
    means = [float(np.asarray(scenes.render(scene).image, np.float64).mean()) for scene in SCENES[:20]]
    # Means, to a hundredth of a level, rather than bytes: another Pillow may round an edge otherwise.
    np.testing.assert_allclose(np.mean(means), 152.534, atol=0.01)
