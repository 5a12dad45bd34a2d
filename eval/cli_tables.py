"""``cpam-bench table``: the paper's tables, alone or with a measurement beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from eval.options import Sliced
from imba.errors import UserError


def table(
    number: Annotated[Literal["1", "2", "3"], typer.Argument(help="Which of the paper's tables.")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[RUN|STUDY]",
            help="To show beside it: of Table 2 a scored run, of Table 3 a study (or a CSV file of ratings).",
        ),
    ] = None,
    format: Annotated[Literal["md", "csv", "latex"], typer.Option(help="Markdown, CSV, or LaTeX (booktabs).")] = "md",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead.", dir_okay=False)] = None,
    slice: Sliced = None,
) -> None:
    """Print a table of the paper, with what was measured beside the published numbers.

    Table 1 always has beside it what the installed editors declare. Methods are matched by title, at their defaults.
    """
    if slice and not (number == "2" and folder):
        raise UserError("--slice divides the samples of a run: give it with a run, as in: cpam-bench table 2 RUN")
    if number == "1" and folder:
        raise UserError("table 1 is about what methods can do and takes no folder; tables 2 and 3 take one")
    from eval import tables
    from eval.store import write_atomic

    made: tables.Table | tables.Opinions
    if number == "1":
        made = tables.table1()
    elif number == "2":
        made = tables.table2_beside(folder, slice) if folder else tables.table2()
    else:
        made = tables.table3(folder)
    text = tables.render(made, format)
    if out:
        write_atomic(out, text.encode())
        typer.echo(f"{out}")
    else:
        typer.echo(text, nl=False)
