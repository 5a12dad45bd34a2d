"""What a worker does with a unit of work: samples with their pending methods in, edits out as they are made.

The same code runs in the driver's own process, in local processes and in Ray's actors (:mod:`eval.executors`).  A
worker writes nothing: what it makes goes back to the driver as messages, and the driver alone writes into the store.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cpam.editing import Editor
from cpam.inversion import Trajectory
from cpam.source import Source
from eval import registry
from eval.store import Edit, encode_png
from imba.errors import UserError
from imba.sample import Sample

_PACKAGES = ("cpam-bench", "torch", "diffusers", "transformers")


# what goes to a worker and what comes back ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """A sample with the methods that are to edit it.

    Attributes:
        sample: with its pictures in memory (:meth:`imba.sample.Sample.loaded`).
        methods: labels.
    """

    sample: Sample
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Ready:
    """The worker has loaded what it needs."""


@dataclass(frozen=True)
class Began:
    """The worker has begun an edit: if it dies now, or takes too long, it is of this."""

    method: str
    sample: str


@dataclass(frozen=True)
class Made:
    """An edit is made, or has failed: its record, and the PNG file's bytes of one that is ok."""

    edit: Edit
    picture: bytes | None = None


@dataclass(frozen=True)
class Finished:
    """The worker is done with its unit."""


@dataclass(frozen=True)
class Died:
    """The worker is gone; ``reason`` in words."""

    reason: str


@dataclass(frozen=True)
class Broken:
    """The worker cannot work at all; ``reason`` in words."""

    reason: str


Message = Ready | Began | Made | Finished | Died | Broken


# sources --------------------------------------------------------------------------------------------------------------


class TimedSource(Source):
    """A source that notes what its inversion took and whether a method used it."""

    def __init__(self, sample: Sample, backbone: Any, steps: int):
        super().__init__(sample, backbone, steps)
        self.inversion_seconds: float | None = None
        self.computed_in_edit = 0.0
        self.used = False

    @property
    def trajectory(self) -> Trajectory:  # type: ignore[override]
        """As :attr:`Source.trajectory`, timed when it is computed."""
        self.used = True
        if self.inversion_seconds is not None:
            return super().trajectory
        started = _clock(self.backbone)
        trajectory = super().trajectory
        self.inversion_seconds = self.computed_in_edit = _clock(self.backbone) - started
        return trajectory

    def begin(self) -> None:
        """Forget what the last edit used."""
        self.used, self.computed_in_edit = False, 0.0


MakeSource = Callable[[Sample, Any, int], TimedSource]


# the worker -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Worker:
    """Edits units of work.

    Attributes:
        editors: canonical label -> editor.
        backbone: as the editors take it; the worker itself needs ``device`` and what a source does.
        steps, seed: of the run.
        make_source: how a sample becomes a source.
    """

    editors: Mapping[str, Editor]
    backbone: Any
    steps: int
    seed: int
    make_source: MakeSource = TimedSource

    def work(self, unit: Unit) -> Iterator[Message]:
        """Edit a sample with its methods in turn; the methods share its source, and with it the inversion.

        An edit that fails is a :class:`Made` with its error; the others go on.
        """
        source: TimedSource | None = None
        for method in unit.methods:
            yield Began(method, unit.sample.id)
            try:
                source = source or self.make_source(unit.sample, self.backbone, self.steps)
            except Exception as error:  # the sample is of no use; others are
                yield Made(self._failed(method, unit.sample, error, 0.0))
            else:
                yield self._edit(method, unit.sample, source)

    def _edit(self, method: str, sample: Sample, source: TimedSource) -> Made:
        editor = self.editors[method]
        seed = edit_seed(self.seed, method, sample.id)
        # An editor should use the seed that it is given; this makes one that draws from global generators repeatable.
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        source.begin()
        peak_is_fresh = _reset_peak(source.backbone)
        started = _clock(source.backbone)
        try:
            image = editor.edit(sample, source, seed)
            if not isinstance(image, Image.Image):
                raise TypeError(f"the editor returned {type(image).__name__} and not a PIL image")
            if image.mode != "RGB" or image.size != source.image.size:
                raise ValueError(
                    f"the editor returned a picture of mode {image.mode} and size {image.size[0]}x{image.size[1]};"
                    f" it must be RGB and {source.image.size[0]}x{source.image.size[1]}"
                )
        except Exception as error:  # whatever a method does, the others go on
            return Made(self._failed(method, sample, error, _clock(source.backbone) - started))
        seconds = _clock(source.backbone) - started - source.computed_in_edit
        edit = Edit(
            method=method,
            sample=sample.id,
            status="ok",
            params=registry.parameters(editor),
            seed=seed,
            seconds=seconds,
            inversion_seconds=(source.inversion_seconds or 0.0) if source.used else 0.0,
            peak_memory_mib=_peak(source.backbone) if peak_is_fresh else None,
            versions=versions(),
            processor=processor(str(self.backbone.device)),
        )
        return Made(edit, encode_png(image))

    def _failed(self, method: str, sample: Sample, error: Exception, seconds: float) -> Edit:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()  # the next method may need less
        return failed(method, self.editors[method], sample.id, self.seed, error, seconds)


