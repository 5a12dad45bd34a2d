"""A package of its own adds a method: built and installed for real, found by its entry point, run by the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from PIL import Image
from run_helpers import write_clip, write_dataset

import cpam_bench.eval.commands.main
from examples import install

TINY = ROOT / "tests" / "data" / "reference" / "tiny-sd"


def test_the_example_runs_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install("my-editor", tmp_path, monkeypatch)

    data, clip = write_dataset(tmp_path / "data", count=1), write_clip(tmp_path / "clip")
    arguments = ["--methods", "blend,blend:guidance=2", "--dataset", data, "--backbone", TINY, "--steps", 3]
    arguments += ["--no-references", "--clip", f"local-dir:{clip}", "--device", "cpu", "--out", tmp_path / "run"]
    for command in (["run", *arguments], ["methods", "blend"]):
        monkeypatch.setattr(sys, "argv", ["cpam-bench", *map(str, command)])
        try:
            cpam_bench.eval.commands.main.main()
        except SystemExit as ended:
            assert not ended.code, capsys.readouterr().err
    assert "Blend. an example of cpam-bench" in capsys.readouterr().out
    described = json.loads((tmp_path / "run" / "run.json").read_text())["methods"]
    assert set(described) == {"blend", "blend:guidance=2"}
    assert described["blend"]["package"] == "my-editor 0.1.0" and described["blend"]["title"] == "Blend"
    [path] = (tmp_path / "run" / "edits" / "blend").glob("*.png")
    edited, source, mask = (
        np.asarray(Image.open(tmp_path / "run" / folder / path.name)) for folder in ("edits/blend", "sources", "masks")
    )
    assert np.array_equal(edited[mask == 0], source[mask == 0])
    assert not np.array_equal(edited[mask > 0], source[mask > 0])
