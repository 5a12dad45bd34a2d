"""Progress of a run: the plan, bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Bars:
    """A bar a method and one for all; or lines.

    Args:
        progress: the bars.
        counts: edits to be made of each method.
        workers: how many edit at a time.
        lines: say every :data:`EVERY` seconds how far it is.
    """

    def __init__(self, progress: Progress, counts: Mapping[str, int], workers: int, lines: bool):
        self._progress, self._counts, self._workers, self._lines = progress, counts, workers, lines
        self._tasks = {label: progress.add_task(label, total=count) for label, count in counts.items()}
        self._all = progress.add_task("all edits", total=sum(counts.values()))
        self._first: dict[str, float] = {}
        self._done = 0
        self._started = self._said = time.monotonic()

    def advance(self, method: str, seconds: float) -> None:
        """An edit is made, or has failed, in so many seconds."""
        self._progress.advance(self._tasks[method])
        self._progress.advance(self._all)
        self._done += 1
        if method not in self._first:
            self._first[method] = seconds
            if len(self._first) == len(self._counts) and sum(self._counts.values()) > len(self._counts):
                self.say(forecast(self._counts, self._first, self._workers))
        now = time.monotonic()
        total = sum(self._counts.values())
        if self._lines and now - self._said >= EVERY and self._done < total:
            self._said = now
            left = (now - self._started) / self._done * (total - self._done)
            self.say(f"{self._done} of {total} edits, about {_duration(left)} left")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr)  # the bars make room for it


def forecast(counts: Mapping[str, int], first: Mapping[str, float], workers: int) -> str:
    """How long a run takes, told from the first edit of each method.

    Args:
        counts: method -> edits to be made.
        first: method -> seconds that its first edit took.
        workers: how many edit at a time.
    """
    each = ", ".join(f"{label} {seconds:.1f} s" for label, seconds in first.items())
    whole = sum(first[label] * count for label, count in counts.items()) / workers
    return f"the first edits took {each}; about {_duration(whole)} for all {sum(counts.values())}, inversions aside"


def _duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


@contextlib.contextmanager
def bars(pending: Mapping[str, Sequence[str]], progress: bool | None, workers: int = 1) -> Iterator[Bars]:
    """Tell of pending edits on stderr: by bars, or by lines where there is no terminal.

    Args:
        pending: sample -> methods that are to edit it.
        progress: True for bars, False for nothing, None for bars on a terminal and lines elsewhere.
        workers: how many edit at a time.
    """
    counts = Counter(label for labels in pending.values() for label in labels)
    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    # Methods take turns and differ in cost, so the plain average over all edits foretells the rest best.
    with Progress(*columns, console=console, disable=not (shown and counts), speed_estimate_period=1e9) as shown_bars:
        yield Bars(shown_bars, counts, workers, lines=progress is None and not shown)
