"""``cpam-bench table``: the paper's tables, alone or with a measurement beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cpam_bench.eval.commands.options import Sliced
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError


def table(
    number: Annotated[Literal["1", "2", "3"], typer.Argument(help="Which of the paper's tables.")],
    folder: Annotated[
        Path | None,
        typer.Argument(
            parser=place,
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
    from cpam_bench.eval.tables import tables
    from cpam_bench.imba.common.files import write_atomic

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


def truth(folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a scored run.")]) -> None:
    """How near edits come to what they should have led to, a row a kind of edit and method; only for rendered data.

    LPIPS to the truth of the edit and of the untouched source, and the share of samples that inside the mask are closer
    to the truth than to the source.
    """
    from rich.console import Console
    from rich.table import Table

    from cpam_bench.eval.analysis.truth import by_kind

    shown = Table()
    for title in ("kind", "method", "n", "LPIPS (truth)", "of the source", "closer to the truth"):
        shown.add_column(title, justify="left" if title in ("kind", "method") else "right")
    for row in by_kind(folder).to_dict("records"):
        source = "–" if row["lpips_source"] != row["lpips_source"] else f"{row['lpips_source']:.4f}"
        cells = (row["kind"], row["method"], str(row["n"]), f"{row['lpips_truth']:.4f}", source)
        shown.add_row(*cells, f"{row['closer']:.0%}")
    Console(highlight=False).print(shown)
