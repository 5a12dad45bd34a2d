"""``cpam-bench run`` and ``score``: edit, and measure."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from cpam_bench.eval.commands.options import (
    Clip,
    DataSet,
    Device,
    Dtype,
    FitBy,
    LayoutLabel,
    Limit,
    MaskThreshold,
    MethodFile,
    Model,
    ResizeBy,
    Samples,
    Seed,
    Steps,
    finite,
    split_names,
)
from cpam_bench.eval.commands.terminal import print_board, report_failures, report_scoring, say
from cpam_bench.imba.common.places import get, place
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from cpam_bench.eval.run.execute import Outcome
    from cpam_bench.eval.run.settings import Settings
    from cpam_bench.imba.dataset import Dataset

RUNS = Path("results/runs")
"""Where runs go by default, under the working directory."""

_SCALE = "Scale and faults"


def run(
    methods: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Methods, each NAME or NAME:KEY=VALUE,KEY=VALUE; all: every installed."),
    ] = "cpam,masactrl",
    method_file: MethodFile = None,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="NAME=FOLDER",
            help="A folder of ready-made pictures as a method; named <sample id>.png or as TEdBench names results.",
        ),
    ] = None,
    import_panel: Annotated[
        Literal["whole", "last"],
        typer.Option(help="Ready-made pictures are edits as they are, or the last of panels side by side."),
    ] = "whole",
    dataset: DataSet = "pocket",
    layout: LayoutLabel = None,
    mask_threshold: MaskThreshold = None,
    incomplete: Annotated[
        Literal["refuse", "skip"], typer.Option(help="What to do where samples cannot be edited or scored.")
    ] = "refuse",
    backbone: Model = "pocket",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=place,
            metavar="DIR|URL",
            help="Folder of the run, here or wherever fsspec reaches (s3://BUCKET/RUN).",
            show_default=f"{RUNS}/DATASET-BACKBONE",
        ),
    ] = None,
    limit: Limit = None,
    samples: Samples = None,
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
    resize: ResizeBy = "bicubic",
    fit: FitBy = "squash",
    references: Annotated[
        bool,
        typer.Option(
            "--references/--no-references",
            help="Also run identity, reconstruction and ddim, which bound the scale.",
        ),
    ] = True,
    captioner: Annotated[
        str | None,
        typer.Option(
            metavar="ID|FOLDER|none",
            help="Writes the captions that a method needs and the data set lacks; transformers, image to text.",
            show_default="Salesforce/blip-image-captioning-base",
        ),
    ] = None,
    clip: Clip = None,
    scored: Annotated[
        bool, typer.Option("--score/--no-score", help="Score the edits, or leave that to cpam-bench score.")
    ] = True,
    executor: Annotated[
        Literal["serial", "processes", "ray"] | None,
        typer.Option(
            help="Where the workers are: in this process, in processes of this machine, or in a Ray cluster.",
            show_default="serial for one worker without a timeout, else processes",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Workers that edit, each with a backbone of its own.",
            show_default="one a core for the pocket backbone on the CPU, all that fit on a Ray cluster, else 1",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Threads of each worker on the CPU; they decide the last digits, so a run keeps them.",
            show_default="the run's own; of a new one 1 for the pocket backbone, else the cores shared out",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Samples edited together where a method can; agrees to 1e-4 with one by one, so a run keeps it.",
            show_default="the run's own; of a new one 4 for the pocket backbone on the CPU, else 1",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    lockstep: Annotated[
        bool | None,
        typer.Option(
            "--lockstep/--no-lockstep",
            help="Edit with all methods beside a source at once: in less time, of which each edit says its share.",
            show_default="the run's own; of a new one no",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    cache: Annotated[
        str,
        typer.Option(metavar="DIR|none", help="Folder that keeps inversions for other runs.", rich_help_panel=_SCALE),
    ] = "none",
    cache_size: Annotated[
        float,
        typer.Option(
            metavar="GB",
            callback=finite,
            min=0,
            help="Size of the cache; what is unused longest goes.",
            rich_help_panel=_SCALE,
        ),
    ] = 5.0,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            callback=finite,
            min=0.001,
            help="End a worker whose edit takes longer, and try the edit elsewhere.",
            show_default="none",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Ray cluster to work on: auto, HOST:PORT or ray://HOST:PORT.",
            show_default="one on this machine, for this run",
            rich_help_panel=_SCALE,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            callback=finite,
            min=0,
            help="GPUs that Ray sets aside for each worker; a fraction lets several share one.",
            show_default="1 on CUDA, 0 on the CPU",
            rich_help_panel=_SCALE,
        ),
    ] = None,
) -> None:
    """Edit a data set with some methods, score the edits, and print the leaderboard.

    The same command again finishes what is missing and redoes nothing; methods and samples may be added to a run's
    folder, and anything else that would change its edits is refused. Exit code 1 means that some edits failed.
    """
    arguments = {key: str(value) if key == "out" and value else value for key, value in locals().items()}
    arguments["method_file"] = [Path(text).name for text in method_file or []]  # where it lies stands in no record
    if executor == "processes" or (executor is None and backbone == "pocket" and workers != 1):
        from cpam_bench.eval.run.forkserver import prepare_processes

        prepare_processes()  # it imports while this process does
    from cpam_bench.eval.methods import from_file, registry

    given = [from_file.give(text) for text in method_file or []]
    editors, broken = registry.choose(methods)
    named = {label.partition(":")[0] for label in editors}
    editors |= dict(registry.make(name) for name in given if name not in named)
    for reason in broken:
        say(f"broken, left out: {reason}")
    pictures = {label: registry.imported(label, import_panel) for label in imports or []}
    editors |= pictures
    if not editors:
        raise UserError("no methods are given; see: cpam-bench methods")
    if references:
        for name in registry.REFERENCES:
            label, editor = registry.make(name)
            editors.setdefault(label, editor)

    import cpam_bench.imba.dataset

    whole = cpam_bench.imba.dataset.load(dataset, layout, mask_threshold)
    chosen = only(whole.first(limit), samples)
    chosen = dataclasses.replace(chosen, samples=[dataclasses.replace(sample, fit=fit) for sample in chosen])
    data = ready(chosen, incomplete, known_resolution(backbone))
    for line in registry.leave_out_without_masks(editors, data.samples):
        say(line)

    from cpam_bench.eval.methods.ready_made import survey
    from cpam_bench.eval.run.settings import Settings

    for label, ready_made in pictures.items():
        for line in survey(label, ready_made, whole.samples, data.samples):
            say(line)
    folder = out or RUNS / f"{file_name(data.name)}-{file_name(backbone)}"
    settings = Settings(
        backbone=backbone,
        steps=steps,
        seed=seed,
        dtype=dtype,
        resize=resize,
        device=device,
        clip=clip,
        executor=executor,
        workers=workers,
        threads=threads,
        batch=batch,
        lockstep=lockstep,
        cache=None if cache == "none" else Path(cache),
        cache_gb=cache_size,
        timeout=timeout,
        address=address,
        gpus_per_worker=gpus_per_worker,
        captioner=captioner,
        import_panel=import_panel,
        fit=fit,
    )
    for label, editor in editors.items():
        if cost := getattr(editor, "cost", ""):
            say(f"{label}: {cost}")
    outcome = execute_or_tell(data, list(editors), folder, settings, arguments, measure=scored)
    if outcome.board:
        print_board(outcome.board)
        typer.echo(f"{folder / 'leaderboard.csv'}")
        say(
            f"The pictures are in {folder / 'edits'}. Look at them: cpam-bench report {folder} --out report; set them"
            f" beside the paper: cpam-bench table 2 {folder}; check them: cpam-bench verify {folder}"
        )
    else:
        say(f"The pictures are in {folder / 'edits'}. Score them with: cpam-bench score {folder}")
    report_failures(outcome.failures)


def known_resolution(backbone: str) -> int | None:
    """A backbone's resolution where its configuration is here, before anything is loaded; else None."""
    import json

    from cpam_bench.cpam.backbone import place_of
    from cpam_bench.imba.checks import LATENT

    config = Path(place_of(backbone)) / "unet" / "config.json"
    try:
        size = json.loads(get(config))["sample_size"]
    except (OSError, ValueError, KeyError, TypeError):  # loading it says what is wrong, if anything is
        return None
    return size * LATENT if isinstance(size, int) else None


