"""What more workers, shared inversions and batches gain, and whether a run that is killed again and again ends whole.

    python tests/benchmarks/scale.py workers      # two Ray workers against one, of one thread each: edits a second
    python tests/benchmarks/scale.py kills        # ten SIGKILLs of workers and two of the driver over a run
    python tests/benchmarks/scale.py faults       # samples that raise, hang and kill their process
    python tests/benchmarks/scale.py sharing      # methods together against each alone: wall time and inversions
    python tests/benchmarks/scale.py batch        # samples edited together against one by one: processor time
    python tests/benchmarks/scale.py lockstep     # six methods in lockstep against each alone: processor time

Each prints one line of JSON.  Figures are ratios within one command, so that they hold on other machines.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image

import cpam_bench.imba.dataset
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.eval.analysis.leaderboard import failed_note
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.cluster import Ray
from cpam_bench.eval.run.describe import describe_run
from cpam_bench.eval.run.executor import Executor, Serial
from cpam_bench.eval.run.processes import Processes
from cpam_bench.eval.run.worker import Recipe
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.sample import Sample

METHODS = ("cpam", "masactrl", "ddim")


@dataclass
class Bench:
    """A run of pocket that can be made by any executor."""

    steps: int
    limit: int | None
    batch: int

    def __post_init__(self) -> None:
        self.data = cpam_bench.imba.dataset.load("pocket").first(self.limit)
        self.backbone = Backbone.load("pocket")

    def recipe(self, editors: Mapping[str, Any], lockstep: tuple[str, ...] = ()) -> Recipe:
        load = functools.partial(Backbone.load, "pocket")
        return Recipe(editors, load, self.backbone.fingerprint, self.steps, 0, threads=1, lockstep=lockstep)

    def run(
        self,
        folder: Path,
        editors: Mapping[str, Any],
        make: Callable[[Recipe], Executor] | None = None,
        timeout: float | None = None,
        lockstep: tuple[str, ...] = (),
    ) -> tuple[list[runner.Failure], float]:
        """The failures, and the seconds from the first sample that was handed out to the end."""
        recipe = self.recipe(editors, lockstep)
        executor = make(recipe) if make else Serial(recipe.with_backbone(self.backbone), 1)
        began: list[float] = []
        submit = executor.submit

        def noting(worker: Any, unit: Any) -> None:
            began.append(time.monotonic())
            submit(worker, unit)

        executor.submit = noting  # type: ignore[method-assign]
        description = describe_run(
            {},
            self.data,
            self.data.samples,
            self.backbone,
            editors,
            steps=self.steps,
            seed=0,
            batch=self.batch,
            lockstep=lockstep,
        )
        with locked(folder):
            store = Store.create_or_resume(folder, description)
            failures = runner.run(
                store, self.data.samples, editors, self.backbone, executor=executor, timeout=timeout, progress=False
            )
            return failures, time.monotonic() - began[0]


def made(*labels: str) -> dict[str, Any]:
    return dict(registry.make(label) for label in labels)


def pictures(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.png"))
    }


def ceiling(seconds: float = 20.0) -> float:
    """What two processes that only evaluate the denoiser do of what one does: the machine's own gain."""
    context = multiprocessing.get_context("spawn")
    rates = {}
    for count in (1, 2):
        with context.Pool(count) as pool:
            pool.map(_evaluate, [1.0] * count, chunksize=1)  # start, load, warm up
            rates[count] = sum(pool.map(_evaluate, [seconds] * count, chunksize=1))
    return rates[2] / rates[1]


def _evaluate(seconds: float) -> float:
    torch.set_num_threads(1)
    backbone = Backbone.load("pocket")
    latents = torch.zeros(3, 4, *backbone.grid)
    text = backbone.text("").expand(3)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        backbone.predict(latents, 500, text)
        count += 1
    return count / (time.perf_counter() - began)


