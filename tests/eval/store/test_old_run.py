"""A run that the first release made: it verifies, scores, resumes and is read with today's code."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pandas as pd
import pytest
from paths import DATA, TINY
from run_helpers import write_clip

import cpam_bench.imba.dataset
from cpam_bench.eval.analysis.leaderboard import leaderboard
from cpam_bench.eval.audit.verify import verify
from cpam_bench.eval.run.execute import Settings, execute
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import read_scores
from cpam_bench.eval.store.store import Store

OLD = DATA / "run-0.1"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'clip')}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("run", "made", "data"):
        shutil.copytree(OLD / name, tmp_path / name)
    (tmp_path / "tiny-sd").symlink_to(TINY)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_it_verifies(run: Path, clip: str) -> None:
    found = verify(run, clip=clip)
    assert found.wrong == [] and found.files == 20


def test_its_leaderboard_is_the_one_that_it_was(run: Path) -> None:
    board = leaderboard([run])
    for rows, name in ((board.rows, "leaderboard.csv"), (board.paired, "paired.csv")):
        written = pd.read_csv(run / name)
        pd.testing.assert_frame_equal(rows[written.columns], written, check_exact=False, rtol=1e-9, check_dtype=False)


def test_it_is_scored_again_with_the_same_values(run: Path, clip: str) -> None:
    before = read_scores(run)
    found = score(Store.open(run), clip=clip)
    assert found.damaged == []
    both = before.merge(read_scores(run), on=["method", "sample", "metric"], suffixes=("", "_now"))
    assert len(both) == len(before)
    assert both["value_now"].tolist() == pytest.approx(both["value"].tolist(), rel=1e-3, abs=1e-3)


def test_it_resumes_and_no_edit_is_made_again(run: Path, clip: str) -> None:
    before = hashes(run)
    settings = Settings(backbone="tiny-sd", steps=2, device="cpu", clip=clip)
    labels = ["reconstruction", "mine=made", "identity"]
    outcome = execute(cpam_bench.imba.dataset.load("data"), labels, run, settings)
    assert outcome.failures == []
    after = hashes(run)
    kept = [name for name in before if not name.startswith(("scores.", "leaderboard.", "paired."))]
    assert [name for name in kept if after.get(name) != before[name]] == []
