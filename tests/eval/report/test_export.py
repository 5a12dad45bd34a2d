"""An exported run read back as others would read it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from run_helpers import Brighten, Broken, editors, run_all, samples, write_clip
from typer.testing import CliRunner

from cpam_bench.eval.analysis.leaderboard import leaderboard
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.report import export as module
from cpam_bench.eval.report.export import LEADERBOARD, export
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import read_scores
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_all(folder, editors(Brighten(), Broken("s1")), samples(3))
    score(Store.open(folder), clip=f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}")
    return folder


@pytest.fixture(scope="module")
def out(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "export"
    assert export(run, folder) == []
    return folder


def test_hugging_face_reads_it(run: Path, out: Path, tmp_path: Path) -> None:
    store, scores = Store.open(run), read_scores(run).set_index(["method", "sample", "metric"])["value"]
    edits = datasets.load_dataset(str(out), "edits", split="train", cache_dir=str(tmp_path))
    assert len(edits) == 6 and isinstance(edits.features["image"], datasets.Image)
    for row in edits:
        if row["method"] == "brighten":
            with Image.open(store.edit_path("brighten", row["sample"])) as file:
                assert (np.asarray(row["image"]) == np.asarray(file)).all()
        if row["status"] == "ok":
            assert row["clip_score"] == scores[row["method"], row["sample"], "clip_score"]
            assert row["lpips_truth"] is None  # not defined: there is no truth
    failed = [row for row in edits if row["status"] == "failed"]
    assert [(row["sample"], row["image"], row["clip_score"]) for row in failed] == [("s1", None, None)]
    assert "no such luck" in failed[0]["error"] and json.loads(failed[0]["parameters"]) == {"on": "s1"}

    found = datasets.load_dataset(str(out), "samples", split="train", cache_dir=str(tmp_path))
    assert found["sample"][:] == ["s0", "s1", "s2"] and found[0]["target_prompt"] == "a picture of thing 0"
    assert np.asarray(found[1]["mask"]).mean() > 0 and found[1]["truth"] is None


def test_parquet_is_enough_by_itself(run: Path, out: Path, tmp_path: Path) -> None:
    files = [str(path) for path in (out / "data").glob("edits-*.parquet")]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert loaded[0]["image"].size == (64, 64)
    table = pd.read_parquet(files[0])  # the pictures are in the file
    picture = table[table["status"] == "ok"].iloc[0]["image"]
    assert Image.open(io.BytesIO(picture["bytes"])).size == (64, 64)


def test_leaderboard_has_the_documented_columns_and_the_runs_numbers(run: Path, out: Path) -> None:
    table = pd.read_csv(out / "leaderboard.csv")
    assert list(table.columns) == list(LEADERBOARD)
    rows = leaderboard([run]).rows.set_index("method")
    for row in table[table["metric"].isin(["clip_score", "psnr_background", "seconds"])].to_dict("records"):
        assert row["mean"] == pytest.approx(rows.loc[row["method"], row["metric"]])
        assert row["failed"] == rows.loc[row["method"], "failed"] and row["pocket"]
    clip = table[table["metric"] == "clip_score"]
    assert (clip["better"] == "higher").all() and clip["weights_sha256"].str.len().eq(64).all()
    card = (out / "README.md").read_text()
    assert all(f"`{column}`" in card for column in LEADERBOARD)


def test_no_path_of_whoever_ran_it_is_in_it(run: Path, out: Path) -> None:
    data = json.loads((run / "run.json").read_text())
    assert "arguments" in data and "arguments" not in json.loads((out / "run.json").read_text())
    for path in out.rglob("*"):
        if path.is_file():
            assert str(run).encode() not in path.read_bytes(), path


def test_large_runs_are_several_files(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(path.stat().st_size for path in (run / "edits").rglob("*.png"))
    monkeypatch.setattr(module, "SHARD", size // 3 + 1)
    export(run, tmp_path / "export")
    assert len(list((tmp_path / "export" / "data").glob("edits-*-of-00003.parquet"))) == 3
    loaded = datasets.load_dataset(str(tmp_path / "export"), "edits", split="train", cache_dir=str(tmp_path / "c"))
    assert len(loaded) == 6


def test_command(run: Path, tmp_path: Path) -> None:
    arguments = ["export", str(run), "--out", str(tmp_path / "export")]
    for _ in range(2):  # an older export is replaced
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    wrong = CliRunner().invoke(app, ["export", str(run), "--out", str(run)])
    assert isinstance(wrong.exception, UserError) and "no export of cpam-bench" in str(wrong.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_damaged_files_are_left_out_and_told(tmp_path: Path) -> None:
    run_all(tmp_path / "run", editors(Brighten()), samples(2))
    score(Store.open(tmp_path / "run"), ["psnr_background"])
    Store.open(tmp_path / "run").edit_path("brighten", "s1").write_bytes(b"no picture")
    done = CliRunner().invoke(app, ["export", str(tmp_path / "run"), "--out", str(tmp_path / "export")])
    assert done.exit_code == 1 and "s1.png" in done.output
    files = [str(path) for path in (tmp_path / "export" / "data").glob("edits-*.parquet")]
    assert pd.read_parquet(files[0])["sample"].tolist() == ["s0"]
    with pytest.raises(UserError, match="cpam-bench score"):
        (tmp_path / "run" / "scores.json").unlink()
        export(tmp_path / "run", tmp_path / "export")
