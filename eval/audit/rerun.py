"""Some edits of a run made again, and compared pixel by pixel with what is stored."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.eval.methods import from_file, registry
from cpam_bench.eval.run.costs import processor
from cpam_bench.eval.run.describe import versions
from cpam_bench.eval.run.messages import Made, Unit
from cpam_bench.eval.run.settings import choose_device, quiet
from cpam_bench.eval.run.worker import Worker
from cpam_bench.eval.store.records import Edit
from cpam_bench.eval.store.samples import stored_sample
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.labels import parameters
from cpam_bench.imba.errors import Damaged, UserError


@dataclass(frozen=True)
class Repeat:
    """An edit that was made again.

    Attributes:
        method, sample: which.
        error: why it could not be made, or None.
        differing: share of the values (pixels x channels) that differ.
        largest: by how much at most, of 255.
        elsewhere: in what the circumstances differ from those of the first time; empty if they are the same.
    """

    method: str
    sample: str
    error: str | None
    differing: float
    largest: int
    elsewhere: str

    def __str__(self) -> str:
        where = f"{self.method} on {self.sample}"
        if self.error:
            return f"{where}: cannot be made again: {self.error}"
        if not self.largest:
            return f"{where}: the same to the last bit"
        less = f" ({self.elsewhere})" if self.elsewhere else ""
        return f"{where}: {100 * self.differing:.2g} % of the values differ, by at most {self.largest} of 255{less}"


def rerun(
    folder: str | Path,
    count: int = 5,
    seed: int = 0,
    backbone: str | None = None,
    device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Repeat]:
    """Make some edits of a run again, drawn at random, and compare them pixel by pixel with what is stored.

    The samples come out of the run's own folder, so that the data set is not needed.  Ready-made pictures were not made
    by the run and are not drawn.

    Args:
        folder: of the run, wherever it is now.
        count: how many edits; fewer if there are not so many.
        seed: of the draw.
        backbone: name or place, if it is not where the run had it; its weights must be the same.
        device: to edit on; by default the kind that the run had.
        say: is told of each edit as it is made.

    Raises:
        UserError: there is no run in the folder, it made no edit, or its backbone is not at hand.
    """
    quiet()
    store = Store.open(folder)
    run = store.run
    ready_made = {label for label, method in run.methods.items() if method.called is not None}
    edits = [edit for edit in store.edits()[0] if edit.status == "ok" and edit.method not in ready_made]
    if not edits:
        raise UserError(f"{folder} has no edit that could be made again")
    chosen = random.Random(seed).sample(edits, min(count, len(edits)))
    model = Backbone.load(backbone or run.backbone.name, choose_device(device or run.device), run.dtype)
    if dict(model.fingerprint) != run.backbone.weights:
        raise UserError(f"the backbone {model.name!r} has other weights than the run's; give its place with --backbone")
    threads = torch.get_num_threads()
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        repeats = []
        for edit in chosen:
            repeats.append(repeat(store, edit, model))
            say(str(repeats[-1]))
        return repeats
    finally:
        torch.set_num_threads(threads)


def repeat(store: Store, edit: Edit, backbone: Any) -> Repeat:
    """One edit made again on a backbone and compared with what is stored; what cannot be made again says why."""
    run = store.run
    try:
        label, editor = registry.make(edit.method)
        if not parameters(editor).items() <= edit.params.items():
            raise UserError(f"{label} has other parameters now: {parameters(editor)}, not {edit.params}")
        file = from_file.of(editor)
        if file and file.sha256 != edit.params.get("method_file_sha256"):
            raise UserError(f"{file.name} is not the file that made it: it has another content")
        start = run.samples.index(edit.sample) // run.batch * run.batch
        editors = dict(registry.make(one) for one in run.lockstep) if edit.method in run.lockstep else {}
        samples = tuple(stored_sample(store, id) for id in run.samples[start : start + run.batch])
    except (UserError, Damaged) as error:
        return Repeat(edit.method, edit.sample, str(error), float("nan"), 0, "")
    worker = Worker({**editors, edit.method: editor}, backbone, run.steps, run.seed, lockstep=run.lockstep)
    unit = Unit(samples, {edit.method: (edit.sample,)})
    (made,) = (message for message in worker.work(unit) if isinstance(message, Made))
    if made.picture is None:
        return Repeat(edit.method, edit.sample, made.edit.error, float("nan"), 0, "")
    before = np.asarray(store.read_picture(edit)).astype(int)
    now = np.asarray(Image.open(io.BytesIO(made.picture))).astype(int)
    difference = np.abs(now - before)
    device = str(backbone.device)
    changes = [(edit.processor, processor(device))] if edit.processor else []
    changes += [(f"{name} {edit.versions.get(name)}", f"{name} {version}") for name, version in versions().items()]
    elsewhere = ", ".join(f"{old} -> {new}" for old, new in changes if old != new)
    return Repeat(edit.method, edit.sample, None, float((difference > 0).mean()), int(difference.max()), elsewhere)