def workers(bench: Bench, place: Path, engine: str) -> dict[str, Any]:
    seconds = {}
    for count in (1, 2):
        make = functools.partial(Ray if engine == "ray" else Processes, size=count)
        _, seconds[count] = bench.run(place / str(count), made(*METHODS), make)
    edits = len(METHODS) * len(bench.data)
    return {
        "engine": engine,
        "edits": edits,
        "edits_a_second": {count: round(edits / taken, 3) for count, taken in seconds.items()},
        "gain": round(seconds[1] / seconds[2], 3),
        "gain_of_bare_processes": round(ceiling(), 3),
        "same_pictures": pictures(place / "1") == pictures(place / "2"),
    }


def sharing(bench: Bench, place: Path) -> dict[str, Any]:
    labels = ("reconstruction", *METHODS, "pnp:inversion_steps=0", "fpe")  # all that start from the shared inversion
    alone = {}
    bench.run(place / "warm", made(labels[0]))
    for label in labels:
        _, alone[label] = bench.run(place / label, made(label))
    _, together = bench.run(place / "together", made(*labels))
    _, own = bench.run(place / "own", made("pnp"))
    edits = Store.open(place / "together").edits()[0]
    return {
        "methods": list(labels),
        "samples": len(bench.data),
        "seconds_alone": {label: round(taken, 2) for label, taken in alone.items()},
        "seconds_together": round(together, 2),
        "ratio": round(together / sum(alone.values()), 3),
        "inversions": sum(edit.inversion == "computed" for edit in edits),
        "pnp_own_inversion_over_shared": round(own / alone["pnp:inversion_steps=0"], 2),  # 999 steps
    }


def batch(bench: Bench, place: Path) -> dict[str, Any]:
    labels = ("reconstruction", *METHODS)
    seconds = {}
    for size in (1, 2, 4, 8):
        started = time.process_time()
        replace(bench, batch=size).run(place / str(size), made(*labels))
        seconds[size] = time.process_time() - started
    return {"methods": list(labels), "gain": {size: round(seconds[1] / taken, 3) for size, taken in seconds.items()}}


def lockstep(bench: Bench, place: Path) -> dict[str, Any]:
    labels = ("cpam", "cpam-release", "masactrl", "pnp:inversion_steps=0", "fpe", "ddim")

    def taken(name: str, methods: Sequence[str], locked: tuple[str, ...] = ()) -> float:
        started = time.process_time()
        failures, _ = bench.run(place / name, made(*methods), lockstep=locked)
        assert not failures
        return time.process_time() - started

    taken("warm", labels[:1])
    alone = {label: taken(label, [label]) for label in labels}
    shared, locked = taken("shared", labels), taken("lockstep", labels, labels)
    return {
        "samples": len(bench.data),
        "steps": bench.steps,
        "batch": bench.batch,
        "processor_seconds_alone": {label: round(seconds, 2) for label, seconds in alone.items()},
        "shared_inversion": round(shared / sum(alone.values()), 3),
        "lockstep": round(locked / sum(alone.values()), 3),
    }


# faults ---------------------------------------------------------------------------------------------------------------


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = [int(text) for text in path.read_text().split()]
        except OSError:
            continue
        for child in pids:
            found += [child, *descendants(child)]
    return found


def editing(pid: int) -> list[int]:
    """The workers below a driver: Ray's actors, or what the process that forks has forked."""
    below = descendants(pid)

    def line(one: int) -> bytes:
        try:
            return Path(f"/proc/{one}/cmdline").read_bytes()
        except OSError:
            return b""

    actors = [one for one in below if b"_Actor" in line(one)]
    forked = [child for one in below if b"forkserver" in line(one) for child in descendants(one)]
    return actors or forked


