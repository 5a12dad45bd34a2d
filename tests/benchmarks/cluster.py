"""How long a run takes on a cluster that is none: the scheduler driven by a clock that is made up.

    python tests/benchmarks/cluster.py [--out results/cluster.json]

700 samples by ten methods, whose seconds are those measured on the pocket backbone (``results/pocket/all``), on 1 to
256 workers, of which some die.  What an edit takes varies from sample to sample (log-normal, ``--spread``): an
assumption, as are the rates of death and the seconds that a new worker needs.  The bound is all work without a repeated
inversion, spread evenly, or the longest edit, whichever is more.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpam_bench.eval.run.schedule import Job, Schedule, Work

MEASURED = Path(__file__).parents[2] / "results" / "pocket" / "all" / "leaderboard.csv"
LEFT_OUT = ("identity", "reconstruction", "ddim", "cpam-release")
START = 10.0
"""Seconds in which a worker loads what it needs."""


@dataclass(frozen=True)
class Costs:
    """Seconds of each method on a sample like most, and of the inversion that some of them share."""

    methods: Mapping[str, float]
    inversion: float
    sharing: frozenset[str]

    @staticmethod
    def measured(path: Path = MEASURED) -> Costs:
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["method"] not in LEFT_OUT]
        inversions = {row["method"]: float(row["inversion_seconds"]) for row in rows}
        sharing = frozenset(method for method, seconds in inversions.items() if seconds)
        return Costs({row["method"]: float(row["seconds"]) for row in rows}, max(inversions.values()), sharing)


@dataclass
class Worker:
    """A worker at its work: what is left of it, as method, sample and when it is made."""

    dies: float
    job: Job | None = None
    coming: Iterator[tuple[float, str, str]] = field(default_factory=lambda: iter(()))
    next: tuple[float, str, str] | None = None


@dataclass
class Cluster:
    """A run on workers that die, at a time that is counted and not waited for.

    Args:
        costs: of the methods.
        samples, workers: how many.
        deaths: of a worker, an hour.
        spread: standard deviation of the logarithm of what an edit takes.
        split: whether the last units are split among workers that are idle.
        longest_first: whether a sample's longest method goes first; else in the order of the table.
    """

    costs: Costs
    samples: int
    workers: int
    deaths: float = 0.0
    spread: float = 0.2
    split: bool = True
    longest_first: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        ids = [f"s{index}" for index in range(self.samples)]
        order = list(self.costs.methods)
        if self.longest_first:
            order.sort(key=lambda method: -self.costs.methods[method])
        self.schedule = Schedule((Work((id,), {method: (id,) for method in order}) for id in ids), order)
        self.random = random.Random(self.seed)
        draw = random.Random(self.seed + 1)
        self.seconds = {
            (method, id): seconds * math.exp(draw.gauss(-(self.spread**2) / 2, self.spread))
            for method, seconds in self.costs.methods.items()
            for id in ids
        }
        self.busy = self.inverting = 0.0
        self.died = 0
        self.made: dict[tuple[str, str], float] = {}

    @property
    def bound(self) -> float:
        """Seconds below which no order comes."""
        work = sum(self.seconds.values()) + self.samples * self.costs.inversion * bool(self.costs.sharing)
        return START + max(work / self.workers, max(self.seconds.values()))

    def run(self) -> float:
        """Seconds until the last edit is made or given up."""
        events: list[tuple[float, int, Worker | None]] = []
        turn = iter(range(10**12))

        def push(time: float, worker: Worker | None) -> None:
            heapq.heappush(events, (time, next(turn), worker))

        def new(time: float) -> None:
            ready = time + START
            push(ready, Worker(ready + self._life()))

        for _ in range(self.workers):
            new(0.0)
        idle: list[Worker] = []
        time = 0.0
        while events:
            time, _, worker = heapq.heappop(events)
            if worker is not None and worker.job is not None and worker.next is not None:
                if worker.dies <= time:
                    self.died += 1
                    self.schedule.lose(worker.job)
                    new(time)
                    worker = None
                else:
                    _, method, id = worker.next
                    worker.job.made(method, id)
                    self.made[method, id] = time
                    self.schedule.took(method, self.seconds[method, id])
            if worker is not None and not self._go_on(worker, push):
                idle.append(worker)
            while idle and self.schedule:
                self._hand_out(idle.pop(), time, push)
        return max(self.made.values())

    def _go_on(self, worker: Worker, push: Any) -> bool:
        worker.next = next(worker.coming, None)
        if worker.next is None:
            worker.job = None
            return False
        made, method, id = worker.next
        if worker.job is not None:
            worker.job.begin({method: (id,)})
        push(min(made, worker.dies), worker)
        return True

    def _hand_out(self, worker: Worker, time: float, push: Any) -> None:
        work = self.schedule.take(self.workers) if self.split else self.schedule.take()
        if worker.dies <= time:  # it was idle when it died: another is there by now
            worker.dies = time + self._life()
        worker.job = Job(work)
        worker.coming = self._edits(work, time)
        self._go_on(worker, push)

    def _edits(self, work: Work, time: float) -> Iterator[tuple[float, str, str]]:
        inverted: set[str] = set()
        for method, ids in work.wanted.items():
            for id in ids:
                if method in self.costs.sharing and id not in inverted:
                    inverted.add(id)
                    self.inverting += self.costs.inversion
                    time += self.costs.inversion
                time += self.seconds[method, id]
                yield time, method, id

    def _life(self) -> float:
        return self.random.expovariate(self.deaths / 3600) if self.deaths else math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=700)
    parser.add_argument("--spread", type=float, default=0.2)
    parser.add_argument("--out", type=Path, help="a JSON file")
    arguments = parser.parse_args()
    costs = Costs.measured()
    orders = {
        "whole units": {"split": False, "longest_first": False},
        "whole units, longest method first": {"split": False, "longest_first": True},
        "split at the end": {"split": True, "longest_first": False},
    }
    rows = []
    for deaths in (0.0, 0.1, 1.0):
        for workers in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            found: dict[str, Any] = {"workers": workers, "deaths_a_worker_hour": deaths}
            for name, order in orders.items():
                cluster = Cluster(costs, arguments.samples, workers, deaths, arguments.spread, **order)
                found[name] = round(cluster.run() / cluster.bound, 3)
                found[f"{name}, inversions"] = round(cluster.inverting / costs.inversion / arguments.samples, 3)
            found["hours at the bound"] = round(cluster.bound / 3600, 3)
            found["deaths"] = cluster.died
            rows.append(found)
            print(json.dumps(found), flush=True)
    if arguments.out:
        report = {
            "samples": arguments.samples,
            "spread": arguments.spread,
            "seconds": dict(costs.methods),
            "rows": rows,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
