"""Commands that print and write what is known already load no network's library: they are there at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from report_runs import fabricate, pocket_material

from cpam_bench.imba.common.files import write_json, write_rows

SCRIPT = """
import json, sys
from typer.testing import CliRunner
from cpam_bench.eval.commands.main import app

for arguments in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, (arguments, done.output)
    print(json.dumps([arguments, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A scored run whose data set knows the truth."""
    folder = fabricate(tmp_path / "run", pocket_material(2), samples=2, methods=2)
    lines = (folder / "scores.csv").read_text().splitlines()
    keys = list(dict.fromkeys(tuple(line.split(",")[:2]) for line in lines[1:]))
    metrics = ("clip_score", "lpips_background", "lpips_truth", "lpips_truth_gain")
    write_rows(folder / "scores.csv", lines[0].split(","), [(*key, name, 0.25) for key in keys for name in metrics])
    scored = json.loads((folder / "scores.json").read_text())
    scored["metrics"] |= {name: {"protocol": "made up"} for name in metrics[2:]}
    write_json(folder / "scores.json", scored)
    return folder


def loaded(commands: list[list[str]], *libraries: str) -> list[tuple[list[str], list[str]]]:
    """The commands, run in one new process, each with those libraries that are loaded after it."""
    line = [sys.executable, "-c", SCRIPT, json.dumps(commands), json.dumps(libraries)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(found)) for found in done.stdout.splitlines()]


def test_commands_that_read_a_run_do_without_torch(run: Path, tmp_path: Path) -> None:
    commands = [
        ["--help"],
        ["run", "--help"],
        ["status", str(run)],
        ["datasets"],
        ["metrics"],
        ["table", "2"],
        ["truth", str(run)],
        ["leaderboard", str(run), "--csv", str(tmp_path / "board.csv")],
        ["leaderboard", str(run), "--slice", "kind"],
        ["table", "2", str(run)],
        ["table", "3"],
        ["report", str(run), "--out", str(tmp_path / "report")],
        ["export", str(run), "--out", str(tmp_path / "export")],
    ]
    found = loaded(commands, "torch", "diffusers", "transformers")
    assert found == [(command, []) for command in commands]
