"""How many threads a single edit takes of a machine that others use too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from cpam_bench.eval.run.settings import use_threads

OF_TESTS = os.environ["OMP_NUM_THREADS"]  # of conftest.py, or of who started the tests


@pytest.fixture(autouse=True)
def eight(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("busy", "free"), [(0.1, 8), (5.2, 3), (40.0, 1)])
def test_cores_that_others_keep_busy_are_left_to_them(monkeypatch: pytest.MonkeyPatch, busy: float, free: int) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (busy, 0.0, 0.0))
    assert use_threads(None, SimpleNamespace(is_pocket=False)) == free == torch.get_num_threads()


def test_the_pocket_backbone_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert use_threads(None, SimpleNamespace(is_pocket=True)) == 1


def test_what_the_user_says_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 0.0, 0.0))
    assert use_threads(3, SimpleNamespace(is_pocket=True)) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    torch.set_num_threads(8)  # as torch does when it starts
    assert use_threads(None, SimpleNamespace(is_pocket=True)) == 8


def test_tests_take_one_thread_or_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", OF_TESTS)
    asked = "import torch; print(torch.get_num_threads())"
    started = subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, text=True)
    assert started.stdout.strip() == OF_TESTS
