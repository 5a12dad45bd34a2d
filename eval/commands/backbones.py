"""``cpam-bench backbones``: which models can be edited with by a name."""

from __future__ import annotations

from typing import Annotated

import typer

from cpam_bench.eval.commands.terminal import console, print_named, say


def backbones(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these with parameters.")] = None,
) -> None:
    """List the models that can be edited with by a name, and the packages they come from.

    Nothing is loaded. --backbone also takes a hub id, a folder in diffusers' layout, or a file of safetensors.
    """
    from rich.table import Table

    from cpam_bench.cpam.backbone import BACKBONES

    if names:
        print_named(BACKBONES, names)
        return
    found, broken = BACKBONES.load_all()
    shown = console()
    table = Table(title="backbones", title_justify="left")
    for column in ("name", "title", "family", "from", "package"):
        table.add_column(column, overflow="fold")
    for name, model in found.items():
        table.add_row(name, model.title, model.family, model.reference, BACKBONES.package_of(name))
    shown.print(table)
    shown.print("cpam-bench methods --backbone NAME shows which methods run on one, and why others do not.")
    shown.print("Folders are opened as what their model_index.json says, and files as what they hold.")
    for reason in broken.values():
        say(f"broken: {reason}")
