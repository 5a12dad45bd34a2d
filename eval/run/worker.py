"""What a worker does with a unit of work: samples with their pending methods in, edits out as they are made.

The same code runs in the driver's own process, in local processes and in Ray's actors
(:mod:`cpam_bench.eval.run.executors`).  A worker writes nothing: what it makes goes back to the driver as messages, and
the driver alone writes into the store.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image

from cpam_bench.cpam.editing import Editor
from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run.cache import TrajectoryCache
from cpam_bench.eval.store.store import Edit, Inversion
from cpam_bench.imba.common.files import encode_png
from cpam_bench.imba.common.labels import parameters
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

T = TypeVar("T")
R = TypeVar("R")

_PACKAGES = ("cpam-bench", "torch", "diffusers", "transformers")


# what goes to a worker and what comes back ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """Samples with the methods that are to edit them: one sample, or as many as are edited together.

    Attributes:
        samples: with their pictures in memory (:meth:`cpam_bench.imba.sample.Sample.loaded`).  What is edited together
            is inverted together too, and the last bits of it depend on the company: so these are always the same ones.
        wanted: method -> ids of the samples that it has not edited yet.
    """

    samples: tuple[Sample, ...]
    wanted: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Ready:
    """The worker has loaded what it needs."""


@dataclass(frozen=True)
class Began:
    """The worker has begun an edit, or several at once: if it dies now, or takes too long, it is of these."""

    method: str
    samples: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """An edit is made, or has failed: its record, and the PNG file's bytes of one that is ok."""

    edit: Edit
    picture: bytes | None = None


@dataclass(frozen=True)
class Note:
    """Something that the user should know."""

    text: str


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


Message = Ready | Began | Made | Note | Finished | Died | Broken


# sources --------------------------------------------------------------------------------------------------------------


class TimedSource(Source):
    """A source that is inverted together with others, and notes what that took and whether a method used it.

    Attributes:
        inversion_seconds: what computing its trajectory took, its share of what was computed at once; None before.
        inversion: of the edit at hand: empty if it used no trajectory, ``computed`` if it was made for it, ``cached``
            if it came from the disk, ``shared`` if an edit before had it made.
    """

    def __init__(self, sample: Sample, backbone: Any, steps: int):
        super().__init__(sample, backbone, steps)
        self.inversion_seconds: float | None = None
        self.inversion: Inversion = ""
        self.invert: Callable[[], None] = self._invert
        self._origin: Inversion = ""

    @property
    def trajectory(self) -> Trajectory:  # type: ignore[override]
        """As :attr:`Source.trajectory`; the first time it is computed, or read, with that of every source beside it."""
        if self.inversion_seconds is None:
            self.invert()
        self.inversion = self.inversion or self._origin
        self._origin = "shared"
        return super().trajectory

    def begin(self) -> None:
        """Forget what the last edit used."""
        self.inversion = ""

    def keep(self, trajectory: Trajectory, seconds: float, origin: Inversion) -> None:
        """Take a trajectory that was made elsewhere."""
        self.__dict__["trajectory"] = trajectory  # where cached_property keeps it
        self.inversion_seconds, self._origin = seconds, origin

    def compute(self) -> Trajectory:
        """The trajectory, computed alone."""
        return super().trajectory

    def _invert(self) -> None:
        started = _clock(self.backbone)
        self.keep(self.compute(), _clock(self.backbone) - started, "computed")


MakeSource = Callable[[Sample, Any, int], TimedSource]


