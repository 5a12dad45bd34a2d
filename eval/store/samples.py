"""A run's samples as its editors saw them, so that a run can be gone on with where its data set is not at hand."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from cpam_bench.eval.store.records import Task
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Prepared:
    """A sample with its pictures in memory, and as editors and metrics see it: image, mask and truth at one size."""

    sample: Sample
    image: Image.Image
    mask: np.ndarray | None
    truth: Image.Image | None


def prepare(sample: Sample, backbone: Any) -> Prepared:
    """Read a sample's pictures and make them fit a backbone.

    Raises:
        UserError: one of its files is missing, damaged or cut short.
    """
    loaded = sample.loaded()
    mask = None if loaded.region is None else backbone.fit_mask(loaded.read_mask())
    truth = loaded.read_truth()
    return Prepared(loaded, backbone.fit(loaded.read_image()), mask, truth and backbone.fit(truth))


def write_task(store: Store, prepared: Prepared) -> None:
    """Store a sample as editors and metrics see it."""
    shared = {field.name for field in fields(Task)} & {field.name for field in fields(Sample)} - {"more"}
    said = {name: getattr(prepared.sample, name) for name in shared}
    lists = {"tags": list(prepared.sample.tags), "edited_words": prepared.sample.edited_words}
    task = Task(**said | {name: value and list(value) for name, value in lists.items()})
    store.write_task(task, prepared.image, prepared.mask, prepared.truth)


def stored_sample(store: Store, id: str) -> Sample:
    """A sample out of a run's own folder: the picture and region as the editors saw them, the prompts and flags.

    Raises:
        Damaged: its files are not what was written.
        UserError: the run does not have it.
    """
    task = store.read_task(id)
    if task is None:
        raise UserError(f"{store.folder} does not hold sample {id}")
    image = store.read_source(task).convert("RGB")
    return Sample(
        id=id,
        image=image,
        region=store.read_mask(task),
        target_prompt=task.target_prompt,
        object_prompt=task.object_prompt,
        altered=task.altered,
        retain_object=task.retain_object,
        kind=task.kind,
        source_prompt=task.source_prompt,
        several_objects=task.several_objects,
        tags=tuple(task.tags),
        edited_words=(words[0], words[1]) if (words := task.edited_words) and len(words) == 2 else None,
    )
