"""Small runs for the tests of the user study, made of rendered scenes and written by the runner's own store."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

from eval.store import Edit, Run, Store, Task
from imba.scenes import render, sample_scene


def make_run(folder: Path, methods: list[str], samples: int, failed: tuple[tuple[str, str], ...] = ()) -> Path:
    """A run of `samples` scenes; each method tints its edits in its own colour."""
    rng = random.Random(0)
    ids = [f"scene-{i:02d}" for i in range(samples)]
    facts = {m: {"method": m, "title": m.upper(), "edits": m != "identity", "parameters": {}} for m in methods}
    run = Run({}, {"name": "scenes"}, {"name": "none"}, 1, 0, "float32", "cpu", {}, facts, ids)
    store = Store.create_or_resume(folder, run)
    for index, sample in enumerate(ids):
        scene = render(sample_scene(rng))
        mask = scene.masks[0] if scene.masks else np.zeros((128, 128), bool)
        store.write_task(Task(sample, f"a photo of what is wanted, <b>number</b> {index}"), scene.image, mask)
        for number, method in enumerate(methods):
            if (method, sample) in failed:
                store.write_edit(Edit(method, sample, "failed", {}, 0, error="it broke"))
                continue
            colour = Image.new("RGB", (128, 128), ((number * 67) % 256, (number * 131) % 256, 128))
            store.write_edit(Edit(method, sample, "ok", {}, 0), Image.blend(scene.image, colour, 0.3))
    return folder
