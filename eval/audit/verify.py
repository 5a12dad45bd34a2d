"""Whether a run is what it says: files against their records, its scores, and some of its edits made again."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.eval.methods import registry
from cpam_bench.eval.metrics.clip import load_clip
from cpam_bench.eval.metrics.metric import METRICS, Models
from cpam_bench.eval.run.execute import choose_device, quiet
from cpam_bench.eval.run.worker import Made, Unit, Worker, edit_seed, processor, versions
from cpam_bench.eval.scoring import score as scoring
from cpam_bench.eval.store.store import Edit, Store, Task, open_picture
from cpam_bench.imba.common.labels import parameters
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.sample import Sample

TOLERANCE = 1e-3
"""How far a score that is measured again may be off, relative to its size or 1: other batches and processors round
differently, and another picture is off by far more."""


@dataclass(frozen=True)
class Verdict:
    """What verifying has found.

    Attributes:
        wrong: a line for everything that is not what the records say.
        unchecked: a line for what could not be checked here.
        files, scores: how many were found right.
    """

    wrong: list[str]
    unchecked: list[str]
    files: int
    scores: int


def verify(folder: str | Path, clip: str | None = None, device: str | None = None, seed: int = 0) -> Verdict:
    """Hash every picture of a run against its record, its records against ``run.json``, and score a sample again.

    Nothing outside the folder is needed but the scorer.

    Args:
        folder: of the run, wherever it is now.
        clip: where the scorer is, if not where it was; its weights must be the same.
        device: to score on.
        seed: which sample is scored again.

    Raises:
        UserError: there is no run in the folder.
    """
    store = Store.open(folder)
    wrong: list[str] = []
    known: set[Path] = set()
    tasks = dict(_tasks(store, wrong, known))
    edits = list(_edits(store, wrong, known))
    wrong += _foreign(store, known)
    unchecked: list[str] = []
    scores = 0
    if (store.folder / "scores.json").is_file():
        try:
            scores = _scores(store, tasks, edits, wrong, unchecked, clip, choose_device(device), seed)
        except UserError as error:
            wrong.append(str(error))
    else:
        unchecked.append("the run has not been scored")
    return Verdict(wrong, unchecked, len(known), scores)


def _tasks(store: Store, wrong: list[str], known: set[Path]) -> Iterator[tuple[str, Task]]:
    for sample in store.run.samples:
        paths = (store.source_path(sample), store.mask_path(sample), store.truth_path(sample))
        known |= {path for path in (*paths, paths[0].with_suffix(".json")) if path.is_file()}
        try:
            task = store.read_task(sample)
        except Damaged as error:
            wrong.append(str(error))
            continue
        if task is None:
            continue
        if task.id != sample:
            wrong.append(f"{paths[0].with_suffix('.json')} is the record of {task.id}")
        yield sample, task


def _edits(store: Store, wrong: list[str], known: set[Path]) -> Iterator[Edit]:
    for method, described in store.run.methods.items():
        for sample in store.run.samples:
            path = store.edit_path(method, sample)
            record = path.with_suffix(".json")
            known |= {one for one in (path, record) if one.is_file()}
            try:
                edit = store.read_edit(method, sample)
            except Damaged as error:
                wrong.append(str(error))
                continue
            if edit is None:
                if path.is_file():
                    wrong.append(f"{path} has no record")
                continue
            # A record may say more, as of the files that an editor has read.
            if not described["parameters"].items() <= edit.params.items():
                wrong.append(f"{record}: its parameters are not those of {method} in run.json")
            if edit.seed != edit_seed(store.run.seed, method, sample):
                wrong.append(f"{record}: its seed {edit.seed} does not follow from the run's, {store.run.seed}")
            if edit.status == "ok":
                yield edit
            elif path.is_file():
                wrong.append(f"{path} is a picture of an edit that failed")


def _foreign(store: Store, known: set[Path]) -> Iterator[str]:
    """What lies among the run's files and is none of them."""
    for part in ("sources", "masks", "truths", "edits"):
        for path in sorted((store.folder / part).rglob("*")):
            if path.is_file() and path not in known:
                yield f"{path} belongs to no sample and method of the run"


