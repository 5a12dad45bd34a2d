"""A package of its own adds a layout of data sets: built and installed for real, recognised, run and scored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from paths import ROOT, TINY
from PIL import Image
from run_helpers import picture, square, write_clip
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app


def call(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output or done.exception
    return done.output


def test_the_example_is_recognised_run_and_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = shutil.copytree(ROOT / "examples" / "my-dataset", tmp_path / "my-dataset")
    site = tmp_path / "site"
    install = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", site]
    subprocess.run([sys.executable, "-m", *install, package], check=True)
    monkeypatch.syspath_prepend(str(site))

    data = tmp_path / "data"
    data.mkdir()
    for i, name in enumerate(("dog", "cat")):
        picture(i).save(data / f"{name}.png")
        Image.fromarray(square().astype(np.uint8) * 255).save(data / f"{name}.mask.png")
        (data / f"{name}.txt").write_text(f"a red {name}\n")

    assert "pairs" in call("datasets") and "my-dataset 0.1.0" in call("datasets")
    told = call("data", "info", data)
    assert "layout pairs" in told and "has its prompt beside it" in told

    run = tmp_path / "run"
    arguments = ["--dataset", data, "--backbone", TINY, "--methods", "identity", "--no-references", "--steps", "2"]
    call("run", *arguments, "--device", "cpu", "--out", run, "--clip", f"local-dir:{write_clip(tmp_path / 'clip')}")
    assert json.loads((run / "run.json").read_text())["samples"] == ["cat", "dog"]
    scores = pd.read_csv(run / "scores.csv").set_index(["sample", "metric"])["value"]
    assert scores["cat", "lpips_background"] == 0

    (data / "dog.mask.png").unlink()
    assert "dog.mask.png, its mask, is not there" in call("data", "validate", data, code=1)
