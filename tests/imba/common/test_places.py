"""Runs and data sets that are not on this disk: in memory, and on a local S3 server."""

from __future__ import annotations

import functools
import json
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from PIL import Image
from run_helpers import Brighten, Noise, described, editors, run_all, samples, write_clip, write_dataset
from typer.testing import CliRunner

import cpam_bench.imba.common.remote
import cpam_bench.imba.dataset
from cpam_bench.eval.analysis.leaderboard import leaderboard
from cpam_bench.eval.audit.status import status
from cpam_bench.eval.audit.verify import verify
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.metrics.metric import DEFAULT
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.scoring.scored import read_scores
from cpam_bench.eval.store.lock import holder, locked
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common import places
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket on a server of this machine."""
    # Not in the dev extra: the botocore that s3fs wants and the one that moto wants seldom agree at once.
    pytest.importorskip("s3fs", minversion="2025.1")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bench")
        yield "s3://bench"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """Where nothing is yet."""
    root = "memory://bench" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{root}/{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"local-dir:{write_clip(tmp_path_factory.mktemp('clip') / 'tiny')}"


def files(folder: Any) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png") if path.is_file()}


@pytest.mark.slow
def test_a_run_elsewhere_is_the_run_here(url: str, clip: str, tmp_path: Path) -> None:
    chosen = editors(Brighten(), Noise())
    for folder in (url, str(tmp_path)):
        assert run_all(place(folder), chosen, samples(2)) == []
        with locked(folder):
            score(Store.open(folder), clip=clip)
            leaderboard([folder]).write(place(folder))
    here, there = Path(tmp_path), place(url)
    assert files(here) and {Path(name).name for name in files(here)} == {"s0.png", "s1.png"}
    for name, data in files(here).items():
        assert (there / name).read_bytes() == data
    assert (there / "scores.csv").read_bytes() == (here / "scores.csv").read_bytes()
    assert read_scores(url).equals(read_scores(tmp_path))
    found = verify(url)
    assert found.wrong == [] and found.scores == 2 * len(DEFAULT)
    # Resumed, damaged, extended.
    made = Store.open(url).made_at("noise", "s0")
    assert made > time.time() - 600
    (there / "edits" / "noise" / "s1.png").write_bytes(b"")
    assert any("s1.png has changed" in line for line in verify(url).wrong)
    assert run_all(there, editors(*chosen.values(), Brighten(3)), samples(2)) == []
    assert Store.open(url).made_at("noise", "s0") == made
    assert len(Store.open(url).edits()[0]) == 6 and Store.open(url).edits()[1] == []
    assert [row.done for row in status(url).methods] == [2, 2, 2]
    with pytest.raises(UserError, match="steps: 5 -> 6"):
        Store.create_or_resume(url, described(chosen, samples(1), steps=6))


@pytest.mark.slow
def test_what_reads_a_run_reads_it_elsewhere(clip: str, tmp_path: Path) -> None:
    url = f"memory://bench/{secrets.token_hex(4)}"
    run_all(place(url), editors(Brighten(), Noise()), samples(3))
    score(Store.open(url), clip=clip)
    assert read_scores(place(url)).shape[0] == 2 * 3 * len(DEFAULT)
    for command in (
        ["report", url, "--out", str(tmp_path / "report")],
        ["export", url, "--out", str(tmp_path / "export")],
        ["sensitivity", url, "--trunks", "alex", "--device", "cpu"],
        ["table", "2", url],
        ["figure", url, "--out", str(tmp_path / "figure.png")],
        ["study", "init", url, "--raters", "2", "--images", "3", "--out", str(tmp_path / "study")],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, (command, done.output, done.exception)
    assert len(list((tmp_path / "report").rglob("*.webp"))) > 6 and (place(url) / "sensitivity.csv").is_file()


def test_a_place_with_something_else_in_it_is_refused(url: str) -> None:
    (place(url) / "thesis.tex").write_text("")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        Store.create_or_resume(url, described(editors(Brighten()), samples(1)))


def test_what_cannot_be_reached_is_told() -> None:
    with pytest.raises(UserError, match="nothing://x/y cannot be reached"):
        place("nothing://x/y")
    with pytest.raises(UserError, match="nothing://x/y cannot be reached"):
        cpam_bench.imba.dataset.load("nothing://x/y")
    with pytest.raises(UserError, match="memory://no/such"):
        cpam_bench.imba.dataset.load("memory://no/such")
    assert place("file:///tmp/x") == Path("/tmp/x") == place(Path("/tmp/x"))


# the lock -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "HEARTBEAT", 0.2)


def test_a_held_place_is_refused_and_freed(url: str, fast: None) -> None:
    assert holder(url) is None
    with locked(url):
        held = holder(url)
        assert held is not None
        with pytest.raises(UserError, match=f"process {held.pid} on .* is working in"), locked(url):
            pass
        assert holder(url) == held
    assert holder(url) is None
    with locked(url):
        pass


def test_a_lock_is_read_whole_while_it_is_renewed(url: str) -> None:
    lock, ended = place(url) / ".lock", threading.Event()
    places.put(lock, b"0" * 400)

    def renew() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            places.put(lock, str(number % 10).encode() * 400)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        found = [places.get(lock) for _ in range(200)]
    finally:
        ended.set()
        thread.join()
    assert all(len(content) == 400 and len(set(content)) == 1 for content in found)


def test_the_lock_of_a_dead_process_is_taken_over(url: str, fast: None) -> None:
    lock = place(url) / ".lock"
    note = {"pid": 1, "host": "gone", "since": 0.0, "mark": "x", "seen": 0.0}
    lock.write_text(json.dumps(note))
    started = time.monotonic()
    with locked(url):
        assert time.monotonic() - started >= 3 * 0.2
        assert json.loads(lock.read_text())["host"] != "gone"
    assert not lock.exists()


def test_of_two_at_once_one_is_refused(url: str, fast: None) -> None:
    entered, refused = [], []
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait()
        try:
            with locked(url):
                entered.append(1)
                time.sleep(1)
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(entered), len(refused)) == (1, 1)


def test_a_lock_that_was_taken_over_stops_the_run(fast: None, request: pytest.FixtureRequest) -> None:
    url = f"memory://bench/{secrets.token_hex(4)}"
    # As the runner does; a shell's background job starts with SIGINT ignored.
    request.addfinalizer(functools.partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), locked(url):
        (place(url) / ".lock").write_text(json.dumps({"pid": 2, "host": "other", "since": 0, "mark": "theirs"}))
        time.sleep(5)
    assert json.loads((place(url) / ".lock").read_text())["mark"] == "theirs"


# data sets ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_data_set_elsewhere_is_fetched_once(url: str, cache: Path, tmp_path: Path) -> None:
    local = write_dataset(tmp_path / "imba")
    fs, root = fsspec.core.url_to_fs(f"{url}/imba")
    fs.put(f"{local}/", f"{root}/", recursive=True)
    data = cpam_bench.imba.dataset.load(f"{url}/imba")
    assert data.name == "imba" and data.fingerprint == cpam_bench.imba.dataset.load(local).fingerprint
    before = {path: path.stat().st_mtime_ns for path in data.root.rglob("*") if path.is_file()}
    assert len(before) == 5
    cpam_bench.imba.dataset.load(f"{url}/imba")
    assert before == {path: path.stat().st_mtime_ns for path in before}
    time.sleep(0.01)
    Image.new("RGB", (80, 60)).save(tmp_path / "black.png")
    fs.pipe_file(f"{root}/images/p0.png", (tmp_path / "black.png").read_bytes())
    fs.rm_file(f"{root}/masks/p1.png")
    again = cpam_bench.imba.dataset.load(f"{url}/imba")
    assert again["p0-a-red-thing"].read_image().getextrema() == ((0, 0),) * 3
    assert any("p1.png" in str(problem) for problem in again.problems)
    changed = [path for path, when in before.items() if path.is_file() and path.stat().st_mtime_ns != when]
    assert [path.name for path in changed] == ["p0.png"]


def test_the_command_takes_urls(s3: str, cache: Path, clip: str, tmp_path: Path) -> None:
    from test_executors import TINY

    fs, root = fsspec.core.url_to_fs(f"{s3}/imba")
    fs.put(f"{write_dataset(tmp_path / 'imba', count=1)}/", f"{root}/", recursive=True)
    arguments = ["--dataset", f"{s3}/imba", "--out", f"{s3}/runs/first", "--backbone", str(TINY), "--clip", clip]
    arguments += ["--steps", "2", "--methods", "cpam", "--no-references", "--device", "cpu"]
    called = CliRunner().invoke(app, ["run", *arguments])
    assert called.exit_code == 0, called.output
    assert f"{s3}/runs/first/leaderboard.csv" in called.output
    called = CliRunner().invoke(app, ["verify", f"{s3}/runs/first"])
    assert called.exit_code == 0, called.output
    assert CliRunner().invoke(app, ["rerun", f"{s3}/runs/first", "--check", "1"]).exit_code == 0
    assert json.loads((place(s3) / "runs/first/run.json").read_text())["arguments"]["out"] == f"{s3}/runs/first"
