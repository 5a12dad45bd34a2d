"""What every test leaves as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cpam_bench.eval.methods.registry import EDITORS


@pytest.fixture(scope="module", autouse=True)
def given_methods() -> Iterator[None]:
    """Methods out of files are given to the whole process; those of one module of tests are none of another's."""
    before = dict(EDITORS.given)
    yield
    EDITORS.given.clear()
    EDITORS.given.update(before)