@dataclass(frozen=True)
class Recipe:
    """How a process makes its worker; it can be pickled.

    Attributes:
        editors: canonical label -> editor; their modules must be installed where the worker is.
        load_backbone: loads the backbone.
        fingerprint: of the backbone's weights: a worker on another machine must have found the same.
        steps, seed, make_source: as in :class:`Worker`.
        threads: of torch on the CPU, or None to leave them; sums over more threads round differently.
    """

    editors: Mapping[str, Editor]
    load_backbone: Callable[[], Any]
    fingerprint: Mapping[str, str]
    steps: int
    seed: int
    make_source: MakeSource = TimedSource
    threads: int | None = None

    def worker(self) -> Worker:
        """Load the backbone and make the worker of this process.

        Raises:
            UserError: the backbone cannot be loaded, or has other weights than the run's.
        """
        if self.threads:
            torch.set_num_threads(self.threads)
        backbone = self.load_backbone()
        if dict(backbone.fingerprint) != dict(self.fingerprint):
            raise UserError(
                f"the backbone {backbone.name!r} on {platform.node()} has other weights than the run's;"
                " bring the same ones to every machine"
            )
        return Worker(self.editors, backbone, self.steps, self.seed, self.make_source)


def edit_seed(seed: int, method: str, sample: str) -> int:
    """The seed of one edit, 0 ... 2**32 - 1; order and restarts cannot change it."""
    digest = hashlib.sha256(f"{seed}/{method}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def failed(method: str, editor: Editor, sample: str, seed: int, error: BaseException, seconds: float = 0.0) -> Edit:
    """The record of an edit that failed; ``seed`` is the run's."""
    return Edit(
        method=method,
        sample=sample,
        status="failed",
        params=registry.parameters(editor),
        seed=edit_seed(seed, method, sample),
        seconds=seconds,
        error=f"{type(error).__name__}: {error}",
        traceback="".join(traceback.format_exception(error)),
        versions=versions(),
    )


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what an edit looks like."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def processor(device: str) -> str:
    """The name of the processor or graphics card that a device is."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


# costs ----------------------------------------------------------------------------------------------------------------


def _on_cuda(backbone: Any) -> bool:
    return str(backbone.device).startswith("cuda")


def _clock(backbone: Any) -> float:
    """Seconds; on CUDA once everything that was started has ended."""
    if _on_cuda(backbone):
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter()


def _reset_peak(backbone: Any) -> bool:
    """Start measuring the highest memory anew; False where that cannot be done (not Linux, or not allowed)."""
    if _on_cuda(backbone):
        torch.cuda.reset_peak_memory_stats(backbone.device)
        return True
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _peak(backbone: Any) -> float | None:
    """Highest memory in MiB since :func:`_reset_peak`, or None where it cannot be told."""
    if _on_cuda(backbone):
        return float(torch.cuda.max_memory_allocated(backbone.device) / 2**20)
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None
