"""A package of its own adds a metric: built and installed for real, chosen by its label, found wherever scores are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_helpers import Brighten, editors, run_all, samples, square, write_clip

from cpam_bench.eval.metrics.metric import facts
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.store.store import Store
from examples import call, install

LABELS = ["colour_shift", "colour_shift:region=inside"]


def test_the_example_is_measured_beside_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("my-metric", tmp_path, monkeypatch)

    folder = tmp_path / "run"
    run_all(folder, editors(Brighten(), Brighten(20)), samples(2))
    score(Store.open(folder), clip=f"local-dir:{write_clip(tmp_path / 'clip')}")
    printed = call("score", folder, "--metrics", ",".join(LABELS), "--device", "cpu")
    assert "colour shift" in printed

    listed = call("metrics")
    assert "colour_shift" in listed and "my-metric 0.1.0" in listed
    assert "where colours are compared" in call("metrics", "colour_shift")

    held = json.loads((folder / "scores.json").read_text())["metrics"]
    assert held[LABELS[1]]["parameters"] == {"region": "inside"} and held[LABELS[0]]["package"] == "my-metric 0.1.0"
    table = pd.read_csv(folder / "scores.csv").set_index(["method", "sample", "metric"])["value"]
    source = np.asarray(samples(1)[0].read_image()).astype(float)
    assert source.max() <= 245
    for label, where in zip(LABELS, (~square(), square()), strict=True):
        edit = (source + 10)[where].mean(0)
        expected = np.linalg.norm(edit - source[where].mean(0))
        assert table["brighten", "s0", label] == pytest.approx(expected, rel=1e-4)
    board = call("leaderboard", folder, "--csv", tmp_path / "board.csv")
    assert "colour shift" in board and LABELS[1] in pd.read_csv(tmp_path / "board.csv").columns
    call("report", folder, "--out", tmp_path / "report")
    assert "colour shift (region inside)" in (tmp_path / "report" / "index.html").read_text()
    call("export", folder, "--out", tmp_path / "export")
    rows = pd.read_csv(tmp_path / "export" / "leaderboard.csv")
    assert set(rows.loc[rows["metric"] == LABELS[0], "better"]) == {"lower"}

    # Where the package is not installed, the facts are those that were noted.
    monkeypatch.undo()
    assert facts(LABELS[1], held[LABELS[1]]).heading == "colour shift (region inside) ↓"
    assert facts(LABELS[1]).title == LABELS[1]
