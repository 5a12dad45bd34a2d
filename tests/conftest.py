"""What every test leaves as it found it."""

from __future__ import annotations

import os
from collections.abc import Iterator

# One thread a process, in the processes that tests start too: the tests' networks are small, and the other cores are
# for other tests (pytest -n auto). Before torch is loaded, which reads it then; what the user has set stays.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from cpam_bench.eval.methods.registry import EDITORS


@pytest.fixture(scope="module", autouse=True)
def given_methods() -> Iterator[None]:
    """Methods out of files are given to the whole process; those of one module of tests are none of another's."""
    before = dict(EDITORS.given)
    yield
    EDITORS.given.clear()
    EDITORS.given.update(before)
