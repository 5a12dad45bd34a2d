"""Disks that are full or cannot be written: one line, nothing left half there, and what was there before is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_helpers import Brighten, editors, run_all, samples
from small_disk import fill, remount, small_disk
from study_runs import make_run
from typer.testing import CliRunner

pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")

from cpam_bench.eval.commands.main import app
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.store.store import Store
from cpam_bench.eval.study import database, design
from cpam_bench.imba.errors import DiskFull, UserError

COMMANDS = {
    "study aggregate {study} --out {disk}/made": "made/table3.csv",
    "study export {study} --out {disk}/made.csv": "made.csv",
    "study erase {study} r01": "study/study.db",
    "study init {rated} --out {disk}/made": "made",
    "study simulate --out {disk}/made.csv": "made.csv",
    "export {run} --out {disk}/made": "made",
    "report {run} --out {disk}/made": "made",
    "figure {run} --samples s0 --out {disk}/made.pdf": "made.pdf",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is scored, one that is rated, and its study."""
    folder = tmp_path_factory.mktemp("runs")
    run_all(folder / "run", editors(Brighten()), samples(2))
    score(Store.open(folder / "run"), ["psnr_background"])
    make_run(folder / "rated", ["masactrl", "cpam"], 2)
    plan = design.read_plan()
    plan = plan.model_copy(update={"questions": plan.questions[:1]})
    design.init([folder / "rated"], folder / "study", raters=2, plan=plan)
    connection = database.connect(folder / "study")
    for rater in range(2):
        for task in database.open_tasks(connection, rater, 99):
            database.answer(connection, rater, task.public, {plan.questions[0].id: rater + 2}, 1.0)
    connection.close()
    return folder


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> Iterator[Path]:
    with small_disk(tmp_path_factory.mktemp("disks") / "disk", "2m") as disk:
        shutil.copytree(runs / "study", disk / "study")
        yield disk


def tried(command: str, disk: Path, runs: Path) -> BaseException | None:
    places = {"disk": disk, "study": disk / "study", "run": runs / "run", "rated": runs / "rated"}
    return CliRunner().invoke(app, command.format(**places).split()).exception


def files(disk: Path) -> set[str]:
    """What is there, but for what SQLite keeps beside a database and empty folders."""
    return {str(p.relative_to(disk)) for p in disk.rglob("*") if p.is_file() and not p.name.startswith("study.db-")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk(disk: Path, runs: Path, command: str) -> None:
    before = files(disk)
    filler = fill(disk)
    try:
        error = tried(command, disk, runs)
        assert isinstance(error, DiskFull), error
        assert "the disk is full" in str(error) and "make room" in str(error)
        assert str(disk / COMMANDS[command]) in str(error)
    finally:
        filler.unlink()
        shutil.rmtree(disk / "made", ignore_errors=True)  # an empty folder
    assert files(disk) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_is_read_only(disk: Path, runs: Path, command: str) -> None:
    before = files(disk)
    remount(disk, "ro")
    try:
        error = tried(command, disk, runs)
        assert isinstance(error, UserError) and "read-only" in str(error).lower(), error
    finally:
        remount(disk, "rw")
    assert files(disk) == before


def test_a_study_is_read_from_a_disk_that_cannot_be_written(disk: Path, runs: Path, tmp_path: Path) -> None:
    for spoil, mend in ((lambda: remount(disk, "ro"), lambda: remount(disk, "rw")), (lambda: fill(disk), lambda: None)):
        spoil()
        try:
            assert tried(f"study export {{study}} --out {tmp_path / 'made.csv'}", disk, runs) is None
        finally:
            mend()
            (disk / "filler").unlink(missing_ok=True)
    assert len((tmp_path / "made.csv").read_text().splitlines()) == 1 + 2 * 4
