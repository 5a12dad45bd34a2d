"""Workers in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait

from cpam_bench.eval.run.executor import reason
from cpam_bench.eval.run.forkserver import prepare_processes
from cpam_bench.eval.run.messages import Broken, Died, Finished, Message, Ready, Unit
from cpam_bench.eval.run.worker import Recipe

PATIENCE = 2.0
"""Seconds in which idle processes may leave by themselves."""


class Processes:
    """Workers in processes of this machine.

    Args:
        recipe: how each makes its worker.
        size: how many.
    """

    can_end = True

    def __init__(self, recipe: Recipe, size: int):
        self._recipe, self.size = recipe, size
        self._workers: set[_Process] = set()
        prepare_processes()

    def start(self) -> _Process:
        worker = _Process(self._recipe)
        self._workers.add(worker)
        return worker

    def submit(self, worker: _Process, unit: Unit) -> None:
        with contextlib.suppress(OSError):  # it has died; wait() tells
            worker.connection.send(unit)

    def wait(self, workers: Iterable[_Process], seconds: float | None) -> list[tuple[_Process, Message]]:
        by_connection = {worker.connection: worker for worker in workers}
        messages: list[tuple[_Process, Message]] = []
        for connection in wait(list(by_connection), seconds):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                messages.append((worker, worker.connection.recv()))
            except Exception:  # closed, or cut off within a message, of which unpickling can make anything
                messages.append((worker, Died(worker.epitaph())))
                self.end(worker)
        return messages

    def end(self, worker: _Process) -> None:
        worker.end()
        self._workers.discard(worker)

    def close(self) -> None:
        # One that has nothing to do leaves when its connection ends, and cleans up what it shared; others are killed.
        for worker in self._workers:
            worker.connection.close()
        deadline = time.monotonic() + PATIENCE
        for worker in list(self._workers):
            worker.process.join(max(0.0, deadline - time.monotonic()))
            self.end(worker)


class _Process:
    def __init__(self, recipe: Recipe):
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, recipe), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends when the process does

    def epitaph(self) -> str:
        """What became of the process, which has closed its connection."""
        self.process.join(5)
        code = self.process.exitcode
        if code is None:
            return "its process went silent"
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process ended with exit code {code}"

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, recipe: Recipe) -> None:
    """The life of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides what it means
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    try:
        worker = recipe.worker()
    except Exception as error:
        connection.send(Broken(reason(error)))
        return
    connection.send(Ready())
    with contextlib.suppress(EOFError, OSError):  # the driver is gone
        while True:
            for message in worker.work(connection.recv()):
                connection.send(message)
            connection.send(Finished())


def _leave_with_parent() -> None:
    """A worker whose driver was killed works for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
