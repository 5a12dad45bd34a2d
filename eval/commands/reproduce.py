"""``cpam-bench reproduce``: what the paper shows, from one command, by the paper's protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cpam_bench.eval.commands.analyse import ablate
from cpam_bench.eval.commands.options import Clip, Device, Dtype, Limit
from cpam_bench.eval.commands.paper import figure, table
from cpam_bench.eval.commands.run import run
from cpam_bench.eval.commands.share import report
from cpam_bench.eval.commands.terminal import say
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cpam_bench.cpam.editing import Editor

STEPS = 50
"""Of DDIM, to invert and to edit (Section 5.1)."""

SAMPLES = 104
"""Of IMBA (Section 4.1)."""

PICTURE = 0.5e6
"""Bytes of an edited picture of 512 px, as PNG, and of what a run keeps beside it."""


def reproduce(
    what: Annotated[
        Literal["table1", "table2", "table3", "figure5", "figure6"], typer.Argument(help="What of the paper.")
    ],
    study: Annotated[
        Path | None,
        typer.Argument(parser=place, metavar="[STUDY]", help="Of table3: a study, or a CSV file of ratings."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Methods.", show_default="all of the paper's Table 2, Imagic last"),
    ] = None,
    data: Annotated[str, typer.Option("--data", metavar="PATH|URL|pocket", help="Folder of IMBA.")] = "IMBA",
    backbone: Annotated[
        str, typer.Option("--backbone", metavar="sd15|HUB_ID|PATH|pocket", help="Diffusion model to edit with.")
    ] = "sd15",
    limit: Limit = None,
    incomplete: Annotated[
        Literal["refuse", "skip"], typer.Option(help="What to do where samples cannot be edited or scored.")
    ] = "refuse",
    device: Device = None,
    dtype: Dtype = "float32",
    clip: Clip = None,
    captioner: Annotated[
        str | None,
        typer.Option(
            metavar="ID|FOLDER|none",
            help="Writes the captions that a method needs and the data set lacks.",
            show_default="Salesforce/blip-image-captioning-base",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the run, tables, figures and report.")] = Path(
        "results/reproduce"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and begin nothing.")] = False,
) -> None:
    """Make a table or figure of the paper anew: Stable Diffusion 1.5, 50 steps, each method at its own defaults.

    First a plan is printed: weights to fetch, room, memory, and hours by a timed probe of one step. Then come the run,
    the table beside the paper's, and the report. The same command again finishes what is missing. Exit code 1 means
    that some edits failed.
    """
    if (what == "table3") != (study is not None):
        raise UserError(
            "table3 is of a study: cpam-bench reproduce table3 STUDY; cpam-bench study --help says how to make one"
            if what == "table3"
            else f"{what} takes no study; only table3 does"
        )
    if what in ("table1", "table3"):
        if dry_run:
            say(f"plan: nothing is edited; {what} is written from what is here in a moment")
        else:
            _tables("1" if what == "table1" else "3", study, out)
        return
    if what == "figure6" and methods:
        raise UserError("figure6 takes no --methods: it is CPAM with and without its two modules")
    if not (dry_run or _is_there(data)):
        raise UserError(f"there is no data set {data}; make it first: cpam-bench data build --out {data}")
    editors = _editors(what, methods)
    shared: dict[str, Any] = {
        "dataset": data,
        "backbone": backbone,
        "limit": limit,
        "steps": STEPS,
        "device": device,
        "dtype": dtype,
        "clip": clip,
    }
    _plan(what, editors, captioner, out, **shared)
    if dry_run:
        return
    if what == "figure6":
        ablate(groups="modules", out=out / "ablation", tables=out, **shared)
        return
    folder = out / "run"
    whole = True
    for labels in _stages(editors):
        whole = _edit(labels, out=folder, incomplete=incomplete, captioner=captioner, references=False, **shared)
    if what == "figure5":
        for name in ("figure5.pdf", "figure5.png"):
            figure(folder, out / name, methods=",".join(editors))
    else:
        _tables("2", folder, out)
        report([folder], out / "report")
    if not whole:
        raise typer.Exit(1)


def _is_there(data: str) -> bool:
    from cpam_bench.imba.common import hub

    return data == "pocket" or "://" in data or hub.is_local(data)


def _editors(what: str, methods: str | None) -> dict[str, Editor]:
    """Label -> editor of what is to be reproduced: by default of the paper's Table 2, fine-tuning ones last."""
    from cpam_bench.eval.analysis import ablation
    from cpam_bench.eval.methods import registry
    from cpam_bench.eval.tables.published import installed

    if what == "figure6":
        return dict(ablation.plan(["modules"], "cpam", STEPS).editors)
    usual, missing = installed(2)
    editors, broken = registry.choose(methods or ",".join(usual))
    lacking = [] if methods else [f"no editor is installed for the paper's {method}" for method in missing]
    for line in [*lacking, *broken]:
        say(f"left out: {line}")
    return editors


