"""Workers in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

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
        self._notes = tempfile.TemporaryDirectory(prefix="cpam-bench-")  # what workers say while they load
        prepare_processes()

    def start(self) -> _Process:
        worker = _Process(self._recipe, Path(self._notes.name) / secrets.token_hex(8))
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
        self._notes.cleanup()


class _Process:
    def __init__(self, recipe: Recipe, notes: Path):
        self.notes = notes
        context = multiprocessing.get_context("forkserver")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, recipe, notes), daemon=True)
        self.process.start()
        theirs.close()  # so that the connection ends when the process does

    def epitaph(self) -> str:
        """What became of the process, which has closed its connection."""
        self.process.join(5)
        code = self.process.exitcode
        if code is None:
            return "its process went silent"
        if code < 0:
            what = f"its process was killed by {signal.Signals(-code).name}"
        else:
            what = f"its process ended with exit code {code}"
        return f"{what}{self._last_words()}"

    def _last_words(self) -> str:
        """The last lines that it wrote while it loaded; later ones went to the terminal."""
        try:
            lines = self.notes.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        return "".join(f"\n    {line}" for line in lines[-5:])

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, recipe: Recipe, notes: Path) -> None:
    """The life of a worker's process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides what it means
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    with _noted(notes):
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


@contextlib.contextmanager
def _noted(notes: Path) -> Iterator[None]:
    """What this process writes to stdout and stderr goes into a file meanwhile, and on to stderr if all goes well."""
    streams = (1, 2)
    before = [os.dup(stream) for stream in streams]
    with open(notes, "wb") as file:
        for stream in streams:
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for stream, copy in zip(streams, before, strict=True):
            os.dup2(copy, stream)
            os.close(copy)
    os.write(2, notes.read_bytes())


def _leave_with_parent() -> None:
    """A worker whose driver was killed works for nobody."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
