"""The command line ``cpam-bench``.

What takes long to import (torch and all that stands on it) is imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cpam_bench.eval.commands import ablate as cli_ablate
from cpam_bench.eval.commands import data as cli_data
from cpam_bench.eval.commands import edit as cli_edit
from cpam_bench.eval.commands import paper as cli_tables
from cpam_bench.eval.commands import pocket as cli_pocket
from cpam_bench.eval.commands import sensitivity as cli_sensitivity
from cpam_bench.eval.commands import share as cli_report
from cpam_bench.eval.commands import study as cli_study
from cpam_bench.eval.commands.options import (
    Clip,
    DataSet,
    Device,
    Dtype,
    Limit,
    Model,
    Seed,
    Sliced,
    Steps,
    split_names,
)
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from cpam_bench.eval.analysis.leaderboard import Leaderboard
    from cpam_bench.eval.run.driver import Failure
    from cpam_bench.eval.run.execute import Outcome, Settings
    from cpam_bench.imba.dataset import Dataset

app = typer.Typer(
    name="cpam-bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Benchmark of text-guided editing of real images, around IMBA: edit, score, compare.",
    epilog="Without a network or a GPU, cpam-bench run does it all on small parts that it brings along (pocket).",
)

RUNS = Path("results/runs")
"""Where runs go by default, under the working directory."""

_SCALE = "Scale and faults"


@app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these with parameters.")] = None,
    parameters: Annotated[bool, typer.Option("--parameters", help="Show the parameters of all.")] = False,
) -> None:
    """List the editing methods, what each can do, and its parameters.

    The columns are those of the paper's Table 1. A parameter is set as in cpam:guidance=5,localization=false.
    """
    import dataclasses

    from cpam_bench.cpam.editing import Capabilities
    from cpam_bench.eval.methods import registry

    if names:
        editors = {name: registry.load(name) for name in names}
        broken: dict[str, str] = {}
    else:
        editors, broken = registry.load_all()
        if not editors and not broken:
            raise UserError("no editors are installed; install the package itself (pip install -e .)")
    console = _console()
    columns = [field.name for field in dataclasses.fields(Capabilities)]
    table = Table(title="methods", title_justify="left")
    for column in ("name", "title", *(column.replace("_", " ") for column in columns)):
        table.add_column(column, overflow="fold")
    for name, editor in editors.items():
        marks = ["✓" if getattr(editor.capabilities, column) else "" for column in columns]
        table.add_row(name, editor.title, *(marks if editor.edits else ["–"] * len(columns)))
    console.print(table)
    if any(not editor.edits for editor in editors.values()):
        console.print("–: a reference row that bounds the scale, not a method of editing.")
    if names or parameters:
        for name, editor in editors.items():
            _print_parameters(console, name, editor)
    elif editors:
        console.print("cpam-bench methods NAME shows the parameters of a method.")
    for reason in broken.values():
        _say(f"broken: {reason}")


def _print_parameters(console: Console, name: str, editor: Any) -> None:
    from cpam_bench.eval.methods import registry

    described = registry.describe(editor)
    console.print(Text(f"\n{name}: {editor.title}. {editor.reference}", style="bold"))
    if not described:
        console.print("no parameters")
        return
    table = Table()
    for column in ("parameter", "takes", "default", "what it does", "source"):
        table.add_column(column, overflow="fold")
    for parameter in described:
        cells = (parameter.name, parameter.takes, parameter.default, parameter.help, parameter.source)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


@app.command()
def run(
    methods: Annotated[
        str,
        typer.Option(metavar="A,B,...", help="Methods, each NAME or NAME:KEY=VALUE,KEY=VALUE; all: every installed."),
    ] = "cpam,masactrl",
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="NAME=FOLDER",
            help="A folder of ready-made pictures as a method; named <sample id>.png or as TEdBench names results.",
        ),
    ] = None,
    dataset: DataSet = "pocket",
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
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
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
    cache: Annotated[
        str,
        typer.Option(metavar="DIR|none", help="Folder that keeps inversions for other runs.", rich_help_panel=_SCALE),
    ] = "none",
    cache_size: Annotated[
        float,
        typer.Option(
            metavar="GB", min=0, help="Size of the cache; what is unused longest goes.", rich_help_panel=_SCALE
        ),
    ] = 5.0,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
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
    if executor == "processes" or (executor is None and backbone == "pocket" and workers != 1):
        from cpam_bench.eval.run.forkserver import prepare_processes

        prepare_processes()  # it imports while this process does
    from cpam_bench.eval.methods import registry

    editors, broken = registry.choose(methods)
    for reason in broken:
        _say(f"broken, left out: {reason}")
    pictures = {label: registry.imported(label) for label in imports or []}
    editors |= pictures
    if not editors:
        raise UserError("no methods are given; see: cpam-bench methods")
    if references:
        for name in registry.REFERENCES:
            label, editor = registry.make(name)
            editors.setdefault(label, editor)

    import cpam_bench.imba.dataset

    whole = cpam_bench.imba.dataset.load(dataset)
    data = whole.first(limit)
    for warning in cpam_bench.imba.dataset.require_complete(data):
        _say(str(warning))

    from cpam_bench.eval.methods.ready_made import survey
    from cpam_bench.eval.run.execute import Settings

    for label, ready_made in pictures.items():
        for line in survey(label, ready_made, whole.samples, data.samples):
            _say(line)
    folder = out or RUNS / f"{_file_name(data.name)}-{_file_name(backbone)}"
    settings = Settings(
        backbone=backbone,
        steps=steps,
        seed=seed,
        dtype=dtype,
        device=device,
        clip=clip,
        executor=executor,
        workers=workers,
        threads=threads,
        batch=batch,
        cache=None if cache == "none" else Path(cache),
        cache_gb=cache_size,
        timeout=timeout,
        address=address,
        gpus_per_worker=gpus_per_worker,
        captioner=captioner,
    )
    outcome = execute_or_tell(data, list(editors), folder, settings, arguments)
    _print_board(outcome.board)
    typer.echo(f"{folder / 'leaderboard.csv'}")
    report_failures(outcome.failures)


def execute_or_tell(
    data: Dataset,
    labels: Sequence[str],
    folder: Path,
    settings: Settings,
    arguments: dict[str, Any],
    wanted: Mapping[str, Collection[str]] | None = None,
) -> Outcome:
    """:func:`cpam_bench.eval.run.execute`, telling the user of Ctrl-C (exit code 130) and of what the scoring met."""
    from cpam_bench.eval.run.execute import execute

    try:
        outcome = execute(data, labels, folder, settings, arguments=arguments, wanted=wanted, say=_say)
    except KeyboardInterrupt:
        _say(f"\nInterrupted. What is finished is safe in {folder}; the same command continues.")
        raise typer.Exit(130) from None
    _report_scoring(outcome.scores.damaged, outcome.scores.truncated)
    return outcome


def report_failures(failures: Sequence[Failure]) -> None:
    """Name the edits that failed, if any, and end with exit code 1."""
    if failures:
        _say(f"{len(failures)} edits failed; the same command tries them again:")
        for failure in failures:
            _say(f"  {failure.method} on {failure.sample}: {failure.error}")
        raise typer.Exit(1)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run.")],
    metrics: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Metrics to measure; others that hold are kept.")
    ] = None,
    clip: Clip = None,
    device: Device = None,
) -> None:
    """Measure the edits of a run again, with other metrics or another scorer if you like.

    Writes scores.csv, scores.json (the protocol of each metric) and leaderboard.csv into the run's folder. Exit code 1
    means that files of the run are damaged.
    """
    from cpam_bench.eval.analysis.leaderboard import leaderboard
    from cpam_bench.eval.metrics.metric import METRICS
    from cpam_bench.eval.run.execute import choose_device, quiet
    from cpam_bench.eval.scoring.score import choose
    from cpam_bench.eval.scoring.score import score as measure
    from cpam_bench.eval.store.store import Store, locked

    quiet()
    store = Store.open(folder)
    names = choose(split_names(metrics)) if metrics else list(METRICS)
    with locked(folder):
        scores = measure(store, names, clip, choose_device(device))
        board = leaderboard([folder])
        board.write(folder)
    _report_scoring(scores.damaged, scores.truncated)
    _print_board(board)
    typer.echo(f"{folder / 'scores.csv'}")
    if scores.damaged:
        raise typer.Exit(1)


@app.command()
def status(folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run.")]) -> None:
    """Show how far a run is: from another shell while it runs, or later."""
    from cpam_bench.eval.audit.status import render
    from cpam_bench.eval.audit.status import status as look

    _console().print(render(look(folder)))


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run, wherever it is now.")],
    clip: Annotated[
        str | None, typer.Option(metavar="SCORER", help="Where the scorer is, if not where the run had it.")
    ] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Which sample is scored again.")] = 0,
) -> None:
    """Hash everything in a run against its records, and score one of its samples again.

    Exit code 1 means that something is not what the records say; each such file is named.
    """
    from cpam_bench.eval.audit.verify import verify as check

    found = check(folder, clip, device, seed)
    for line in found.wrong:
        _say(f"wrong: {line}")
    for line in found.unchecked:
        _say(f"not checked: {line}")
    typer.echo(f"{found.files} files looked at, {found.scores} scores measured again, {len(found.wrong)} wrong")
    if found.wrong:
        raise typer.Exit(1)


@app.command()
def rerun(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run, wherever it is now.")],
    check: Annotated[int, typer.Option(metavar="N", min=1, help="How many edits, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the draw.")] = 0,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Where the backbone is, if not where the run had it.")
    ] = None,
    device: Device = None,
    tolerance: Annotated[
        int, typer.Option(metavar="LEVELS", min=0, help="Difference of a pixel, of 255, that is let pass.")
    ] = 0,
) -> None:
    """Make some edits of a run again and compare them pixel by pixel; nothing is written.

    The same processor, threads and versions give the same bits. Exit code 1 means that an edit came out otherwise.
    """
    from cpam_bench.eval.audit.verify import rerun as repeat

    repeats = repeat(folder, check, seed, backbone, device, typer.echo)
    other = [one for one in repeats if one.error or one.largest > tolerance]
    typer.echo(f"{len(repeats) - len(other)} of {len(repeats)} edits are as they were")
    if other:
        raise typer.Exit(1)


@app.command("leaderboard")
def leaderboard_command(
    folders: Annotated[
        list[Path], typer.Argument(parser=place, metavar="RUN...", help="Folders of runs that have been scored.")
    ],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table there.")] = None,
    slice: Sliced = None,
) -> None:
    """Print the leaderboard of a run, or of several as one table.

    Runs that are not comparable (other data, backbone, resolution, steps or metric protocol) are refused.
    """
    from cpam_bench.eval.analysis.leaderboard import leaderboard, sliced, write_sliced

    if slice:
        boards = sliced(folders, slice)
        if csv:
            write_sliced(boards, csv)
        for title, part in boards.items():
            _console().print(Text(f"\n{title}", style="bold"))
            _print_board(part)
        return
    board = leaderboard(folders)
    if csv:
        board.write_rows(csv)
    _print_board(board)


@app.command()
def figure(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write: .png or .pdf.")],
    methods: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Columns.", show_default="all but identity")
    ] = None,
    samples: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Rows; else they are picked.")] = None,
    pick: Annotated[
        Literal["random", "gain", "loss"],
        typer.Option(help="Rows by chance, or where the first method gains or loses most CLIPScore to the second."),
    ] = "random",
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Rows to pick.")] = 6,
    seed: Annotated[int, typer.Option(metavar="N", help="Of --pick random.")] = 0,
) -> None:
    """Draw Figure 5 of a run: a row a sample, a column a method, source and region first, the prompt below."""
    from cpam_bench.eval.figures.figure5 import choose, write
    from cpam_bench.eval.figures.figure5 import figure as draw
    from cpam_bench.eval.methods import registry
    from cpam_bench.eval.store.store import Store

    if out.suffix.lower() not in (".png", ".pdf"):
        raise UserError(f"{out}: a figure is written as .png or .pdf")
    store = Store.open(folder)
    known = list(store.run.methods)
    wanted = registry.split(methods) if methods else [label for label in known if label != "identity"]
    if unknown := [label for label in wanted if label not in known]:
        raise UserError(f"{folder} has no method {', '.join(unknown)}; it has {', '.join(known)}")
    rows = [name.strip() for name in samples.split(",")] if samples else choose(store, wanted, pick, count, seed)
    picture = draw(store, rows, wanted)
    write(picture, out)
    typer.echo(f"{out}")


def _print_board(board: Leaderboard) -> None:
    from cpam_bench.eval.analysis.leaderboard import render

    _console().print(render(board))


def _report_scoring(damaged: list[str], truncated: list[str]) -> None:
    for line in damaged:
        _say(f"damaged: {line}; run the same command again to make it anew")
    for line in truncated:
        _say(line)


def _console() -> Console:
    console = Console(highlight=False)
    # Into a file or pipe there is no width to fit, and a table folded to 80 columns is hard to read.
    return console if console.is_terminal else Console(highlight=False, width=140)


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _file_name(name: str) -> str:
    """A data set's or backbone's name as part of a folder's: the last part of a path, nothing unsafe."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name or "root")


app.command()(cli_edit.edit)
app.command()(cli_edit.studio)
app.command()(cli_tables.table)
app.command()(cli_tables.truth)
app.command()(cli_ablate.ablate)
app.command()(cli_report.report)
app.command()(cli_report.export)
app.command()(cli_sensitivity.sensitivity)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_pocket.app, name="pocket")
app.add_typer(cli_study.app, name="study")


def main() -> None:
    """Entry point: what a user can cause is one message and an exit code, and never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from cpam_bench.imba.errors import DiskFull

    try:
        app()
    except UserError as error:
        _say(f"Error: {error}")
        sys.exit(2)
    except DiskFull as error:
        _say(f"Error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
