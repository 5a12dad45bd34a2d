"""Some of a run's samples at a time: by kind of edit, by whether the object is retained, by how many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.store.records import Task

Slice = Literal["kind", "retain", "several"]

_TITLES: dict[Slice, Callable[[Task], str]] = {
    "kind": lambda task: task.kind,
    "retain": lambda task: "object retained" if task.retain_object else "object not retained",
    "several": lambda task: "several objects" if task.several_objects else "one object",
}


def slice_of(task: Task, slice: Slice) -> str:
    """The title of the block that a sample stands in."""
    return _TITLES[slice](task)


def slices(scored: Scored, slice: Slice | None) -> dict[str, Scored]:
    """Title -> the samples of a block, in the runs' order; all samples under "" for no slice.

    Raises:
        UserError: a sample's task is damaged or missing, so that it belongs nowhere.
    """
    if slice is None:
        return {"": scored}
    blocks: dict[str, list[str]] = {}
    for sample in scored.samples:
        blocks.setdefault(slice_of(scored.task(sample)[1], slice), []).append(sample)
    return {title: scored.only(samples) for title, samples in blocks.items()}
