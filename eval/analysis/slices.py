"""Some of a run's samples at a time: by kind of edit, whether the object is retained, how many there are, or a tag."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.store.records import Task
from cpam_bench.imba.errors import UserError

Slice = str
"""``kind``, ``retain``, ``several``, or the name of a tag of the data set."""

_TITLES: dict[Slice, Callable[[Task], str]] = {
    "kind": lambda task: task.kind,
    "retain": lambda task: "object retained" if task.retain_object else "object not retained",
    "several": lambda task: "several objects" if task.several_objects else "one object",
}


def slice_of(task: Task, slice: Slice) -> str:
    """The title of the block that a sample stands in."""
    if slice in _TITLES:
        return _TITLES[slice](task)
    values = [value for name, value in map(_parts, task.tags) if name == slice]
    return ", ".join(value or slice for value in values) or f"no {slice}"


def tags(tasks: Iterable[Task]) -> dict[str, set[str]]:
    """Name -> values of the tags that samples have."""
    found: dict[str, set[str]] = {}
    for task in tasks:
        for name, value in map(_parts, task.tags):
            found.setdefault(name, set()).add(value)
    return found


def _parts(tag: str) -> tuple[str, str]:
    name, _, value = tag.partition("=")
    return name, value


def slices(scored: Scored, slice: Slice | None) -> dict[str, Scored]:
    """Title -> the samples of a block, in the runs' order; all samples under "" for no slice.

    Raises:
        UserError: a sample's task is damaged or missing, so that it belongs nowhere, or no sample has such a tag.
    """
    if slice is None:
        return {"": scored}
    known = [*_TITLES, *tags(scored.task(sample)[1] for sample in scored.samples)]
    if slice not in known:
        raise UserError(f"--slice {slice}: no sample has such a tag; there are {', '.join(known)}")
    blocks: dict[str, list[str]] = {}
    for sample in scored.samples:
        blocks.setdefault(slice_of(scored.task(sample)[1], slice), []).append(sample)
    return {title: scored.only(samples) for title, samples in blocks.items()}