class Inverter:
    """Gives sources their trajectories: out of the cache, or computed, all of a unit at once.

    Attributes:
        seconds: spent computing since it was last set to zero.
        notes: what the user should know.
    """

    def __init__(self, backbone: Any, steps: int, weights: Mapping[str, str], cache: TrajectoryCache | None):
        self.backbone, self.steps, self.weights, self.cache = backbone, steps, weights, cache
        self.seconds = 0.0
        self.notes: list[str] = []

    def join(self, sources: Sequence[TimedSource]) -> None:
        """Have these sources inverted together when the first of them is asked for its trajectory."""
        for source in sources:
            source.invert = lambda: self._invert(sources)

    def _invert(self, sources: Sequence[TimedSource]) -> None:
        facts = [self._facts(sources, index) for index in range(len(sources))] if self.cache else []
        if self.cache:
            found = [self.cache.get(fact, self.steps, self.backbone.device) for fact in facts]
            # All or none: what one is computed with decides its last bits.
            if all(found):
                schedule = self.backbone.schedule(self.steps)
                for source, entry in zip(sources, found, strict=True):
                    latents, seconds = entry or ([], 0.0)
                    source.keep(Trajectory(latents, schedule), seconds, "cached")
                return
        started = _clock(self.backbone)
        trajectories = halving(sources, self._together, self.notes.append, "inverting")
        taken = _clock(self.backbone) - started
        self.seconds += taken
        for source, trajectory in zip(sources, trajectories, strict=True):
            source.keep(trajectory, taken / len(sources), "computed")
        if self.cache and not self.notes:  # halved, it is not what its name says
            for fact, trajectory in zip(facts, trajectories, strict=True):
                self.cache.put(fact, trajectory.latents, taken / len(sources))

    def _together(self, sources: Sequence[TimedSource]) -> list[Trajectory]:
        if len(sources) == 1:
            return [sources[0].compute()]
        both = invert(self.backbone, torch.cat([source.latents for source in sources]), self.steps)
        return both.split()

    def _facts(self, sources: Sequence[TimedSource], index: int) -> dict[str, Any]:
        """Everything that decides the bits of a trajectory."""
        device = str(self.backbone.device)
        schedule = self.backbone.schedule(self.steps)
        return {
            "images": [hashlib.sha256(source.image.tobytes()).hexdigest() for source in sources],
            "index": index,
            "weights": dict(self.weights),
            "timesteps": schedule.timesteps,
            "alphas": [schedule.alphas, schedule.previous_alphas],
            "prompt": "",
            "dtype": str(self.backbone.dtype),
            "device": device.partition(":")[0],
            "processor": processor(device),
            "threads": torch.get_num_threads() if device == "cpu" else None,
            "versions": {name: versions()[name] for name in ("torch", "diffusers", "transformers")},
        }


def halving(
    items: Sequence[T], work: Callable[[Sequence[T]], list[R]], note: Callable[[str], None], what: str
) -> list[R]:
    """Work on items together; where the memory is too small for that, on each half of them.

    Raises:
        torch.OutOfMemoryError: there is not enough for one.
    """
    try:
        return work(items)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        if len(items) == 1:
            raise
    half = len(items) // 2
    note(f"out of memory {what} {len(items)} samples together: going on with {half} at a time")
    return [*halving(items[:half], work, note, what), *halving(items[half:], work, note, what)]


# the worker -----------------------------------------------------------------------------------------------------------


