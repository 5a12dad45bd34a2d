"""``cpam-bench report`` and ``cpam-bench export``: a run to look at, and a run to share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cpam_bench.imba.common.places import place


def report(
    folders: Annotated[
        list[Path], typer.Argument(parser=place, metavar="RUN...", help="Folders of runs that have been scored.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the report; an older report is replaced.")],
    title: Annotated[str | None, typer.Option(help="Of the page.", show_default="what was measured")] = None,
) -> None:
    """Write a report of runs as a page that opens without a server.

    Leaderboard, CLIPScore against background LPIPS, every sample with a before-and-after slider, failures, protocol
    and versions. Several runs must be comparable, as for cpam-bench leaderboard.
    """
    from cpam_bench.imba.common.folders import require_replaceable

    require_replaceable(out, "report")
    from cpam_bench.eval.report.page import write_report

    typer.echo(f"{write_report(folders, out, title)}")


def export(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run that has been scored.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; an older export is replaced.")],
) -> None:
    """Write a run as a folder to share: Parquet with the pictures in it, and the leaderboard as CSV.

    datasets.load_dataset reads it (configurations edits and samples); its README.md is the data set's card and tells
    what every column is. Exit code 1 means that files of the run are damaged and were left out.
    """
    from cpam_bench.imba.common.folders import require_replaceable

    require_replaceable(out, "export")
    from cpam_bench.eval.report.export import export as write

    damaged = write(folder, out)
    typer.echo(f"{out}")
    for line in damaged:
        typer.echo(f"damaged, left out: {line}", err=True)
    if damaged:
        raise typer.Exit(1)