def ready(data: Dataset, incomplete: Literal["refuse", "skip"], resolution: int | None = None) -> Dataset:
    """The samples that can be edited and scored; what is to be said of them and of the others is said.

    Args:
        data: the data set.
        incomplete: what to do where some cannot.
        resolution: of the backbone, where it is known.

    Raises:
        UserError: some cannot, and they are not to be skipped, or none can.
    """
    from cpam_bench.imba.dataset import require_complete, summarize, validate

    left_out: list[str] = []
    if incomplete == "skip":
        kept, errors = data.complete(validate(data, resolution))
        left_out = summarize(errors, len(data))
        if not kept.samples:
            raise UserError(f"no sample of {data.name} is complete; cpam-bench data validate {data.root} lists why")
        say(f"{len(kept)} of {len(data)} samples are complete")
        data = kept
    for line in left_out:
        say(f"left out: {line}")
    for line in summarize(require_complete(data, resolution), len(data)):
        say(f"warning: {line}")
    return data


def execute_or_tell(
    data: Dataset,
    labels: Sequence[str],
    folder: Path,
    settings: Settings,
    arguments: dict[str, Any],
    wanted: Mapping[str, Collection[str]] | None = None,
    measure: bool = True,
) -> Outcome:
    """:func:`cpam_bench.eval.run.execute`, telling the user of Ctrl-C (exit code 130) and of what the scoring met."""
    from cpam_bench.eval.run.execute import execute

    try:
        outcome = execute(data, labels, folder, settings, arguments=arguments, wanted=wanted, measure=measure, say=say)
    except KeyboardInterrupt:
        say(f"\nInterrupted. What is finished is safe in {folder}; the same command continues.")
        raise typer.Exit(130) from None
    if outcome.scores:
        report_scoring(outcome.scores)
    return outcome


