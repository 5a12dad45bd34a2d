"""The rules of rating, and everything that a stranger or a rater might try."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from study_runs import make_run

pytest.importorskip("fastapi", reason="the extra 'study' is not installed")
from fastapi.testclient import TestClient
from paths import ROOT
from ports import free_port

from cpam_bench.eval.study import database, design, ratings
from cpam_bench.eval.study.server import create_app
from cpam_bench.imba.errors import UserError

METHODS = ["masactrl", "cpam:localization=false", "cpam:steps=5"]
QUESTIONS = ["object_retention", "background_retention", "realistic", "satisfaction"]
ANSWERS = dict.fromkeys(QUESTIONS, 4)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", METHODS, 3)
    design.init([run], tmp_path / "study", raters=3, images=3, repeats=1, controls=2)
    return tmp_path / "study"


def links(study: Path) -> list[str]:
    with (study / "links.csv").open() as file:
        return [row["link"] for row in csv.DictReader(file)]


@pytest.fixture
def client(study: Path) -> Iterator[TestClient]:
    with TestClient(create_app(study), raise_server_exceptions=False) as client:
        yield client


def contents(study: Path) -> list[tuple[Any, ...]]:
    """Everything in the study that a rater could change."""
    connection = database.connect(study)
    rows = [
        row
        for table in ("rating", "withdrawn", "task", "rater", "picture", "sample", "meta")
        for row in connection.execute(f"SELECT '{table}', * FROM {table}")
    ]
    connection.close()
    return rows


def rate(client: TestClient, link: str, answers: dict[str, Any] | None = None) -> dict[str, Any]:
    state = client.get(f"{link}/state").json()
    body = {"task": state["task"]["id"], "answers": answers or ANSWERS, "seconds": 3.5}
    response = client.post(f"{link}/answer", json=body)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def test_a_rater_goes_through_the_study(study: Path, client: TestClient) -> None:
    link = links(study)[0]
    state = client.get(f"{link}/state").json()
    assert (state["done"], state["total"], state["last"]) == (0, 12, None)
    seen = []
    while state["task"]:
        seen.append(state["task"]["id"])
        for part in ("source", "result", "outline"):
            picture = client.get(state["task"][part])
            assert picture.status_code == 200
            assert picture.content.startswith(b"\x89PNG")
        following = state["next"]
        state = rate(client, link)
        assert state["stored"]
        assert (state["task"] or {}).get("id") == (following or {}).get("id")  # what was preloaded is what comes
    assert len(set(seen)) == 12
    assert (state["done"], state["total"]) == (12, 12)
    table = ratings.read_study(study).ratings
    assert len(table) == 12 * 4
    assert table["role"].value_counts().to_dict() == {"edit": 36, "control": 8, "repeat": 4}
    assert set(table[table["role"] == "edit"]["method"]) == set(METHODS)


def test_nothing_tells_the_method(study: Path, client: TestClient) -> None:
    link = links(study)[0]
    replies = [client.get(link), client.get(f"{link}/state"), client.get("/static/rate.js")]
    for task in iter(lambda: client.get(f"{link}/state").json()["task"], None):
        replies += [client.get(task[part]) for part in ("source", "result", "outline")]
        replies.append(client.post(f"{link}/answer", json={"task": task["id"], "answers": ANSWERS, "seconds": 1}))
    for reply in replies:
        assert reply.status_code == 200
        text = (str(reply.request.url) + repr(reply.headers.raw)).lower() + reply.content.decode("latin-1").lower()
        for word in ("cpam:", "cpam@", "masactrl", "localization", "scene-0", ".png"):
            assert word not in text, (word, reply.request.url)
        assert "etag" not in reply.headers or "/static/" in str(reply.request.url)


def test_raters_have_their_own_names_for_the_same_picture(study: Path) -> None:
    connection = database.connect(study)
    shared = connection.execute(
        "SELECT a.public FROM task a JOIN task b ON a.public = b.public AND a.id <> b.id"
    ).fetchall()
    assert shared == []


def test_headers(study: Path, client: TestClient) -> None:
    link = links(study)[0]
    for path in (link, f"{link}/state", "/static/rate.js", "/r/nobody"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert client.get(f"{link}/state").headers["cache-control"] == "no-store"
    task = client.get(f"{link}/state").json()["task"]
    assert "immutable" in client.get(task["result"]).headers["cache-control"]
    page = client.get(link).text
    assert "http://" not in page and "https://" not in page  # nothing from elsewhere
    for path in ("/docs", "/openapi.json", "/redoc", "/", "/study.db", "/links.csv", "/media"):
        assert client.get(path).status_code == 404


def test_submitting_twice_stores_once(study: Path, client: TestClient) -> None:
    link = links(study)[0]
    task = client.get(f"{link}/state").json()["task"]["id"]
    body = {"task": task, "answers": ANSWERS, "seconds": 2.0}
    assert client.post(f"{link}/answer", json=body).json()["stored"] is True
    before = contents(study)
    again = client.post(f"{link}/answer", json=body)
    assert (again.status_code, again.json()["stored"], again.json()["done"]) == (200, False, 1)
    other = client.post(f"{link}/answer", json=body | {"answers": ANSWERS | {"realistic": 1}})
    assert other.status_code == 409
    assert contents(study) == before


def test_undo(study: Path, client: TestClient) -> None:
    link = links(study)[0]
    first = client.get(f"{link}/state").json()["task"]["id"]
    second = rate(client, link)["task"]["id"]
    assert rate(client, link)["done"] == 2
    assert client.post(f"{link}/undo", json={"task": first}).status_code == 409  # not the last one
    undone = client.post(f"{link}/undo", json={"task": second}).json()
    assert (undone["undone"], undone["done"], undone["task"]["id"], undone["last"]) == (True, 1, second, first)
    again = client.post(f"{link}/undo", json={"task": second}).json()  # a lost reply, sent again
    assert (again["undone"], again["done"]) == (False, 1)
    rate(client, link, ANSWERS | {"realistic": 6})
    connection = database.connect(study)
    assert connection.execute("SELECT count(*) FROM withdrawn").fetchone() == (4,)  # kept, not dropped silently
    connection.close()
    table = ratings.read_study(study).ratings
    assert len(table) == 8
    assert sorted(table[table["question"] == "realistic"]["rating"]) == [4, 6]


GOOD = {"answers": ANSWERS, "seconds": 1.0}
TRICKS = [
    "' OR 1=1 --",
    "1; DROP TABLE rating",
    "../../study.db",
    "..%2f..%2flinks.csv",
    "%00",
    "/etc/passwd",
    "\x00",
    "💥" * 30,
    "",
    "A" * 22,
    None,
    7,
    True,
    [],
    {},
    {"$ne": 1},
]


@pytest.mark.parametrize("value", [0, 7, 2.5, -1, 1e300, "4", True, None, [4], {"a": 1}, "'; DROP TABLE rating; --"])
def test_values_off_the_scale_are_refused(study: Path, client: TestClient, value: Any) -> None:
    link = links(study)[0]
    task = client.get(f"{link}/state").json()["task"]["id"]
    before = contents(study)
    for question in QUESTIONS:
        body = {"task": task, "answers": ANSWERS | {question: value}, "seconds": 1}
        assert client.post(f"{link}/answer", json=body).status_code == 422
    assert contents(study) == before


def test_forged_requests_change_nothing(study: Path, client: TestClient) -> None:
    mine, other, _ = links(study)
    first = client.get(f"{mine}/state").json()
    task = first["task"]["id"]
    foreign = client.get(f"{other}/state").json()["task"]["id"]
    before = contents(study)

    def refused(
        path: str, body: Any = None, status: tuple[int, ...] = (404, 405, 409, 413, 422), **kwargs: Any
    ) -> None:
        response = client.post(path, json=body, **kwargs) if body is not None else client.get(path, **kwargs)
        assert response.status_code in status, (path, body, response.status_code)
        assert "Traceback" not in response.text
        assert contents(study) == before

    # Another rater's picture, to see, rate or take back; the picture after the next.
    refused(f"{mine}/picture/{foreign}/result", status=(404,))
    refused(f"{mine}/answer", GOOD | {"task": foreign}, status=(404,))
    refused(f"{mine}/undo", {"task": foreign}, status=(404,))
    refused(f"{mine}/answer", GOOD | {"task": first["next"]["id"]}, status=(409,))
    refused(f"{mine}/undo", {"task": first["next"]["id"]}, status=(409,))
    for trick in TRICKS:
        refused(f"{mine}/answer", GOOD | {"task": trick})
        refused(f"{mine}/answer", {"task": task, "answers": trick, "seconds": 1.0}, status=(422,))
        refused(f"{mine}/answer", {"task": task, "answers": {str(trick): 4}, "seconds": 1.0}, status=(422,))
        refused(f"{mine}/answer", {"task": task, "answers": ANSWERS | {str(trick): 4}, "seconds": 1.0}, status=(422,))
        refused(f"{mine}/answer", {"task": task, "answers": ANSWERS, "seconds": trick if trick != 7 else -7})
        refused(f"{mine}/answer", GOOD | {"task": task, "rater": trick}, status=(422,))
        refused(f"{mine}/undo", {"task": trick})
        if isinstance(trick, str) and trick and "\x00" not in trick:
            refused(f"/r/{trick}/state", status=(404,))
            refused(f"/r/{trick}/answer", GOOD | {"task": task}, status=(404, 405))
            refused(f"{mine}/picture/{trick}/result", status=(404,))
            refused(f"{mine}/picture/{task}/{trick}", status=(404, 422))
            refused(f"/static/{trick}", status=(404,))
    token = mine.removeprefix("/r/")
    for forged in (token[:-1], token + "A", token[:-1] + ("B" if token[-1] != "B" else "C"), token.swapcase()):
        refused(f"/r/{forged}/state", status=(404,))
        refused(f"/r/{forged}/answer", GOOD | {"task": task}, status=(404,))
    refused(f"{mine}/answer", {"task": task, "answers": {"realistic": 4}, "seconds": 1.0}, status=(422,))
    refused(f"{mine}/answer", {"task": task, "answers": {}, "seconds": 1.0}, status=(422,))
    refused(f"{mine}/answer", {"task": task, "answers": ANSWERS | {"x" * 9000: 1}, "seconds": 1.0}, status=(413,))

    for raw in (b"", b"{", b"\xff\xfe", b"[1]", b"null", b'{"task": NaN}', b"[" * 5000):
        response = client.post(f"{mine}/answer", content=raw, headers={"Content-Type": "application/json"})
        assert response.status_code in (400, 422)
    nan = json.dumps({"task": task, "answers": ANSWERS | {"realistic": float("nan")}, "seconds": 1.0})
    inf = json.dumps({"task": task, "answers": ANSWERS, "seconds": float("inf")})
    for text in (nan, inf):
        response = client.post(f"{mine}/answer", content=text, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
    good = json.dumps(GOOD | {"task": task})
    form = client.post(f"{mine}/answer", content=good, headers={"Content-Type": "text/plain"})
    assert form.status_code == 422  # what another site's form could send
    for path in (
        f"{mine}/answer",
        "/r/nobody/answer",
    ):  # a body of unknown length, counted before any token is looked at
        assert client.post(path, content=iter([b"x" * 4096] * 3)).status_code == 413
    assert contents(study) == before
    assert rate(client, mine)["done"] == 1  # and the real one still works


def test_resume_on_another_device(study: Path) -> None:
    link = links(study)[1]
    with TestClient(create_app(study)) as one:
        rate(one, link)
        after = rate(one, link)
    with TestClient(create_app(study)) as two:
        state = two.get(f"{link}/state").json()
    assert state["done"] == 2
    assert state["task"]["id"] == after["task"]["id"]


def test_erase(study: Path, client: TestClient) -> None:
    mine, other, _ = links(study)
    rate(client, mine)
    rate(client, other)
    tasks = [row for row in contents(study) if row[0] == "task" and row[2] == 0]
    assert len(tasks) == 12
    assert database.erase(study, "r01") == 4  # while the server is up
    assert client.get(f"{mine}/state").status_code == 404
    assert client.get(f"{other}/state").json()["done"] == 1
    files = b"".join(file.read_bytes() for file in study.glob("study.db*")) + (study / "links.csv").read_bytes()
    assert mine.removeprefix("/r/").encode() not in files
    assert database.digest(mine.removeprefix("/r/")).encode() not in files
    for task in tasks:
        assert task[6].encode() not in files  # nothing is left in freed pages or the log
    assert links(study) == [other, links(study)[1]]
    read = ratings.read_study(study)
    assert (len(read.ratings), read.erased) == (4, 1)
    with pytest.raises(UserError, match="no rater 'r01'"):
        database.erase(study, "r01")


def test_export_is_anonymous(study: Path, client: TestClient) -> None:
    for link in links(study):
        rate(client, link)
    table = ratings.export(study)
    assert sorted(table["rater"].unique()) == ["p01", "p02", "p03"]
    assert list(table.columns) == ratings.COLUMNS
    text = table.to_csv(index=False)
    for link in links(study):
        assert link.removeprefix("/r/") not in text
    orders = {tuple(ratings.export(study).groupby("rater")["sample"].first()) for _ in range(40)}
    assert len(orders) > 1  # pseudonyms are drawn anew


def test_the_export_says_what_the_study_says(study: Path, client: TestClient, tmp_path: Path) -> None:
    pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")
    from cpam_bench.eval.study import aggregate

    for number, link in enumerate(links(study)):
        for turn in range(12):
            rate(client, link, {q: (number + turn * i) % 6 + 1 for i, q in enumerate(QUESTIONS)})
            if turn == number == 0:
                early = ratings.read_study(study)  # a first picture, be it a control, must not break anything
                assert len(aggregate.rater_table(early, aggregate.Limits())) == 1
    ratings.write_csv(ratings.export(study), tmp_path / "export.csv")
    one = aggregate.aggregate(ratings.read_study(study))
    two = aggregate.aggregate(ratings.read(tmp_path / "export.csv"))
    keys = ["method", "question"]
    assert one.means.sort_values(keys).reset_index(drop=True).equals(two.means.sort_values(keys).reset_index(drop=True))
    columns = ["controls_wrong", "repeat_difference", "same_answers", "one_value", "flags"]
    assert sorted(map(str, one.raters[columns].to_numpy())) == sorted(map(str, two.raters[columns].to_numpy()))
    assert one.raters["controls_wrong"].notna().all() and one.raters["repeat_difference"].notna().all()
    assert aggregate.write(one, tmp_path / "out")


@pytest.mark.slow
def test_a_killed_server_loses_nothing(study: Path) -> None:
    """SIGKILL between two ratings: the real process, the real port."""
    code = "import sys; from pathlib import Path as P; from cpam_bench.eval.study.server import serve; "
    code += "serve(P(sys.argv[1]), port=int(sys.argv[2]))"
    acknowledged = 0
    link = links(study)[0]
    for _ in range(2):
        port = free_port()
        server = subprocess.Popen([sys.executable, "-c", code, str(study), str(port)], cwd=ROOT)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as http:
                for _ in range(200):
                    try:
                        state = http.get(f"{link}/state").json()
                        break
                    except httpx.TransportError:
                        time.sleep(0.05)
                assert state["done"] == acknowledged
                for _ in range(3):
                    body = {"task": state["task"]["id"], "answers": ANSWERS, "seconds": 1.0}
                    response = http.post(f"{link}/answer", json=body)
                    assert response.status_code == 200
                    assert "server" not in response.headers
                    state = response.json()
                    acknowledged += 1
        finally:
            os.kill(server.pid, signal.SIGKILL)
            server.wait()
    assert len(ratings.read_study(study).ratings) == acknowledged * 4 == 24
