import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console
from run_helpers import Brighten, Broken, Noise, editors, run_all, samples, write_clip

from cpam_bench.eval.analysis.leaderboard import leaderboard, render, sliced
from cpam_bench.eval.analysis.statistics import mean_interval
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import read_scores
from cpam_bench.eval.store.derived import note
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}"


def _run(folder, clip, *chosen, count=4, **changes):
    run_all(folder, editors(*chosen), samples(count), **changes)
    score(Store.open(folder), clip=clip)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, clip):
    return _run(tmp_path_factory.mktemp("runs") / "first", clip, Noise(), Brighten(), Brighten(40), Broken("s2"))


def _text(board, width=140):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(board))
    return console.export_text()


def test_means_and_intervals_are_those_of_the_scores(run):
    rows = leaderboard([run]).rows.set_index("method")
    assert list(rows.index) == ["noise", "brighten", "brighten:amount=40", "broken:on=s2"]
    scores = read_scores(run)
    for method in rows.index:
        for metric in ("clip_score", "lpips_background", "psnr_background"):
            values = scores[(scores.method == method) & (scores.metric == metric)]["value"]
            expected = mean_interval(values)
            found = rows.loc[method, [metric, f"{metric}_low", f"{metric}_high", f"{metric}_n"]]
            assert list(found) == [expected.mean, expected.low, expected.high, expected.n]
    assert rows.loc["brighten", "seconds"] > 0


def test_failures_and_unequal_rows_are_told(run):
    board = leaderboard([run])
    row = board.rows.set_index("method").loc["broken:on=s2"]
    assert (row["n"], row["failed"]) == (3, 1)
    assert any("differ in n" in note for note in board.notes)
    # Where the pictures are the source's, the truth of the sample has no background error.
    assert row["lpips_background"] == 0


def test_paired_differences_of_every_two_methods(run):
    paired = leaderboard([run]).paired
    assert list(paired[paired["metric"] == "lpips_background"]["n"]) == [4, 4, 3, 4, 3, 3]
    table = read_scores(run).pivot_table(index=["metric", "sample"], columns="method", values="value")
    by_hand = (table.loc["lpips_background"]["noise"] - table.loc["lpips_background"]["brighten"]).mean()
    row = paired[
        (paired["method"] == "noise") & (paired["against"] == "brighten") & (paired["metric"] == "lpips_background")
    ].iloc[0]
    assert row["difference"] == pytest.approx(by_hand)
    assert row["low"] <= row["difference"] <= row["high"]


def test_written_tables_read_back(run, tmp_path):
    board = leaderboard([run])
    board.write(tmp_path)
    read = pd.read_csv(tmp_path / "leaderboard.csv")
    assert list(read["method"]) == list(board.rows["method"])
    assert list(read.columns[:6]) == [
        "method",
        "n",
        "failed",
        "clip_score",
        "clip_score_low",
        "clip_score_high",
    ]
    assert read["lpips_background"].tolist() == pytest.approx(board.rows["lpips_background"].tolist())
    assert len(pd.read_csv(tmp_path / "paired.csv")) == 12


