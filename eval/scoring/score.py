"""From the pictures of a store to ``scores.csv``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cpam_bench.eval.metrics import metric as seam
from cpam_bench.eval.metrics.clip import DEFAULT, ClipScorer
from cpam_bench.eval.metrics.metric import Batch, Metric
from cpam_bench.eval.metrics.networks import Networks
from cpam_bench.eval.scoring.scored import COLUMNS, read_protocol, read_scores
from cpam_bench.eval.store.derived import note
from cpam_bench.eval.store.records import Edit, Measured, Protocol, Task, parse, plain
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_json, write_rows
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.problems import shown

BATCH = 16
_PACKAGES = ("open_clip_torch", "lpips", "torchmetrics", "torch", "torchvision", "pillow")


@dataclass(frozen=True)
class Scores:
    """What scoring found.

    Attributes:
        table: long, columns method, sample, metric, value.
        damaged: a line for each file of the store that could not be used.
        truncated: a line for each prompt that is longer than the scorer reads.
        lost: a line for each metric that was measured before, and cannot be of the edits that are there now.
    """

    table: pd.DataFrame
    damaged: list[str]
    truncated: list[str]
    lost: list[str] = field(default_factory=list)


def default_clip(pocket: bool) -> str:
    """The scorer that fits the data: the pocket CLIP knows pocket scenes and nothing else."""
    return "pocket" if pocket else DEFAULT


def score(
    store: Store,
    metrics: Sequence[str] | None = None,
    clip: ClipScorer | str | None = None,
    device: str = "cpu",
    places: Mapping[str, str] | None = None,
) -> Scores:
    """Measure every edit that the store holds and write ``scores.csv`` and ``scores.json``.

    Values are kept where the pictures and the metric's protocol are those that they were measured with, and measured
    again otherwise, always over the whole store in one order: batches, and with them the last digit, do not depend on
    how often the run was interrupted.  Metrics that were scored before and are not asked for now are kept, or measured
    again where the edits are others now; what can no longer be measured is named in ``lost``.

    Args:
        store: held under :func:`cpam_bench.eval.store.lock.locked`.
        metrics: labels of what to measure, by default the default ones.
        clip: the scorer or its name, by default the one that fits the data.
        device: a torch device.
        places: role -> folder or name of other networks (:data:`cpam_bench.eval.metrics.networks.ROLES`).

    Raises:
        UserError: an unknown metric, or a network of one that is asked for cannot be had; nothing is written.
    """
    chosen = seam.choose(metrics)
    tasks, edits, damaged = collect(store)
    clip = default_clip(store.run.dataset.pocket) if clip is None else clip
    networks = Networks(clip, device, places)
    protocols = {label: describe(label, metric, networks) for label, metric in chosen.items()}

    inputs = digest(tasks, edits)
    old, held = _held(store, edits, inputs)
    lost = []
    for label in [label for label in old.metrics if label not in chosen and label not in held]:
        try:
            metric = seam.choose([label])[label]
            protocols[label] = describe(label, metric, networks)
        except (UserError, KeyError) as error:
            lost.append(f"{label} was measured before and cannot be now: {str(error).splitlines()[0]}")
        else:
            chosen[label] = metric
    pending = {
        label: metric for label, metric in chosen.items() if label not in held or old.metrics[label] != protocols[label]
    }
    values = {label: cells for label, cells in held.items() if label not in pending}
    if pending:
        measured = measure_edits(store, tasks, edits, pending, networks)
        for label in pending:
            values[label] = {(edit.method, edit.sample): measured[label][i] for i, edit in enumerate(edits)}
    order = seam.in_order(values)
    rows = [
        (edit.method, edit.sample, label, values[label][edit.method, edit.sample]) for edit in edits for label in order
    ]
    kept = {label: protocols.get(label) or old.metrics[label] for label in order}
    packages = [*_PACKAGES, *(["transformers"] if any("network" in one.more for one in kept.values()) else [])]
    made = Measured(
        inputs=inputs,
        resolution=store.run.backbone.resolution,
        background="complement of the alteration mask, at the resolution of the pictures (nearest neighbour)",
        metrics=kept,
        versions={name: importlib.metadata.version(name) for name in packages} if pending else old.versions,
    )
    write_rows(store.folder / "scores.csv", COLUMNS, rows)
    write_json(store.folder / "scores.json", plain(made))
    note(store.folder, ["scores.csv", "scores.json"])
    return Scores(pd.DataFrame(rows, columns=COLUMNS), damaged, _truncated(networks, tasks), lost)


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


def describe(label: str, metric: Metric, networks: Networks) -> Protocol:
    """The protocol of a metric with the network behind it.

    Raises:
        UserError: its network cannot be had.
    """
    return parse(Protocol, seam.describe(label, metric, networks), Path("scores.json"))


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
        return old, {}
    held = {}
    expected = {(edit.method, edit.sample) for edit in edits}
    for name in old.metrics:
        rows = table[table["metric"] == name]
        keys = list(zip(rows["method"], rows["sample"], strict=True))
        if len(keys) == len(expected) and set(keys) == expected:
            held[name] = dict(zip(keys, rows["value"].tolist(), strict=True))
    return old, held


def measure_edits(
    store: Store, tasks: dict[str, Task], edits: list[Edit], metrics: Mapping[str, Metric], networks: Networks
) -> dict[str, list[float]]:
    """Label -> the value of each edit, read from the store and measured in batches.

    A sample's edits go together, so that what depends on the source alone is made once for them.
    """
    values = {label: [math.nan] * len(edits) for label in metrics}
    places = {sample: place for place, sample in enumerate(dict.fromkeys(edit.sample for edit in edits))}
    order = sorted(range(len(edits)), key=lambda index: places[edits[index].sample])  # stable: methods as they were
    for start in range(0, len(edits), BATCH):
        chosen = order[start : start + BATCH]
        batch = load_batch(store, tasks, [edits[index] for index in chosen], networks.device)
        for label, measured in seam.measure(batch, metrics, networks).items():
            for index, value in zip(chosen, measured, strict=True):
                values[label][index] = value
    return values


def load_batch(store: Store, tasks: dict[str, Task], edits: list[Edit], device: str = "cpu") -> Batch:
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
        source_prompts=[task.source_prompt or "" for task in mine],
        retained=np.stack([_retained(task, mask, empty) for task, mask in zip(mine, masks, strict=True)]),
        device=device,
    )


def _retained(task: Task, mask: np.ndarray | None, empty: np.ndarray) -> np.ndarray:
    """The object whose identity is to be kept; nothing where there is none."""
    if mask is None or not task.retain_object:
        return empty
    return ~mask if task.altered == "background" else mask  # M_s is what surrounds the object then


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.array(picture.convert("RGB"))


def _truncated(networks: Networks, tasks: dict[str, Task]) -> list[str]:
    return [
        f'sample {task.id}: the scorer {clip.name} reads {clip.context_length} tokens; not scored: "… {shown(rest)}"'
        for clip in networks.scorers()
        for task in tasks.values()
        if (rest := clip.truncated(task.target_prompt)) is not None
    ]
