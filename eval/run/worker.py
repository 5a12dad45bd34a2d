"""What a worker does with a unit of work: samples with their pending methods in, edits out as they are made.

The same code runs in the driver's own process, in local processes and in Ray's actors
(:mod:`cpam_bench.eval.run.executor`).  A worker writes nothing: what it makes goes back to the driver as messages, and
the driver alone writes into the store.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import random
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import cpam_bench
from cpam_bench.cpam.editing import BesideSource, Editor, EditsMany
from cpam_bench.cpam.sampling import Branch, sample_together
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run.cache import TrajectoryCache
from cpam_bench.eval.run.costs import clock, peak, processor, reset_peak
from cpam_bench.eval.run.describe import code_hash, versions
from cpam_bench.eval.run.guard import Guard
from cpam_bench.eval.run.inversion import Inverter, MakeSource, TimedSource, halving
from cpam_bench.eval.run.messages import Began, Made, Message, Note, Unit
from cpam_bench.eval.store.records import Edit, Inversion
from cpam_bench.imba.common.files import encode_png
from cpam_bench.imba.common.labels import parameters
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


class Worker:
    """Edits units of work.

    Args:
        editors: canonical label -> editor.
        backbone: as the editors take it; the worker itself needs ``device`` and what a source does.
        steps, seed: of the run.
        make_source: how a sample becomes a source.
        weights: the backbone's fingerprint, for the cache.
        cache: of trajectories, or None.
        reload: loads the backbone anew, for when an editor has left it changed; without it no edit is made after that.
        lockstep: labels of the methods that go through a unit together, where any of them is wanted; what all of them
            make decides the last bits of each.
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
        reload: Callable[[], Any] | None = None,
        lockstep: Sequence[str] = (),
    ):
        known = {label: editors[label] for label in lockstep if label in editors}
        self.lockstep = {label: one for label, one in known.items() if isinstance(one, BesideSource)}
        self.editors, self.steps, self.seed = editors, steps, seed
        self.make_source, self.weights, self.cache, self.reload = make_source, weights or {}, cache, reload
        self.sources: dict[str, TimedSource] = {}
        self._take(backbone)

    def _take(self, backbone: Any) -> None:
        self.backbone = backbone
        self.inverter = Inverter(backbone, self.steps, self.weights, self.cache)
        self.guard = Guard(backbone, self.weights)

    def work(self, unit: Unit) -> Iterator[Message]:
        """Edit samples with their methods in turn; the methods of a sample share its source, and so the inversion.

        An edit that fails is a :class:`Made` with its error; the others go on.
        """
        self.guard.begin()  # the executor has set this process up since the worker was made
        left, made_ready = dict(unit.wanted), False
        while left:
            method = next(iter(left))
            locked = unit.lockstep and len(self.lockstep) > 1 and method in self.lockstep
            begun = {label: left.pop(label) for label in (self.lockstep if locked else [method]) if label in left}
            yield Began(begun)
            if not made_ready:
                made_ready = True
                for sample, error in self._make_sources(unit.samples):  # others are of use
                    for label, ids in unit.wanted.items():
                        if sample.id in ids:
                            yield Made(self._failed(label, sample, error, 0.0))
            made = self._edit_in_lockstep(unit) if locked else []
            yield from (one for one in made if one.edit.sample in begun.get(one.edit.method, ()))
            there = {(one.edit.method, one.edit.sample) for one in made}
            for label, ids in begun.items():
                rest = tuple(id for id in ids if id in self.sources and (label, id) not in there)
                if rest:
                    if locked:
                        yield Began({label: rest})
                    yield from self._edit_all(unit, label, rest)
            yield from map(Note, self.inverter.notes)
            self.inverter.notes.clear()

    def _edit_all(self, unit: Unit, method: str, wanted: tuple[str, ...]) -> Iterator[Message]:
        """Edit a unit's samples with one method, together where it can."""
        samples = [sample for sample in unit.samples if sample.id in self.sources]
        editor = self.editors[method]
        together = editor.edit_many if len(samples) > 1 and isinstance(editor, EditsMany) else None
        made = self._edit_many(method, samples, together) if together else None
        if changed := self.guard.changed():
            yield from (Made(self._changed(method, one, changed)) for one in samples if one.id in wanted)
            self._renew(unit.samples)
        elif made is not None:
            yield from (one for one in made if one.edit.sample in wanted)
        else:
            for sample in samples:
                if sample.id in wanted:
                    if len(wanted) > 1:
                        yield Began({method: (sample.id,)})
                    alone = self._edit(method, sample, self.sources[sample.id])
                    if changed := self.guard.changed():
                        alone = Made(self._changed(method, sample, changed))
                        self._renew(unit.samples)
                    yield alone

    def _edit_in_lockstep(self, unit: Unit) -> list[Made]:
        """A unit's samples with all methods that go in lockstep; what is not made so is left to be edited as usual."""
        samples = [sample for sample in unit.samples if sample.id in self.sources]
        peak_is_fresh = reset_peak(self.backbone)
        prepared: list[_Prepared] = []
        for method, editor in self.lockstep.items():
            try:
                prepared += self._prepare(method, editor, samples)
            except (Exception, SystemExit) as error:
                self.inverter.notes.append(f"{method} in lockstep: {words(error)}; going on without the others")
        made: list[Made] = []
        if prepared:
            started = clock(self.backbone)
            branches = [one.branch for one in prepared]
            try:
                latents = halving(
                    branches,
                    functools.partial(sample_together, self.backbone),
                    self.inverter.notes.append,
                    "sampling",
                    "edits",
                )
                share = (clock(self.backbone) - started) / len(prepared)
                made = [self._finish(one, z, share, peak_is_fresh) for one, z in zip(prepared, latents, strict=True)]
            except (Exception, SystemExit) as error:
                self.inverter.notes.append(
                    f"{', '.join(self.lockstep)} in lockstep: {words(error)}; going on one by one"
                )
                made = []
        if changed := self.guard.changed():
            self.inverter.notes.append(
                f"a method in lockstep left {' and '.join(changed)} changed; going on one by one"
            )
            self._renew(unit.samples)
            return []
        return made

    def _prepare(self, method: str, editor: BesideSource, samples: Sequence[Sample]) -> list[_Prepared]:
        """What a method does to each sample in lockstep; its own inversions and optimisations are its own time."""
        self._begin(method, samples)
        started = clock(self.backbone)
        branches = halving(
            samples,
            lambda some: editor.branches(
                [replace(one) for one in some],
                [self.sources[one.id] for one in some],
                [edit_seed(self.seed, method, one.id) for one in some],
            ),
            self.inverter.notes.append,
            f"preparing {method} for",
        )
        seconds = (clock(self.backbone) - started - self.inverter.seconds) / len(samples)
        return [
            _Prepared(method, editor, sample, branch, seconds, used.inversion, used.mask_read)
            for sample, branch in zip(samples, branches, strict=True)
            for used in [self.sources[sample.id]]
        ]

    def _finish(self, one: _Prepared, latents: Tensor, share: float, peak_is_fresh: bool) -> Made:
        source = self.sources[one.sample.id]
        source.begin()
        started = clock(self.backbone)
        image = one.editor.finished(self.backbone.decode(latents), replace(one.sample), source)
        _check(image, source)
        seconds = one.seconds + share + clock(self.backbone) - started
        source.inversion, source.mask_read = one.inversion, one.mask_read or source.mask_read
        inputs = registry.inputs(one.editor, one.sample)
        return self._made(one.method, one.sample, source, seconds, peak_is_fresh, image, inputs)

    def _make_sources(self, samples: Sequence[Sample]) -> list[tuple[Sample, Exception]]:
        """Make a source of each sample, to be inverted together; returns the samples that none can be made of."""
        self.sources = {}
        useless: list[tuple[Sample, Exception]] = []
        for sample in samples:
            try:
                self.sources[sample.id] = self.make_source(sample, self.backbone, self.steps)
            except Exception as error:
                useless.append((sample, error))
        self.inverter.join(list(self.sources.values()))
        return useless

    def _renew(self, samples: Sequence[Sample]) -> None:
        """Load the backbone anew, and make the sources of it.

        Raises:
            UserError: it cannot be loaded anew.
        """
        if self.reload is None:
            raise UserError("an editor has left the backbone changed, and it cannot be loaded anew here")
        notes = self.inverter.notes
        self._take(self.reload())
        self.inverter.notes += notes
        self._make_sources(samples)

    def _edit(self, method: str, sample: Sample, source: TimedSource) -> Made:
        editor = self.editors[method]
        seed = self._begin(method, [sample])
        peak_is_fresh = reset_peak(self.backbone)
        started = clock(self.backbone)
        try:
            image = editor.edit(replace(sample), source, seed)  # a copy: what an editor does to it is its own affair
            _check(image, source)
            seconds = clock(self.backbone) - started - self.inverter.seconds
            inputs = registry.inputs(editor, sample)
        except (Exception, SystemExit) as error:  # whatever a method does, the others go on
            return Made(self._failed(method, sample, error, clock(self.backbone) - started))
        return self._made(method, sample, source, seconds, peak_is_fresh, image, inputs)

    def _edit_many(
        self,
        method: str,
        samples: list[Sample],
        together: Callable[[list[Sample], list[TimedSource], list[int]], list[Image.Image]],
    ) -> list[Made] | None:
        """Several samples at once; None where that fails, and each has to be edited alone."""

        def edit(some: Sequence[Sample]) -> list[Image.Image]:
            some_sources = [self.sources[sample.id] for sample in some]
            images = together(
                [replace(one) for one in some], some_sources, [edit_seed(self.seed, method, one.id) for one in some]
            )
            for image, source in zip(images, some_sources, strict=True):
                _check(image, source)
            return images

        self._begin(method, samples)
        peak_is_fresh = reset_peak(self.backbone)
        started = clock(self.backbone)
        try:
            images = halving(samples, edit, self.inverter.notes.append, f"editing by {method}")
            inputs = [registry.inputs(self.editors[method], sample) for sample in samples]
        except (Exception, SystemExit) as error:
            names = ", ".join(sample.id for sample in samples)
            self.inverter.notes.append(f"{method} on {names} together: {words(error)}; going on one by one")
            return None
        seconds = (clock(self.backbone) - started - self.inverter.seconds) / len(samples)
        return [
            self._made(method, sample, self.sources[sample.id], seconds, peak_is_fresh, image, read)
            for sample, image, read in zip(samples, images, inputs, strict=True)
        ]

    def _begin(self, method: str, samples: Sequence[Sample]) -> int:
        """Get ready for an edit; returns its seed, that of the first where there are several."""
        seed = edit_seed(self.seed, method, samples[0].id)
        # An editor should use the seed that it is given; this makes one that draws from global generators repeatable.
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        for sample in samples:
            self.sources[sample.id].begin()
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
            peak_memory_mib=peak(self.backbone) if peak_is_fresh else None,
            versions=versions(),
            processor=processor(str(self.backbone.device)),
            mask_read=source.mask_read,
        )
        return Made(edit, encode_png(image))

    def _changed(self, method: str, sample: Sample, what: Sequence[str]) -> Edit:
        error = LeftChanged(f"it left {' and '.join(what)} changed; the backbone is loaded anew for what comes after")
        return self._failed(method, sample, error, 0.0)

    def _failed(self, method: str, sample: Sample, error: BaseException, seconds: float) -> Edit:
        if isinstance(error, torch.OutOfMemoryError):
            torch.cuda.empty_cache()  # the next method may need less
        return failed(method, self.editors[method], sample.id, self.seed, error, seconds)


