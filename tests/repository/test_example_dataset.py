"""A package of its own adds a layout: built and installed for real, recognised, listed, run, and noted in the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from paths import TINY
from PIL import Image
from run_helpers import picture, square, write_clip
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app
from examples import call, install


def test_the_example_is_recognised_and_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("my-dataset", tmp_path, monkeypatch)

    data = tmp_path / "pictures"
    data.mkdir()
    picture(1).save(data / "one.jpg")
    (data / "one.txt").write_text("a red thing")
    Image.fromarray(square().astype(np.uint8) * 255).save(data / "one.mask.png")

    listed = call("datasets")
    assert "sidecar" in listed and "my-dataset 0.1.0" in listed
    assert "of the pictures" in call("datasets", "sidecar")
    said = call("data", "info", data)
    assert "layout sidecar: 1 of 1 texts have a picture beside them" in said
    assert "1 of them ready" in call("data", "validate", data)

    clip = write_clip(tmp_path / "clip")
    folder = tmp_path / "run"
    arguments = ["--methods", "cpam", "--no-references", "--backbone", TINY, "--steps", 2, "--device", "cpu"]
    call("run", "--dataset", data, *arguments, "--clip", f"local-dir:{clip}", "--workers", 1, "--out", folder)
    task = json.loads((folder / "sources" / "one.json").read_text())
    assert task["target_prompt"] == "a red thing"
    mask = np.asarray(Image.open(folder / "masks" / "one.png")) > 0
    assert mask.mean() == pytest.approx(square().mean())

    (data / "two.txt").write_text("a thing without a picture")
    done = CliRunner().invoke(app, ["run", "--dataset", str(data), "--out", str(tmp_path / "other")])
    assert done.exit_code and "the image is missing (1 of 2 samples): two.jpg" in str(done.exception)
