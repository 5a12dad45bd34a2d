"""Editing on several processes: each takes whole samples, so that the methods of a sample still share its inversion."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from eval.runner import Failure, pending_edits, progress_bar, run, warn
from eval.store import Store
from imba.errors import UserError
from imba.sample import Sample

_work: dict[str, Any] = {}  # what a worker process loads once


def run_parallel(
    store: Store,
    samples: Sequence[Sample],
    labels: Sequence[str],
    backbone: Any,
    workers: int,
    progress: bool | None = None,
) -> list[Failure]:
    """As :func:`eval.runner.run`, on worker processes of one thread each.

    Small networks leave most of a machine idle when one edit is spread over all cores; one edit a core fills it.
    Edits are seeded one by one, so that it does not matter which process makes them.

    Args:
        store: held under :func:`eval.store.locked` by the caller.
        samples: what to edit.
        labels: methods, as the registry makes them; each worker makes its own.
        backbone: the loaded one; workers load the same by its name.
        workers: number of processes.
        progress: show a bar on stderr; None shows it on a terminal only.

    Raises:
        UserError: a worker died.
    """
    warn(store, samples, backbone)
    pending = pending_edits(store, samples, labels)
    todo = [sample for sample in samples if pending[sample.id] or not store.has_task(sample.id)]
    failures: list[Failure] = []
    setup = (
        store.folder,
        list(labels),
        backbone.name,
        str(backbone.device),
        str(backbone.dtype).removeprefix("torch."),
    )
    with (
        ProcessPoolExecutor(
            min(workers, max(1, len(todo))), multiprocessing.get_context("spawn"), _start, setup
        ) as pool,
        progress_bar(pending, progress) as bar,
    ):
        futures = {pool.submit(_edit, sample): sample for sample in todo}
        try:
            for future in as_completed(futures):
                failures += future.result()
                bar.update(len(pending[futures[future].id]))
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for want of memory; what is finished is safe,"
                " and the same command with fewer --workers continues"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    order = {sample.id: i for i, sample in enumerate(samples)}
    return sorted(failures, key=lambda failure: order[failure.sample])


def _start(folder: Path, labels: list[str], backbone: str, device: str, dtype: str) -> None:
    import torch

    from cpam.backbone import Backbone
    from eval import registry

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _work["store"] = Store.open(folder)
    _work["editors"] = dict(registry.make(label) for label in labels)
    _work["backbone"] = Backbone.load(backbone, device, dtype)


def _leave_with_parent() -> None:
    """A worker whose parent was killed must not go on writing into a folder that another run may hold."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _edit(sample: Sample) -> list[Failure]:
    return run(_work["store"], [sample], _work["editors"], _work["backbone"], progress=False, warnings=False)
