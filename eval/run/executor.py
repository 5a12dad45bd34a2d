"""Where the workers of a run are.

An executor starts workers, hands them units of work and passes on their messages;
:func:`cpam_bench.eval.run.driver.run` decides what goes where and what to do when a worker dies.  A worker is asked for
one unit at a time.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch

from cpam_bench.eval.run.messages import Finished, Message, Ready, Unit
from cpam_bench.eval.run.worker import Worker
from cpam_bench.imba.errors import UserError


class Executor(Protocol):
    """What :func:`cpam_bench.eval.run.driver.run` needs.

    Attributes:
        size: how many workers there can be at a time.
        can_end: whether a worker that works can be ended, so that one that hangs can be.
    """

    size: int
    can_end: bool

    def start(self) -> Any:
        """A new worker; its first message is :class:`Ready` or :class:`Broken`."""
        ...

    def submit(self, worker: Any, unit: Unit) -> None:
        """Give a worker that is ready, or has finished, something to do."""
        ...

    def wait(self, workers: Iterable[Any], seconds: float | None) -> list[tuple[Any, Message]]:
        """Messages of these workers: at least one, unless the time runs out before."""
        ...

    def end(self, worker: Any) -> None:
        """End a worker, whatever it does; it sends nothing more."""
        ...

    def close(self) -> None:
        """End what is left."""
        ...


class Serial:
    """One worker in this process.

    Args:
        worker: does the work.
        threads: of torch while it works, or None to leave them.
    """

    size = 1
    can_end = False

    def __init__(self, worker: Worker, threads: int | None = None):
        self._worker = worker
        self._messages: Iterator[Message] = iter([Ready()])
        self._threads_before = torch.get_num_threads()
        if threads:
            torch.set_num_threads(threads)

    def start(self) -> Worker:
        self._messages = iter([Ready()])
        return self._worker

    def submit(self, worker: Worker, unit: Unit) -> None:
        self._messages = worker.work(unit)

    def wait(self, workers: Iterable[Worker], seconds: float | None) -> list[tuple[Worker, Message]]:
        return [(self._worker, next(self._messages, Finished()))]

    def end(self, worker: Worker) -> None:
        self._messages = iter(())

    def close(self) -> None:
        torch.set_num_threads(self._threads_before)


def reason(error: Exception) -> str:
    """An error in words: one of a user's as it is, another with where it came from."""
    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error)).strip()
