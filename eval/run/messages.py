"""What goes to a worker and what comes back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cpam_bench.eval.store.records import Edit
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Unit:
    """Samples with the methods that are to edit them: one sample, or as many as are edited together.

    Attributes:
        samples: with their pictures in memory (:meth:`cpam_bench.imba.sample.Sample.loaded`).  What is edited together
            is inverted together too, and the last bits of it depend on the company: so these are always the same ones.
        wanted: method -> ids of the samples that it has not edited yet.
        lockstep: whether methods that the run edits in lockstep are.
    """

    samples: tuple[Sample, ...]
    wanted: Mapping[str, tuple[str, ...]]
    lockstep: bool = True


@dataclass(frozen=True)
class Ready:
    """The worker has loaded what it needs."""


@dataclass(frozen=True)
class Began:
    """The worker has begun an edit, or several at once: if it dies now, or takes too long, it is of these.

    ``edits`` are ids of samples by their method.
    """

    edits: Mapping[str, tuple[str, ...]]


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
