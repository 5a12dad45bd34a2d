"""``pytest tests/inputs`` also runs the tests elsewhere that README.md names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ELSEWHERE = re.compile(r"`\.\./([\w/]+\.py)(?:::(\w+))?`")


def elsewhere() -> list[tuple[Path, str]]:
    """Files of tests, each with the name of a test or "" for all of its tests, in the order of the table."""
    found = ELSEWHERE.findall((HERE / "README.md").read_text(encoding="utf-8"))
    return [(HERE.parent / file, test) for file, test in dict.fromkeys(found)]


def pytest_configure(config: pytest.Config) -> None:
    asked = {(config.invocation_params.dir / argument).resolve() for argument in config.args}
    if HERE in asked:
        config.args += [f"{file}::{test}" if test else str(file) for file, test in elsewhere()]
