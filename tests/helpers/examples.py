"""The packages under ``examples/``, built and installed for real, and the command as their users call it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app


def install(example: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install an example below a folder, found as long as the test runs."""
    # A copy, as building leaves folders beside the source.
    package = shutil.copytree(ROOT / "examples" / example, folder / example)
    site = folder / "site"
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", site]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, package], check=True)
    monkeypatch.syspath_prepend(str(site))


def call(*arguments: object) -> str:
    """What a command prints; it must end well."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output or done.exception
    return done.output
