"""What commands print, and where to: tables on stdout, everything else on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from cpam_bench.eval.analysis.leaderboard import Leaderboard
    from cpam_bench.eval.run.driver import Failure

WIDTH = 140
"""Of tables where there is no terminal."""


def console() -> Console:
    from rich.console import Console

    found = Console(highlight=False)
    # Into a file or pipe there is no width to fit, and a table folded to 80 columns is hard to read.
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def say(message: str) -> None:
    typer.echo(message, err=True)


def print_board(board: Leaderboard) -> None:
    from cpam_bench.eval.analysis.leaderboard import render

    console().print(render(board))


def report_scoring(damaged: list[str], truncated: list[str]) -> None:
    for line in damaged:
        say(f"damaged: {line}; run the same command again to make it anew")
    for line in truncated:
        say(line)


def report_failures(failures: Sequence[Failure]) -> None:
    """Name the edits that failed, if any, and end with exit code 1."""
    if failures:
        say(f"{len(failures)} edits failed; the same command tries them again:")
        for failure in failures:
            say(f"  {failure.method} on {failure.sample}: {failure.error}")
        raise typer.Exit(1)
