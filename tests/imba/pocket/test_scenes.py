"""The renderer: the same scene is the same picture, masks are exact, captions say what is shown."""

from __future__ import annotations

import dataclasses
import hashlib
import random

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from cpam_bench.imba.pocket.scenes import (
    BACKGROUNDS,
    HATS,
    OBJECTS,
    POSES,
    SIZE,
    Item,
    Scene,
    caption,
    render,
    sample_caption,
    sample_scene,
)


def test_the_same_scene_is_the_same_picture() -> None:
    scene = sample_scene(random.Random(3))
    first, second = render(scene), render(dataclasses.replace(scene))
    assert first.image.size == (SIZE, SIZE) and first.image.mode == "RGB"
    assert first.image.tobytes() == second.image.tobytes()
    other = dataclasses.replace(scene, background_seed=scene.background_seed + 1)
    assert render(other).image.tobytes() != first.image.tobytes()


def test_sampled_scenes_stay_in_the_picture_and_fill_the_world() -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng) for _ in range(400)]
    items = [item for scene in scenes for item in scene.items]
    assert {item.name for item in items} == set(OBJECTS)
    assert {item.pose for item in items} == set(POSES)
    assert {item.hat for item in items} == {None, *HATS}
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    assert {len(scene.items) for scene in scenes} == {1, 2}
    for scene in scenes[:60]:
        masks = render(scene).masks
        assert len(masks) == len(scene.items)
        for item, mask in zip(scene.items, masks, strict=True):
            assert mask.dtype == bool and mask.shape == (SIZE, SIZE)
            assert mask.sum() > 0.2 * item.size**2
            border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
            assert border.sum() <= 12, scene
        assert not np.logical_and.reduce(masks).any() or len(masks) == 1


@pytest.mark.parametrize("name", list(OBJECTS))
def test_the_mask_is_where_the_object_changed_the_background(name: str) -> None:
    scene = Scene("desert", 5, (Item(name, size=70),))
    bare = np.asarray(render(Scene("desert", 5)).image, int)
    shown = render(scene)
    changed = np.abs(np.asarray(shown.image, int) - bare).max(-1) > 8
    (mask,) = shown.masks
    # Nothing in the mask but the object: what it covers differs from the bare background almost everywhere.
    assert changed[mask].mean() > 0.97
    # Nothing of the object outside but its smooth rim, two pixels wide; the shadow lies low.
    rows = np.flatnonzero((changed & ~binary_dilation(mask, iterations=2)).any(1))
    assert rows.size and rows.min() > 0.7 * SIZE


def test_an_object_behind_another_loses_the_covered_pixels() -> None:
    front, back = Item("car", 0.5, 0.92, 70), Item("bus", 0.45, 0.85, 70)
    masks = render(Scene("room", 1, (front, back))).masks
    alone = render(Scene("room", 1, (back,))).masks[0]
    assert not (masks[0] & masks[1]).any()
    assert 0 < masks[1].sum() < alone.sum()


@pytest.mark.parametrize("name", list(OBJECTS))
@pytest.mark.parametrize("hat", HATS)
def test_a_hat_sits_on_top_and_changes_nothing_below(name: str, hat: str) -> None:
    bare = Item(name, 0.5, 0.92, 70)
    hatted = dataclasses.replace(bare, hat=hat)
    before, after = (render(Scene("snow", 2, (item,))) for item in (bare, hatted))
    rows = np.flatnonzero((np.asarray(before.image) != np.asarray(after.image)).any(-1).any(1))
    top = np.flatnonzero(before.masks[0].any(1)).min()
    assert rows.min() < top + 12 and rows.max() < top + 36
    assert after.masks[0].sum() > before.masks[0].sum()


def test_captions() -> None:
    dog = Item("dog", 0.7, size=60, hat="crown")
    scene = Scene("beach", 0, (dog, Item("orange", 0.2, size=40, pose="upside down")))
    assert caption(scene) == "a photo of an orange upside down and a dog wearing a crown on a beach"
    assert caption(scene, background=False, prefix="") == "an orange upside down and a dog wearing a crown"
    assert (
        caption(Scene("night", 0, (Item("apple", size=80, pose="jumping"),)))
        == "a photo of a big jumping apple at night"
    )
    single = Scene("room", 0, (Item("elephant", size=44),))
    assert caption(single) == "a photo of a small elephant in a room"
    assert caption(single, sizes=False) == "a photo of an elephant in a room"


def test_sampled_captions_always_name_every_object() -> None:
    rng = random.Random(4)
    seen = set()
    for _ in range(200):
        scene = sample_scene(rng)
        text = sample_caption(scene, rng)
        assert all(item.name in text for item in scene.items)
        seen.add((text.startswith("a photo of "), text.endswith(BACKGROUNDS[scene.background])))
    assert len(seen) == 4


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown object 'whale'; known: dog"):
        Item("whale")
    with pytest.raises(ValueError, match="cannot wear a hat"):
        Item("dog", pose="upside down", hat="crown")
    with pytest.raises(ValueError, match="unknown background 'moon'"):
        render(Scene("moon"))  # type: ignore[arg-type]


def test_sampled_scenes_never_change() -> None:
    """The trained weights know these pixels, and held-out scenes are named by their seeds alone."""
    rng = random.Random(1234)
    scenes = [sample_scene(rng) for _ in range(20)]
    assert hashlib.sha256(repr(scenes).encode()).hexdigest()[:16] == "627c61ae539a3f94"
    means = [float(np.asarray(render(scene).image, np.float64).mean()) for scene in scenes]
    # Means, to a hundredth of a level, rather than bytes: another Pillow may round an edge otherwise.
    np.testing.assert_allclose(np.mean(means), 160.828, atol=0.01)