def kills(bench: Bench, place: Path, engine: str, seed: int) -> dict[str, Any]:
    """The command is started, its workers and itself are killed at random moments, and the same command again."""
    rng = random.Random(seed)
    total = len(METHODS) * len(bench.data)
    command = [
        sys.executable,
        "-m",
        "cpam_bench.eval.commands.main",
        "run",
        "--methods",
        ",".join(METHODS),
        "--no-references",
    ]
    command += ["--steps", str(bench.steps), "--device", "cpu", "--executor", engine, "--workers", "2"]
    command += ["--limit", str(len(bench.data)), "--batch", str(bench.batch), "--threads", "1"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([*command, "--out", str(place / "calm")], check=True, **quiet)

    run = place / "killed"

    def done() -> int:
        return len(list(run.glob("edits/*/*.json")))

    moments = sorted(rng.sample(range(1, total), 12))
    of_the_driver = set(rng.sample(range(12), 2))
    killed = {"workers": 0, "drivers": 0}
    driver = subprocess.Popen([*command, "--out", str(run)], **quiet)
    for index, moment in enumerate(moments):
        while done() < moment and driver.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        if index in of_the_driver:
            driver.kill()
            driver.wait()
            killed["drivers"] += 1
            driver = subprocess.Popen([*command, "--out", str(run)], **quiet)
            continue
        while not (victims := editing(driver.pid)) and driver.poll() is None:
            time.sleep(0.01)
        if victims:
            os.kill(rng.choice(victims), signal.SIGKILL)
            killed["workers"] += 1
    code = driver.wait()
    edits, damaged = Store.open(run).edits()
    return {
        "engine": engine,
        "killed": killed,
        "exit_code": code,
        "edits": f"{sum(edit.status == 'ok' for edit in edits)} of {total}",
        "records": done(),
        "damaged": damaged,
        "same_pictures": pictures(run) == pictures(place / "calm"),
        "same_scores": (run / "scores.csv").read_bytes() == (place / "calm" / "scores.csv").read_bytes(),
    }


@dataclass(frozen=True)
class Poison:
    """An editor that raises on the first sample, hangs on the second and kills its process on the third."""

    name: ClassVar[str] = "poison"
    title: ClassVar[str] = "Poison"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "made up"
    capabilities: ClassVar[Capabilities] = Capabilities()

    raises: str = parameter("", "id", "the benchmark")
    hangs: str = parameter("", "id", "the benchmark")
    kills: str = parameter("", "id", "the benchmark")

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        if sample.id == self.raises:
            raise RuntimeError("poisoned")
        if sample.id == self.hangs:
            time.sleep(3600)
        if sample.id == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        return source.image


def faults(bench: Bench, place: Path, engine: str) -> dict[str, Any]:
    ids = [sample.id for sample in bench.data]
    editors = {**made("masactrl"), "poison": Poison(*ids[:3])}
    make = functools.partial(Ray if engine == "ray" else Processes, size=2)
    failures, _ = bench.run(place / "run", editors, make, timeout=30.0)
    edits = Store.open(place / "run").edits()[0]
    return {
        "engine": engine,
        "arrived": sum(edit.status == "ok" for edit in edits),
        "expected": len(editors) * len(ids) - 3,
        "failed": [failure.sample for failure in failures] == ids[:3],
        "note": failed_note("poison", [edit for edit in edits if edit.status == "failed"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["workers", "kills", "faults", "sharing", "batch", "lockstep"])
    parser.add_argument("--engine", choices=["ray", "processes"], default="ray")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--limit", type=int, help="samples; all 24 by default")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        bench, place = Bench(arguments.steps, arguments.limit, arguments.batch), Path(folder)
        if arguments.what == "sharing":
            result = sharing(bench, place)
        elif arguments.what == "batch":
            result = batch(bench, place)
        elif arguments.what == "lockstep":
            result = lockstep(bench, place)
        elif arguments.what == "workers":
            result = workers(bench, place, arguments.engine)
        elif arguments.what == "faults":
            result = faults(bench, place, arguments.engine)
        else:
            result = kills(bench, place, arguments.engine, arguments.seed)
    print(json.dumps({arguments.what: result}))


if __name__ == "__main__":
    main()
