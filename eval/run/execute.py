"""A run from beginning to end: edit, score, leaderboard.  What ``cpam-bench run`` does once it knows what is wanted."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cpam_bench.baselines.imported import Imported
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor
from cpam_bench.eval.analysis.leaderboard import Leaderboard, leaderboard
from cpam_bench.eval.methods import captions, registry
from cpam_bench.eval.methods.ready_made import require_unchanged
from cpam_bench.eval.metrics.clip import load_clip
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.cache import TrajectoryCache
from cpam_bench.eval.run.executors import Executor, Processes, Ray, Serial
from cpam_bench.eval.run.forkserver import prepare_processes
from cpam_bench.eval.run.worker import Recipe
from cpam_bench.eval.scoring.score import Scores, default_clip, score
from cpam_bench.eval.store.store import Run, Store, locked
from cpam_bench.imba.common.places import place
from cpam_bench.imba.dataset import Dataset
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

ExecutorName = Literal["serial", "processes", "ray"]


@dataclass(frozen=True)
class Settings:
    """How a run is made.

    Attributes:
        backbone: ``pocket``, ``sd15``, a hub id or a folder.
        steps, seed, dtype: decide the edits, with the backbone and the kind of device.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes CUDA where there is some.
        clip: the scorer, None for the one that fits the data.
        executor: where the workers are; None is ``serial`` for one worker without a timeout, else ``processes``.
        workers: how many; None is one a core for the pocket backbone on the CPU, all that a Ray cluster has room for,
            and else one.
        threads: of torch in each worker on the CPU; None is what the run began with, or one for the pocket backbone and
            the cores shared among the workers for others.  It decides the last digits of what is computed.
        batch: how many samples are edited together where a method can; None is what the run began with, or four for the
            pocket backbone on the CPU and one for others.  It decides the last digits too.
        cache: folder that keeps trajectories for other runs, or None.  None is the default, because a run already
            inverts each sample once for all its methods, and a cache nobody asked for fills disks.
        cache_gb: size that the cache may have.
        timeout: seconds an edit may take.
        address: of a Ray cluster; None starts one on this machine.
        gpus_per_worker: that Ray sets aside for each worker; None is one on CUDA and none on the CPU.
        captioner: writes the captions of the source that a method needs and the data set lacks; None is
            :data:`cpam_bench.eval.methods.captions.CAPTIONER`, and ``none`` leaves such methods out.
    """

    backbone: str = "pocket"
    steps: int = 50
    seed: int = 0
    dtype: str = "float32"
    device: str | None = None
    clip: str | None = None
    executor: ExecutorName | None = None
    workers: int | None = None
    threads: int | None = None
    batch: int | None = None
    cache: Path | None = None
    cache_gb: float = 5.0
    timeout: float | None = None
    address: str | None = None
    gpus_per_worker: float | None = None
    captioner: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run has come to."""

    board: Leaderboard
    scores: Scores
    failures: list[runner.Failure]


def execute(
    data: Dataset,
    labels: Sequence[str],
    folder: str | Path,
    settings: Settings | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    wanted: Mapping[str, Collection[str]] | None = None,
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
        progress: show bars on stderr; None shows them on a terminal only.
        say: is told what a user would want to read meanwhile.

    Raises:
        UserError: something of it cannot be had, or the folder holds a run that is made otherwise.
        DiskFull: there is no more room.
        KeyboardInterrupt: after Ctrl-C; the same call continues.
    """
    settings = settings or Settings()
    folder = place(folder)
    editors = dict(registry.make(label) for label in labels)
    name, workers = _executor(settings)
    if name == "processes":
        prepare_processes()
    # Where others do the work, this process needs the weights' hashes and no room on the card.
    where = _device(name, settings)
    here = where if name == "serial" else "cpu"
    quiet()
    model = Backbone.load(settings.backbone, device=here, dtype=settings.dtype)
    # Before the editing, so that a scorer that cannot be had is known now and not hours later; on the CPU, so that it
    # takes no room from the editing.
    scorer = load_clip(settings.clip or default_clip(data.is_pocket))
    samples = captions.recall(folder, data.samples)
    writer = _captioner(editors, samples, settings, where if name == "serial" else "cpu", say)
    with locked(folder):
        before = Store.open(folder).run if (folder / "run.json").is_file() else None
        threads = _threads(settings, before, model, workers) if where == "cpu" else None
        batch = settings.batch or (before.batch if before else 4 if model.is_pocket and where == "cpu" else 1)
        description = runner.describe_run(
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
        )
        store = Store.create_or_resume(folder, description)
        for label, editor in editors.items():
            if isinstance(editor, Imported):
                require_unchanged(store, label, editor, samples)
        if writer:
            samples = captions.fill(store, samples, writer, model)
        say(f"{len(editors)} methods on {len(data)} samples into {folder}")
        cache = None
        if settings.cache:
            cache = TrajectoryCache(settings.cache.expanduser(), int(settings.cache_gb * 1e9))
        recipe = Recipe(
            editors,
            functools.partial(Backbone.load, settings.backbone, device=where, dtype=settings.dtype),
            model.fingerprint,
            settings.steps,
            settings.seed,
            threads=threads,
            cache=cache,
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
        scores = score(store, clip=scorer, device=choose_device(None) if name == "ray" else where)
        board = leaderboard([folder])
        board.write(folder)
    return Outcome(board, scores, failures)


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


def _executor(settings: Settings) -> tuple[ExecutorName, int | None]:
    """Which executor, and with how many workers."""
    workers = settings.workers
    if settings.executor == "ray":
        return "ray", workers
    if workers is None:
        on_cpu = choose_device(settings.device) == "cpu"
        workers = (os.cpu_count() or 1) if settings.backbone == "pocket" and on_cpu else 1
    if settings.executor == "serial":
        if settings.workers not in (None, 1):
            raise UserError(f"--executor serial has one worker, not {settings.workers}; give --executor processes")
        if settings.timeout is not None:
            raise UserError("--timeout needs workers in processes of their own; give --executor processes")
        return "serial", 1
    if settings.executor is None and workers == 1 and settings.timeout is None:
        return "serial", 1
    return "processes", workers


def _device(name: ExecutorName, settings: Settings) -> str:
    """The device of the workers."""
    if name != "ray":
        return choose_device(settings.device)
    # The driver of a cluster need not have the cards that its workers have.
    if settings.device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {settings.device}: with --executor ray give cpu or cuda; Ray chooses the card")
    return settings.device or ("cuda" if settings.gpus_per_worker else choose_device(None))


def _threads(settings: Settings, before: Run | None, model: Any, workers: int | None) -> int:
    if settings.threads:
        return settings.threads
    if before and before.threads:
        return before.threads
    if model.is_pocket:
        return 1  # small networks leave most of a machine idle when one edit is spread over all cores
    return max(1, torch.get_num_threads() // (workers or 1)) if settings.executor != "ray" else 1


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


def choose_device(name: str | None) -> str:
    """The device asked for, or the default (None), made sure of.

    Raises:
        UserError: there is no such device here.
    """
    available = torch.cuda.is_available()
    if name is None:
        return "cuda" if available else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}; give cpu, cuda or cuda:N")
    if name.startswith("cuda"):
        if not available:
            raise UserError(f"--device {name}: this machine has no CUDA device that torch can use; give --device cpu")
        index = int(name.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return name


def quiet() -> None:
    """Keep libraries' own progress bars and chatter out of ours."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # it warns of casts to float32 even where there is nothing to cast
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
