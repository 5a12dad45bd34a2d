"""Fetching what the authors publish, from a server of our own that serves a made-up copy and has every fault."""

from __future__ import annotations

import hashlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_data import noise, record
from typer.testing import CliRunner

import cpam_bench.imba.build
from cpam_bench.eval.commands.main import app
from cpam_bench.imba.build import build, fetch_published
from cpam_bench.imba.common import remote
from cpam_bench.imba.dataset import load
from cpam_bench.imba.errors import UserError


class Server(http.server.ThreadingHTTPServer):
    """Serves files with faults: name -> what to do with a request, in the order of requests."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.faults, self.asked = files, dict[str, list[str]](), list[tuple[str, str | None]]()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.lstrip("/")
        ranged = self.headers.get("Range")
        self.server.asked.append((name, ranged))
        data = self.server.files.get(name)
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if data is None or fault == "404":
            return self.send_error(404)
        if fault == "500":
            return self.send_error(500)
        if fault == "wrong":
            data = bytes(len(data))
        start = int(ranged.removeprefix("bytes=").rstrip("-")) if ranged else 0
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        part = data[start:]
        if fault == "cut":
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "slow":
            for byte in part[:40]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.02)
        elif fault == "silent":
            time.sleep(1)
        else:
            self.wfile.write(part)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    noise((40, 40)).save(tmp_path / "a.png")
    noise((40, 40), seed=1).save(tmp_path / "b.png")
    files = {f"originals/{name}": (tmp_path / name).read_bytes() for name in ("a.png", "b.png")}
    files["input_list.json"] = json.dumps([{"img_name": "a.png", "target_text": "A cat."}]).encode()
    files["data.json"] = json.dumps([record("a.png", "A cat."), record("b.png", "A dog.")], indent=3).encode()
    made = Server(files)
    threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
    yield made
    made.shutdown()


@pytest.fixture
def listed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The addresses, as the package has them."""
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    known = {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in server.files.items()
        if name.startswith("originals/")
    }
    records = json.dumps(json.loads(server.files["data.json"]), sort_keys=True).encode()
    sources = {
        "tedbench": {"url": url, "files": {**known, "input_list.json": {}}},
        "annotations": {"url": url, "files": {"data.json": {"records_sha256": hashlib.sha256(records).hexdigest()}}},
    }
    path = tmp_path / "published.json"
    path.write_text(json.dumps(sources))
    monkeypatch.setattr(remote, "CONNECT", 0.3)
    return path


def test_all_is_fetched_once_and_built(server: Server, listed: Path, tmp_path: Path) -> None:
    said: list[str] = []
    tedbench, annotations = fetch_published(said.append, listed, tmp_path / "cache")
    report = build(tedbench, annotations, tmp_path / "IMBA")
    assert report.images == 2 and len(load(tmp_path / "IMBA")) == 2
    assert said == [
        "tedbench 1 of 3: originals/a.png",
        "tedbench 2 of 3: originals/b.png",
        "tedbench 3 of 3: input_list.json",
        "annotations 1 of 1: data.json",
    ]
    asked = len(server.asked)
    assert fetch_published(said.append, listed, tmp_path / "cache") == (tedbench, annotations)
    assert len(server.asked) == asked and len(said) == 4


def test_what_was_cut_is_gone_on_with(server: Server, listed: Path, tmp_path: Path) -> None:
    server.faults["originals/a.png"] = ["cut", "500", ""]
    tedbench, _ = fetch_published(listed=listed, into=tmp_path / "cache")
    ranges = [ranged for name, ranged in server.asked if name == "originals/a.png"]
    assert ranges[0] is None and ranges[1] == ranges[2] and str(ranges[1]).startswith("bytes=")
    assert (tedbench / "originals" / "a.png").read_bytes() == server.files["originals/a.png"]
    assert not list(tedbench.rglob("*.half"))


