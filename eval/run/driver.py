"""Every method on every sample, into a store."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cpam_bench.cpam.editing import Editor
from cpam_bench.eval.run.describe import versions
from cpam_bench.eval.run.executor import Executor, Serial
from cpam_bench.eval.run.inversion import MakeSource, TimedSource
from cpam_bench.eval.run.messages import Began, Broken, Died, Finished, Made, Message, Note, Ready, Unit
from cpam_bench.eval.run.progress import Bars, bars
from cpam_bench.eval.run.schedule import TRIES, Job, Schedule, units
from cpam_bench.eval.run.worker import Worker, failed
from cpam_bench.eval.store.samples import prepare, write_task
from cpam_bench.eval.store.store import Store, at_once
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.problems import shown
from cpam_bench.imba.sample import Sample

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """An edit that failed."""

    method: str
    sample: str
    error: str


class WorkerDied(Exception):
    """An edit ended the process that made it, every time that it was tried."""


class TookTooLong(Exception):
    """An edit did not end within the time that it was given, every time that it was tried."""


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
        store: held under :func:`cpam_bench.eval.store.lock.locked`; steps and seed are its run's.
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
        with bars(pending, progress, executor.size) as shown, _interruptible() as interrupted:
            driver = _Driver(store, samples, editors, backbone, executor, timeout, pending, shown, interrupted)
            driver.work()
            if cached := driver.inversions["cached"]:
                computed = driver.inversions["computed"]
                shown.say(f"inversions: {cached} from the cache, {computed} computed")
    finally:
        executor.close()
    if interrupted.is_set():
        raise KeyboardInterrupt
    order = {(method, sample.id): i for i, (sample, method) in enumerate((s, m) for s in samples for m in editors)}
    return sorted(driver.failures, key=lambda failure: order[failure.method, failure.sample])


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
        bars: Bars,
        interrupted: threading.Event,
    ):
        self.store, self.editors, self.backbone, self.executor = store, editors, backbone, executor
        self.timeout, self.bars, self.interrupted = timeout, bars, interrupted
        self.failures: list[Failure] = []
        self.samples = {sample.id: sample for sample in samples}
        work = units(store.run.samples, store.run.batch, self.samples, pending)
        self.schedule = Schedule(work, editors, store.run.lockstep)
        stored = at_once(store.has_task, [sample.id for sample in samples])
        self.tasks = {sample.id for sample, there in zip(samples, stored, strict=True) if there}
        self.only_tasks = [s for s in samples if not pending[s.id] and s.id not in self.tasks]
        self.inversions: Counter[str] = Counter()
        self.starting: set[Any] = set()
        self.idle: list[Any] = []
        self.jobs: dict[Any, Job] = {}
        self.since: dict[Any, float] = {}  # when its last edit began
        self.died_starting = 0

    def work(self) -> None:
        for sample in self.only_tasks:
            self._prepare(sample)
        while (self.schedule and not self.interrupted.is_set()) or self.jobs:
            if not self.interrupted.is_set():
                self._hand_out()
            if not self.jobs and not self.starting:
                continue  # nothing could be made of the rest
            for worker, message in self.executor.wait([*self.jobs, *self.starting], self._patience()):
                self._take(worker, message)
            self._end_what_hangs()

    def _hand_out(self) -> None:
        while self.schedule and self.idle:
            work = self.schedule.take(self.executor.size)
            loaded = {id: self._prepare(self.samples[id]) for id in work.samples}
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
            self.executor.submit(worker, Unit(whole, wanted, work.lockstep))
            self.jobs[worker] = Job(replace(work, wanted=wanted))
            self.since[worker] = time.monotonic()
        wanted_workers = min(len(self.schedule), self.executor.size - len(self.jobs)) - len(self.starting)
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
            self.jobs[worker].begin(message.edits)
            self.since[worker] = time.monotonic()
        elif isinstance(message, Made):
            job = self.jobs[worker]
            job.made(message.edit.method, message.edit.sample)
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
        if edit.status == "ok":
            self.schedule.took(edit.method, edit.seconds)
        if edit.error:
            self.failures.append(Failure(edit.method, edit.sample, edit.error))
            self.bars.say(f"failed: {edit.method} on {edit.sample}: {edit.error}")
        self.bars.advance(edit.method, edit.seconds)

    # faults ---------------------------------------------------------------------------------------------------------

    def _mourn(self, worker: Any, reason: str) -> None:
        if worker in self.starting:
            self.starting.discard(worker)
            self.died_starting += 1
            if self.died_starting >= _STARTS:
                raise UserError(f"{_STARTS} workers died one after another while loading: {reason}\n{_advice(reason)}")
        elif worker in self.jobs:
            self._strike(self.jobs.pop(worker), WorkerDied(reason))

    def _patience(self) -> float | None:
        """Seconds to wait for a message: at most until the next edit has taken too long."""
        if not self.jobs:
            return 0.5  # to notice Ctrl-C while workers load
        if self.timeout is None:
            return None
        return max(0.0, min(self.since[worker] for worker in self.jobs) + self.timeout - time.monotonic())

    def _end_what_hangs(self) -> None:
        if self.timeout is None:
            return
        for worker, job in list(self.jobs.items()):
            if time.monotonic() - self.since[worker] >= self.timeout:
                self.executor.end(worker)
                del self.jobs[worker]
                self._strike(job, TookTooLong(f"longer than {self.timeout:g} s"))

    def _strike(self, job: Job, error: Exception) -> None:
        """A worker is gone: tell what becomes of what it was at, and write down what is given up."""
        loss = self.schedule.lose(job)
        for method, id in loss.given_up:
            given_up = type(error)(f"{error} (tried {TRIES} times)")
            self._write(Made(failed(method, self.editors[method], id, self.store.run.seed, given_up)))
        again: dict[str, list[str]] = {}
        for method, id in loss.again:
            again.setdefault(method, []).append(id)
        for method, ids in again.items():
            self.bars.say(f"{method} on {', '.join(ids)}: {error}; tried again later")
        for method, id in loss.alone:
            self.bars.say(f"{method} on {id}: {error}; put aside, and tried once more at the end")


def _advice(reason: str) -> str:
    # The system kills in this way where memory runs out; what ends by itself has said why.
    fewer = ", with fewer --workers if memory ran out," if "SIGKILL" in reason else ""
    return f"What is finished is safe; the same command{fewer} continues."


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


def warn(store: Store, samples: Sequence[Sample], backbone: Any) -> None:
    """Say which prompts the backbone cuts, and which packages are not those that the run began with."""
    _warn_of_versions(store)
    _warn_of_long_prompts(list(samples), backbone)


def _warn_of_long_prompts(samples: list[Sample], backbone: Any) -> None:
    for sample in samples:
        for what, prompt in (("target prompt", sample.target_prompt), ("object prompt", sample.object_prompt)):
            if prompt and (rest := backbone.truncated(prompt)) is not None:
                log.warning(
                    "sample %s: the %s is longer than the text encoder reads; it is cut before: “%s”",
                    sample.id,
                    what,
                    shown(rest),
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
