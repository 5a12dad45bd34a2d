"""``cpam-bench pocket``: train the small models of the embedded default, and measure what they can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="The embedded default: train its small models, and measure what they can do on scenes they have not seen.",
    no_args_is_help=True,
)

Part = Literal["vae", "unet", "classifier", "clip", "decoder", "all", "backbone"]
Work = Annotated[Path, typer.Option("--work", help="Folder of checkpoints, logs and cached scenes.")]


@app.command()
def train(
    part: Annotated[
        Part,
        typer.Argument(
            help="What to train: all goes through vae, unet, classifier, clip and decoder in this order and passes over"
            " what is done. backbone puts the weights of an unfinished unet together, to look at them."
        ),
    ],
    work: Work = Path("results/runs/pocket-training"),
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps; each trainer's own if left out.")] = None,
    scenes: Annotated[int | None, typer.Option(min=64, help="Training scenes, from seed 0 on; likewise.")] = None,
    seed: Annotated[int, typer.Option(help="Of initialisation, batches and noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    start: Annotated[
        str | None, typer.Option(help="vae, unet: begin from the weights of this backbone (pocket or a folder).")
    ] = None,
) -> None:
    """Train a part of the pocket world, or go on where it was stopped; the result lands in WORK.

    The denoiser learns faster with a process a core: torchrun --no-python --nproc-per-node 2 cpam-bench pocket train
    unet.

    Copy WORK/pocket to cpam/weights/, WORK/pocket-clip and WORK/pocket-classifier.safetensors to eval/weights/ to make
    them the default.
    """
    from cpam_bench.eval.pocket import stages

    if part == "all" and steps:
        raise typer.BadParameter("the parts have steps of their own", param_hint="--steps")
    if part == "backbone":
        stages.put_together(work)
        return
    settings = {name: value for name, value in (("steps", steps), ("scenes", scenes)) if value}
    for one in stages.ORDER if part == "all" else (part,):
        if part != "all" or not stages.is_done(work, one):
            stages.train(work, one, settings, seed, device, start)


@app.command()
def check(
    backbone: Annotated[
        str, typer.Option(help="pocket, or a folder with a backbone trained on the scenes.")
    ] = "pocket",
    clip: Annotated[
        Path | None, typer.Option(help="Folder of the pocket CLIP that judges.", show_default="ours")
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="File of the classifier that judges.", show_default="ours")
    ] = None,
    count: Annotated[int, typer.Option(min=16, help="Held-out captions to generate from.")] = 1000,
    run: Annotated[
        list[Path] | None,
        typer.Option(help="Scored run on pocket scenes, for figures of its edits and its order; may be repeated."),
    ] = None,
    only_runs: Annotated[bool, typer.Option("--only-runs", help="Leave the models out.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet to this PNG.")] = None,
) -> None:
    """Print what the pocket models can do on held-out scenes; exit code 1 if a figure is below its floor."""
    import math

    from rich.console import Console
    from rich.table import Table

    from cpam_bench.cpam.backbone import Backbone
    from cpam_bench.eval.metrics.classifier import POCKET_CLASSIFIER, load_classifier
    from cpam_bench.eval.metrics.clip import POCKET_CLIP, load_clip
    from cpam_bench.eval.pocket import check as measure
    from cpam_bench.eval.pocket import runs
    from cpam_bench.imba.common.files import write_json

    figures = [figure for folder in run or () for figure in runs.figures(folder)]
    if not only_runs:
        model = Backbone.load(backbone)
        scorer, judge = load_clip(str(clip or POCKET_CLIP)), load_classifier(classifier or POCKET_CLASSIFIER)
        figures = [
            measure.vae_psnr(model),
            measure.inversion_psnr(model),
            *measure.clip_retrieval(scorer),
            *measure.generation(model, scorer, judge, count),
            measure.load_time(backbone),
            *figures,
        ]
        if sheet:
            measure.contact_sheet(model, sheet)
    table = Table(title="pocket models on held-out scenes")
    for title in ("figure", "measured", "best", "floor", ""):
        table.add_column(title, justify="left" if title == "figure" else "right")
    for one in figures:
        held = [f"{value:.3g} {one.unit}" if not math.isnan(value) else "" for value in (one.best, one.floor)]
        table.add_row(one.name, f"{one.value:.3g} {one.unit}", *held, "ok" if one.good else "LOW")
    Console().print(table)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        known = {
            one.name: {
                "value": one.value,
                "best": None if math.isnan(one.best) else one.best,
                "floor": None if math.isnan(one.floor) else one.floor,
                "unit": one.unit,
                "higher": one.higher,
            }
            for one in figures
        }
        write_json(out, known)
    if not all(one.good for one in figures):
        raise typer.Exit(1)
