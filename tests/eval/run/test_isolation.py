"""What lies in the working directory is the user's: nothing of it is imported, by the command or by its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import TINY
from run_helpers import write_clip, write_dataset

from cpam_bench.eval.run.describe import code_hash

NAMES = ("eval.py", "baselines.py", "imba.py", "cpam/__init__.py")
OTHERS = ("cpam_bench/__init__.py", "torch.py", "eval/__init__.py")
"""Ours under another version, a library's, and a package that a user may well have."""


def set_traps(folder: Path, names: tuple[str, ...]) -> Path:
    """A working directory whose modules leave a file behind when they are imported."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(folder / 'imported')!r}, 'a').write({name!r})\n")
    return folder


def run(folder: Path, *more: str, path: str | None = None) -> dict[str, str]:
    """`cpam-bench run` there; the versions in the record of its edit."""
    data, clip = write_dataset(folder / "data", count=1), write_clip(folder / "clip")
    command = [str(Path(sys.executable).parent / "cpam-bench"), "run", "--dataset", str(data), "--backbone", str(TINY)]
    command += ["--methods", "identity", "--no-references", "--steps", "2", "--device", "cpu", "--out", "run"]
    command += ["--clip", f"local-dir:{clip}", *more]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    if path is not None:
        environment["PYTHONPATH"] = path
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (folder / "imported").exists(), (folder / "imported").read_text()
    (record,) = (folder / "run" / "edits" / "identity").glob("*.json")
    versions: dict[str, str] = json.loads(record.read_text())["versions"]
    return versions


@pytest.mark.slow
def test_by_workers_in_processes(tmp_path: Path) -> None:
    folder = set_traps(tmp_path / "work", NAMES)
    versions = run(folder, "--executor", "processes", "--workers", "2", path=".")
    assert versions["cpam-bench code"] == code_hash()[:12]


@pytest.mark.slow
def test_of_another_version_or_a_library(tmp_path: Path) -> None:
    versions = run(set_traps(tmp_path / "work", OTHERS), "--executor", "processes", "--workers", "1")
    assert versions["cpam-bench code"] == code_hash()[:12]


@pytest.mark.slow
def test_by_actors_of_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    folder = set_traps(tmp_path / "work", (*NAMES, OTHERS[0]))
    assert run(folder, "--executor", "ray", "--workers", "1")["cpam-bench code"] == code_hash()[:12]
