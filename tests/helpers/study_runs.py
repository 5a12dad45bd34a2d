"""Small runs for the tests of the user study, made of rendered scenes and written by the runner's own store."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageFilter

from cpam_bench.eval.store.records import BackboneFacts, DataSet, Edit, Method, Run, Task
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.pocket.scenes import render
from cpam_bench.imba.pocket.world import OBJECTS, caption, sample_scene


def make_run(folder: Path, methods: list[str], samples: int, failed: tuple[tuple[str, str], ...] = ()) -> Path:
    """A run of `samples` scenes in which the first object is replaced; each method blurs and tints it differently."""
    rng = random.Random(0)
    ids = [f"scene-{i:02d}" for i in range(samples)]
    facts = {m: Method(m, m.upper(), m != "identity", {}) for m in methods}
    run = Run({}, DataSet("scenes"), BackboneFacts("none", {}, 128), 1, 0, "float32", "cpu", {}, facts, ids)
    store = Store.create_or_resume(folder, run)
    scenes = (scene for scene in iter(lambda: sample_scene(rng), None) if scene.items)
    for sample, scene in zip(ids, scenes, strict=False):
        first, *rest = scene.items
        other = rng.choice([name for name in OBJECTS if name != first.name])
        wanted = replace(scene, items=(replace(first, name=other, hat=None), *rest))
        source, target = render(scene), render(wanted)
        store.write_task(Task(sample, caption(wanted)), source.image, source.masks[0])
        for number, method in enumerate(methods):
            if (method, sample) in failed:
                store.write_edit(Edit(method, sample, "failed", {}, 0, error="it broke"))
                continue
            colour = Image.new("RGB", (128, 128), ((number * 67) % 256, (number * 131) % 256, 128))
            blurred = target.image.filter(ImageFilter.GaussianBlur(number % 3))
            store.write_edit(Edit(method, sample, "ok", {}, 0), Image.blend(blurred, colour, 0.02 * number))
    return folder
