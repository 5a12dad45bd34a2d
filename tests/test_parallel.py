"""Editing on several processes gives what editing on one does, and a killed worker is told."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from run_helpers import write_dataset

import imba.dataset
from cpam.backbone import Backbone
from eval import registry, runner
from eval.parallel import run_parallel
from eval.store import Store
from imba.errors import UserError

TINY = Path(__file__).parent / "data" / "reference" / "tiny-sd"
LABELS = ["identity", "masactrl:step=1", "cpam"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> imba.dataset.Dataset:
    return imba.dataset.load(str(write_dataset(tmp_path_factory.mktemp("data") / "set", count=3)))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


def start(folder: Path, data: imba.dataset.Dataset, backbone: Backbone, steps: int = 3) -> Store:
    editors = dict(registry.make(label) for label in LABELS)
    run = runner.describe_run({}, data, data.samples, backbone, editors, steps=steps, seed=0)
    return Store.create_or_resume(folder, run)


def hashes(store: Store) -> dict[tuple[str, str], str | None]:
    edits, damaged = store.edits()
    assert not damaged
    return {(edit.method, edit.sample): edit.image_sha256 for edit in edits if edit.status == "ok"}


def test_two_workers_make_the_same_edits(tmp_path: Path, data: imba.dataset.Dataset, backbone: Backbone) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers have it: sums in another order round differently
    try:
        alone = start(tmp_path / "alone", data, backbone)
        editors = dict(registry.make(label) for label in LABELS)
        assert runner.run(alone, data.samples, editors, backbone, progress=False) == []
    finally:
        torch.set_num_threads(threads)
    together = start(tmp_path / "together", data, backbone)
    assert run_parallel(together, data.samples, LABELS, backbone, workers=2, progress=False) == []
    assert len(hashes(together)) == len(LABELS) * len(data)
    assert hashes(together) == hashes(alone)


def test_a_killed_worker_is_told_and_nothing_is_lost(
    tmp_path: Path, data: imba.dataset.Dataset, backbone: Backbone
) -> None:
    store = start(tmp_path / "run", data, backbone, steps=200)

    def kill_a_worker() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list(store.folder.rglob("*.png")):
            time.sleep(0.05)
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        pids = [int(pid) for path in children for pid in path.read_text().split()]
        workers = [pid for pid in pids if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(workers[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_a_worker)
    thread.start()
    with pytest.raises(UserError, match="fewer --workers"):
        run_parallel(store, data.samples, LABELS, backbone, workers=2, progress=False)
    thread.join()
    assert hashes(store)  # what was finished is whole
