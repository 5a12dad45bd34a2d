"""Options that several commands share."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import typer

from cpam_bench.imba.kinds import Fit


def finite(value: float | None) -> float | None:
    """For every option that takes a float: Python would read ``inf`` and ``nan`` too, and bounds do not stop them all.

    Raises:
        typer.BadParameter: it is one of these.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


DataSet = Annotated[
    str,
    typer.Option(
        "--dataset", metavar="pocket|PATH|URL", help="Data set: the embedded one, or one in a layout of: datasets."
    ),
]
LayoutLabel = Annotated[
    str | None,
    typer.Option("--layout", metavar="NAME[:KEY=VALUE,...]", help="Layout of the data set.", show_default="recognised"),
]
MaskThreshold = Annotated[
    int | None,
    typer.Option(
        "--mask-threshold",
        metavar="N",
        min=0,
        max=254,
        help="Masks are inside above it; 0 is all that is not black, 127 the brighter half.",
        show_default="the layout's",
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--backbone",
        metavar="NAME|HUB_ID|PATH",
        help="Diffusion model: a name of: backbones, a hub id or a path.",
    ),
]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Edit only the first N samples.")]
Samples = Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Edit only these samples.")]
Steps = Annotated[int, typer.Option(metavar="N", min=1, help="DDIM steps of the inversion and of the editing.")]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Threads on the CPU; they decide the last digits.",
        show_default="OMP_NUM_THREADS if that is set, 1 for the pocket backbone, else the cores that are free",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"], typer.Option(help="Numbers that the networks compute with.")
]
ResizeBy = Annotated[
    Literal["bicubic", "nearest", "lanczos"],
    typer.Option("--resize", help="Filter that brings pictures to the backbone's resolution."),
]
MethodFile = Annotated[
    list[str] | None,
    typer.Option(
        "--method-file", metavar="FILE.py:CLASS", help="A method out of a file, tried without packaging it; repeat."
    ),
]
FitBy = Annotated[
    Fit,
    typer.Option(
        "--fit",
        help="How a picture that is not square becomes the square that is edited: squash it to one, crop one around"
        " what is marked, or pad it to one.",
    ),
]
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
    str | None,
    typer.Option(
        "--slice",
        metavar="kind|retain|several|TAG",
        help="A block for every kind of edit, object retained or not, one object or several, or every value of a tag.",
    ),
]


def split_names(text: str) -> list[str]:
    """The names in a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]
