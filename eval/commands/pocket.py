"""``cpam-bench pocket``: train the small models of the embedded default, and measure what they can do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    help="The embedded default: train its small models, and measure what they can do on scenes they have not seen.",
    no_args_is_help=True,
)

Part = Literal["vae", "unet", "clip", "classifier"]
Work = Annotated[Path, typer.Option("--work", help="Folder of checkpoints, logs and cached scenes.")]


@app.command()
def train(
    part: Annotated[Part, typer.Argument(help="What to train; unet needs a trained vae.")],
    work: Work = Path("results/runs/pocket-training"),
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps; the shipped weights' number if left out.")
    ] = None,
    scenes: Annotated[int, typer.Option(min=64, help="Training scenes, from renderer seed 0 on.")] = 20_000,
    seed: Annotated[int, typer.Option(help="Of initialisation, batches and noise.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    start: Annotated[
        str | None, typer.Option(help="unet: begin from this backbone (pocket or a folder), its autoencoder included.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="unet: highest learning rate.", show_default="0.0006")] = None,
) -> None:
    """Train one part from scratch, or go on where it was stopped; the result lands in WORK.

    Copy WORK/pocket to cpam/weights/, WORK/pocket-clip and WORK/pocket-classifier.safetensors to eval/weights/ to make
    them the default.
    """
    from diffusers import AutoencoderKL

    from cpam_bench.eval.pocket import classifier, clip, tokenizer, unet, vae

    if part == "vae":
        trained = vae.train(work / "vae", steps=steps or 4800, scenes=min(scenes, 12_000), seed=seed, device=device)
        trained.save_pretrained(work / "vae-trained")
    elif part == "unet":
        from cpam_bench.cpam.backbone import Backbone

        begin = None if start is None else Backbone.load(start).pipeline
        if begin is None and not (work / "vae-trained").is_dir():
            raise typer.BadParameter(f"{work / 'vae-trained'} is missing; train vae first", param_hint="PART")
        autoencoder = AutoencoderKL.from_pretrained(work / "vae-trained").eval() if begin is None else begin.vae
        pipeline = unet.train(
            work / "unet",
            autoencoder,
            tokenizer.build() if begin is None else begin.tokenizer,
            steps=steps or 5200,
            scenes=scenes,
            lr=lr or 6e-4,
            seed=seed,
            device=device,
            start=begin,
        )
        unet.save_half(pipeline, work / "pocket")
    elif part == "clip":
        clip.train(
            work / "clip",
            work / "pocket-clip",
            tokenizer.build(),
            steps=steps or 1500,
            scenes=scenes,
            seed=seed,
            device=device,
        )
    else:
        target = work / "pocket-classifier.safetensors"
        classifier.train(work / "classifier", target, steps=steps or 900, scenes=scenes, seed=seed + 1)


@app.command()
def check(
    backbone: Annotated[
        str, typer.Option(help="pocket, or a folder with a backbone trained on the scenes.")
    ] = "pocket",
    count: Annotated[int, typer.Option(min=16, help="Held-out captions to generate from.")] = 256,
    out: Annotated[Path | None, typer.Option(help="Write the figures to this JSON file.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet to this PNG.")] = None,
) -> None:
    """Print what the pocket models can do on held-out scenes; exit code 1 if a figure is below its floor."""
    from rich.console import Console
    from rich.table import Table

    from cpam_bench.cpam.backbone import Backbone
    from cpam_bench.eval.metrics.clip import POCKET_CLIP, load_clip
    from cpam_bench.eval.pocket import check as measure
    from cpam_bench.imba.common.files import write_json

    model = Backbone.load(backbone)
    scorer = load_clip(str(POCKET_CLIP))
    figures = [measure.vae_psnr(model), measure.inversion_psnr(model), *measure.clip_retrieval(scorer)]
    figures += measure.generation(model, scorer, count)[0]
    figures.append(measure.load_time(backbone))
    table = Table(title="pocket models on held-out scenes")
    for title in ("figure", "measured", "floor", ""):
        table.add_column(title, justify="left" if title == "figure" else "right")
    for one in figures:
        table.add_row(
            one.name, f"{one.value:.1f} {one.unit}", f"{one.least:.0f} {one.unit}", "ok" if one.good else "LOW"
        )
    Console().print(table)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {one.name: {"value": one.value, "floor": one.least, "unit": one.unit} for one in figures})
    if sheet:
        measure.contact_sheet(model, sheet)
    if not all(one.good for one in figures):
        raise typer.Exit(1)
