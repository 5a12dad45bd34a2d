"""A run's samples as its editors saw them, so that a run can be gone on with where its data set is not at hand."""

from __future__ import annotations

from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


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
    )
