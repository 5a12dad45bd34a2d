"""From the pictures of a store to ``scores.csv``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cpam_bench.eval.metrics.clip import DEFAULT, ClipScorer, load_clip
from cpam_bench.eval.metrics.metric import METRICS, Batch, Metric, Models, measure
from cpam_bench.eval.scoring.scored import COLUMNS, read_protocol, read_scores
from cpam_bench.eval.store.derived import note
from cpam_bench.eval.store.records import Edit, Measured, Protocol, Task, parse, plain
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_json, write_rows
from cpam_bench.imba.errors import Damaged, UserError

BATCH = 16
_PACKAGES = ("open_clip_torch", "lpips", "torchmetrics", "torch", "torchvision", "pillow")


@dataclass(frozen=True)
class Scores:
    """What scoring found.

    Attributes:
        table: long, columns method, sample, metric, value.
        damaged: a line for each file of the store that could not be used.
        truncated: a line for each prompt that is longer than the scorer reads.
    """

    table: pd.DataFrame
    damaged: list[str]
    truncated: list[str]


def default_clip(pocket: bool) -> str:
    """The scorer that fits the data: the pocket CLIP knows pocket scenes and nothing else."""
    return "pocket" if pocket else DEFAULT


def choose(names: Sequence[str] | None) -> list[str]:
    """Metric names in their own order, all of them for None.

    Raises:
        UserError: there is no such metric.
    """
    unknown = [name for name in names or () if name not in METRICS]
    if unknown:
        raise UserError(f"unknown metric {unknown[0]!r}; there are: {', '.join(METRICS)}")
    return [name for name in METRICS if names is None or name in names]


def score(
    store: Store,
    names: Sequence[str] | None = None,
    clip: ClipScorer | str | None = None,
    device: str = "cpu",
) -> Scores:
    """Measure every edit that the store holds and write ``scores.csv`` and ``scores.json``.

    Values are kept where the pictures and the metric's protocol are those that they were measured with, and measured
    again otherwise, always over the whole store in one order: batches, and with them the last digit, do not depend on
    how often the run was interrupted.

    Args:
        store: held under :func:`cpam_bench.eval.store.lock.locked`.
        names: metrics to measure; others are kept if they still hold.
        clip: the scorer or its name, by default the one that fits the data.
        device: a torch device.
    """
    chosen = choose(names)
    tasks, edits, damaged = collect(store)
    if clip is None:
        clip = default_clip(store.run.dataset.pocket)
    if isinstance(clip, str) and any(METRICS[name].uses == "clip" for name in chosen):
        clip = load_clip(clip, device)
    models = Models(clip.to(device) if isinstance(clip, ClipScorer) else None, device)
    protocols = {name: describe(METRICS[name], models) for name in chosen}

    inputs = digest(tasks, edits)
    old, held = _held(store, edits, inputs)
    pending = [name for name in chosen if name not in held or old.metrics[name] != protocols[name]]
    values = {name: cells for name, cells in held.items() if name not in pending}
    if pending:
        measured = measure_edits(store, tasks, edits, pending, models)
        for name in pending:
            values[name] = {(edit.method, edit.sample): measured[name][i] for i, edit in enumerate(edits)}
    order = [name for name in METRICS if name in values]
    rows = [
        (edit.method, edit.sample, name, values[name][edit.method, edit.sample]) for edit in edits for name in order
    ]
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    made = Measured(
        inputs=inputs,
        resolution=store.run.backbone.resolution,
        background="complement of the alteration mask, at the resolution of the pictures (nearest neighbour)",
        metrics={name: protocols.get(name) or old.metrics[name] for name in order},
        versions=versions if pending else old.versions,
    )
    write_rows(store.folder / "scores.csv", COLUMNS, rows)
    write_json(store.folder / "scores.json", plain(made))
    note(store.folder, ["scores.csv", "scores.json"])
    return Scores(pd.DataFrame(rows, columns=COLUMNS), damaged, _truncated(models.clip, tasks))


def collect(store: Store) -> tuple[dict[str, Task], list[Edit], list[str]]:
    """What a run has to measure: tasks by sample, the edits that can be measured, and a line for each damaged file."""
    edits, damaged = store.edits()
    tasks: dict[str, Task] = {}
    for sample in store.run.samples:
        try:
            task = store.read_task(sample)
        except Damaged as error:
            damaged.append(str(error))
        else:
            if task:
                tasks[sample] = task
    return tasks, [edit for edit in edits if edit.status == "ok" and edit.sample in tasks], damaged


def digest(tasks: dict[str, Task], edits: list[Edit]) -> str:
    """Hash of everything that is measured: pictures, masks and prompts."""
    digest = hashlib.sha256()
    for edit in edits:
        task = tasks[edit.sample]
        parts = (edit.method, edit.sample, edit.image_sha256, task.image_sha256, task.mask_sha256, task.truth_sha256)
        digest.update(json.dumps([*parts, task.target_prompt]).encode())
    return digest.hexdigest()


def describe(metric: Metric, models: Models) -> Protocol:
    """The protocol of a metric with the model behind it."""
    return parse(Protocol, models.describe(metric), Path("scores.json"))


def _held(store: Store, edits: list[Edit], inputs: str) -> tuple[Measured, dict[str, dict[tuple[str, str], float]]]:
    """How the run was scored before, and metric -> (method, sample) -> value of the scores that still hold.

    They hold if they were measured of the very same pictures, and the files that say so can be trusted.  What cannot is
    measured again, whatever state it is in.
    """
    nothing = Measured(metrics={})
    try:
        old, table = read_protocol(store.folder), read_scores(store.folder)
    except UserError:
        return nothing, {}
    if old.inputs != inputs:
        return nothing, {}
    held = {}
    expected = {(edit.method, edit.sample) for edit in edits}
    for name in METRICS:
        rows = table[table["metric"] == name]
        keys = list(zip(rows["method"], rows["sample"], strict=True))
        if name in old.metrics and len(keys) == len(expected) and set(keys) == expected:
            held[name] = dict(zip(keys, rows["value"].tolist(), strict=True))
    return old, held


def measure_edits(
    store: Store, tasks: dict[str, Task], edits: list[Edit], names: list[str], models: Models
) -> dict[str, list[float]]:
    """Metric -> the value of each edit, read from the store and measured in batches."""
    values: dict[str, list[float]] = {name: [] for name in names}
    for start in range(0, len(edits), BATCH):
        batch = load_batch(store, tasks, edits[start : start + BATCH])
        for name, measured in measure(batch, names, models).items():
            values[name] += measured
    return values


def load_batch(store: Store, tasks: dict[str, Task], edits: list[Edit]) -> Batch:
    """The pictures, masks and prompts of some edits, all of which have tasks."""
    mine = [tasks[edit.sample] for edit in edits]
    source = np.stack([_pixels(store.read_source(task)) for task in mine])
    empty = np.zeros(source.shape[1:3], dtype=bool)
    masks = [store.read_mask(task) for task in mine]
    truths = [store.read_truth(task) for task in mine]
    return Batch(
        source=source,
        edit=np.stack([_pixels(store.read_picture(edit)) for edit in edits]),
        mask=np.stack([empty if mask is None else mask for mask in masks]),
        masked=np.array([mask is not None for mask in masks]),
        prompts=[task.target_prompt for task in mine],
        truth=np.stack([np.zeros_like(source[0]) if truth is None else _pixels(truth) for truth in truths]),
        has_truth=np.array([truth is not None for truth in truths]),
    )


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.array(picture.convert("RGB"))


def _truncated(clip: ClipScorer | None, tasks: dict[str, Task]) -> list[str]:
    if clip is None:
        return []
    return [
        f'sample {task.id}: the scorer {clip.name} reads {clip.context_length} tokens; not scored: "… {rest}"'
        for task in tasks.values()
        if (rest := clip.truncated(task.target_prompt)) is not None
    ]
