"""``cpam-bench table`` and ``figure``: what the paper shows, alone or with a measurement beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cpam_bench.eval.commands.options import Sliced, split_names
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError


def table(
    number: Annotated[
        Literal["1", "2", "3", "pie-bench"], typer.Argument(help="Which of the paper's tables, or that of PIE-Bench.")
    ],
    folder: Annotated[
        Path | None,
        typer.Argument(
            parser=place,
            metavar="[RUN|STUDY]",
            help="To show beside it: of Table 2 and PIE-Bench a scored run, of Table 3 a study (or a CSV of ratings).",
        ),
    ] = None,
    format: Annotated[Literal["md", "csv", "latex"], typer.Option(help="Markdown, CSV, or LaTeX (booktabs).")] = "md",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it there instead.", dir_okay=False)] = None,
    slice: Sliced = None,
) -> None:
    """Print a table of the paper or of PIE-Bench, with what was measured beside the published numbers.

    Table 1 always has beside it what the installed editors declare. Methods are matched by title, at their defaults;
    those of PIE-Bench by their labels, which the manual's page about its rows lists.
    """
    if slice and not (number in ("2", "pie-bench") and folder):
        raise UserError("--slice divides the samples of a run: give it with a run, as in: cpam-bench table 2 RUN")
    if number == "1" and folder:
        raise UserError("table 1 is about what methods can do and takes no folder; tables 2 and 3 take one")
    from cpam_bench.eval.tables.write import render
    from cpam_bench.imba.common.files import write_atomic

    if number == "1":
        from cpam_bench.eval.tables.table1 import table1

        made = table1()
    elif number == "2":
        from cpam_bench.eval.tables.table2 import table2, table2_beside

        made = table2_beside(folder, slice) if folder else table2()
    elif number == "pie-bench":
        from cpam_bench.eval.tables.pie_bench import pie_bench, pie_bench_beside

        made = pie_bench_beside(folder, slice) if folder else pie_bench()
    else:
        from cpam_bench.eval.study.table3 import table3

        made = table3(folder)
    text = render(made, format)
    if out:
        write_atomic(out, text.encode())
        typer.echo(f"{out}")
    else:
        typer.echo(text, nl=False)


def figure(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write: .png or .pdf.")],
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns.", show_default="all but identity")
    ] = None,
    samples: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Rows; else they are picked.")] = None,
    pick: Annotated[
        Literal["random", "gain", "loss"],
        typer.Option(help="Rows by chance, or where the first method gains or loses most CLIPScore to the second."),
    ] = "random",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Rows to pick.")] = 6,
    seed: Annotated[int, typer.Option(metavar="N", help="Of --pick random.")] = 0,
) -> None:
    """Draw Figure 5 of a run: a row a sample, a column a method, source and region first, the prompt below."""
    from cpam_bench.eval.figures.figure5 import choose, write
    from cpam_bench.eval.figures.figure5 import figure as draw
    from cpam_bench.eval.scoring.scored import Scored
    from cpam_bench.eval.store.store import Store
    from cpam_bench.imba.common.labels import split

    if out.suffix.lower() not in (".png", ".pdf"):
        raise UserError(f"{out}: a figure is written as .png or .pdf")
    store = Store.open(folder)
    known = list(store.run.methods)
    wanted = split(methods) if methods else [label for label in known if label != "identity"]
    if unknown := [label for label in wanted if label not in known]:
        raise UserError(f"{folder} has no method {', '.join(unknown)}; it has {', '.join(known)}")
    rows = split_names(samples) if samples else choose(Scored.open(folder), wanted, pick, count, seed)
    picture = draw(store, rows, wanted)
    write(picture, out)
    typer.echo(f"{out}")
