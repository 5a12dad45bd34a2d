"""Some of a run's samples at a time: by kind of edit, by whether the object is retained, by how many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from cpam_bench.eval.store.store import Store, Task
from cpam_bench.imba.errors import Damaged, UserError

Slice = Literal["kind", "retain", "several"]

_TITLES: dict[Slice, Callable[[Task], str]] = {
    "kind": lambda task: task.kind,
    "retain": lambda task: "object retained" if task.retain_object else "object not retained",
    "several": lambda task: "several objects" if task.several_objects else "one object",
}


def slice_of(task: Task, slice: Slice) -> str:
    """The title of the block that a sample stands in."""
    return _TITLES[slice](task)


def slices(store: Store, slice: Slice | None) -> dict[str, set[str]]:
    """Title -> the samples of a block, in the run's order; all samples under "" for no slice.

    Raises:
        UserError: a sample's task is damaged or missing, so that it belongs nowhere.
    """
    if slice is None:
        return {"": set(store.run.samples)}
    blocks: dict[str, set[str]] = {}
    for sample in store.run.samples:
        blocks.setdefault(slice_of(read_task(store, sample), slice), set()).add(sample)
    return blocks


def read_task(store: Store, sample: str) -> Task:
    """A sample's task, which must be there.

    Raises:
        UserError: it is damaged or missing.
    """
    try:
        task = store.read_task(sample)
    except Damaged as error:
        raise UserError(f"{error}; run the same command again to make it anew") from error
    if task is None:
        path = store.source_path(sample).with_suffix(".json")
        raise UserError(f"{path} is missing; without it sample {sample} has no slice: run the same command again")
    return task