def test_a_cut_of_another_day_too(server: Server, listed: Path, tmp_path: Path) -> None:
    server.faults["originals/b.png"] = ["cut"] * 3
    with pytest.raises(UserError, match=r"b\.png cannot be fetched: it breaks off at \d+ of \d+ bytes.*gone on with"):
        fetch_published(listed=listed, into=tmp_path / "cache")
    assert not (tmp_path / "cache" / "tedbench" / "originals" / "b.png").exists()
    tedbench, _ = fetch_published(listed=listed, into=tmp_path / "cache")
    assert (tedbench / "originals" / "b.png").read_bytes() == server.files["originals/b.png"]


def test_wrong_bytes_are_never_taken(server: Server, listed: Path, tmp_path: Path) -> None:
    server.faults["originals/a.png"] = ["wrong", ""]  # once is a bad line
    fetch_published(listed=listed, into=tmp_path / "cache")
    server.files["originals/a.png"] = bytes(100)
    with pytest.raises(UserError, match="other bytes than were published|breaks off"):
        fetch_published(listed=listed, into=tmp_path / "other")
    assert not list((tmp_path / "other").rglob("a.png"))


def test_changed_annotations_are_refused_and_spacing_says_nothing(server: Server, listed: Path, tmp_path: Path) -> None:
    server.files["data.json"] = json.dumps(json.loads(server.files["data.json"])).encode()
    fetch_published(listed=listed, into=tmp_path / "cache")
    server.files["data.json"] = json.dumps([record("a.png", "Another cat.")]).encode()
    with pytest.raises(UserError, match="holds other records than were published"):
        fetch_published(listed=listed, into=tmp_path / "other")


def test_a_picture_that_is_gone_costs_no_others(
    server: Server, listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server.files["originals/b.png"]
    monkeypatch.setattr(cpam_bench.imba.build, "PUBLISHED", listed)
    monkeypatch.setattr(cpam_bench.imba.build.fetch_published, "__defaults__", (print, listed, tmp_path / "cache"))
    done = CliRunner().invoke(app, ["data", "build", "--out", str(tmp_path / "IMBA")])
    assert done.exit_code == 1 and "1 images" in done.output and "images not found (1):\n  b.png" in done.output
    assert "b.png is not there any more (HTTP 404); it will be missing" in done.output + done.stderr


@pytest.mark.parametrize("name", ["data.json", "input_list.json"])
def test_a_list_that_is_gone_ends_it(server: Server, listed: Path, tmp_path: Path, name: str) -> None:
    del server.files[name]
    with pytest.raises(UserError, match=rf"{name} is not there any more.*--tedbench DIR --annotations FILE"):
        fetch_published(listed=listed, into=tmp_path / "cache")


@pytest.mark.parametrize("fault", ["slow", "silent"])
def test_a_slow_server_is_given_up_in_seconds(server: Server, listed: Path, tmp_path: Path, fault: str) -> None:
    server.faults["originals/a.png"] = [fault] * 9
    began = time.monotonic()
    with pytest.raises(UserError, match=r"a\.png cannot be fetched: (too slow|timed out|it breaks off)"):
        fetch_published(listed=listed, into=tmp_path / "cache")
    assert time.monotonic() - began < 5


def test_no_network_is_one_clear_line(listed: Path, tmp_path: Path) -> None:
    sources = json.loads(listed.read_text())
    for url, reason in (("http://127.0.0.1:9/", "refused"), ("https://no-such-host.invalid/", "")):
        sources["tedbench"]["url"] = url
        listed.write_text(json.dumps(sources))
        began = time.monotonic()
        with pytest.raises(UserError) as error:
            fetch_published(listed=listed, into=tmp_path / "cache")
        assert time.monotonic() - began < 10
        text = str(error.value)
        assert "\n" not in text and url in text and reason in text and "--tedbench DIR --annotations FILE" in text


def test_half_of_the_options_is_refused(tmp_path: Path) -> None:
    arguments = ["data", "build", "--out", str(tmp_path / "o"), "--tedbench", str(tmp_path)]
    assert "give --tedbench and --annotations, or neither" in str(CliRunner().invoke(app, arguments).exception)
