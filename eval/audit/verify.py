"""Whether a run is what it says: its files against their records, and its scores against its pictures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cpam_bench.eval.metrics.metric import Metric, choose
from cpam_bench.eval.metrics.networks import Networks
from cpam_bench.eval.run.settings import choose_device
from cpam_bench.eval.run.worker import edit_seed
from cpam_bench.eval.scoring import score as scoring
from cpam_bench.eval.scoring.scored import read_protocol, read_scores
from cpam_bench.eval.store.derived import check
from cpam_bench.eval.store.records import Edit, Task
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import Damaged, UserError

DERIVED = ("scores.csv", "scores.json", "leaderboard.csv", "paired.csv")
"""What a run's pictures are measured into, and tables of that."""

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


def verify(
    folder: str | Path, clip: str | None = None, device: str | None = None, seed: int = 0, everything: bool = False
) -> Verdict:
    """Hash every file of a run against its record, its records against ``run.json``, and score a sample again.

    Nothing outside the folder is needed but the scorer.

    Args:
        folder: of the run, wherever it is now.
        clip: where the scorer is, if not where it was; its weights must be the same.
        device: to score on.
        seed: which sample is scored again.
        everything: score all of them again.

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
    wrong += _derived(store, unchecked)
    scores = 0
    if (store.folder / "scores.json").is_file():
        try:
            scores = _scores(store, tasks, edits, wrong, unchecked, clip, choose_device(device), seed, everything)
        except UserError as error:
            if str(error).partition(";")[0] not in wrong:
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
            if not described.parameters.items() <= edit.params.items():
                wrong.append(f"{record}: its parameters are not those of {method} in run.json")
            if edit.seed != edit_seed(store.run.seed, method, sample):
                wrong.append(f"{record}: its seed {edit.seed} does not follow from the run's, {store.run.seed}")
            if edit.status == "ok":
                yield edit
            elif path.is_file():
                wrong.append(f"{path} is a picture of an edit that failed")


def _derived(store: Store, unchecked: list[str]) -> Iterator[str]:
    """What was made from the pictures (scores, tables) and is not as it was written."""
    for name in DERIVED:
        if not (store.folder / name).is_file():
            continue
        try:
            if not check(store.folder, name):
                unchecked.append(
                    f"{name}: the run has no hash of it, as early versions had none; score it again to note one"
                )
        except Damaged as error:
            yield str(error)


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
    everything: bool,
) -> int:
    """Check ``scores.csv`` against the edits that are there, and measure those of one sample again, or all."""
    protocol = read_protocol(store.folder)
    table = read_scores(store.folder)
    edits = [edit for edit in edits if edit.sample in tasks]
    if protocol.inputs != scoring.digest(tasks, edits):
        wrong.append(f"{store.folder / 'scores.csv'} was measured of other pictures than are there; score again")
        return 0
    names = list(protocol.metrics)
    expected = {(edit.method, edit.sample, name) for edit in edits for name in names}
    rows = list(table[["method", "sample", "metric"]].itertuples(index=False, name=None))
    if set(rows) != expected or len(rows) != len(expected):
        wrong.append(f"{store.folder / 'scores.csv'} does not hold one score for each metric of each edit")
        return 0
    if not edits:
        return 0
    if not everything:
        chosen = random.Random(seed).choice(sorted({edit.sample for edit in edits}))
        edits = [edit for edit in edits if edit.sample == chosen]
    places = {one.more["network"]: one.scorer for one in protocol.metrics.values() if "network" in one.more}
    clips = [
        one.scorer for one in protocol.metrics.values() if "context_length" in one.more and "network" not in one.more
    ]
    networks = Networks(
        clip or (clips[0] if clips else None), device, {role: place for role, place in places.items() if place}
    )
    metrics: dict[str, Metric] = {}
    missing: dict[str, list[str]] = {}
    for name in names:
        try:
            metric = choose([name])[name]
            now = scoring.describe(name, metric, networks)
        except (UserError, KeyError) as error:
            mend = "" if "network" in protocol.metrics[name].more else "; give the scorer with --clip"
            missing.setdefault(f"{str(error).splitlines()[0]}{mend}", []).append(name)
        else:
            if protocol.metrics[name].weights_sha256 == now.weights_sha256:
                metrics[name] = metric
            else:
                unchecked.append(f"{name}: it was measured with other weights than those at hand")
    unchecked += [f"{', '.join(lacking)}: {reason}" for reason, lacking in missing.items()]
    measured = scoring.measure_edits(store, tasks, edits, metrics, networks)
    values = {row[:3]: row[3] for row in table.itertuples(index=False, name=None)}
    right = 0
    for name in metrics:
        for edit, value in zip(edits, measured[name], strict=True):
            before = values[edit.method, edit.sample, name]
            if np.isclose(value, before, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True):
                right += 1
            else:
                what = f"{name} of {edit.method} on {edit.sample}"
                wrong.append(f"{store.folder / 'scores.csv'}: {what} is {before:g}; measured again, it is {value:g}")
    return right
