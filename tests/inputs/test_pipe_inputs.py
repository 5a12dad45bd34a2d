"""Pipes in the place of files: a reader would wait for them without end, so only regular files are read."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import DATA, POCKET
from run_helpers import Brighten, editors, run_all, samples
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError

RUN = DATA / "run-0.1" / "run"
APPLE = POCKET / "images" / "replace-apple-to-orange.png"


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """What waits is ended, by what no reader takes for an error of its own."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for the pipe"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize(
    "command",
    [
        f"edit {{pipe}} --prompt x --out {{out}}.png --mask {APPLE}",
        f"edit {APPLE} --prompt x --out {{out}}.png --mask {{pipe}}",
        f"edit {APPLE} --prompt x --out {{out}}.png --method pix2pix-zero:bank={{pipe}}",
        "run --out {out} --method-file {pipe}",
        "data build --out {out} --tedbench {out} --annotations {pipe}",
        "study aggregate {pipe} --out {out}",
        "study aggregate {ratings} --out {out} --mapping {pipe}",
        "study aggregate {ratings} --out {out} --beside {pipe}",
        f"study init {RUN} --out {{out}} --plan {{pipe}}",
        "study simulate --means {pipe} --out {out}.csv",
    ],
)
def test_a_pipe_where_a_file_is_given_is_named(tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    rows = [f"{rater},{method},s,q,{rater + 2}" for rater in range(3) for method in ("a", "b")]
    (tmp_path / "ratings").write_text("\n".join(["rater,method,sample,question,rating", *rows, ""]))
    places = {name: tmp_path / name for name in ("pipe", "out", "ratings")}
    done = CliRunner().invoke(app, command.format(**places).split())
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    assert f"{tmp_path / 'pipe'}" in str(done.exception) and "no regular file" in str(done.exception)


@pytest.mark.parametrize("name", ["edits/{0}/s0.json", "edits/{0}/s0.png", "sources/s0.json", "hashes.json", ".lock"])
def test_a_pipe_in_a_runs_folder_is_told_and_costs_no_other_edit(tmp_path: Path, name: str) -> None:
    chosen = editors(Brighten())
    run_all(tmp_path / "run", chosen, samples(2))
    path = tmp_path / "run" / name.format(*chosen)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for command in ("status", "score --metrics mse_background", "leaderboard", "verify", "report --out made"):
        words = command.replace("made", str(tmp_path / "made")).split()
        done = CliRunner().invoke(app, [words[0], str(tmp_path / "run"), *words[1:]])
        assert done.exception is None or isinstance(done.exception, (SystemExit, UserError)), done.exception
    edits, damaged = Store.open(tmp_path / "run").edits()
    assert len(edits) + len(damaged) == 2 and "s1" in {edit.sample for edit in edits}


def test_a_pipe_in_a_data_sets_folder_is_told(tmp_path: Path) -> None:
    for name in ("dataset.toml", "data.json", "edits.csv", "edits.jsonl", "edits.parquet", "mapping_file.json"):
        folder = tmp_path / name.replace(".", "-")
        for made in ("images", "masks", "annotation_images"):
            (folder / made).mkdir(parents=True)
        os.mkfifo(folder / name)
        done = CliRunner().invoke(app, ["data", "validate", str(folder)])
        assert isinstance(done.exception, UserError), (name, done.output, done.exception)
