"""What is handed out, and what a lost worker leaves: no clock, no process, no file."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

TRIES = 3
"""How often an edit is begun that ends its worker or hangs.  After the second time it is put aside and comes last: a
single death may have come from outside, as when the system ends whatever process has most memory."""


@dataclass(frozen=True)
class Work:
    """What is handed out: ids of the samples of a unit, and for each method those that it is to edit."""

    samples: tuple[str, ...]
    wanted: Mapping[str, tuple[str, ...]]


class Job:
    """What a worker is at: what it has not given back of its work, and the edits that it has begun."""

    def __init__(self, work: Work):
        self.samples = work.samples
        self.left = {method: list(ids) for method, ids in work.wanted.items()}
        self.method = next(iter(work.wanted))
        self.begun = work.wanted[self.method]

    def begin(self, method: str, samples: tuple[str, ...]) -> None:
        """The worker has begun these edits."""
        self.method, self.begun = method, samples

    def made(self, method: str, sample: str) -> None:
        """An edit has come back."""
        self.left[method].remove(sample)

    @property
    def in_flight(self) -> list[str]:
        """Samples of the method that has begun which have not come back."""
        return [id for id in self.begun if id in self.left.get(self.method, ())]


@dataclass(frozen=True)
class Loss:
    """What becomes of the edits that a lost worker was at: ids of samples, all of one method.

    Attributes:
        method: that was at work.
        again: tried again later.
        alone: put aside, each alone, and tried once more at the end.
        given_up: tried :data:`TRIES` times; they fail.
    """

    method: str
    again: list[str]
    alone: list[str]
    given_up: list[str]


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
    """

    def __init__(self, work: Iterable[Work], methods: Iterable[str]):
        order = list(methods)
        self._queue = deque(
            Work(one.samples, {method: one.wanted[method] for method in order if method in one.wanted}) for one in work
        )
        self._strikes: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._queue)

    def take(self) -> Work:
        """The next work."""
        return self._queue.popleft()

    def lose(self, job: Job) -> Loss:
        """A worker is gone: what it had not begun is done next; what it was at comes last, or is given up."""
        lost = job.in_flight
        rest = {
            label: left
            for label, ids in job.left.items()
            if (left := tuple(id for id in ids if label != job.method or id not in lost))
        }
        if rest:
            self._queue.appendleft(Work(job.samples, rest))
        loss = Loss(job.method, [], [], [])
        for id in lost:
            self._strikes[job.method, id] += 1
            count = self._strikes[job.method, id]
            (loss.given_up if count >= TRIES else loss.alone if count == TRIES - 1 else loss.again).append(id)
        if loss.again:
            self._queue.append(Work(job.samples, {job.method: tuple(loss.again)}))
        for id in loss.alone:
            self._queue.append(Work((id,), {job.method: (id,)}))
        return loss
