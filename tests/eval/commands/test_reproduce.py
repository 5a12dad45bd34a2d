"""The paper's protocol from one command, whole, on the pocket parts and in two steps; and what its plan says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from backbones import tiny_sdxl
from editor_helpers import small_backbone
from typer.testing import CliRunner

from cpam_bench.cpam.editing import LaneCount
from cpam_bench.eval.commands import reproduce
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run import plan
from cpam_bench.eval.tables.published import installed
from cpam_bench.imba.common import hub
from cpam_bench.imba.errors import UserError

METHODS = "sdedit,imagic:embedding_steps=1,model_steps=1,cpam"
POCKET = ("--backbone", "pocket", "--data", "pocket", "--limit", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reproduce") / "out"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "STEPS", 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # no processes for one sample


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


def test_table_2_whole(out: Path) -> None:
    done = call("table2", *POCKET, "--methods", METHODS, "--out", out)
    assert done.exit_code == 0, done.output
    run = json.loads((out / "run" / "run.json").read_text())
    assert run["steps"] == 2 and len(run["samples"]) == 1
    # What is not fine-tuned is edited first, so that a table without the slow ones is there early.
    assert list(run["methods"]) == ["sdedit", "cpam", "imagic:embedding_steps=1,model_steps=1"]
    table = (out / "table2.md").read_text()
    assert "29.26" in table and "differs in" in table and table in done.output
    assert (out / "table2.csv").is_file() and r"\toprule" in (out / "table2.tex").read_text()
    assert (out / "report" / "index.html").is_file()
    assert "weights: backbone pocket: here; CLIP pocket: here" in done.output


def test_figure_5_of_the_same_run(out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (out / "run" / "edits").rglob("*.png")}
    done = call("figure5", *POCKET, "--methods", "sdedit,cpam", "--out", out)
    assert done.exit_code == 0, done.output
    assert before and before == {path: path.stat().st_mtime_ns for path in (out / "run" / "edits").rglob("*.png")}
    assert (out / "figure5.pdf").read_bytes()[:4] == b"%PDF" and (out / "figure5.png").stat().st_size > 10_000


def test_figure_6(tmp_path: Path) -> None:
    done = call("figure6", *POCKET, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "modules.png").is_file() and (tmp_path / "ablation.csv").is_file()


def test_tables_that_need_no_run(tmp_path: Path) -> None:
    done = call("table1", "--out", tmp_path)
    assert done.exit_code == 0 and "Mask Ctrl" in (tmp_path / "table1.md").read_text()
    ratings = tmp_path / "ratings.csv"
    rows = [f"r{r},s{s},{m},realistic,{3 + (r + s) % 3}" for r in range(3) for s in range(3) for m in ("CPAM", "PnP")]
    ratings.write_text("\n".join(["rater,sample,method,question,rating", *rows]))
    done = call("table3", ratings, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "CPAM" in (tmp_path / "table3.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "words"), [(("table3",), "table3 STUDY"), (("table2", "STUDY"), "takes no study")]
)
def test_what_does_not_go_together_is_refused(arguments: tuple[str, ...], words: str) -> None:
    refused = call(*arguments)
    assert isinstance(refused.exception, UserError) and words in str(refused.exception)


def test_a_dry_run_plans_and_begins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "STEPS", 50)
    monkeypatch.setattr(hub, "trouble", lambda: "no network")
    monkeypatch.setattr(hub, "snapshot", lambda repository: None)
    done = call("table2", "--dry-run", "--device", "cpu")
    assert done.exit_code == 0, done.output
    for words in (
        "cpam-bench data build --out IMBA",
        "104 samples, sd15, 50 steps",
        "sd15: not here (4.3 GB)",
        "no network",
        "7.0 GB of",
        "unknown here",
        "an A100 5.3 h",
    ):
        assert words in done.output, words
    assert list(tmp_path.iterdir()) == []


def test_a_plan_on_sdxl_leaves_out_what_does_not_run_there(tmp_path: Path) -> None:
    tiny_sdxl().save_pretrained(tmp_path / "model")
    where = ("--backbone", tmp_path / "model", "--data", "pocket", "--limit", "1", "--device", "cpu")
    done = call("table2", *where, "--methods", METHODS, "--out", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0, done.exception
    (costs,) = (line for line in done.output.splitlines() if "s a lane of the denoiser" in line)
    assert "left out: imagic" in done.output and "cpam 0." in costs and "imagic" not in costs


def test_the_papers_methods_are_all_installed_and_imagic_is_last() -> None:
    labels, missing = installed(2)
    assert len(labels) == 9 and labels[-1] == "imagic" and missing == []


def test_hours_are_lanes_times_their_pace() -> None:
    editors = dict([registry.make("cpam"), registry.make("p2p-nti:inner_steps=2"), registry.make("imagic")])
    pace = plan.Pace(plain=1.0, gradient=3.0, trained=None, picture=5.0, peak_mib=None)
    found = plan.costs(editors, samples=36, steps=10, pace=pace, workers=2)
    cpam, p2p = found.methods["cpam"], found.methods["p2p-nti:inner_steps=2"]
    assert cpam.lanes == LaneCount(plain=30, shared=True)
    assert cpam.hours == pytest.approx(36 * (5 + 30) / 2 / 3600)
    assert p2p.hours == pytest.approx(36 * (5 + 60 + 3 * 20) / 2 / 3600)
    assert found.inversion.hours == pytest.approx(36 * 10 / 2 / 3600)  # once, of the method that stands on it
    assert found.hours == pytest.approx(36 * (35 + 125 + 10) / 2 / 3600)
    assert found.methods["imagic"].hours is None  # it does not fit
    text = "\n".join(plan.lines(found, 36, pace))
    assert "imagic cannot be timed" in text and "51.0 min (inversion 3.0 min, cpam 10.5 min" in text
    alone = plan.costs(dict([registry.make("cpam")]), 36, 10, None)
    assert plan.hours_elsewhere(alone, 36)["an A100"] == pytest.approx(36 * 40 / 62.4 / 3600)
    own = plan.costs(dict([registry.make("p2p-nti"), registry.make("cpam-release")]), 36, 10, pace, family="sdxl")
    assert own.inversion.hours == 0 and own.methods["cpam-release"].lanes == LaneCount(plain=40)


def test_the_probe_takes_the_median_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 30.0, 30.0, 30.3, 31.0, 31.6, 32.0, 39.0, *(40 + count / 10 for count in range(100))])
    monkeypatch.setattr(plan, "REPEATS", 3)
    monkeypatch.setattr(plan, "BUDGET", 100.0)
    model = small_backbone()
    before = model.evaluations
    pace = plan.probe(model, clock=lambda backbone: next(seconds))
    assert pace.picture == pytest.approx(0.6)  # after a warm-up of 30, and in spite of one that took 7
    assert pace.plain == pytest.approx(0.1 / 3) and pace.gradient == pytest.approx(0.1)
    assert model.evaluations - before == 4 * (3 + 1)


def test_the_probe_of_a_slow_model_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(11.0 * count for count in range(100))
    model = small_backbone()
    before = model.evaluations
    assert plan.probe(model, clock=lambda backbone: next(seconds)).plain == pytest.approx(11 / 3)
    assert model.evaluations - before == 2 * (3 + 1)  # once to warm up, once timed