def test_reference_rows_stand_below(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(Noise, "edits", False)
    board = leaderboard([_run(tmp_path / "run", clip, Noise(), Brighten())])
    assert list(board.rows["method"]) == ["brighten", "noise"]
    assert board.references == ["noise"]
    assert set(board.paired["method"]) == {"brighten"}
    assert "Paired" not in _text(board), "the terminal compares methods, and a reference row is none"


def test_pocket_is_never_mistaken_for_the_paper(run, clip, tmp_path):
    board = leaderboard([run])
    assert board.title.startswith("pocket leaderboard:")
    assert "4 samples" in board.title and "5 steps" in board.title and "seed 0" in board.title
    text = _text(board)
    assert "pocket" in text and "never to be set beside the paper's" in text
    real = _run(tmp_path / "run", clip, Brighten(), count=1)
    data = json.loads((real / "run.json").read_text())
    data["dataset"]["pocket"] = data["backbone"]["pocket"] = False
    (real / "run.json").write_text(json.dumps(data))
    board = leaderboard([real])
    assert board.title.startswith("leaderboard:") and "pocket" not in _text(board)


def test_terminal_table(run):
    text = _text(leaderboard([run]))
    for words in ("CLIPScore ↑", "LPIPS (background) ↓", "seconds an edit", "failed", "brighten:amount=40", "95 %"):
        assert words in text, words
    assert "lpips_background: noise − brighten = " in text and "brighten − " not in text


@dataclass(frozen=True)
class Inside(Brighten):
    """Brightens the region alone, and so reads it."""

    name: ClassVar[str] = "inside"

    def edit(self, sample: Any, source: Any, seed: int) -> Image.Image:
        edited = np.asarray(super().edit(sample, source, seed))
        return Image.fromarray(np.where(source.mask[..., None], edited, np.asarray(source.image)))


def test_who_was_given_the_mask_is_told(clip, tmp_path):
    board = leaderboard([_run(tmp_path / "run", clip, Inside(), Brighten(), count=2)])
    assert board.masks == {"inside": True, "brighten": False}
    lines = _text(board).splitlines()
    assert "✓" in next(line for line in lines if "inside" in line) and "Mask: whether" in " ".join(lines)
    # Early versions did not note it.
    for path in (tmp_path / "run").glob("edits/*/*.json"):
        data = json.loads(path.read_text())
        del data["mask_read"]
        path.write_text(json.dumps(data))
    assert set(leaderboard([tmp_path / "run"]).masks.values()) == {None}
    assert "Mask: whether" not in _text(leaderboard([tmp_path / "run"]))


def test_pairs_say_that_they_are_not_corrected_and_few_are_marked(run):
    text = _text(leaderboard([run]))
    assert "(95 % each, not corrected for their number, 6):" in text
    assert "]†" in text and "†: an interval over fewer than 5 samples" in text


def test_one_sample_has_no_interval(clip, tmp_path):
    text = _text(leaderboard([_run(tmp_path / "run", clip, Brighten(), count=1)]))
    assert "nan" not in text.lower().replace("nano", "")


def test_a_run_without_any_edit(clip, tmp_path):
    board = leaderboard([_run(tmp_path / "run", clip, Broken("s"), count=2)])
    assert board.rows.loc[0, ["n", "failed"]].tolist() == [0, 2]
    assert "–" in _text(board)


def test_several_runs_in_one_table(run, clip, tmp_path):
    other = _run(tmp_path / "second", clip, Noise(), Noise(5.0), seed=3)
    board = leaderboard([run, other])
    assert list(board.rows["method"]) == [
        "noise [first]",
        "brighten",
        "brighten:amount=40",
        "broken:on=s2",
        "noise [second]",
        "noise:scale=5",
    ]
    assert "seed 0, 3" in board.title
    alone = leaderboard([run]).rows.set_index("method")
    merged = board.rows.set_index("method")
    assert merged.loc["noise [first]", "clip_score"] == alone.loc["noise", "clip_score"]
    assert merged.loc["noise [second]", "lpips_background"] != alone.loc["noise", "lpips_background"]
    with pytest.raises(UserError, match="given twice"):
        leaderboard([run, run])


def _changed(folder, file, change):
    path = folder / file
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    if file == "scores.json":
        note(folder, [file])  # as a run that was scored so would have it


@pytest.mark.parametrize(
    ("file", "change", "reason"),
    [
        ("run.json", lambda data: data.update(steps=6), "steps: 5 / 6"),
        (
            "run.json",
            lambda data: data["dataset"].update(fingerprint="0" * 64),
            "data set: ffffffffffff / 000000000000",
        ),
        ("run.json", lambda data: data["backbone"].update(weights={"unet": "b" * 64}), "backbone: unet"),
        ("run.json", lambda data: data["backbone"].update(resolution=512), "resolution: 64 / 512"),
        (
            "scores.json",
            lambda data: data["metrics"]["clip_score"].update(weights_sha256="1" * 64),
            "clip_score, weights_sha256",
        ),
        ("scores.json", lambda data: data["metrics"].pop("ssim_background"), "ssim_background, protocol"),
    ],
)
def test_runs_that_measured_other_things_are_refused(run, clip, tmp_path, file, change, reason):
    other = _run(tmp_path / "other", clip, Brighten())
    leaderboard([run, other])
    _changed(other, file, change)
    with pytest.raises(UserError, match="cannot stand in one table") as error:
        leaderboard([run, other])
    assert reason in str(error.value)


def test_a_run_that_is_not_scored(tmp_path):
    run_all(tmp_path, editors(Brighten()), samples(1))
    with pytest.raises(UserError, match="cpam-bench score"):
        leaderboard([tmp_path])


def test_edits_without_a_background_are_counted_out(clip, tmp_path):
    todo = samples(3)
    todo[1] = replace(todo[1], region=np.ones((64, 64), bool))
    run_all(tmp_path, editors(Brighten()), todo)
    score(Store.open(tmp_path), clip=clip)
    board = leaderboard([tmp_path])
    assert board.rows.loc[0, ["n", "clip_score_n", "lpips_background_n"]].tolist() == [3, 3, 2]
    assert board.rows.loc[0, "lpips_background"] > 0
    assert any("not defined for 1 edits" in note for note in board.notes)


def test_samples_that_are_not_edited_yet_are_told(clip, tmp_path):
    folder = _run(tmp_path / "run", clip, Brighten(), Noise())
    Store.open(folder).edit_path("noise", "s0").with_suffix(".json").unlink()
    score(Store.open(folder), clip=clip)
    assert "noise: 1 of 4 samples not edited yet" in leaderboard([folder]).notes


def test_slices_are_leaderboards_of_some_samples(clip, tmp_path):
    from typer.testing import CliRunner

    from cpam_bench.eval.commands.main import app

    kinds = ("replace", "remove", "replace", "remove")
    todo = [replace(sample, kind=kind) for sample, kind in zip(samples(4), kinds, strict=True)]
    run_all(tmp_path / "run", editors(Noise(), Broken("s1")), todo)
    score(Store.open(tmp_path / "run"), clip=clip)
    boards = sliced([tmp_path / "run"], "kind")
    assert list(boards) == ["replace", "remove"]
    scores = read_scores(tmp_path / "run").pivot(index=["method", "metric"], columns="sample", values="value")
    rows = boards["replace"].rows.set_index("method")
    assert rows.loc["noise", "lpips_background"] == scores.loc[("noise", "lpips_background"), ["s0", "s2"]].mean()
    assert rows["n"].tolist() == [2, 2] and rows["failed"].tolist() == [0, 0]
    removed = boards["remove"]
    assert removed.rows["n"].tolist() == [2, 1] and removed.rows["failed"].tolist() == [0, 1]
    assert "2 samples" in removed.title and set(removed.paired["n"]) == {1}

    path = tmp_path / "sliced.csv"
    done = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "run"), "--slice", "kind", "--csv", str(path)])
    assert done.exit_code == 0 and "remove" in done.output
    table = pd.read_csv(path)
    assert table.columns[0] == "slice" and table["slice"].tolist() == ["replace", "replace", "remove", "remove"]
    assert len(sliced([tmp_path / "run"], "several")) == 1
