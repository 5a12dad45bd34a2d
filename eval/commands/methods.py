"""``cpam-bench methods``: which editors there are."""

from __future__ import annotations

from typing import Annotated

import typer

from cpam_bench.eval.commands.terminal import console, print_parameters, say
from cpam_bench.imba.errors import UserError


def methods(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these with parameters.")] = None,
    parameters: Annotated[bool, typer.Option("--parameters", help="Show the parameters of all.")] = False,
    backbone: Annotated[
        str | None,
        typer.Option(metavar="NAME|HUB_ID|PATH", help="Say which run on this diffusion model, and why others do not."),
    ] = None,
) -> None:
    """List the editing methods, what each can do, and its parameters.

    The columns are those of the paper's Table 1. A parameter is set as in cpam:guidance=5,localization=false.
    """
    import dataclasses

    from rich.table import Table

    from cpam_bench.cpam.editing import Capabilities
    from cpam_bench.eval.methods import registry

    if names:
        editors = {name: registry.EDITORS.load(name) for name in names}
        broken: dict[str, str] = {}
    else:
        editors, broken = registry.load_all()
        if not editors and not broken:
            raise UserError("no editors are installed; install the package itself (pip install -e .)")
    refused: dict[str, str] = {}
    if backbone is not None:
        from cpam_bench.cpam.backbone import family_of

        family = family_of(backbone)
        refused = {name: reason for name, editor in editors.items() if (reason := registry.refusal(editor, family))}
        editors = {name: editor for name, editor in editors.items() if name not in refused}
    shown = console()
    columns = [field.name for field in dataclasses.fields(Capabilities)]
    table = Table(title=f"methods on {backbone}" if backbone else "methods", title_justify="left")
    for column in ("name", "title", *(column.replace("_", " ") for column in columns)):
        table.add_column(column, overflow="fold")
    for name, editor in editors.items():
        marks = ["✓" if getattr(editor.capabilities, column) else "" for column in columns]
        table.add_row(name, editor.title, *(marks if editor.edits else ["–"] * len(columns)))
    shown.print(table)
    if any(not editor.edits for editor in editors.values()):
        shown.print("–: a reference row that bounds the scale, not a method of editing.")
    if names or parameters:
        for name, editor in editors.items():
            print_parameters(f"{name}: {editor.title}. {editor.reference}", editor)
    elif editors:
        shown.print("cpam-bench methods NAME shows the parameters of a method.")
    for name, reason in refused.items():
        shown.print(f"{name} does not run on {backbone}: {reason}")
    for reason in broken.values():
        say(f"broken: {reason}")
