"""What lies in the working directory is the user's: nothing of it is imported, by the command or by its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from paths import TINY
from ports import free_port
from run_helpers import write_clip, write_dataset
from study_runs import make_run

from cpam_bench.eval.run.describe import code_hash

NAMES = ("eval.py", "baselines.py", "imba.py", "cpam/__init__.py")
OTHERS = ("cpam_bench/__init__.py", "torch.py", "eval/__init__.py")
"""Ours under another version, a library's, and a package that a user may well have."""

CONSOLE = str(Path(sys.executable).parent / "cpam-bench")


def set_traps(folder: Path, names: tuple[str, ...]) -> Path:
    """A working directory whose modules leave a file behind when they are imported."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"open({str(folder / 'imported')!r}, 'a').write({name!r})\n")
    return folder


def environment(path: str | None = None) -> dict[str, str]:
    """This process's, with another PYTHONPATH or none."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    return kept if path is None else kept | {"PYTHONPATH": path}


def run(folder: Path, *more: str, path: str | None = None) -> dict[str, str]:
    """`cpam-bench run` there; the versions in the record of its edit."""
    data, clip = write_dataset(folder / "data", count=1), write_clip(folder / "clip")
    command = [CONSOLE, "run", "--dataset", str(data), "--backbone", str(TINY)]
    command += ["--methods", "identity", "--no-references", "--steps", "2", "--device", "cpu", "--out", "run"]
    command += ["--clip", f"local-dir:{clip}", *more]
    done = subprocess.run(command, cwd=folder, env=environment(path), capture_output=True, text=True)
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


@pytest.mark.slow
@pytest.mark.parametrize("command", ["study", "studio"])
def test_by_what_is_served(command: str, tmp_path: Path) -> None:
    pytest.importorskip(
        {"study": "fastapi", "studio": "gradio"}[command], reason=f"the extra {command!r} is not installed"
    )
    folder = set_traps(tmp_path / "work", NAMES)
    if command == "study":
        init = [
            "study",
            "init",
            str(make_run(tmp_path / "run", ["masactrl", "cpam"], 2)),
            "--out",
            str(tmp_path / "study"),
        ]
        subprocess.run([CONSOLE, *init], cwd=folder, env=environment("."), check=True, capture_output=True)
        arguments = ["study", "serve", str(tmp_path / "study")]
    else:
        arguments = ["studio", "--backbone", str(TINY), "--device", "cpu"]
    port = free_port()
    server = subprocess.Popen([CONSOLE, *arguments, "--port", str(port)], cwd=folder, env=environment("."))
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                assert httpx.get(f"http://127.0.0.1:{port}", timeout=30).status_code < 500
                break
            except httpx.TransportError:
                assert server.poll() is None and time.monotonic() < deadline, "the server ended"
                time.sleep(0.1)
    finally:
        server.terminate()
        server.wait()
    assert not (folder / "imported").exists(), (folder / "imported").read_text()