def _scores(
    store: Store,
    tasks: dict[str, Task],
    edits: list[Edit],
    wrong: list[str],
    unchecked: list[str],
    clip: str | None,
    device: str,
    seed: int,
) -> int:
    """Check ``scores.csv`` against the edits that are there, and measure those of one sample again."""
    protocol = scoring.read_protocol(store.folder)
    table = scoring.read_scores(store.folder)
    edits = [edit for edit in edits if edit.sample in tasks]
    if protocol.get("inputs") != scoring.digest(tasks, edits):
        wrong.append(f"{store.folder / 'scores.csv'} was measured of other pictures than are there; score again")
        return 0
    names = list(protocol["metrics"])
    expected = {(edit.method, edit.sample, name) for edit in edits for name in names}
    rows = list(table[["method", "sample", "metric"]].itertuples(index=False, name=None))
    if set(rows) != expected or len(rows) != len(expected):
        wrong.append(f"{store.folder / 'scores.csv'} does not hold one score for each metric of each edit")
        return 0
    if not edits:
        return 0
    chosen = random.Random(seed).choice(sorted({edit.sample for edit in edits}))
    edits = [edit for edit in edits if edit.sample == chosen]
    models = Models(None, device)
    if scored := [name for name in names if METRICS[name].uses == "clip"]:
        try:
            models = Models(load_clip(clip or protocol["metrics"][scored[0]]["scorer"], device), device)
        except UserError as error:
            unchecked.append(f"{', '.join(scored)}: {str(error).splitlines()[0]}; give the scorer with --clip")
            names = [name for name in names if name not in scored]
    for name in list(names):
        stored, now = protocol["metrics"][name].get("weights_sha256"), models.describe(METRICS[name])
        if stored != now.get("weights_sha256"):
            unchecked.append(f"{name}: it was measured with other weights than those at hand")
            names.remove(name)
    measured = scoring.measure_edits(store, tasks, edits, names, models)
    values = {row[:3]: row[3] for row in table.itertuples(index=False, name=None)}
    right = 0
    for name in names:
        for edit, value in zip(edits, measured[name], strict=True):
            before = values[edit.method, edit.sample, name]
            if np.isclose(value, before, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                right += 1
            else:
                wrong.append(
                    f"{store.folder / 'scores.csv'}: {name} of {edit.method} on {chosen} is {before:g}; measured again,"
                    f" it is {value:g}"
                )
    return right


# edits made again -----------------------------------------------------------------------------------------------------


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
    edits = [edit for edit in store.edits()[0] if edit.status == "ok" and not registry.is_imported(edit.method)]
    if not edits:
        raise UserError(f"{folder} has no edit that could be made again")
    chosen = random.Random(seed).sample(edits, min(count, len(edits)))
    model = Backbone.load(backbone or run.backbone["name"], choose_device(device or run.device), run.dtype)
    if dict(model.fingerprint) != run.backbone["weights"]:
        raise UserError(f"the backbone {model.name!r} has other weights than the run's; give its place with --backbone")
    threads = torch.get_num_threads()
    if run.threads:
        torch.set_num_threads(run.threads)
    try:
        repeats = []
        for edit in chosen:
            repeats.append(_repeat(store, edit, model))
            say(str(repeats[-1]))
        return repeats
    finally:
        torch.set_num_threads(threads)


def _repeat(store: Store, edit: Edit, backbone: Any) -> Repeat:
    run = store.run
    try:
        label, editor = registry.make(edit.method)
        if not parameters(editor).items() <= edit.params.items():
            raise UserError(f"{label} has other parameters now: {parameters(editor)}, not {edit.params}")
        start = run.samples.index(edit.sample) // run.batch * run.batch
        samples = tuple(stored_sample(store, id) for id in run.samples[start : start + run.batch])
    except (UserError, Damaged) as error:
        return Repeat(edit.method, edit.sample, str(error), float("nan"), 0, "")
    worker = Worker({edit.method: editor}, backbone, run.steps, run.seed)
    unit = Unit(samples, {edit.method: (edit.sample,)})
    (made,) = (message for message in worker.work(unit) if isinstance(message, Made))
    if made.picture is None:
        return Repeat(edit.method, edit.sample, made.edit.error, float("nan"), 0, "")
    before = np.asarray(open_picture(store.edit_path(edit.method, edit.sample))).astype(int)
    now = np.asarray(Image.open(io.BytesIO(made.picture))).astype(int)
    difference = np.abs(now - before)
    device = str(backbone.device)
    changes = [(edit.processor, processor(device))] if edit.processor else []
    changes += [(f"{name} {edit.versions.get(name)}", f"{name} {version}") for name, version in versions().items()]
    elsewhere = ", ".join(f"{old} -> {new}" for old, new in changes if old != new)
    return Repeat(edit.method, edit.sample, None, float((difference > 0).mean()), int(difference.max()), elsewhere)


def stored_sample(store: Store, id: str) -> Sample:
    """A sample out of a run's own folder: the picture and region as the editors saw them, the prompts and flags.

    Raises:
        Damaged: its files are not what was written.
        UserError: the run does not have it.
    """
    task = store.read_task(id)
    if task is None:
        raise UserError(f"{store.folder} does not hold sample {id}")
    image = open_picture(store.source_path(id)).convert("RGB")
    region = np.asarray(open_picture(store.mask_path(id))) > 127 if task.mask_sha256 else None
    return Sample(
        id=id,
        image=image,
        region=region,
        target_prompt=task.target_prompt,
        object_prompt=task.object_prompt,
        altered=task.altered,
        retain_object=task.retain_object,
        kind=task.kind,
        source_prompt=task.source_prompt,
        several_objects=task.several_objects,
    )
