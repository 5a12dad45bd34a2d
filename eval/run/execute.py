"""A run from beginning to end: edit, score, leaderboard.  What ``cpam-bench run`` does once it knows what is wanted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cpam_bench.baselines.imported import Imported
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import BesideSource, Editor
from cpam_bench.eval.analysis.leaderboard import Leaderboard, leaderboard
from cpam_bench.eval.methods import captions, registry
from cpam_bench.eval.methods.ready_made import require_unchanged
from cpam_bench.eval.metrics.clip import load_clip
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.cache import TrajectoryCache
from cpam_bench.eval.run.cluster import Ray
from cpam_bench.eval.run.describe import describe_run
from cpam_bench.eval.run.executor import Executor, Serial
from cpam_bench.eval.run.forkserver import prepare_processes
from cpam_bench.eval.run.processes import Processes
from cpam_bench.eval.run.settings import (
    ExecutorName,
    Settings,
    choose_device,
    choose_executor,
    quiet,
    worker_device,
    worker_threads,
)
from cpam_bench.eval.run.worker import Recipe
from cpam_bench.eval.scoring.score import Scores, default_clip, score
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.records import Run
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.checks import require_regions
from cpam_bench.imba.common.places import place
from cpam_bench.imba.dataset import Dataset
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Outcome:
    """What a run has come to; without board and scores where the scoring was left for later."""

    board: Leaderboard | None
    scores: Scores | None
    failures: list[runner.Failure]


def execute(
    data: Dataset,
    labels: Sequence[str],
    folder: str | Path,
    settings: Settings | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    wanted: Mapping[str, Collection[str]] | None = None,
    measure: bool = True,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Edit a data set with some methods into a folder, new or resumed, score all edits there and write its leaderboard.

    Args:
        data: complete (:func:`cpam_bench.imba.dataset.require_complete`).
        labels: methods, as on the command line.
        folder: of the run.
        settings: how; the defaults are the command's.
        arguments: what ``run.json`` says of the command.
        wanted: sample id -> the methods that are to edit it, where these are not all.
        measure: score the edits; False leaves that to :func:`cpam_bench.eval.scoring.score.score`.
        progress: show bars on stderr; None shows them on a terminal only.
        say: is told what a user would want to read meanwhile.

    Raises:
        UserError: something of it cannot be had, or the folder holds a run that is made otherwise.
        DiskFull: there is no more room.
        KeyboardInterrupt: after Ctrl-C; the same call continues.
    """
    settings = settings or Settings()
    folder = place(folder)
    editors = _make(labels, settings)
    name, workers = choose_executor(settings)
    if name == "processes":
        prepare_processes()
    # Where others do the work, this process needs the weights' hashes and no room on the card.
    where = worker_device(name, settings)
    here = where if name == "serial" else "cpu"
    quiet()
    model = Backbone.load(settings.backbone, device=here, dtype=settings.dtype, resize=settings.resize)
    for line in registry.leave_out_refused(editors, settings.backbone, model.family):
        say(line)
    # Before the editing, so that a scorer that cannot be had is known now and not hours later; on the CPU, so that it
    # takes no room from the editing.
    scorer = load_clip(settings.clip or default_clip(data.is_pocket)) if measure else None
    model.schedule(settings.steps)  # steps out of range are refused here, and not once an edit
    samples: Sequence[Sample] = [replace(sample, fit=settings.fit) for sample in data.samples]
    require_regions(samples, model.resolution)
    samples = captions.recall(folder, samples)
    writer = _captioner(editors, samples, settings, where if name == "serial" else "cpu", say)
    with locked(folder):
        before = Store.open(folder).run if (folder / "run.json").is_file() else None
        editors = {_label_of(label, editor, before): editor for label, editor in editors.items()}
        threads = worker_threads(settings, before, model, workers) if where == "cpu" else None
        batch = settings.batch or (before.batch if before else 4 if model.is_pocket and where == "cpu" else 1)
        lockstep = _lockstep(settings, before, editors)
        description = describe_run(
            arguments or {},
            data,
            data.samples,
            model,
            editors,
            steps=settings.steps,
            seed=settings.seed,
            dtype=settings.dtype,
            device=where,
            threads=threads,
            batch=batch,
            fit=settings.fit,
            lockstep=lockstep,
        )
        store = Store.create_or_resume(folder, description)
        for label, editor in editors.items():
            if isinstance(editor, Imported):
                require_unchanged(store, label, editor, samples)
        if writer:
            samples = captions.fill(store, samples, writer, model, say)
        say(f"{len(editors)} methods on {len(data)} samples into {folder}")
        cache = None
        if settings.cache:
            cache = TrajectoryCache(settings.cache.expanduser(), int(settings.cache_gb * 1e9))
        recipe = Recipe(
            editors,
            functools.partial(
                Backbone.load, settings.backbone, device=where, dtype=settings.dtype, resize=settings.resize
            ),
            model.fingerprint,
            settings.steps,
            settings.seed,
            threads=threads,
            cache=cache,
            lockstep=tuple(lockstep),
        )
        executor = _make_executor(name, recipe, workers, model, settings, where)
        failures = runner.run(
            store,
            samples,
            editors,
            model,
            wanted=wanted,
            executor=executor,
            timeout=settings.timeout,
            progress=progress,
        )
        if not measure:
            return Outcome(None, None, failures)
        scores = score(store, clip=scorer, device=choose_device(None) if name == "ray" else where)
        board = leaderboard([folder])
        board.write(folder)
    return Outcome(board, scores, failures)


