"""What is handed out, and what a lost worker leaves: no clock, no process, no file."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

TRIES = 3
"""How often an edit is begun that ends its worker or hangs.  After the second time it is put aside and comes last: a
single death may have come from outside, as when the system ends whatever process has most memory."""


@dataclass(frozen=True)
class Work:
    """What is handed out: ids of the samples of a unit, and for each method those that it is to edit.

    ``lockstep`` is False for what is to be edited by itself, though the run edits methods in lockstep.
    """

    samples: tuple[str, ...]
    wanted: Mapping[str, tuple[str, ...]]
    lockstep: bool = True


class Job:
    """What a worker is at: what it has not given back of its work, and the edits that it has begun."""

    def __init__(self, work: Work):
        self.samples = work.samples
        self.left = {method: list(ids) for method, ids in work.wanted.items()}
        self.lockstep = work.lockstep
        first = next(iter(work.wanted))
        self.begun: Mapping[str, tuple[str, ...]] = {first: work.wanted[first]}

    def begin(self, edits: Mapping[str, tuple[str, ...]]) -> None:
        """The worker has begun these edits: method -> ids of samples."""
        self.begun = edits

    def made(self, method: str, sample: str) -> None:
        """An edit has come back."""
        self.left[method].remove(sample)

    @property
    def in_flight(self) -> list[tuple[str, str]]:
        """Edits, method and sample, that have begun and not come back."""
        return [(method, id) for method, ids in self.begun.items() for id in ids if id in self.left.get(method, ())]


@dataclass(frozen=True)
class Loss:
    """What becomes of the edits, method and sample, that a lost worker was at.

    Attributes:
        again: tried again later.
        alone: put aside, each alone, and tried once more at the end.
        given_up: tried :data:`TRIES` times; they fail.
    """

    again: list[tuple[str, str]]
    alone: list[tuple[str, str]]
    given_up: list[tuple[str, str]]


def units(
    order: Sequence[str], batch: int, samples: Iterable[str], pending: Mapping[str, Sequence[str]]
) -> Iterator[Work]:
    """What is to be done, in the order of the samples.

    Which samples are edited together follows from the run's list of them, whatever is pending: a batch of which some
    edits are made already is edited as a whole again for the others.

    Args:
        order: ids of the run's samples.
        batch: how many are edited together.
        samples: ids of those that are asked for.
        pending: sample -> methods that have not edited it.
    """
    place = {id: index // batch for index, id in enumerate(order)}
    batches: dict[int, list[str]] = {}
    for id in samples:
        batches.setdefault(place[id], []).append(id)
    for ids in batches.values():
        wanted: dict[str, tuple[str, ...]] = {}
        for id in ids:
            for method in pending[id]:
                wanted[method] = (*wanted.get(method, ()), id)
        if wanted:
            yield Work(tuple(ids), wanted)


class Schedule:
    """The work that waits.

    Args:
        work: in the order in which it is to be done.
        methods: the order in which the methods of a sample go.
        lockstep: methods that are edited together, and so are never split.
    """

    def __init__(self, work: Iterable[Work], methods: Iterable[str], lockstep: Iterable[str] = ()):
        order = list(methods)
        self._queue = deque(
            replace(one, wanted={method: one.wanted[method] for method in order if method in one.wanted})
            for one in work
        )
        self._strikes: Counter[tuple[str, str]] = Counter()
        self._lockstep = frozenset(lockstep)
        self._edits: Counter[str] = Counter()
        self._seconds: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def took(self, method: str, seconds: float) -> None:
        """An edit by a method has taken so long."""
        self._edits[method] += 1
        self._seconds[method] = self._seconds.get(method, 0.0) + seconds

    def take(self, workers: int = 1) -> Work:
        """The next work; where less waits than there are workers, a part of it, so that none is the last by far.

        Then what takes longest goes first, whichever work it is of, with what else of that work fits into half of what
        is left a worker.  A part costs an inversion more.

        Args:
            workers: how many there are.
        """
        left = [self._expected(work.wanted) for work in self._queue] if len(self._queue) < workers else []
        if not left or not all(left):  # no tail, or some method has made no edit yet
            return self._queue.popleft()
        parts = [self._parts(work.wanted) for work in self._queue]
        longest = [self._expected(part[0]) for part in parts]
        index = longest.index(max(longest))
        work, share = self._queue[index], sum(left) / workers / 2
        chosen = parts[index][0]
        for part in parts[index][1:]:
            if self._expected(chosen) + self._expected(part) <= share:
                chosen = {**chosen, **part}
        rest = {method: ids for method, ids in work.wanted.items() if method not in chosen}
        if rest:
            self._queue[index] = replace(work, wanted=rest)
        else:
            del self._queue[index]
        return replace(work, wanted={method: ids for method, ids in work.wanted.items() if method in chosen})

    def _parts(self, wanted: Mapping[str, tuple[str, ...]]) -> list[dict[str, tuple[str, ...]]]:
        """What can be edited apart, the longest first: each method, and all that go in lockstep as one."""
        together = {method: ids for method, ids in wanted.items() if method in self._lockstep}
        alone = [{method: ids} for method, ids in wanted.items() if method not in self._lockstep]
        return sorted([together, *alone] if together else alone, key=self._expected, reverse=True)

    def _expected(self, wanted: Mapping[str, tuple[str, ...]]) -> float:
        """Seconds that edits will take, by those that are made; 0 if there are none of some method."""
        if not all(self._edits[method] for method in wanted):
            return 0.0
        return sum(self._seconds[method] / self._edits[method] * len(ids) for method, ids in wanted.items())

    def lose(self, job: Job) -> Loss:
        """A worker is gone: what it had not begun is done next; what it was at comes last, or is given up."""
        lost = job.in_flight
        rest = {
            method: left
            for method, ids in job.left.items()
            if (left := tuple(id for id in ids if (method, id) not in lost))
        }
        if rest:
            self._queue.appendleft(Work(job.samples, rest, job.lockstep))
        loss = Loss([], [], [])
        again: dict[str, tuple[str, ...]] = {}
        for method, id in lost:
            self._strikes[method, id] += 1
            count = self._strikes[method, id]
            (loss.given_up if count >= TRIES else loss.alone if count == TRIES - 1 else loss.again).append((method, id))
        for method, id in loss.again:
            again[method] = (*again.get(method, ()), id)
        if again:
            self._queue.append(Work(job.samples, again, job.lockstep))
        for method, id in loss.alone:
            self._queue.append(Work((id,), {method: (id,)}, lockstep=False))
        return loss
