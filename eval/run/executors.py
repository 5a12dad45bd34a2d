"""Where the workers of a run are: in this process, in processes of this machine, or in Ray's actors on any machines.

An executor starts workers, hands them units of work and passes on their messages;
:func:`cpam_bench.eval.run.driver.run` decides what goes where and what to do when a worker dies.  A worker is asked for
one unit at a time.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from cpam_bench.eval.run.forkserver import prepare_processes
from cpam_bench.eval.run.worker import Broken, Died, Finished, Message, Ready, Recipe, Unit, Worker
from cpam_bench.imba.errors import UserError

PATIENCE = 2.0
"""Seconds in which idle processes may leave by themselves."""


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


# processes ------------------------------------------------------------------------------------------------------------


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


def reason(error: Exception) -> str:
    """An error in words: one of a user's as it is, another with where it came from."""
    return str(error) if isinstance(error, UserError) else "".join(traceback.format_exception(error)).strip()


# Ray ------------------------------------------------------------------------------------------------------------------


class Ray:
    """Workers in actors of a Ray cluster, or of one that is started on this machine and ends with the run.

    Args:
        recipe: how each makes its worker; the package and the backbone must be on every machine.
        size: how many workers, or None for as many as the cluster has room for.
        address: of a running cluster, as ``ray.init`` takes it; None starts one here.
        gpus: that each worker has for itself; may be a fraction.

    Raises:
        UserError: Ray is not installed, the cluster is not reached, or it has no room for a worker.
    """

    can_end = True

    def __init__(self, recipe: Recipe, size: int | None = None, address: str | None = None, gpus: float = 0.0):
        ray = _ray()
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            joins = address or os.environ.get("RAY_ADDRESS")
            cpus = None if joins or size is None else size * (recipe.threads or 1)
            try:
                ray.init(
                    address=address,
                    num_cpus=cpus,
                    include_dashboard=None if joins else False,
                    log_to_driver=False,
                    logging_level="ERROR",
                )
            except Exception as error:  # of many kinds; one that does not start in time is a bare Exception
                raise UserError(f"no Ray cluster is reached at {address or 'this machine'}: {error}") from error
        cpus_each = recipe.threads or 1
        total = ray.cluster_resources()
        room = int(total.get("CPU", 0) // cpus_each)
        if gpus:
            room = min(room, int(total.get("GPU", 0) // gpus))
        if not room:
            self.close()
            raise UserError(
                f"the Ray cluster has {total.get('CPU', 0):g} CPUs and {total.get('GPU', 0):g} GPUs: no room for a"
                f" worker of {cpus_each} CPUs and {gpus:g} GPUs; see --threads and --gpus-per-worker"
            )
        self.size = min(size or room, room)
        self._recipe = ray.put(recipe)
        self._actor = ray.remote(num_cpus=cpus_each, num_gpus=gpus, max_restarts=0, max_task_retries=0)(_Actor)
        self._pending: dict[Any, Any] = {}  # worker -> what its next message comes from

    def start(self) -> Any:
        worker = self._actor.remote()
        self._pending[worker] = worker.serve.options(num_returns="streaming").remote(self._recipe)
        return worker

    def submit(self, worker: Any, unit: Unit) -> None:
        self._pending[worker] = worker.work.options(num_returns="streaming").remote(unit)

    def wait(self, workers: Iterable[Any], seconds: float | None) -> list[tuple[Any, Message]]:
        by_stream = {self._pending[worker]: worker for worker in workers if worker in self._pending}
        ready, _ = self._ray.wait(list(by_stream), num_returns=1, timeout=seconds, fetch_local=False)
        return [(by_stream[stream], self._next(by_stream[stream], stream)) for stream in ready]

    def _next(self, worker: Any, stream: Any) -> Message:
        try:
            message: Message = self._ray.get(next(stream))
            return message
        except StopIteration:
            del self._pending[worker]
            return Finished()
        except self._ray.exceptions.RayActorError as error:
            self.end(worker)
            # Ray goes on to guess at common causes.
            return Died(
                f"its Ray actor died: {str(error).strip().splitlines()[-1].partition(' Some common causes')[0]}"
            )
        except self._ray.exceptions.RayTaskError as error:
            self.end(worker)
            return Died(f"it broke off: {str(error).strip().splitlines()[-1]}")

    def end(self, worker: Any) -> None:
        self._pending.pop(worker, None)
        self._ray.kill(worker)

    def close(self) -> None:
        for worker in list(getattr(self, "_pending", {})):
            self.end(worker)
        if self._ours:
            self._ray.shutdown()


class _Actor:
    """A worker in a process of Ray's."""

    _worker: Worker

    def serve(self, recipe: Recipe) -> Iterator[Message]:
        try:
            self._worker = recipe.worker()
        except Exception as error:
            yield Broken(reason(error))
        else:
            yield Ready()

    def work(self, unit: Unit) -> Iterator[Message]:
        yield from self._worker.work(unit)


def _ray() -> Any:
    # A worker for which no GPU is set aside may still share one: by default Ray would hide them all from it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError("--executor ray needs Ray: pip install 'cpam-bench[ray]'") from None
    return ray