def _make(labels: Sequence[str], settings: Settings) -> dict[str, Editor]:
    editors: dict[str, Editor] = {}
    for asked in labels:
        label, editor = registry.make(asked, settings.import_panel)
        if label in editors and isinstance(editor, Imported):
            raise UserError(f"--import {asked}: another method is called {label} too; choose another name")
        editors[label] = editor
    return editors


def _label_of(label: str, editor: Editor, before: Run | None) -> str:
    """The label of a method in a run: that of ready-made pictures had their folder in it in early versions."""
    if before and isinstance(editor, Imported):
        for known, method in before.methods.items():
            if method.called == label:
                return known
    return label


def _lockstep(settings: Settings, before: Run | None, editors: Mapping[str, Editor]) -> list[str]:
    """The methods that are edited together: those that a run began with stay so, and one that is added goes alone."""
    if before and settings.lockstep in (None, bool(before.lockstep)):
        return before.lockstep
    return [label for label, one in editors.items() if isinstance(one, BesideSource)] if settings.lockstep else []


def _captioner(
    editors: dict[str, Editor],
    samples: Sequence[Sample],
    settings: Settings,
    device: str,
    say: Callable[[str], None],
) -> captions.Captioner | None:
    """Who writes the captions that are needed and lacking; without one, methods that need some are left out."""
    needing, bare = captions.needing(editors, samples)
    if not needing:
        return None
    try:
        return captions.load(settings.captioner or captions.CAPTIONER, device)
    except UserError as error:
        lack = f"{len(bare)} of {len(samples)} samples lack one, {bare[0]} first"
        for label in needing:
            say(f"left out: {label} needs a caption of the source, and {lack}; {error}")
            del editors[label]
        if not any(editor.edits for editor in editors.values()):
            raise UserError("no method is left; give samples a source_prompt, or another --captioner") from None
        return None


def _make_executor(
    name: ExecutorName, recipe: Recipe, workers: int | None, model: Any, settings: Settings, device: str
) -> Executor:
    if name == "serial":
        return Serial(recipe.with_backbone(model), recipe.threads)
    if name == "processes":
        return Processes(recipe, workers or 1)
    gpus = settings.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if device.startswith("cuda") else 0.0
    return Ray(recipe, workers, settings.address, gpus)
