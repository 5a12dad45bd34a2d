"""Workers in actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cpam_bench.eval.run.executor import reason
from cpam_bench.eval.run.messages import Broken, Died, Finished, Message, Ready, Unit
from cpam_bench.eval.run.worker import Recipe, Worker
from cpam_bench.imba.errors import UserError


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
                # Ray puts the driver's working directory on its workers' path, and another checkout may lie there.
                with contextlib.chdir(os.sep):
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
        self._pending[worker] = worker.serve.options(num_returns="streaming").remote(self._recipe, str(Path.cwd()))
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

    def serve(self, recipe: Recipe, place: str) -> Iterator[Message]:
        with contextlib.suppress(OSError):  # relative paths are the driver's, where this machine has its folder
            os.chdir(place)
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
