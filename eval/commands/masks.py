"""``cpam-bench data masks-check`` and ``data annotate``: where masks come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cpam_bench.imba.errors import UserError

FLOOR = 0.8
"""Mean IoU that clicks on pocket objects must reach."""


def masks_check(
    count: Annotated[int, typer.Option(min=1, help="Pocket objects to click on.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    segmenter: Annotated[
        str, typer.Option(metavar="auto|grabcut|HUB_ID|PATH", help="What turns clicks into masks.")
    ] = "grabcut",
    words: Annotated[
        bool, typer.Option("--words", help="Also name the objects, through the pocket backbone's cross-attention.")
    ] = False,
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also click on ten photographs of this folder.")
    ] = None,
    clicks: Annotated[
        Path | None, typer.Option(metavar="JSON", help="How to click on them; else the middle, in a wide box.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="PNG", help="Contact sheet of all masks.")] = None,
) -> None:
    """Measure masks from one click in a box against the exact masks of pocket objects; exit code 1 below 0.8 IoU."""
    from cpam_bench.imba.masking.made import overlay
    from cpam_bench.imba.masking.segmenters import for_clicks
    from cpam_bench.imba.pocket import clicks as check

    tool = for_clicks(segmenter)
    made = check.measure(tool, check.pocket_objects(count, seed))
    rows = []
    for one, mask, value in made:
        typer.echo(f"{one.name}: IoU {value:.3f} ({mask.origin.tool})")
        rows.append(
            ([one.image, overlay(one.image, mask.mask), overlay(one.image, one.mask)], f"{one.name} {value:.2f}")
        )
    mean = sum(value for *_, value in made) / len(made)
    typer.echo(f"one click in a box, {made[0][1].origin.tool}: mean IoU {mean:.3f} of {len(made)} (floor {FLOOR})")
    if words:
        from cpam_bench.cpam.backbone import Backbone
        from cpam_bench.cpam.words import select

        backbone = Backbone.load("pocket")
        named = [
            check.iou(select(backbone, one.image, f"a {one.name}").mask, one.mask)
            for one in check.pocket_objects(count, seed)
        ]
        typer.echo(f"named, cross-attention of the pocket backbone: mean IoU {sum(named) / len(named):.3f}")
    if photos is not None:
        for name, image, points in check.photographs(photos, 10, clicks):
            mask = tool.segment(image, points)
            typer.echo(f"{name}: {mask.mask.mean():.0%} of the picture")
            rows.append(([image, overlay(image, mask.mask)], name))
    if out is not None:
        from cpam_bench.eval.figures.sheet import sheet

        sheet(["picture", "mask", "exact mask"], rows, edge=160).save(out)
    if mean < FLOOR:
        raise typer.Exit(1)


def annotate(
    dataset: Annotated[Path, typer.Argument(metavar="PATH", help="A data set's folder; masks are written into it.")],
    port: Annotated[int, typer.Option(help="Of the page, on this machine alone.")] = 7860,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
) -> None:
    """Draw the masks that a data set lacks, sample by sample, in the browser; stop and go on whenever you like."""
    if not (dataset / "data.json").is_file():
        raise UserError(f"{dataset} has no data.json; give the folder of a data set")
    from cpam_bench.eval.studio.serve import serve_annotation

    serve_annotation(dataset, port, browse)