class Worker:
    """Edits units of work.

    Args:
        editors: canonical label -> editor.
        backbone: as the editors take it; the worker itself needs ``device`` and what a source does.
        steps, seed: of the run.
        make_source: how a sample becomes a source.
        weights: the backbone's fingerprint, for the cache.
        cache: of trajectories, or None.
    """

    def __init__(
        self,
        editors: Mapping[str, Editor],
        backbone: Any,
        steps: int,
        seed: int,
        make_source: MakeSource = TimedSource,
        weights: Mapping[str, str] | None = None,
        cache: TrajectoryCache | None = None,
    ):
        self.editors, self.backbone, self.steps, self.seed = editors, backbone, steps, seed
        self.make_source = make_source
        self.inverter = Inverter(backbone, steps, weights or {}, cache)

    def work(self, unit: Unit) -> Iterator[Message]:
        """Edit samples with their methods in turn; the methods of a sample share its source, and so the inversion.

        An edit that fails is a :class:`Made` with its error; the others go on.
        """
        sources: dict[str, TimedSource] = {}
        for method, wanted in unit.wanted.items():
            yield Began(method, wanted)
            if not sources:
                for sample in unit.samples:
                    try:
                        sources[sample.id] = self.make_source(sample, self.backbone, self.steps)
                    except Exception as error:  # the sample is of no use; others are
                        for label, ids in unit.wanted.items():
                            if sample.id in ids:
                                yield Made(self._failed(label, sample, error, 0.0))
                self.inverter.join(list(sources.values()))
            samples = [sample for sample in unit.samples if sample.id in sources]
            together = getattr(self.editors[method], "edit_many", None) if len(samples) > 1 else None
            made = self._edit_many(method, samples, sources, together) if together else None
            if made is None:
                for sample in samples:
                    if sample.id in wanted:
                        if len(wanted) > 1:
                            yield Began(method, (sample.id,))
                        yield self._edit(method, sample, sources[sample.id])
            else:
                yield from (one for one in made if one.edit.sample in wanted)
            yield from map(Note, self.inverter.notes)
            self.inverter.notes.clear()

    def _edit(self, method: str, sample: Sample, source: TimedSource) -> Made:
        editor = self.editors[method]
        seed = self._begin(method, [sample], [source])
        peak_is_fresh = _reset_peak(self.backbone)
        started = _clock(self.backbone)
        try:
            image = editor.edit(sample, source, seed)
            _check(image, source)
            seconds = _clock(self.backbone) - started - self.inverter.seconds
            inputs = registry.inputs(editor, sample)
        except Exception as error:  # whatever a method does, the others go on
            return Made(self._failed(method, sample, error, _clock(self.backbone) - started))
        return self._made(method, sample, source, seconds, peak_is_fresh, image, inputs)

    def _edit_many(
        self,
        method: str,
        samples: list[Sample],
        sources: Mapping[str, TimedSource],
        together: Callable[[list[Sample], list[TimedSource], list[int]], list[Image.Image]],
    ) -> list[Made] | None:
        """Several samples at once; None where that fails, and each has to be edited alone."""

        def edit(some: Sequence[Sample]) -> list[Image.Image]:
            some_sources = [sources[sample.id] for sample in some]
            images = together(list(some), some_sources, [edit_seed(self.seed, method, one.id) for one in some])
            for image, source in zip(images, some_sources, strict=True):
                _check(image, source)
            return images

        self._begin(method, samples, list(sources.values()))
        peak_is_fresh = _reset_peak(self.backbone)
        started = _clock(self.backbone)
        try:
            images = halving(samples, edit, self.inverter.notes.append, f"editing by {method}")
            inputs = [registry.inputs(self.editors[method], sample) for sample in samples]
        except Exception as error:
            names = ", ".join(sample.id for sample in samples)
            self.inverter.notes.append(
                f"{method} on {names} together: {type(error).__name__}: {error}; going on one by one"
            )
            return None
        seconds = (_clock(self.backbone) - started - self.inverter.seconds) / len(samples)
        return [
            self._made(method, sample, sources[sample.id], seconds, peak_is_fresh, image, read)
            for sample, image, read in zip(samples, images, inputs, strict=True)
        ]

    def _begin(self, method: str, samples: Sequence[Sample], sources: Sequence[TimedSource]) -> int:
        """Get ready for an edit; returns its seed, that of the first where there are several."""
        seed = edit_seed(self.seed, method, samples[0].id)
        # An editor should use the seed that it is given; this makes one that draws from global generators repeatable.
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for source in sources:
            source.begin()
        self.inverter.seconds = 0.0
        return seed

    def _made(
        self,
        method: str,
        sample: Sample,
        source: TimedSource,
        seconds: float,
        peak_is_fresh: bool,
        image: Image.Image,
        inputs: dict[str, Any],
    ) -> Made:
        edit = Edit(
            method=method,
            sample=sample.id,
            status="ok",
            params=parameters(self.editors[method]) | inputs,
            seed=edit_seed(self.seed, method, sample.id),
            seconds=seconds,
            inversion_seconds=(source.inversion_seconds or 0.0) if source.inversion else 0.0,
            inversion=source.inversion,
            peak_memory_mib=_peak(self.backbone) if peak_is_fresh else None,
            versions=versions(),
            processor=processor(str(self.backbone.device)),
        )
        return Made(edit, encode_png(image))

    def _failed(self, method: str, sample: Sample, error: Exception, seconds: float) -> Edit:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()  # the next method may need less
        return failed(method, self.editors[method], sample.id, self.seed, error, seconds)


def _check(image: Any, source: Source) -> None:
    """Make sure that an editor has returned what it must."""
    if not isinstance(image, Image.Image):
        raise TypeError(f"the editor returned {type(image).__name__} and not a PIL image")
    if image.mode != "RGB" or image.size != source.image.size:
        raise ValueError(
            f"the editor returned a picture of mode {image.mode} and size {image.size[0]}x{image.size[1]};"
            f" it must be RGB and {source.image.size[0]}x{source.image.size[1]}"
        )


@dataclass(frozen=True)
class Recipe:
    """How a process makes its worker; it can be pickled.

    Attributes:
        editors: canonical label -> editor; their modules must be installed where the worker is.
        load_backbone: loads the backbone.
        fingerprint: of the backbone's weights: a worker on another machine must have found the same.
        steps, seed, make_source: as in :class:`Worker`.
        threads: of torch on the CPU, or None to leave them; sums over more threads round differently.
        cache: of trajectories, or None; on each machine a folder of its own, unless it is shared.
    """

    editors: Mapping[str, Editor]
    load_backbone: Callable[[], Any]
    fingerprint: Mapping[str, str]
    steps: int
    seed: int
    make_source: MakeSource = TimedSource
    threads: int | None = None
    cache: TrajectoryCache | None = None

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
        return self.with_backbone(backbone)

    def with_backbone(self, backbone: Any) -> Worker:
        """The worker on a backbone that is loaded and known to be the right one."""
        return Worker(self.editors, backbone, self.steps, self.seed, self.make_source, self.fingerprint, self.cache)


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
        params=parameters(editor),
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
