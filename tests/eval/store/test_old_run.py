"""A run that the first release made: it verifies, scores, resumes and is read with today's code."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from paths import DATA, TINY
from run_helpers import write_clip

import cpam_bench.imba.dataset
from cpam_bench.eval.analysis.leaderboard import leaderboard
from cpam_bench.eval.audit.verify import verify
from cpam_bench.eval.report.export import export
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
        written = pd.read_csv(run / name).replace("mine=made", "mine")  # the folder is shown to nobody any more
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
    kept = [name for name in before if name.startswith(("edits/", "sources/", "masks/", "truths/"))]
    assert len(kept) == 20 and [name for name in kept if after.get(name) != before[name]] == []
    described, old = (json.loads((folder / "run.json").read_text()) for folder in (run, OLD / "run"))
    for name, method in described["methods"].items():
        old["methods"][name] |= {key: method[key] for key in ("package", "method")}  # this package's own version
    old["methods"]["mine=made"]["parameters"].pop("folder")
    old["dataset"] |= {"records": 2, "masks": "the data set's own"}  # which later versions note
    assert described == old
    assert list(outcome.board.rows["method"]) == ["mine", "reconstruction", "identity"]
    assert verify(run, clip=clip).wrong == []


def test_its_export_does_not_tell_where_a_folder_was(run: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    assert export(run, tmp_path / "export") == []
    texts = [path for path in (tmp_path / "export").iterdir() if path.is_file()]
    assert len(texts) >= 6
    assert not [path for path in texts if b"mine=made" in path.read_bytes() or b'"folder"' in path.read_bytes()]
    table = datasets.load_dataset("parquet", data_files=str(tmp_path / "export" / "data" / "edits-*"), split="train")
    assert set(table["method"]) == {"mine", "reconstruction", "identity"}
    assert not [row for row in table["parameters"] if "folder" in row]