@dataclass(frozen=True)
class _Prepared:
    """An edit that is to be sampled in lockstep: what it took so far, and what of its source it has used."""

    method: str
    editor: BesideSource
    sample: Sample
    branch: Branch
    seconds: float
    inversion: Inversion
    mask_read: bool


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
        lockstep: as in :class:`Worker`.
        code: hash of the package that the run is of: a worker must have found the same.
    """

    editors: Mapping[str, Editor]
    load_backbone: Callable[[], Any]
    fingerprint: Mapping[str, str]
    steps: int
    seed: int
    make_source: MakeSource = TimedSource
    threads: int | None = None
    cache: TrajectoryCache | None = None
    lockstep: tuple[str, ...] = ()
    code: str = field(default_factory=code_hash)

    def worker(self) -> Worker:
        """Load the backbone and make the worker of this process.

        Raises:
            UserError: the backbone cannot be loaded, or has other weights than the run's, or the worker has found
                another cpam-bench.
        """
        if code_hash() != self.code:
            raise UserError(
                f"a worker on {platform.node()} has found another cpam-bench than the run's, in"
                f" {Path(cpam_bench.__file__).parent}; install the same one on every machine"
            )
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
        return Worker(
            self.editors,
            backbone,
            self.steps,
            self.seed,
            self.make_source,
            self.fingerprint,
            self.cache,
            self.load_backbone,
            self.lockstep,
        )


class LeftChanged(Exception):
    """An editor left the backbone, or this process, other than it found it."""


def words(error: BaseException) -> str:
    """An error in a line or some: text that any file can hold, and no longer than one cares to read."""
    try:
        text = str(error)
    except Exception:  # whatever somebody else's __str__ does
        text = "(it has no message that can be shown)"
    return _plain(f"{type(error).__name__}: {text}", 2000)


def _plain(text: str, limit: int) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit} characters more)"


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
        error=words(error),
        traceback=_plain("".join(traceback.format_exception(error)), 20_000),
        versions=versions(),
    )
