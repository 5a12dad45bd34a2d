"""Every method on every sample, into a store."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cpam_bench.cpam.editing import Editor
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run.executors import Executor, Serial
from cpam_bench.eval.run.worker import (
    Began,
    Broken,
    Died,
    Finished,
    Made,
    MakeSource,
    Message,
    Note,
    Ready,
    TimedSource,
    Unit,
    Worker,
    edit_seed,
    failed,
    processor,
    versions,
)
from cpam_bench.eval.store.store import Run, Store, Task, at_once
from cpam_bench.imba.common.labels import parameters
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

__all__ = ["Failure", "TimedSource", "describe_run", "edit_seed", "pending_edits", "run", "versions"]

log = logging.getLogger(__name__)

PROTOCOL = {
    "images": "RGB, resized to a square of the backbone's resolution, bicubic with antialiasing (Pillow)",
    "masks": "alteration mask (True where the picture may change), resized nearest neighbour",
    "seconds": "wall time of one edit; the inversion that methods share is recorded apart",
    "peak_memory": "weights included; CUDA: torch's highest allocation, CPU: the process's highest resident size",
}
"""How pictures are prepared and costs are measured; stored with every run."""


@dataclass(frozen=True)
class Failure:
    """An edit that failed."""

    method: str
    sample: str
    error: str


def describe_run(
    arguments: Mapping[str, Any],
    dataset: Any,
    samples: Iterable[Sample],
    backbone: Any,
    editors: Mapping[str, Editor],
    *,
    steps: int,
    seed: int,
    dtype: str = "float32",
    device: str = "cpu",
    threads: int | None = None,
    batch: int = 1,
) -> Run:
    """What ``run.json`` says of a run that is about to start.

    Args:
        arguments: of the command, to be kept as they are.
        dataset: an ``cpam_bench.imba.dataset.Dataset``.
        samples: those of it that are to be edited.
        backbone: a ``cpam_bench.cpam.backbone.Backbone``.
        editors: canonical label -> editor.
        steps, seed: of the run.
        dtype, device: as asked for.
        threads: of torch in each worker, if they are set.
        batch: how many samples are edited together.
    """
    return Run(
        arguments=dict(arguments),
        dataset={"name": dataset.name, "fingerprint": dataset.fingerprint, "pocket": dataset.is_pocket},
        backbone={
            "name": backbone.name,
            "weights": dict(backbone.fingerprint),
            "resolution": backbone.resolution,
            "pocket": backbone.is_pocket,
        },
        steps=steps,
        seed=seed,
        dtype=dtype,
        device=device.partition(":")[0],
        protocol=dict(PROTOCOL),
        methods={label: describe_editor(label, editor) for label, editor in editors.items()},
        samples=[sample.id for sample in samples],
        versions=versions(),
        machine=machine(device),
        threads=threads,
        batch=batch,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def describe_editor(label: str, editor: Editor) -> dict[str, Any]:
    """What ``run.json`` says of a method."""
    name = label.partition(":")[0]
    return {
        "method": name,
        "title": editor.title,
        "edits": editor.edits,
        "parameters": parameters(editor),
        "reference": editor.reference,
        "package": registry.EDITORS.package_of(name),
    }


def machine(device: str) -> dict[str, Any]:
    """What the run's times depend on."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": processor("cpu"),
        "cores": os.cpu_count(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():  # a driver need not have the card of its workers
        facts |= {"gpu": processor(device), "cuda": torch.version.cuda}
    return facts


class WorkerDied(Exception):
    """An edit ended the process that made it, every time that it was tried."""


class TookTooLong(Exception):
    """An edit did not end within the time that it was given, every time that it was tried."""


TRIES = 3
"""How often an edit is begun that ends its worker or hangs.  After the second time it is put aside and comes last: a
single death may have come from outside, as when the system ends whatever process has most memory."""

_STARTS = 3
"""How many workers in a row may die while they load before the run is given up."""


def run(
    store: Store,
    samples: Iterable[Sample],
    editors: Mapping[str, Editor],
    backbone: Any,
    *,
    wanted: Mapping[str, Collection[str]] | None = None,
    executor: Executor | None = None,
    timeout: float | None = None,
    progress: bool | None = None,
    warnings: bool = True,
    make_source: MakeSource = TimedSource,
) -> list[Failure]:
    """Edit every sample with every method, leaving out what the store already has.

    A sample goes to a worker with all its pending methods, so that they share its inversion, and each edit is written
    as it comes back.  An edit that fails is recorded with its error and tried again by the next run; the others go on.
    A worker that dies, or whose edit takes longer than ``timeout``, is replaced, and its work is done elsewhere; see
    :data:`TRIES`.

    The first Ctrl-C lets the edits that have begun come to their end, a second one ends at once; both leave a store
    that the next run continues.

    Args:
        store: held under :func:`cpam_bench.eval.store.store.locked`; steps and seed are its run's.
        samples: what to edit.
        editors: canonical label -> editor.
        backbone: as the editors take it; the runner itself needs what makes pictures fit.
        wanted: sample id -> the methods that are to edit it, where these are not all.
        executor: where the workers are (closed at the end); by default one works in this process, on ``backbone``.
        timeout: seconds that an edit may take, the inversion of its sample included if it is the first that needs it.
        progress: show bars on stderr; None shows them on a terminal only.
        warnings: say which prompts are cut and which versions differ from the run's.
        make_source: how a sample becomes a source, for the default executor.

    Returns:
        the edits that failed.

    Raises:
        DiskFull, UserError: the store cannot be written, no worker can be started, or a timeout is asked for where the
            executor cannot keep it.
        KeyboardInterrupt: after Ctrl-C.
    """
    samples = list(samples)
    if executor is None:
        executor = Serial(Worker(editors, backbone, store.run.steps, store.run.seed, make_source))
    try:
        if timeout is not None and not executor.can_end:
            raise UserError("a timeout needs workers in processes of their own; an edit in this one cannot be ended")
        pending = pending_edits(store, samples, editors)
        if wanted is not None:
            pending = {id: [label for label in labels if label in wanted[id]] for id, labels in pending.items()}
        if warnings:
            warn(store, samples, backbone)
        with _bars(pending, progress) as bars, _interruptible() as interrupted:
            driver = _Driver(store, samples, editors, backbone, executor, timeout, pending, bars, interrupted)
            driver.work()
            if cached := driver.inversions["cached"]:
                computed = driver.inversions["computed"]
                bars.say(f"inversions: {cached} from the cache, {computed} computed")
    finally:
        executor.close()
    if interrupted.is_set():
        raise KeyboardInterrupt
    order = {(method, sample.id): i for i, (sample, method) in enumerate((s, m) for s in samples for m in editors)}
    return sorted(driver.failures, key=lambda failure: order[failure.method, failure.sample])


@dataclass
class _Work:
    """What is handed out: the samples of a unit, and for each method those that it is to edit."""

    samples: list[Sample]
    wanted: dict[str, list[str]]


@dataclass
class _Job:
    """What a worker is at: what it has not given back of its unit, and the edits that it has begun, since when."""

    samples: list[Sample]
    left: dict[str, list[str]]
    began: Began
    since: float = field(default_factory=time.monotonic)

    @property
    def in_flight(self) -> list[str]:
        """Samples of the method that has begun which have not come back."""
        return [id for id in self.began.samples if id in self.left.get(self.began.method, ())]


def _units(store: Store, samples: Sequence[Sample], pending: Mapping[str, list[str]]) -> Iterator[_Work]:
    """What is to be done, in the order of the samples.

    Which samples are edited together follows from the run's list of them, whatever is pending: a batch of which some
    edits are made already is edited as a whole again for the others.
    """
    place = {id: index // store.run.batch for index, id in enumerate(store.run.samples)}
    batches: dict[int, list[Sample]] = {}
    for sample in samples:
        batches.setdefault(place[sample.id], []).append(sample)
    for batch in batches.values():
        wanted: dict[str, list[str]] = {}
        for sample in batch:
            for method in pending[sample.id]:
                wanted.setdefault(method, []).append(sample.id)
        if wanted:
            yield _Work(batch, wanted)


class _Driver:
    """Hands out work, writes what comes back, and does again elsewhere what a worker did not finish."""

    def __init__(
        self,
        store: Store,
        samples: Sequence[Sample],
        editors: Mapping[str, Editor],
        backbone: Any,
        executor: Executor,
        timeout: float | None,
        pending: Mapping[str, list[str]],
        bars: _Bars,
        interrupted: threading.Event,
    ):
        self.store, self.editors, self.backbone, self.executor = store, editors, backbone, executor
        self.timeout, self.bars, self.interrupted = timeout, bars, interrupted
        self.failures: list[Failure] = []
        # The methods of a sample go in the order in which they are given.
        self.queue = deque(
            _Work(work.samples, {label: work.wanted[label] for label in editors if label in work.wanted})
            for work in _units(store, samples, pending)
        )
        stored = at_once(store.has_task, [sample.id for sample in samples])
        self.tasks = {sample.id for sample, there in zip(samples, stored, strict=True) if there}
        self.only_tasks = [s for s in samples if not pending[s.id] and s.id not in self.tasks]
        self.inversions: Counter[str] = Counter()
        self.strikes: Counter[tuple[str, str]] = Counter()
        self.starting: set[Any] = set()
        self.idle: list[Any] = []
        self.jobs: dict[Any, _Job] = {}
        self.died_starting = 0

    def work(self) -> None:
        for sample in self.only_tasks:
            self._prepare(sample)
        while (self.queue and not self.interrupted.is_set()) or self.jobs:
            if not self.interrupted.is_set():
                self._hand_out()
            if not self.jobs and not self.starting:
                continue  # nothing could be made of the rest
            for worker, message in self.executor.wait([*self.jobs, *self.starting], self._patience()):
                self._take(worker, message)
            self._end_what_hangs()

    def _hand_out(self) -> None:
        while self.queue and self.idle:
            work = self.queue.popleft()
            loaded = {sample.id: self._prepare(sample) for sample in work.samples}
            bad = {id: error for id, error in loaded.items() if isinstance(error, Exception)}
            for method, ids in work.wanted.items():
                for id in ids:
                    if id in bad:  # the sample is of no use; the others are
                        self._write(Made(failed(method, self.editors[method], id, self.store.run.seed, bad[id])))
            wanted = {method: tuple(id for id in ids if id not in bad) for method, ids in work.wanted.items()}
            wanted = {method: ids for method, ids in wanted.items() if ids}
            if not wanted:
                continue
            worker = self.idle.pop()
            whole = tuple(sample for sample in loaded.values() if isinstance(sample, Sample))
            self.executor.submit(worker, Unit(whole, wanted))
            first = next(iter(wanted))
            left = {method: list(ids) for method, ids in wanted.items()}
            self.jobs[worker] = _Job(work.samples, left, Began(first, wanted[first]))
        wanted_workers = min(len(self.queue), self.executor.size - len(self.jobs)) - len(self.starting)
        for _ in range(wanted_workers):
            self.starting.add(self.executor.start())

    def _prepare(self, sample: Sample) -> Sample | Exception:
        """The sample with its pictures in memory, and in the store as a task; or what is wrong with it."""
        try:
            prepared = prepare(sample, self.backbone)
        except Exception as error:
            return error
        if sample.id not in self.tasks:
            write_task(self.store, prepared)
            self.tasks.add(sample.id)
        return prepared.sample

    def _take(self, worker: Any, message: Message) -> None:
        if isinstance(message, Ready):
            self.starting.discard(worker)
            self.died_starting = 0
            self.idle.append(worker)
        elif isinstance(message, Broken):
            raise UserError(f"a worker could not start: {message.reason}")
        elif isinstance(message, Died):
            self._mourn(worker, message.reason)
        elif worker not in self.jobs:
            pass  # it was ended between two messages
        elif isinstance(message, Note):
            self.bars.say(message.text)
        elif isinstance(message, Began):
            self.jobs[worker].began, self.jobs[worker].since = message, time.monotonic()
        elif isinstance(message, Made):
            job = self.jobs[worker]
            job.left[message.edit.method].remove(message.edit.sample)
            self._write(message)
            if self.interrupted.is_set() and not job.in_flight:
                del self.jobs[worker]
                self.executor.end(worker)
        elif isinstance(message, Finished):
            del self.jobs[worker]
            self.idle.append(worker)

    def _write(self, made: Made) -> None:
        edit = made.edit
        self.store.write_edit(edit, made.picture)
        self.inversions[edit.inversion] += 1
        if edit.error:
            self.failures.append(Failure(edit.method, edit.sample, edit.error))
            self.bars.say(f"failed: {edit.method} on {edit.sample}: {edit.error}")
        self.bars.advance(edit.method)

    # faults ---------------------------------------------------------------------------------------------------------

    def _mourn(self, worker: Any, reason: str) -> None:
        if worker in self.starting:
            self.starting.discard(worker)
            self.died_starting += 1
            if self.died_starting >= _STARTS:
                raise UserError(
                    f"{_STARTS} workers died one after another while loading ({reason}), most likely for want of"
                    " memory; what is finished is safe, and the same command with fewer --workers continues"
                )
        elif worker in self.jobs:
            self._strike(self.jobs.pop(worker), WorkerDied(reason))

    def _patience(self) -> float | None:
        """Seconds to wait for a message: at most until the next edit has taken too long."""
        if not self.jobs:
            return 0.5  # to notice Ctrl-C while workers load
        if self.timeout is None:
            return None
        return max(0.0, min(job.since for job in self.jobs.values()) + self.timeout - time.monotonic())

    def _end_what_hangs(self) -> None:
        if self.timeout is None:
            return
        for worker, job in list(self.jobs.items()):
            if time.monotonic() - job.since >= self.timeout:
                self.executor.end(worker)
                del self.jobs[worker]
                self._strike(job, TookTooLong(f"longer than {self.timeout:g} s"))

    def _strike(self, job: _Job, error: Exception) -> None:
        """A worker is gone: what it had not begun is done next, what it was at comes last, or is given up."""
        method, lost = job.began.method, job.in_flight
        rest = {label: [id for id in ids if label != method or id not in lost] for label, ids in job.left.items()}
        rest = {label: ids for label, ids in rest.items() if ids}
        if rest:
            self.queue.appendleft(_Work(job.samples, rest))
        again: list[str] = []
        alone: list[str] = []
        for id in lost:
            self.strikes[method, id] += 1
            count = self.strikes[method, id]
            if count >= TRIES:
                given_up = type(error)(f"{error} (tried {count} times)")
                self._write(Made(failed(method, self.editors[method], id, self.store.run.seed, given_up)))
            else:
                (alone if count == TRIES - 1 else again).append(id)
        if again:
            self.bars.say(f"{method} on {', '.join(again)}: {error}; tried again later")
            self.queue.append(_Work(job.samples, {method: again}))
        for id in alone:
            self.bars.say(f"{method} on {id}: {error}; put aside, and tried once more at the end")
            sample = next(sample for sample in job.samples if sample.id == id)
            self.queue.append(_Work([sample], {method: [id]}))


@contextlib.contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second is a KeyboardInterrupt as ever."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # only the main thread is told of signals
        return

    def interrupt(number: int, frame: Any) -> None:
        interrupted.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not through stdio, which the signal may have come in the middle of.
        os.write(2, b"\nFinishing the edits that have begun; Ctrl-C again stops at once.\n")

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def pending_edits(store: Store, samples: Iterable[Sample], methods: Collection[str]) -> dict[str, list[str]]:
    """Sample id -> the methods whose edit of it the store does not have yet."""
    keys = [(label, sample.id) for sample in samples for label in methods]
    pending: dict[str, list[str]] = {id: [] for _, id in keys}
    for (label, id), done in zip(keys, at_once(lambda key: store.is_done(*key), keys), strict=True):
        if not done:
            pending[id].append(label)
    return pending


class _Bars:
    """A bar a method and one for all."""

    def __init__(self, progress: Progress, counts: Mapping[str, int]):
        self._progress = progress
        self._tasks = {label: progress.add_task(label, total=count) for label, count in counts.items() if count}
        self._all = progress.add_task("all edits", total=sum(counts.values()))

    def advance(self, method: str) -> None:
        self._progress.advance(self._tasks[method])
        self._progress.advance(self._all)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr)  # the bars make room for it


@contextlib.contextmanager
def _bars(pending: Mapping[str, Sequence[str]], progress: bool | None) -> Iterator[_Bars]:
    """Bars over pending edits on stderr; ``progress`` None shows them on a terminal only."""
    counts = Counter(label for labels in pending.values() for label in labels)
    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Methods take turns and differ in cost, so the plain average over all edits foretells the rest best.
    with Progress(*columns, console=console, disable=not (shown and counts), speed_estimate_period=1e9) as bars:
        yield _Bars(bars, counts)


def warn(store: Store, samples: Sequence[Sample], backbone: Any) -> None:
    """Say which prompts the backbone cuts, and which packages are not those that the run began with."""
    _warn_of_versions(store)
    _warn_of_long_prompts(list(samples), backbone)


@dataclass(frozen=True)
class Prepared:
    """A sample with its pictures in memory, and as editors and metrics see it: image, mask and truth at one size."""

    sample: Sample
    image: Image.Image
    mask: np.ndarray | None
    truth: Image.Image | None


def prepare(sample: Sample, backbone: Any) -> Prepared:
    """Read a sample's pictures and make them fit a backbone.

    Raises:
        UserError: one of its files is missing, damaged or cut short.
    """
    loaded = sample.loaded()
    mask = None if loaded.region is None else backbone.fit_mask(loaded.read_mask())
    truth = loaded.read_truth()
    return Prepared(loaded, backbone.fit(loaded.read_image()), mask, truth and backbone.fit(truth))


def write_task(store: Store, prepared: Prepared) -> None:
    """Store a sample as editors and metrics see it."""
    shared = {field.name for field in fields(Task)} & {field.name for field in fields(Sample)}
    task = Task(**{name: getattr(prepared.sample, name) for name in shared})
    store.write_task(task, prepared.image, prepared.mask, prepared.truth)


def _warn_of_long_prompts(samples: list[Sample], backbone: Any) -> None:
    for sample in samples:
        for what, prompt in (("target prompt", sample.target_prompt), ("object prompt", sample.object_prompt)):
            if prompt and (rest := backbone.truncated(prompt)) is not None:
                log.warning(
                    "sample %s: the %s is longer than the text encoder reads; it is cut before: “%s”",
                    sample.id,
                    what,
                    rest if len(rest) < 80 else f"{rest[:80]} ...",
                )


def _warn_of_versions(store: Store) -> None:
    now = versions()
    changed = [
        f"{name} {store.run.versions[name]} -> {now[name]}"
        for name in now
        if store.run.versions.get(name, now[name]) != now[name]
    ]
    if changed:
        log.warning(
            "edits already in %s were made with other versions (%s); each record has its own",
            store.folder,
            ", ".join(changed),
        )
