"""Whatever the executor, a run makes the same store; workers that die or hang cost nothing but time."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import run_helpers
from paths import TINY
from run_helpers import (
    Brighten,
    FakeBackbone,
    Noise,
    Poison,
    described,
    editors,
    method_file,
    samples,
    write_dataset,
)

import cpam_bench.imba.dataset
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.eval.analysis.leaderboard import failed_note
from cpam_bench.eval.methods import from_file, registry
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.cluster import Ray
from cpam_bench.eval.run.describe import describe_run
from cpam_bench.eval.run.executor import Executor, Serial
from cpam_bench.eval.run.processes import Processes
from cpam_bench.eval.run.worker import Recipe, Worker
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError

COSTS = ("seconds", "inversion_seconds", "inversion", "peak_memory_mib")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray cluster of two processors on this machine, for all tests of this file."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a store but what tells of costs and times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in ("run.json", ".lock"):
            name = path.relative_to(folder).as_posix()
            found[name] = path.read_bytes()
            if path.suffix == ".json":
                record = json.loads(path.read_text())
                found[name] = {key: value for key, value in record.items() if key not in COSTS}
    return found


# the same store -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> cpam_bench.imba.dataset.Dataset:
    return cpam_bench.imba.dataset.load(str(write_dataset(tmp_path_factory.mktemp("data") / "set", count=3)))


class Tiny:
    """A run of four methods on the tiny backbone, one of them out of a file."""

    labels = ("identity", "masactrl:step=1", "cpam", "mine:by=3")

    def __init__(self, data: cpam_bench.imba.dataset.Dataset):
        self.data, self.backbone = data, Backbone.load(str(TINY))
        (data.root / "mine.py").write_text(method_file())
        from_file.give(f"{data.root / 'mine.py'}:Mine")
        (data.root / "mine.py").unlink()  # workers do not need it
        self.editors = dict(registry.make(label) for label in self.labels)

    def recipe(self) -> Recipe:
        load = functools.partial(Backbone.load, str(TINY))
        return Recipe(self.editors, load, self.backbone.fingerprint, steps=3, seed=0, threads=1)

    def run(self, folder: Path, executor: Executor) -> Path:
        run = describe_run({}, self.data, self.data.samples, self.backbone, self.editors, steps=3, seed=0)
        with locked(folder):
            store = Store.create_or_resume(folder, run)
            failures = runner.run(
                store, self.data.samples, self.editors, self.backbone, executor=executor, progress=False
            )
        assert failures == []
        return folder

    def serial(self) -> Serial:
        return Serial(Worker(self.editors, self.backbone, 3, 0), threads=1)


@pytest.fixture(scope="module")
def tiny(data: cpam_bench.imba.dataset.Dataset) -> Iterator[Tiny]:
    yield Tiny(data)
    registry.EDITORS.given.clear()


@pytest.fixture(scope="module")
def expected(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found = contents(tiny.run(tmp_path_factory.mktemp("serial") / "run", tiny.serial()))
    assert sum(name.startswith("edits/") for name in found) == 2 * 4 * len(tiny.data)
    return found


def test_processes_make_the_same_store(tmp_path: Path, tiny: Tiny, expected: Mapping[str, Any]) -> None:
    assert contents(tiny.run(tmp_path / "run", Processes(tiny.recipe(), 2))) == expected


def test_a_worker_with_other_weights_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    recipe = Recipe(tiny.editors, tiny.recipe().load_backbone, {"unet": "0" * 64}, 3, 0)
    with pytest.raises(UserError, match="other weights than the run's"):
        tiny.run(tmp_path / "run", Processes(recipe, 1))


@pytest.mark.slow
def test_ray_makes_the_same_store_though_a_worker_is_killed(
    ray: Any, tmp_path: Path, tiny: Tiny, expected: Mapping[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    killed: list[int] = []

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and not list(folder.rglob("edits/*/*.json")):
            time.sleep(0.01)
        for pid in children(os.getpid()):
            if b"_Actor" in command(pid):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
                return

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    tiny.run(folder, Ray(tiny.recipe(), 2))
    thread.join()
    assert len(killed) == 1
    assert contents(folder) == expected


def test_a_cluster_without_room_is_told(ray: Any, tiny: Tiny) -> None:
    with pytest.raises(UserError, match="no room for a worker of 1 CPUs and 1 GPUs"):
        Ray(tiny.recipe(), gpus=1)
    with pytest.raises(UserError, match="no room for a worker of 3 CPUs"):
        Ray(Recipe(tiny.editors, FakeBackbone, {}, 3, 0, threads=3))


# faults ---------------------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            pids = [int(text) for text in path.read_text().split()]
        except OSError:
            continue  # the thread has ended
        for child in pids:
            found += [child, *children(child)]
    return found


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def faulty_run(folder: Path, chosen: Mapping[str, Any], count: int, **more: Any) -> list[runner.Failure]:
    todo = samples(count)
    recipe = Recipe(chosen, FakeBackbone, FakeBackbone.fingerprint, steps=5, seed=0)
    executor = more.pop("executor", Processes)(recipe, 2)
    with locked(folder):
        store = Store.create_or_resume(folder, described(chosen, todo))
        return runner.run(store, todo, chosen, FakeBackbone(), executor=executor, progress=False, **more)


def test_poisoned_samples_cost_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    poison = Poison(raises="s1", hangs="s2", kills="s3", notes=str(notes))
    chosen = editors(Brighten(), poison, Noise())
    label = list(chosen)[1]
    failures = faulty_run(tmp_path / "run", chosen, 6, timeout=1.5)
    assert [(failure.method, failure.sample) for failure in failures] == [(label, "s1"), (label, "s2"), (label, "s3")]
    raised, hung, killed = (failure.error for failure in failures)
    assert raised == "RuntimeError: no such luck"
    assert hung == "TookTooLong: longer than 1.5 s (tried 3 times)"
    assert killed == "WorkerDied: its process was killed by SIGKILL (tried 3 times)"
    assert sorted(path.name for path in notes.iterdir()) == [
        *("s0-0", "s1-0", "s2-0", "s2-1", "s2-2", "s3-0", "s3-1", "s3-2", "s4-0", "s5-0")
    ]
    edits, damaged = Store.open(tmp_path / "run").edits()
    assert len(edits) == 18 and sum(edit.status == "ok" for edit in edits) == 15 and not damaged
    assert "s3: its process was killed by SIGKILL; put aside" in capsys.readouterr().err
    note = failed_note(label, [edit for edit in edits if edit.status == "failed"])
    assert all(part in note for part in (label, "s1 (RuntimeError: no such luck)", "s2 (TookTooLong", "s3 (WorkerDied"))


def test_a_worker_killed_once_or_twice_costs_no_edit(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    chosen = editors(Poison(kills="s0", notes=str(notes), times=2))
    assert faulty_run(tmp_path / "run", chosen, 2) == []
    assert len(list(notes.iterdir())) == 4


def test_workers_that_die_while_loading_end_the_run(tmp_path: Path) -> None:
    chosen = editors(Brighten())
    recipe = Recipe(chosen, functools.partial(os._exit, 7), {}, steps=5, seed=0)
    store = Store.create_or_resume(tmp_path / "run", described(chosen, samples(1)))
    with pytest.raises(UserError, match="3 workers died one after another while loading: .*exit code 7") as told:
        runner.run(store, samples(1), chosen, FakeBackbone(), executor=Processes(recipe, 1), progress=False)
    assert "memory" not in str(told.value)


def talk_and_die(how: int) -> None:
    print("no such file: weights.bin", file=sys.stderr, flush=True)
    os.kill(os.getpid(), how)


@pytest.mark.parametrize(("how", "memory"), [(signal.SIGKILL, True), (signal.SIGTERM, False)])
def test_workers_that_die_while_loading_leave_their_last_words(tmp_path: Path, how: int, memory: bool) -> None:
    chosen = editors(Brighten())
    recipe = Recipe(chosen, functools.partial(talk_and_die, how), {}, steps=5, seed=0)
    store = Store.create_or_resume(tmp_path / "run", described(chosen, samples(1)))
    with pytest.raises(UserError, match="no such file: weights.bin") as told:
        runner.run(store, samples(1), chosen, FakeBackbone(), executor=Processes(recipe, 1), progress=False)
    assert ("memory" in str(told.value)) is memory


def test_a_worker_of_another_version_is_refused(tmp_path: Path, tiny: Tiny) -> None:
    recipe = replace(tiny.recipe(), code="0" * 64)
    with pytest.raises(UserError, match="has found another cpam-bench than the run's"):
        tiny.run(tmp_path / "run", Processes(recipe, 1))


def test_a_worker_that_cannot_load_says_why(tmp_path: Path) -> None:
    chosen = editors(Brighten())
    recipe = Recipe(chosen, functools.partial(Backbone.load, "/no/such"), {}, steps=5, seed=0)
    store = Store.create_or_resume(tmp_path / "run", described(chosen, samples(1)))
    with pytest.raises(UserError, match="a worker could not start: backbone '/no/such'"):
        runner.run(store, samples(1), chosen, FakeBackbone(), executor=Processes(recipe, 1), progress=False)


def test_a_timeout_in_this_process_is_refused(tmp_path: Path) -> None:
    chosen = editors(Brighten())
    store = Store.create_or_resume(tmp_path / "run", described(chosen, samples(1)))
    with pytest.raises(UserError, match="processes of their own"):
        runner.run(store, samples(1), chosen, FakeBackbone(), timeout=1.0)


@pytest.mark.slow
def test_workers_leave_with_a_killed_driver_and_the_next_one_goes_on(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from pathlib import Path
import test_executors as tests
if __name__ == "__main__":
    tests.faulty_run(Path({str(tmp_path / "run")!r}), tests.slow(), 6)
"""
    (tmp_path / "driver.py").write_text(code)
    driver = subprocess.Popen([sys.executable, str(tmp_path / "driver.py")])
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and len(list(tmp_path.rglob("edits/*/*.json"))) < 2:
        time.sleep(0.01)
    workers = children(driver.pid)
    assert len(workers) >= 3  # the one that forks, its resource tracker, and two that edit
    driver.kill()
    driver.wait()
    while any(command(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(command(pid) for pid in workers)
    assert faulty_run(tmp_path / "run", slow(), 6) == []
    calm = tmp_path / "calm"
    run_helpers.run_all(calm, slow(), samples(6))
    assert contents(tmp_path / "run") == contents(calm)


def slow() -> dict[str, Any]:
    return editors(Brighten(), Noise(delay=0.1))


# Ctrl-C ---------------------------------------------------------------------------------------------------------------


def interrupting(monkeypatch: pytest.MonkeyPatch, times: int) -> dict[str, Any]:
    """An editor that presses Ctrl-C while it edits s1."""
    edit = Brighten.edit

    def interrupted(self: Any, sample: Any, source: Any, seed: int) -> Any:
        if sample.id == "s1":
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
        return edit(self, sample, source, seed)

    monkeypatch.setattr(Brighten, "edit", interrupted)
    return editors(Brighten(), Noise())


@pytest.mark.parametrize(("times", "done"), [(1, 3), (2, 2)])
def test_ctrl_c_ends_after_the_edit_and_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], times: int, done: int
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_helpers.run_all(tmp_path, interrupting(monkeypatch, times), samples(3))
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    edits, damaged = Store.open(tmp_path).edits()
    assert len(edits) == done and not damaged
    monkeypatch.undo()
    assert run_helpers.run_all(tmp_path, editors(Brighten(), Noise()), samples(3)) == []
    assert len(Store.open(tmp_path).edits()[0]) == 6


def test_ctrl_c_lets_processes_finish_what_they_have_begun(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    chosen = editors(Poison(notes=str(notes), delay=0.4))

    def press() -> None:
        while len(list(notes.iterdir())) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        faulty_run(tmp_path / "run", chosen, 12)
    thread.join()
    edits, damaged = Store.open(tmp_path / "run").edits()
    assert 3 <= len(edits) < 12 and not damaged
    assert len(edits) == len(list(notes.iterdir()))  # none was broken off