def only(data: Dataset, samples: str | None) -> Dataset:
    """The samples of a data set that are named, or all.

    Raises:
        UserError: there is no such sample.
    """
    if samples is None:
        return data
    wanted = split_names(samples)
    known = {sample.id for sample in data}
    if unknown := [name for name in wanted if name not in known]:
        raise UserError(f"{data.name} has no sample {', '.join(unknown)}; it has {', '.join(sorted(known)[:8])} ...")
    return dataclasses.replace(data, samples=[sample for sample in data if sample.id in set(wanted)])


def file_name(name: str) -> str:
    """A data set's or backbone's name as part of a folder's: the last part of a path, nothing unsafe."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name or "root")


def score(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run.")],
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Metrics to measure, each NAME or NAME:KEY=VALUE; what was measured before is kept.",
            show_default="the usual ten",
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(metavar="NAME", help="The metrics of another benchmark, to the letter: pie-bench.")
    ] = None,
    clip: Clip = None,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=PLACE", help="Folder or hub name of another network, as cpam-bench metrics lists them."
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Measure the edits of a run again, with other metrics or another scorer if you like.

    Writes scores.csv, scores.json (the protocol of each metric) and leaderboard.csv into the run's folder. Exit code 1
    means that files of the run are damaged.
    """
    from cpam_bench.eval.analysis.leaderboard import leaderboard
    from cpam_bench.eval.metrics.metric import choose
    from cpam_bench.eval.run.settings import choose_device, quiet
    from cpam_bench.eval.scoring.score import score as measure
    from cpam_bench.eval.store.lock import locked
    from cpam_bench.eval.store.store import Store
    from cpam_bench.imba.common.labels import split

    quiet()
    store = Store.open(folder)
    chosen = list(choose(split(metrics or ""), protocol))
    places = dict(_place_of(one) for one in network or [])
    with locked(folder):
        scores = measure(store, chosen, clip, choose_device(device), places)
        board = leaderboard([folder])
        board.write(folder)
    report_scoring(scores)
    print_board(board)
    typer.echo(f"{folder / 'scores.csv'}")
    if scores.damaged:
        raise typer.Exit(1)


def _place_of(text: str) -> tuple[str, str]:
    role, equals, where = text.partition("=")
    if not equals or not where:
        raise UserError(f"--network {text!r} is not ROLE=PLACE, such as dino=FOLDER")
    return role, where
