"""Edits against the picture that they should have led to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from run_helpers import Brighten, _Base, editors, run_all, samples
from typer.testing import CliRunner

from cpam_bench.cpam.editing import parameter
from cpam_bench.eval.analysis.leaderboard import leaderboard, render
from cpam_bench.eval.analysis.truth import by_kind
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@dataclass(frozen=True)
class Answer(_Base):
    """Gives the truth itself on some samples, and the untouched source on the others."""

    name: ClassVar[str] = "answer"
    on: str = parameter("012", "last letters of ids", "the test")

    def edit(self, sample: Any, source: Any, seed: int) -> Image.Image:
        return sample.read_truth() if sample.id[-1] in self.on else source.image


@pytest.fixture
def run(tmp_path: Path) -> Path:
    todo = []
    for i, sample in enumerate(samples(4)):
        pixels = np.asarray(sample.image).copy()
        pixels[sample.region] = 255 - pixels[sample.region]
        truth = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(truth)
        todo.append(replace(sample, truth=truth, kind="remove" if i < 3 else "pose"))
    chosen = editors(Answer(), Answer("0")) | {"identity": Brighten(0)}
    assert run_all(tmp_path / "run", chosen, todo) == []
    score(Store.open(tmp_path / "run"), ["lpips_truth", "lpips_truth_gain"])
    return tmp_path / "run"


def test_shares_and_means_by_kind(run: Path) -> None:
    table = by_kind(run).set_index(["kind", "method"])
    assert table.loc[("remove", "answer")][["n", "lpips_truth", "closer"]].tolist() == [3, 0, 1]
    assert table.loc[("remove", "answer:on=0"), "closer"] == pytest.approx(1 / 3)
    assert table.loc[("pose", "answer"), "closer"] == 0  # the source came back
    for kind in ("remove", "pose"):
        row = table.loc[(kind, "identity")]
        assert row["lpips_source"] == row["lpips_truth"] > 0 and row["closer"] == 0
    printed = CliRunner().invoke(app, ["truth", str(run)], env={"COLUMNS": "160"})
    assert printed.exit_code == 0 and "33%" in printed.output
    assert printed.output.count("(whole") == 2 and printed.output.count("(region)") == 2


def test_the_leaderboard_shows_the_truth_where_it_is_known(run: Path, tmp_path: Path) -> None:
    board = leaderboard([run])
    # The gain inside the region: over whole pictures doing nothing would be best.
    heads = [str(column.header) for column in render(board).renderables[0].columns]
    assert "LPIPS gain to truth (region) ↑" in heads and not [head for head in heads if "(truth)" in head]
    asked = CliRunner().invoke(app, ["leaderboard", str(run), "--columns", "lpips_truth,peak_memory_mib"])
    assert "LPIPS (truth) ↓" in asked.output and "peak memory (MiB)" in asked.output and "gain" not in asked.output
    with pytest.raises(UserError, match="no column 'nothing'; there are: all, lpips_truth, "):
        render(board, ["nothing"])
    run_all(tmp_path / "plain", editors(Brighten()), samples(1))
    score(Store.open(tmp_path / "plain"), ["lpips_truth", "lpips_truth_gain"])
    plain = render(leaderboard([tmp_path / "plain"])).renderables[0]
    assert not [column for column in plain.columns if "truth" in str(column.header)]
    with pytest.raises(UserError, match="does not know"):
        by_kind(tmp_path / "plain")


def test_a_run_without_the_scores_is_told_how_to_make_them(run: Path) -> None:
    (run / "scores.csv").write_text("method,sample,metric,value\n")
    with pytest.raises(UserError, match="cpam-bench score"):
        by_kind(run)
