"""How far a run is, told from its store alone: from another shell, while it runs or later."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cpam_bench.eval.store.lock import Holder, holder
from cpam_bench.eval.store.records import Edit
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import Damaged


@dataclass(frozen=True)
class MethodStatus:
    """A method's edits by what has become of them, and the mean seconds of those done (NaN for none)."""

    method: str
    done: int
    failed: int
    pending: int
    seconds: float


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        title: what is run.
        methods: a row a method.
        failures: the records of the failed edits.
        damaged: a line for each record that cannot be read.
        holder: the process that works in the folder, or None.
        rate: edits a second since that process began, or None where nothing can be said yet.
        left: seconds until all edits of the folder are made at that rate, or None.
    """

    title: str
    methods: list[MethodStatus]
    failures: list[Edit]
    damaged: list[str]
    holder: Holder | None
    rate: float | None
    left: float | None


def status(folder: str | Path) -> Status:
    """Read how far a run is; records only, no picture is opened.

    Raises:
        UserError: there is no run in the folder.
    """
    store = Store.open(folder)
    working = holder(store.folder)
    rows, failures, damaged = [], [], []
    recent = left = 0
    for method in store.run.methods:
        seconds = []
        failed = 0
        for sample in store.run.samples:
            try:
                edit = store.read_edit(method, sample, check=False)
            except Damaged as error:
                damaged.append(str(error))
                edit = None
            is_recent = edit is not None and working is not None and store.made_at(method, sample) >= working.since
            recent += is_recent
            # What failed before this process began is tried again by it.
            left += edit is None or (edit.status == "failed" and not is_recent)
            if edit is not None and edit.status == "ok":
                seconds.append(edit.seconds)
            elif edit is not None:
                failed += 1
                failures.append(edit)
        pending = len(store.run.samples) - len(seconds) - failed
        mean = sum(seconds) / len(seconds) if seconds else float("nan")
        rows.append(MethodStatus(method, len(seconds), failed, pending, mean))
    rate = recent / max(time.time() - working.since, 1e-3) if working and recent else None
    run = store.run.shared()
    title = f"{run.dataset.name} data set, {run.backbone.name} backbone, {run.steps} steps, seed {run.seed}"
    return Status(title, rows, failures, damaged, working, rate, left / rate if rate else None)


def render(found: Status) -> Group:
    """The status for a terminal."""
    table = Table(title=found.title, title_justify="left", title_style="bold")
    table.add_column("method", overflow="fold")
    for column in ("done", "failed", "pending", "seconds an edit"):
        table.add_column(column, justify="right")
    for row in found.methods:
        seconds = f"{row.seconds:.2f}" if row.done else "–"
        failed = Text(str(row.failed), style="red" if row.failed else "")
        table.add_row(Text(row.method), str(row.done), failed, str(row.pending), seconds)
    lines = [f"failed: {edit.method} on {edit.sample}: {edit.error}" for edit in found.failures]
    lines += [f"damaged: {line}" for line in found.damaged]
    return Group(table, *(Text(line) for line in [*lines, _activity(found)]))


def _activity(found: Status) -> str:
    if found.holder is None:
        todo = sum(row.pending + row.failed for row in found.methods)
        return "nobody is working on it; " + (f"{todo} edits are left to make" if todo else "every edit is made")
    line = f"{found.holder} works on it, for {_duration(time.time() - found.holder.since)}"
    if found.rate is None or found.left is None:
        return f"{line}; no edit is made yet"
    return f"{line}; {60 * found.rate:.3g} edits a minute, about {_duration(found.left)} left"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
