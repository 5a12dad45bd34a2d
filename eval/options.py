"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="cpu, cuda or cuda:N.", show_default="cuda if there is one, else cpu"),
]
Clip = Annotated[
    str | None,
    typer.Option(
        metavar="SCORER",
        help="CLIP for CLIPScore: pocket, MODEL/PRETRAINED as open_clip names them, or local-dir:FOLDER.",
        show_default="pocket for the pocket data set, else ViT-L-14/openai",
    ),
]
Sliced = Annotated[
    Literal["kind", "retain", "several"] | None,
    typer.Option("--slice", help="A block for every kind of edit, object retained or not, one object or several."),
]
