"""What commands print, and where to: tables on stdout, everything else on stderr."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from cpam_bench.eval.analysis.leaderboard import Leaderboard
    from cpam_bench.eval.run.driver import Failure
    from cpam_bench.eval.scoring.score import Scores
    from cpam_bench.imba.common.plugins import Group

WIDTH = 140
"""Of tables where there is no terminal."""


def console() -> Console:
    from rich.console import Console

    found = Console(highlight=False)
    # Into a file or pipe there is no width to fit, and a table folded to 80 columns is hard to read.
    return found if found.is_terminal else Console(highlight=False, width=WIDTH)


def say(message: str) -> None:
    typer.echo(message, err=True)


def print_board(board: Leaderboard, names: Sequence[str] | None = None) -> None:
    from cpam_bench.eval.analysis.leaderboard import render

    console().print(render(board, names))


def print_parameters(head: str, cls: type[Any]) -> None:
    """A table of the parameters of a class that a package adds, under a head."""
    from rich.table import Table
    from rich.text import Text

    from cpam_bench.imba.common.labels import describe

    shown = console()
    shown.print(Text(f"\n{head}", style="bold"))
    if not (described := describe(cls)):
        shown.print("no parameters")
        return
    table = Table()
    for column in ("parameter", "takes", "default", "what it does", "source"):
        table.add_column(column, overflow="fold")
    for parameter in described:
        cells = (parameter.name, parameter.takes, parameter.default, parameter.help, parameter.source)
        table.add_row(*(Text(cell) for cell in cells))
    shown.print(table)


def print_named(group: Group[Any], names: Sequence[str], page: Callable[[Any], str | None] = inspect.getdoc) -> None:
    """What a package has added by each name: its title, package, parameters, and a page on it."""
    for name in names:
        found = group.load(name)
        print_parameters(f"{name}: {found.title} ({group.package_of(name)})", found)
        typer.echo(page(found) or "")


def report_scoring(scores: Scores) -> None:
    for line in scores.damaged:
        say(f"damaged: {line}; run the same command again to make it anew")
    for line in [*scores.truncated, *scores.lost]:
        say(line)


def report_failures(failures: Sequence[Failure]) -> None:
    """Name the edits that failed, if any, and end with exit code 1."""
    if failures:
        say(f"{len(failures)} edits failed; the same command tries them again:")
        for failure in failures:
            say(f"  {failure.method} on {failure.sample}: {failure.error}")
        raise typer.Exit(1)
