"""A unit's sources inverted together, once for all methods, out of the cache where it has them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.source import Source
from cpam_bench.eval.run.cache import TrajectoryCache
from cpam_bench.eval.run.costs import clock, processor
from cpam_bench.eval.run.describe import versions
from cpam_bench.eval.store.records import Inversion
from cpam_bench.imba.sample import Sample

T = TypeVar("T")
R = TypeVar("R")


class TimedSource(Source):
    """A source that is inverted together with others, and notes what that took and whether a method used it.

    Attributes:
        inversion_seconds: what computing its trajectory took, its share of what was computed at once; None before.
        inversion: of the edit at hand: empty if it used no trajectory, ``computed`` if it was made for it, ``cached``
            if it came from the disk, ``shared`` if an edit before had it made.
        mask_read: whether the edit at hand has read the mask.
    """

    def __init__(self, sample: Sample, backbone: Any, steps: int):
        super().__init__(sample, backbone, steps)
        self.inversion_seconds: float | None = None
        self.inversion: Inversion = ""
        self.mask_read = False
        self.invert: Callable[[], None] = self._invert
        self._origin: Inversion = ""

    @property
    def mask(self) -> np.ndarray | None:
        """As :attr:`Source.mask`; that it was read is noted."""
        self.mask_read = True
        return self._mask

    @mask.setter
    def mask(self, mask: np.ndarray | None) -> None:
        self._mask = mask

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
        self.mask_read = False

    def keep(self, trajectory: Trajectory, seconds: float, origin: Inversion) -> None:
        """Take a trajectory that was made elsewhere."""
        self.__dict__["trajectory"] = trajectory  # where cached_property keeps it
        self.inversion_seconds, self._origin = seconds, origin

    def compute(self) -> Trajectory:
        """The trajectory, computed alone."""
        return super().trajectory

    def _invert(self) -> None:
        started = clock(self.backbone)
        self.keep(self.compute(), clock(self.backbone) - started, "computed")


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
        started = clock(self.backbone)
        trajectories = halving(sources, self._together, self.notes.append, "inverting")
        taken = clock(self.backbone) - started
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
    items: Sequence[T],
    work: Callable[[Sequence[T]], list[R]],
    note: Callable[[str], None],
    what: str,
    of: str = "samples",
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
    note(f"out of memory {what} {len(items)} {of} together: going on with {half} at a time")
    return [*halving(items[:half], work, note, what, of), *halving(items[half:], work, note, what, of)]
