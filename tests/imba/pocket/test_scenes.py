"""The renderer: the same scene is the same picture, masks are exact."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from cpam_bench.imba.pocket.scenes import ANCHORS, HATS, SIZE, Item, Scene, render
from cpam_bench.imba.pocket.world import sample_scene


def test_the_same_scene_is_the_same_picture() -> None:
    scene = sample_scene(random.Random(3))
    first, second = render(scene), render(dataclasses.replace(scene))
    assert first.image.size == (SIZE, SIZE) and first.image.mode == "RGB"
    assert first.image.tobytes() == second.image.tobytes()
    other = dataclasses.replace(scene, background_seed=scene.background_seed + 1)
    assert render(other).image.tobytes() != first.image.tobytes()


@pytest.mark.parametrize("name", list(ANCHORS))
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


@pytest.mark.parametrize("name", list(ANCHORS))
@pytest.mark.parametrize("hat", HATS)
def test_a_hat_sits_on_top_and_changes_nothing_below(name: str, hat: str) -> None:
    bare = Item(name, 0.5, 0.92, 70)
    hatted = dataclasses.replace(bare, hat=hat)
    before, after = (render(Scene("snow", 2, (item,))) for item in (bare, hatted))
    rows = np.flatnonzero((np.asarray(before.image) != np.asarray(after.image)).any(-1).any(1))
    top = np.flatnonzero(before.masks[0].any(1)).min()
    assert rows.min() < top + 12 and rows.max() < top + 36
    assert after.masks[0].sum() > before.masks[0].sum()


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown object 'whale'; known: dog"):
        Item("whale")
    with pytest.raises(ValueError, match="cannot wear a hat"):
        Item("dog", pose="upside down", hat="crown")
    with pytest.raises(ValueError, match="unknown background 'moon'"):
        render(Scene("moon"))  # type: ignore[arg-type]
