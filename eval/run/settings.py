"""How a run is made, and what is chosen where the user has not."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cpam_bench.cpam.backbone import Resize
from cpam_bench.cpam.devices import choose_device as choose_device  # what runs, edits and the studio have in common
from cpam_bench.eval.methods.registry import Panel
from cpam_bench.eval.store.records import Run
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.kinds import Fit

ExecutorName = Literal["serial", "processes", "ray"]


@dataclass(frozen=True)
class Settings:
    """How a run is made.

    Attributes:
        backbone: a name of ``cpam-bench backbones``, a hub id, a folder or a file.
        steps, seed, dtype, resize: decide the edits, with the backbone and the kind of device; ``resize`` is the filter
            that brings pictures to its resolution.
        device: ``cpu``, ``cuda`` or ``cuda:N``; None takes CUDA where there is some.
        clip: the scorer, None for the one that fits the data.
        executor: where the workers are; None is ``serial`` for one worker without a timeout, else ``processes``.
        workers: how many; None is one a core for the pocket backbone on the CPU, all that a Ray cluster has room for,
            and else one.
        threads: of torch in each worker on the CPU; None is what the run began with, or one for the pocket backbone and
            the cores shared among the workers for others.  It decides the last digits of what is computed.
        batch: how many samples are edited together where a method can; None is what the run began with, or four for the
            pocket backbone on the CPU and one for others.  It decides the last digits too.
        lockstep: whether the methods that edit beside the source are edited together; None is what the run began with,
            or no.  It decides the last digits too.
        cache: folder that keeps trajectories for other runs, or None.  None is the default, because a run already
            inverts each sample once for all its methods, and a cache nobody asked for fills disks.
        cache_gb: size that the cache may have.
        timeout: seconds an edit may take.
        address: of a Ray cluster; None starts one on this machine.
        gpus_per_worker: that Ray sets aside for each worker; None is one on CUDA and none on the CPU.
        captioner: writes the captions of the source that a method needs and the data set lacks; None is
            :data:`cpam_bench.eval.methods.captions.CAPTIONER`, and ``none`` leaves such methods out.
        import_panel: what of a ready-made picture is the edit.
        fit: how pictures that are not square become the square that is edited; it decides the edits too.
    """

    backbone: str = "pocket"
    steps: int = 50
    seed: int = 0
    dtype: str = "float32"
    resize: Resize = "bicubic"
    device: str | None = None
    clip: str | None = None
    executor: ExecutorName | None = None
    workers: int | None = None
    threads: int | None = None
    batch: int | None = None
    lockstep: bool | None = None
    cache: Path | None = None
    cache_gb: float = 5.0
    timeout: float | None = None
    address: str | None = None
    gpus_per_worker: float | None = None
    captioner: str | None = None
    import_panel: Panel = "whole"
    fit: Fit = "squash"


def choose_executor(settings: Settings) -> tuple[ExecutorName, int | None]:
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


def worker_device(name: ExecutorName, settings: Settings) -> str:
    """The device of the workers."""
    if name != "ray":
        return choose_device(settings.device)
    # The driver of a cluster need not have the cards that its workers have.
    if settings.device not in (None, "cpu", "cuda"):
        raise UserError(f"--device {settings.device}: with --executor ray give cpu or cuda; Ray chooses the card")
    return settings.device or ("cuda" if settings.gpus_per_worker else choose_device(None))


def worker_threads(settings: Settings, before: Run | None, model: Any, workers: int | None) -> int:
    if settings.threads:
        return settings.threads
    if before and before.threads:
        return before.threads
    if model.is_pocket:
        return 1  # small networks leave most of a machine idle when one edit is spread over all cores
    return max(1, torch.get_num_threads() // (workers or 1)) if settings.executor != "ray" else 1


def use_threads(asked: int | None, model: Any) -> int:
    """Have torch use the threads that are asked for, by an option or by ``OMP_NUM_THREADS``; returns how many they are.

    Where none are, the pocket backbone has one, as in a run, and others the cores that nobody else keeps busy: on a
    shared machine, threads that wait for each other make an edit many times slower.
    """
    if asked is None and "OMP_NUM_THREADS" not in os.environ:
        asked = 1 if model.is_pocket else max(1, round(torch.get_num_threads() - os.getloadavg()[0]))
    if asked is not None:
        torch.set_num_threads(asked)
    return torch.get_num_threads()


def quiet() -> None:
    """Keep libraries' own progress bars and chatter out of ours."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # it warns of casts to float32 even where there is nothing to cast
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)
