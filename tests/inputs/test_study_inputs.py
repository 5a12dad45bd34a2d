"""A user study that is pushed, starved, locked or damaged: raters and log are told, and no rating is lost."""

from __future__ import annotations

import logging
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from study_runs import make_run

pytest.importorskip("fastapi", reason="the extra 'study' is not installed")
import uvicorn
from fastapi.testclient import TestClient

from cpam_bench.eval.study import database, design, server

ANSWERS = dict.fromkeys(["object_retention", "background_retention", "realistic", "satisfaction"], 4)
PEOPLE = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run") / "run", ["masactrl", "cpam"], 2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Path:
    folder = tmp_path_factory.mktemp("study") / "study"
    design.init([run], folder, raters=2)
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "study"))


@pytest.fixture
def link(study: Path) -> str:
    return (study / "links.csv").read_text().splitlines()[1].partition(",")[2]


def body(client: TestClient, link: str) -> dict[str, Any]:
    return {"task": client.get(f"{link}/state").json()["task"]["id"], "answers": ANSWERS, "seconds": 1.0}


@pytest.mark.parametrize(
    ("pragma", "mend", "status", "words"),
    [
        ("max_page_count = 1", "max_page_count = 100000", 507, "the disk is full"),
        ("query_only = ON", "query_only = OFF", 503, "the study is read-only"),
    ],
)
def test_a_disk_that_cannot_be_written(
    study: Path,
    link: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pragma: str,
    mend: str,
    status: int,
    words: str,
) -> None:
    connect, made = database.connect, []
    monkeypatch.setattr(database, "connect", lambda *given, **more: made.append(connect(*given, **more)) or made[-1])
    with TestClient(server.create_app(study)) as client:
        (connection,) = made
        answer = body(client, link)
        # Each rating needs more room than is left.
        connection.execute("CREATE TABLE ballast (bytes BLOB)")
        connection.execute(
            "CREATE TRIGGER t AFTER INSERT ON rating BEGIN INSERT INTO ballast VALUES (zeroblob(9999)); END"
        )
        connection.execute(f"PRAGMA {pragma}")
        for _ in range(3):
            response = client.post(f"{link}/answer", json=answer)
            assert (response.status_code, response.json()) == (status, {"error": words})
        assert client.get(f"{link}/state").json()["done"] == 0  # and what can be read is
        (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        assert str(study / "study.db") in line and words in line and "keep what they answered" in line
        connection.execute(f"PRAGMA {mend}")
        assert client.post(f"{link}/answer", json=answer).json()["stored"] is True
        assert "is written again" in caplog.text


def test_a_foreign_lock_is_said_at_once_and_reading_goes_on(
    study: Path, link: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(server.create_app(study)) as client:
        answer = body(client, link)
        foreign = sqlite3.connect(study / "study.db", isolation_level=None)
        foreign.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        response = client.post(f"{link}/answer", json=answer)
        assert client.get(f"{link}/state").json()["done"] == 0
        assert time.monotonic() - began < 5
        assert (response.status_code, response.json()["error"]) == (503, "another program holds the study's file")
        assert "end that program" in caplog.text
        foreign.execute("ROLLBACK")
        foreign.close()
        assert client.post(f"{link}/answer", json=answer).json()["stored"] is True


def test_a_wrong_link_is_a_page_for_people(study: Path, link: str) -> None:
    with TestClient(server.create_app(study)) as client:
        for wrong in ("/", "/r/nobody", link[:-1], f"{link}/more"):
            response = client.get(wrong, headers=PEOPLE)
            assert response.status_code == 404 and response.headers["content-type"].startswith("text/html")
            assert "This link opens no study" in response.text and "default-src" in str(response.headers)
        assert client.get(f"{link[:-1]}/state").json() == {"error": "This link opens no study"}  # what our page reads
        assert client.get(link, headers=PEOPLE).text.count('id="undo" type="button" title="Backspace" hidden') == 1


@contextmanager
def serving(study: Path) -> Iterator[int]:
    """The study's server itself, for what no client library sends."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        real = uvicorn.Server(server.config(study))
        thread = threading.Thread(target=real.run, kwargs={"sockets": [listening]})
        thread.start()
        while not real.started:
            time.sleep(0.01)
        yield int(listening.getsockname()[1])
        real.should_exit = True
        thread.join()


def answered(port: int, request: bytes, more: bytes = b"", times: int = 0) -> bytes:
    """What the server says to some bytes until it closes the connection, and at once if it does not take them."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        try:
            client.sendall(request)
            for _ in range(times):
                client.sendall(more)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            while part := client.recv(4096):
                got += part
        except ConnectionResetError:
            pass
    return got


def test_long_and_slow_senders_are_cut_off(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PATIENCE", 0.3)
    head = b"POST /r/nobody/answer HTTP/1.1\r\nHost: localhost\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    with serving(study) as port:
        began = time.monotonic()
        for request in (chunked, head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"):
            got = answered(port, request, chunk, 200)
            assert not got or got.startswith(
                (b"HTTP/1.1 413", b"HTTP/1.1 400")
            )  # nothing, where it was cut off sending
        assert answered(port, head + b"Content-Length: 9000\r\n\r\n" + b"x" * 9000).startswith(b"HTTP/1.1 413")
        for slow in (head + b"Content-Length: 50\r\n\r\n{", chunked + b"1\r\n{\r\n"):
            assert answered(port, slow).startswith(b"HTTP/1.1 408")
        for unfinished in (b"", b"GET /r/nobody HTTP/1.1\r\nHost: ", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP"):
            assert answered(port, unfinished)[:12] in (b"", b"HTTP/1.1 404")
        assert time.monotonic() - began < 15


def test_scripts_in_prompts_and_questions_are_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "</title><script>alert(1)</script><img src=x>"
    monkeypatch.setattr("study_runs.caption", lambda *_, **__: hostile)
    run = make_run(tmp_path / "run", ["masactrl", "cpam"], 2)
    plan = design.read_plan()
    asked = plan.questions[0].model_copy(update={"text": hostile, "label": hostile})
    plan = plan.model_copy(update={"title": hostile, "questions": [asked]})
    design.init([run], tmp_path / "study", raters=2, plan=plan)
    link = (tmp_path / "study" / "links.csv").read_text().splitlines()[1].partition(",")[2]
    with TestClient(server.create_app(tmp_path / "study")) as client:
        page = client.get(link, headers=PEOPLE)
        assert "<script>alert" not in page.text and "<img src=x" not in page.text and "&lt;script&gt;" in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]  # and nothing inline
        state = client.get(f"{link}/state")
        assert state.json()["task"]["prompt"] == hostile and state.headers["content-type"] == "application/json"
