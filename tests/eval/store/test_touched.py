"""A run's folder that somebody or something has touched: one clear line, never a traceback, and nothing counted."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from run_helpers import Brighten, Broken, Noise, editors, run_all, samples, write_clip
from typer.testing import CliRunner

from cpam_bench.eval.analysis.leaderboard import leaderboard
from cpam_bench.eval.audit.verify import verify
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.figures.figure5 import figure
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import Scored, read_scores
from cpam_bench.eval.store.derived import HASHES
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'clip')}"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, clip: str) -> Path:
    folder = tmp_path_factory.mktemp("touched") / "run"
    run_all(folder, editors(Brighten(), Noise(), Broken("s1")), samples(3))
    score(Store.open(folder), clip=clip)
    leaderboard([folder]).write(folder)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def digit(path: Path) -> None:
    data = path.read_bytes()
    place = max(data.rfind(b"1"), data.rfind(b"2"))
    path.write_bytes(data[:place] + b"7" + data[place + 1 :])


@pytest.mark.parametrize("name", ["scores.csv", "scores.json", "leaderboard.csv", "paired.csv"])
def test_one_digit_is_noticed_and_named(run: Path, clip: str, name: str) -> None:
    digit(run / name)
    assert f"{run / name} has changed since it was written" in verify(run, clip).wrong
    if name.startswith("scores"):
        for read in (Scored.open, lambda folder: leaderboard([folder])):
            with pytest.raises(UserError, match=f"{name} has changed .* make it again with: cpam-bench score"):
                read(run)
        assert CliRunner().invoke(app, ["truth", str(run)]).exit_code != 0


def test_all_scores_are_measured_again_if_asked_for(run: Path) -> None:
    called = CliRunner().invoke(app, ["verify", str(run), "--all"])
    assert "80 scores measured again, 0 wrong" in called.output, called.output


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe", b"method,sample,metric,value\n", b"method;sample\n", b"half"]
)
@pytest.mark.parametrize("hashed", [True, False])
def test_scores_are_made_anew_whatever_state_they_are_in(
    run: Path, made: Path, clip: str, content: bytes, hashed: bool
) -> None:
    data = (made / "scores.csv").read_bytes()
    (run / "scores.csv").write_bytes(data[: len(data) // 2] if content == b"half" else content)
    if not hashed:  # as a run of an early version
        (run / HASHES).unlink()
    score(Store.open(run), clip=clip)
    assert (run / "scores.csv").read_bytes() == data
    assert read_scores(run).equals(read_scores(made))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"metrics": {"clip_score": 3}}', '{"metrics": {}, "inputs": 1}']
)
def test_a_protocol_is_made_anew_whatever_state_it_is_in(run: Path, made: Path, clip: str, text: str) -> None:
    (run / HASHES).unlink()
    (run / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"scores\.json .*cpam-bench score"):
        Scored.open(run)
    score(Store.open(run), clip=clip)
    assert (run / "scores.json").read_bytes() == (made / "scores.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data.update(dataset={}), "dataset.name is missing"),
        (lambda data: data.update(batch=0), "batch is 0, and must be 1 at least"),
        (lambda data: data.update(steps="50"), 'steps is "50"; input should be a valid integer'),
        (lambda data: data.update(methods=[]), r"methods is \[\], not an object"),
        (lambda data: data["methods"].update(noise=None), "methods.noise is null, not an object"),
        (lambda data: data["methods"]["noise"].update(edits="yes"), 'methods.noise.edits is "yes"'),
        (lambda data: data.update(samples=["s0", 1]), "samples.1 is 1; input should be a valid string"),
        (lambda data: data["backbone"].update(weights=[]), r"backbone.weights is \[\]"),
        (lambda data: data["backbone"].update(resolution=0), "resolution is 0, and must be 1 at least"),
        (lambda data: data.pop("seed"), "seed is missing"),
    ],
)
def test_a_wrong_run_json_says_what_is_wrong(run: Path, change: Callable[[Any], Any], words: str) -> None:
    data = json.loads((run / "run.json").read_text())
    change(data)
    (run / "run.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=rf"run\.json is damaged \({words}"):
        Store.open(run)


@pytest.mark.parametrize(
    "changes", [{"seconds": "1.5"}, {"seed": None}, {"status": "fine"}, {"status": "failed"}, {"params": []}]
)
def test_a_wrong_record_is_one_line_and_is_not_counted(run: Path, changes: dict[str, Any]) -> None:
    path = run / "edits" / "noise" / "s1.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    board = leaderboard([run])
    assert board.rows.set_index("method").loc["noise", ["n", "clip_score_n"]].tolist() == [2, 2]
    assert any("s1.json is not a whole record" in note for note in board.notes)


def test_what_a_later_version_added_is_kept_and_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = json.loads((run / "run.json").read_text())
    data["mood"], data["dataset"]["colour"] = "good", "blue"
    (run / "run.json").write_text(json.dumps(data))
    with caplog.at_level(logging.WARNING):
        store = Store.open(run)
    assert "says more than this version knows (dataset.colour, mood)" in caplog.text
    again = Store.create_or_resume(run, store.run)
    assert again.run == store.run
    written = json.loads((run / "run.json").read_text())
    assert written["mood"] == "good" and written["dataset"]["colour"] == "blue"


def test_only_edits_that_are_counted_are_averaged(run: Path) -> None:
    before = leaderboard([run]).rows.set_index("method").loc["noise"]
    (run / "edits" / "noise" / "s2.png").unlink()
    board = leaderboard([run])
    row = board.rows.set_index("method").loc["noise"]
    values = read_scores(run).query("method == 'noise' and metric == 'psnr_background' and sample != 's2'")["value"]
    assert row["n"] == row["psnr_background_n"] == 2 and row["psnr_background"] == pytest.approx(values.mean())
    assert row["psnr_background"] != before["psnr_background"]
    assert not [note for note in board.notes if "not defined" in note]


@pytest.mark.parametrize("file", ["sources/s0.png", "masks/s0.png", "edits/noise/s0.png"])
@pytest.mark.parametrize("flip", [True, False])
def test_a_damaged_picture_is_one_line_in_every_reader(run: Path, tmp_path: Path, file: str, flip: bool) -> None:
    data = bytearray((run / file).read_bytes())
    data[-20] ^= 1
    (run / file).write_bytes(bytes(data) if flip else b"")
    with pytest.raises(UserError, match=f"{file} has changed since it was written; give the run's command again"):
        figure(Store.open(run), ["s0"], ["noise"])
    for command in (["figure", "--samples", "s0"], ["truth"], ["report"], ["export"], ["table", "2"], ["leaderboard"]):
        arguments = [*command, str(run)]
        if command[0] in ("figure", "report", "export"):
            arguments += ["--out", str(tmp_path / f"{command[0]}.png")]
        called = CliRunner().invoke(app, arguments)
        assert called.exception is None or isinstance(called.exception, (SystemExit, UserError)), called.exception
    assert file in " ".join(score(Store.open(run), ["mse_background"]).damaged)


@pytest.mark.parametrize(
    "name",
    [
        *(".cpam-bench-0.part", "edits/.cpam-bench-0.part", ".lock", "scores.csv", "scores.json", "hashes.json"),
        *("leaderboard.csv", "sources/s0.png", "sources/s0.json", "edits/noise/s0.png", "edits/noise/s0.json"),
    ],
)
def test_a_folder_in_the_place_of_any_file_is_one_line(run: Path, name: str) -> None:
    if name.startswith("edits/noise"):
        name = name.replace("noise", next(path.name for path in (run / "edits").iterdir() if "noise" in path.name))
    if (run / name).is_file():
        (run / name).unlink()
    (run / name).mkdir()
    told = f"{name} cannot be written: it is a folder. Move it away"
    for command in ("status", "leaderboard", "verify", "score --metrics mse_background"):
        words = command.split()
        called = CliRunner().invoke(app, [words[0], str(run), *words[1:]])
        assert called.exception is None or isinstance(called.exception, (SystemExit, UserError)), called.exception
        if name in (".lock", "scores.csv", "scores.json", "hashes.json", "leaderboard.csv") and words[0] == "score":
            assert told in str(called.exception)
    if name.endswith((".part", ".csv")) or name in ("scores.json", "hashes.json"):
        run_all(run, editors(Brighten(), Noise(), Broken("s1")), samples(3))  # leaves it alone, and goes on
    else:
        with pytest.raises(UserError, match=told):
            run_all(run, editors(Brighten(), Noise(), Broken("s1")), samples(3))
    assert (run / name).is_dir()
