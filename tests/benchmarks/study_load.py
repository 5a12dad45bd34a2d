"""The paper's study at full size through the real server: 36,000 ratings by 20 raters at once, five SIGKILLs.

Every rater is a client of its own that does what the page does: ask for the state, load a picture, send its ratings,
and after a crash send again what was not acknowledged.  At the end the database must hold what was acknowledged, once.

    python tests/benchmarks/study_load.py [--images 50 --raters 20 --methods 9 --kills 5] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from ports import free_port  # noqa: E402
from study_runs import make_run  # noqa: E402

from cpam_bench.eval.study import database, design, ratings  # noqa: E402

CODE = "import sys; from pathlib import Path as P; from cpam_bench.eval.study.server import serve; "
CODE += "serve(P(sys.argv[1]), port=int(sys.argv[2]))"


class Load:
    """The raters, and what was acknowledged to them."""

    def __init__(self, study: Path, port: int) -> None:
        self.study, self.port = study, port
        self.acknowledged: dict[str, dict[str, float]] = {}
        self.latency: list[float] = []
        self.picture_latency: list[float] = []
        self.resent = self.stored_before = 0
        self.started: float | None = None

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", CODE, str(self.study), str(self.port)], cwd=ROOT)

    async def rater(self, link: str, number: int) -> None:
        rng = np.random.default_rng(number)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", limits=limits, timeout=20) as client:
            state = await self.request(client, "GET", f"{link}/state")
            while state["task"]:
                task = state["task"]
                await self.picture(client, task["result"])
                values = rng.integers(1, 7, len(QUESTIONS)).tolist()
                answers = dict(zip(QUESTIONS, values, strict=True))
                body = {"task": task["id"], "answers": answers, "seconds": 1.0}
                state = await self.request(client, "POST", f"{link}/answer", body)
                if not state["stored"]:
                    self.stored_before += 1
                if task["id"] in self.acknowledged:
                    raise AssertionError("a picture was given twice")
                self.acknowledged[task["id"]] = answers

    async def request(self, client: httpx.AsyncClient, method: str, path: str, body: object = None) -> dict:
        attempt = 0
        while True:
            begun = time.perf_counter()
            try:
                response = await client.request(method, path, json=body)
            except httpx.TransportError:
                attempt += 1
                await asyncio.sleep(0.05)
                continue
            if response.status_code != 200:
                raise AssertionError(f"{method} {path}: {response.status_code} {response.text}")
            if method == "POST":
                self.latency.append(time.perf_counter() - begun)
                self.resent += attempt > 0
            return response.json()

    async def picture(self, client: httpx.AsyncClient, path: str) -> None:
        while True:
            begun = time.perf_counter()
            try:
                response = await client.get(path)
                assert response.status_code == 200 and response.content.startswith(b"\x89PNG")
                self.picture_latency.append(time.perf_counter() - begun)
                return
            except httpx.TransportError:
                await asyncio.sleep(0.05)

    async def run(self, links: list[str], kills: int, total: int) -> tuple[float, float]:
        """Seconds in all, and of them without a server that answers."""
        server = self.start()
        await self.up()
        begun = time.perf_counter()
        away = 0.0
        people = asyncio.gather(*(self.rater(link, i) for i, link in enumerate(links)))
        rng = np.random.default_rng(0)
        try:
            for i in range(kills):
                due = (i + rng.uniform(0.3, 0.9)) / kills * total
                while len(self.acknowledged) < due and not people.done():
                    await asyncio.sleep(0.002)
                if people.done():
                    break
                os.kill(server.pid, signal.SIGKILL)
                since = time.perf_counter()
                server.wait()
                server = self.start()
                await self.up()
                away += time.perf_counter() - since
            await people
        finally:
            people.cancel()
            server.kill()  # the sixth: what is acknowledged is on disk, also at the end
            server.wait()
        return time.perf_counter() - begun, away

    async def up(self) -> None:
        async with httpx.AsyncClient() as client:
            for _ in range(600):
                try:
                    await client.get(f"http://127.0.0.1:{self.port}/")
                    return
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        raise AssertionError("the server does not come up")


QUESTIONS = [question.id for question in design.read_plan().questions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--raters", type=int, default=20)
    parser.add_argument("--methods", type=int, default=9)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; the study's disk is what is measured")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = make_run(Path(folder) / "run", [f"m{i}" for i in range(arguments.methods)], arguments.images)
        study = Path(folder) / "study"
        made = design.init([run], study, arguments.raters, arguments.images)
        with (study / "links.csv").open() as file:
            links = [row["link"] for row in csv.DictReader(file)]
        port = free_port()
        load = Load(study, port)
        total = made.raters * made.pictures
        empty = (study / database.NAME).stat().st_size
        seconds, away = asyncio.run(load.run(links, arguments.kills, total))

        connection = database.connect(study)
        stored: dict[str, dict[str, float]] = {}
        query = """SELECT public, question.name, value FROM rating JOIN task ON task.id = task
            JOIN question ON question.id = question"""
        rows = connection.execute(query).fetchall()
        for public, question, value in rows:
            stored.setdefault(public, {})[question] = value
        sound = connection.execute("PRAGMA integrity_check").fetchone()[0]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        assert sound == "ok", sound
        assert len(rows) == made.ratings, (len(rows), made.ratings)  # none twice, none missing
        assert stored == load.acknowledged  # each as acknowledged
        table = ratings.read_study(study).ratings
        assert not table.duplicated(["rater", "method", "sample", "question"]).any()
        milliseconds = 1000 * np.array(load.latency)
        found = {
            "ratings": len(rows),
            "pictures": total,
            "raters_at_once": made.raters,
            "sigkills": arguments.kills,
            "sent_again": load.resent,
            "stored_before_the_crash_took_the_reply": load.stored_before,
            "seconds": round(seconds, 1),
            "seconds_without_server": round(away, 1),
            "ratings_per_second": round(len(rows) / (seconds - away)),
            "submit_ms_p50": round(float(np.quantile(milliseconds, 0.5)), 1),
            "submit_ms_p99": round(float(np.quantile(milliseconds, 0.99)), 1),
            "picture_ms_p99": round(1000 * float(np.quantile(load.picture_latency, 0.99)), 1),
            "database_bytes_empty": empty,
            "database_bytes": (study / database.NAME).stat().st_size,
            "media_bytes": sum(file.stat().st_size for file in (study / "media").iterdir()),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
    print(json.dumps(found, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
