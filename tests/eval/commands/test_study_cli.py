"""The commands, from a run to Table 3."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from study_runs import make_run
from typer.testing import CliRunner

pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")

from paths import PUBLISHED

from cpam_bench.eval.commands.study import app
from cpam_bench.imba.errors import UserError

PAPER = PUBLISHED / "table3_user_study.csv"


def study(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_the_papers_study_is_36000_ratings(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [f"m{i}" for i in range(9)], 50)
    text = study("init", run, "--out", tmp_path / "study", "--controls", 6)
    assert "20 raters x 9 methods x 50 images x 4 questions = 36,000 ratings (9,000 pictures, 450 a rater)" in text
    assert "6 controls a rater: 480 ratings more" in text
    assert "91 minutes a rater" in text


def test_simulate_aggregate_export(tmp_path: Path) -> None:
    text = study("simulate", "--means", PAPER, "--raters", 6, "--images", 8, "--out", tmp_path / "sim.csv")
    assert "1,728 simulated ratings" in text
    text = study("aggregate", tmp_path / "sim.csv", "--out", tmp_path / "out", "--beside", PAPER)
    assert "published" in text and "CPAM" in text and "of 144 pairs" in text
    assert (tmp_path / "out" / "table3.tex").is_file()
    assert pd.read_csv(tmp_path / "out" / "table3.csv").columns.tolist() == pd.read_csv(PAPER).columns.tolist()


def test_a_table_of_means_comes_out_in_the_same_form(tmp_path: Path) -> None:
    text = study("aggregate", PAPER, "--out", tmp_path / "out")
    assert "5.09" in text
    assert pd.read_csv(tmp_path / "out" / "table3.csv").equals(pd.read_csv(PAPER))


def test_coverage_and_power_commands() -> None:
    text = study("simulate", "--coverage", 20, "--means", PAPER)
    assert "20 studies of 20 raters and 50 images" in text and "% held" in text
    assert "power holm" in study("simulate", "--power", 0.2)


def test_what_commands_refuse(tmp_path: Path) -> None:
    for arguments in (
        ["simulate"],
        ["aggregate", tmp_path],
        ["aggregate", tmp_path / "none.csv"],
        ["aggregate", PAPER, "--interval", "guess"],
        ["erase", tmp_path, "r01"],
        ["serve", tmp_path],
    ):
        with pytest.raises(UserError):
            CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