def _tables(number: Literal["1", "2", "3"], folder: Path | None, out: Path) -> None:
    """Write a table in every format, and print it."""
    formats: dict[Literal["md", "csv", "latex"], str] = {"md": "md", "csv": "csv", "latex": "tex"}
    for format, ending in formats.items():
        table(number, folder, format, out / f"table{number}.{ending}")
    table(number, folder)


def _stages(editors: Mapping[str, Editor]) -> list[list[str]]:
    """What is edited by one run after another: first without the fine-tuning methods, which take longest, then all."""
    quick = [label for label, editor in editors.items() if not editor.capabilities.fine_tuned]
    return [labels for labels in (quick, list(editors)) if labels][: 1 if len(quick) == len(editors) else 2]


def _edit(labels: Sequence[str], **options: Any) -> bool:
    """Edit and score; False where some edits have failed, which were named and leave the others to the table."""
    try:
        run(methods=",".join(labels), **options)
    except typer.Exit as ended:
        if ended.exit_code != 1:
            raise
        return False
    return True


def _plan(
    what: str,
    editors: dict[str, Editor],
    captioner: str | None,
    out: Path,
    *,
    dataset: str,
    backbone: str,
    limit: int | None,
    steps: int,
    device: str | None,
    dtype: Literal["float32", "float16", "bfloat16"],
    clip: str | None,
) -> None:
    """Say what it takes: weights, room, memory, hours.  Takes out the methods that do not run on the backbone."""
    import cpam_bench.imba.dataset
    from cpam_bench.cpam.backbone import Backbone
    from cpam_bench.cpam.editing import TellsLanes
    from cpam_bench.eval.methods import captions, registry
    from cpam_bench.eval.run import plan, weights
    from cpam_bench.eval.run.settings import Settings, choose_device, choose_executor, quiet
    from cpam_bench.eval.scoring.score import default_clip
    from cpam_bench.imba.common import hub

    where = choose_device(device)
    samples, bare = SAMPLES if limit is None else min(limit, SAMPLES), True
    if _is_there(dataset):
        found = cpam_bench.imba.dataset.load(dataset).first(limit)
        samples, bare = len(found), bool(captions.needing(editors, found)[0])
    else:
        say(f"data: {dataset} is not here; make it first: cpam-bench data build --out {dataset}")
    say(f"{what}: {', '.join(editors)}; {samples} samples, {backbone}, {steps} steps, {dtype} on {where}, into {out}")
    wanted = [weights.of_backbone(backbone), weights.of_clip(clip or default_clip(dataset == "pocket"))]
    if captioner != "none" and bare and any(getattr(editor, "needs_caption", False) for editor in editors.values()):
        wanted.append(weights.of_hub("captioner", captioner or captions.CAPTIONER))
    say(f"weights: {'; '.join(f'{one.part} {one}' for one in wanted)}")
    if (lacking := [one for one in wanted if not one.here]) and (why := hub.trouble()):
        say(f"weights: {hub.endpoint()} cannot be reached ({why}), so that {len(lacking)} of them cannot be fetched")
    pictures = PICTURE * samples * (len(editors) + 2) / 1e9
    say(
        f"room: {weights.to_fetch(wanted):.1f} GB of {weights.free(hub.cache()):.0f} free for weights,"
        f" {pictures:.1f} GB of {weights.free(out):.0f} free for pictures"
    )
    pace, family = None, "sd1"
    if wanted[0].here:
        quiet()
        model = Backbone.load(backbone, device=where, dtype=dtype)
        family = model.family
        for line in registry.leave_out_refused(editors, backbone, family):
            say(line)
        trains = any(isinstance(one, TellsLanes) and one.lanes(steps, family).trained for one in editors.values())
        pace = plan.probe(model, trains)
        training = f"; {plan.training_bytes(model) / 1e9:.1f} GB more to train" if trains else ""
        peak = "unknown" if pace.peak_mib is None else f"{pace.peak_mib / 1024:.1f} GB"
        say(f"memory: {peak} at the highest{training}, {plan.free_bytes(model) / 1e9:.1f} GB are free")
    workers = choose_executor(Settings(backbone=backbone, device=device))[1] or 1
    costs = plan.costs(editors, samples, steps, pace, workers, family)
    for line in plan.lines(costs, samples, pace, cards=backbone != "pocket"):
        say(line)
