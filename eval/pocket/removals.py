"""Removal on scenes beyond the benchmark's four: random pairs of objects, of which one is to go."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cpam.backbone import Backbone
from cpam.editing import Editor
from cpam.source import Source
from eval.metrics import Batch, Models, measure
from imba.pocket import object_mask, removal
from imba.sample import Sample
from imba.scenes import caption, render, sample_scene


@dataclass(frozen=True)
class Removal:
    """One removal: the pictures, and what was measured (see ``eval.metrics.METRICS``)."""

    id: str
    source: Image.Image
    truth: Image.Image
    edit: Image.Image
    lpips_truth: float
    lpips_truth_gain: float
    lpips_background: float


def remove(backbone: Backbone, editor: Editor, count: int, steps: int = 50, seed: int = 0) -> Iterator[Removal]:
    """Draw scenes of two objects, remove one of each, and measure.

    Args:
        backbone: of 128 px.
        editor: any.
        count: of scenes.
        steps: of DDIM.
        seed: of the scenes; each edit's is its number.
    """
    rng = random.Random(f"removals/{seed}")
    models = Models(None)
    names = ("lpips_truth", "lpips_truth_gain", "lpips_background")
    for number in range(count):
        scene = sample_scene(rng)
        while len(scene.items) != 2:
            scene = sample_scene(rng)
        task = removal(scene, rng.randrange(2))
        before, after, mask = render(task.source).image, render(task.truth).image, object_mask(task)
        sample = Sample(f"{number}-{task.id}", before, mask, caption(task.truth, sizes=False), kind="remove")
        source = Source(sample, backbone, steps)
        edit = editor.edit(sample, source, number)
        batch = Batch(
            source=np.array(source.image)[None],
            edit=np.array(edit)[None],
            mask=mask[None],
            masked=np.array([True]),
            prompts=[sample.target_prompt],
            truth=np.array(after)[None],
            has_truth=np.array([True]),
        )
        measured = measure(batch, names, models)
        yield Removal(sample.id, before, after, edit, *(measured[name][0] for name in names))
