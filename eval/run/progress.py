"""Progress of a run on the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bars:
    """A bar a method and one for all."""

    def __init__(self, progress: Progress, counts: Mapping[str, int]):
        self._progress = progress
        self._tasks = {label: progress.add_task(label, total=count) for label, count in counts.items() if count}
        self._all = progress.add_task("all edits", total=sum(counts.values()))

    def advance(self, method: str) -> None:
        self._progress.advance(self._tasks[method])
        self._progress.advance(self._all)

    def say(self, line: str) -> None:
        print(line, file=sys.stderr)  # the bars make room for it


@contextlib.contextmanager
def bars(pending: Mapping[str, Sequence[str]], progress: bool | None) -> Iterator[Bars]:
    """Bars over pending edits on stderr; ``progress`` None shows them on a terminal only."""
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
        yield Bars(shown_bars, counts)
