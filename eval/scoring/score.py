"""From the pictures of a store to ``scores.csv``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpam_bench.eval.metrics.clip import DEFAULT, ClipScorer, load_clip
from cpam_bench.eval.metrics.metric import METRICS, Batch, Models, measure
from cpam_bench.eval.store.store import Edit, Store, Task, open_picture
from cpam_bench.imba.common.files import write_json, write_rows
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import Damaged, UserError

BATCH = 16
COLUMNS = ["method", "sample", "metric", "value"]
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
        store: held under :func:`cpam_bench.eval.store.store.locked`.
        names: metrics to measure; others are kept if they still hold.
        clip: the scorer or its name, by default the one that fits the data.
        device: a torch device.
    """
    chosen = choose(names)
    tasks, edits, damaged = collect(store)
    if clip is None:
        clip = default_clip(store.run.dataset["pocket"])
    if isinstance(clip, str) and any(METRICS[name].uses == "clip" for name in chosen):
        clip = load_clip(clip, device)
    models = Models(clip.to(device) if isinstance(clip, ClipScorer) else None, device)
    protocols = {name: models.describe(METRICS[name]) for name in chosen}

    inputs = digest(tasks, edits)
    old = read_protocol(store.folder) if (store.folder / "scores.json").is_file() else {}
    held = _held(store, old, inputs)
    pending = [name for name in chosen if name not in held or old["metrics"][name] != protocols[name]]
    values = {name: cells for name, cells in held.items() if name not in pending}
    if pending:
        measured = measure_edits(store, tasks, edits, pending, models)
        for name in pending:
            values[name] = {(edit.method, edit.sample): measured[name][i] for i, edit in enumerate(edits)}
    order = [name for name in METRICS if name in values]
    rows = [
        (edit.method, edit.sample, name, values[name][edit.method, edit.sample]) for edit in edits for name in order
    ]
    write_rows(store.folder / "scores.csv", COLUMNS, rows)
    kept = {name: protocols.get(name) or old["metrics"][name] for name in order}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    write_json(
        store.folder / "scores.json",
        {
            "inputs": inputs,
            "resolution": store.run.backbone["resolution"],
            "background": "complement of the alteration mask, at the resolution of the pictures (nearest neighbour)",
            "metrics": kept,
            "versions": versions if pending else old["versions"],
        },
    )
    return Scores(pd.DataFrame(rows, columns=COLUMNS), damaged, _truncated(models.clip, tasks))


def read_scores(folder: str | Path) -> pd.DataFrame:
    """``scores.csv`` of a run: method, sample, metric, value.

    Raises:
        UserError: the run has not been scored, or the file is damaged.
    """
    path = place(folder) / "scores.csv"
    if not path.is_file():
        raise UserError(f"{folder} has no scores.csv; make it with: cpam-bench score {folder}")
    try:
        # As text first: a parser of numbers may be off in the last digit, and a method may be called "nan".
        table = pd.read_csv(io.BytesIO(path.read_bytes()), dtype=str, keep_default_na=False)
        table["value"] = [float(value or "nan") for value in table["value"]]
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); make it again with: cpam-bench score {folder}") from error
    return table[COLUMNS]


def read_protocol(folder: str | Path) -> dict[str, Any]:
    """``scores.json`` of a run: the protocol of each metric under ``metrics``.

    Raises:
        UserError: it is not there or damaged.
    """
    path = place(folder) / "scores.json"
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data["metrics"], dict):
            raise ValueError("no metrics")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and run: cpam-bench score {folder}") from error
    return data


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


def _held(store: Store, old: dict[str, Any], inputs: str) -> dict[str, dict[tuple[str, str], float]]:
    """Metric -> (method, sample) -> value, of scores that were measured of the very same pictures."""
    if not old or old.get("inputs") != inputs or not (store.folder / "scores.csv").is_file():
        return {}
    table = read_scores(store.folder)
    return {
        name: dict(zip(zip(rows["method"], rows["sample"], strict=True), rows["value"].tolist(), strict=True))
        for name in METRICS
        if name in old["metrics"]
        for rows in [table[table["metric"] == name]]
    }


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
    source = np.stack([_read(store.source_path(edit.sample)) for edit in edits])
    empty = np.zeros(source.shape[1:3], dtype=bool)
    masked = np.array([tasks[edit.sample].mask_sha256 is not None for edit in edits])
    has_truth = np.array([tasks[edit.sample].truth_sha256 is not None for edit in edits])
    masks = [_read(store.mask_path(edit.sample), "L") > 127 if masked[i] else empty for i, edit in enumerate(edits)]
    truths = [
        _read(store.truth_path(edit.sample)) if has_truth[i] else np.zeros_like(source[0])
        for i, edit in enumerate(edits)
    ]
    return Batch(
        source=source,
        edit=np.stack([_read(store.edit_path(edit.method, edit.sample)) for edit in edits]),
        mask=np.stack(masks),
        masked=masked,
        prompts=[tasks[edit.sample].target_prompt for edit in edits],
        truth=np.stack(truths),
        has_truth=has_truth,
    )


def _read(path: Path, mode: str = "RGB") -> np.ndarray:
    return np.array(open_picture(path).convert(mode))


def _truncated(clip: ClipScorer | None, tasks: dict[str, Task]) -> list[str]:
    if clip is None:
        return []
    return [
        f'sample {task.id}: the scorer {clip.name} reads {clip.context_length} tokens; not scored: "… {rest}"'
        for task in tasks.values()
        if (rest := clip.truncated(task.target_prompt)) is not None
    ]
