"""The command line ``cpam-bench``.

What takes long to import (torch and all that stands on it) is imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval import cli_data, cli_edit, cli_pocket, cli_tables
from eval.study import cli as cli_study
from imba.errors import UserError

if TYPE_CHECKING:
    from eval.leaderboard import Leaderboard

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


@app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these with parameters.")] = None,
    parameters: Annotated[bool, typer.Option("--parameters", help="Show the parameters of all.")] = False,
) -> None:
    """List the editing methods, what each can do, and its parameters.

    The columns are those of the paper's Table 1. A parameter is set as in cpam:guidance=5,localization=false.
    """
    import dataclasses

    from cpam.editing import Capabilities
    from eval import registry

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
    from eval import registry

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
        str, typer.Option(metavar="A,B,...", help="Methods, each NAME or NAME:KEY=VALUE,KEY=VALUE.")
    ] = "cpam,masactrl",
    dataset: Annotated[
        str, typer.Option(metavar="pocket|PATH", help="Data set: the embedded one, or a folder in IMBA's layout.")
    ] = "pocket",
    backbone: Annotated[
        str, typer.Option(metavar="pocket|sd15|HUB_ID|PATH", help="Diffusion model to edit with.")
    ] = "pocket",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder of the run.", show_default=f"{RUNS}/DATASET-BACKBONE", file_okay=False
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Edit only the first N samples.")] = None,
    steps: Annotated[
        int, typer.Option(metavar="N", min=1, help="DDIM steps of the inversion and of the editing.")
    ] = 50,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    device: Device = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="Numbers that the networks compute with.")
    ] = "float32",
    references: Annotated[
        bool,
        typer.Option(
            "--references/--no-references",
            help="Also run identity, reconstruction and ddim, which bound the scale.",
        ),
    ] = True,
    clip: Clip = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Processes that edit, on the CPU each with a backbone of its own.",
            show_default="one a core for the pocket backbone on the CPU, else 1",
        ),
    ] = None,
) -> None:
    """Edit a data set with some methods, score the edits, and print the leaderboard.

    The same command again finishes what is missing and redoes nothing; methods and samples may be added to a run's
    folder, and anything else that would change its edits is refused. Exit code 1 means that some edits failed.
    """
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in locals().items()}
    from eval import registry

    editors = dict(registry.make(label) for label in registry.split(methods))
    if not editors:
        raise UserError("no methods are given; see: cpam-bench methods")
    if references:
        for name in registry.REFERENCES:
            label, editor = registry.make(name)
            editors.setdefault(label, editor)

    import imba.dataset

    data = imba.dataset.load(dataset).first(limit)
    for warning in imba.dataset.require_complete(data):
        _say(str(warning))
    place = _device(device)

    from cpam.backbone import Backbone
    from eval import runner
    from eval.clip import load_clip
    from eval.leaderboard import leaderboard
    from eval.parallel import run_parallel
    from eval.scoring import default_clip, score
    from eval.store import Store, locked

    _quiet()
    model = Backbone.load(backbone, device=place, dtype=dtype)
    description = runner.describe_run(
        arguments, data, data.samples, model, editors, steps=steps, seed=seed, dtype=dtype, device=place
    )
    # Before the editing, so that a scorer that cannot be had is known now and not hours later; on the CPU, so that it
    # takes no room from the editing.
    scorer = load_clip(clip or default_clip(data.is_pocket))
    processes = workers or ((os.cpu_count() or 1) if model.is_pocket and place == "cpu" else 1)
    folder = out or RUNS / f"{_file_name(data.name)}-{_file_name(backbone)}"
    with locked(folder):
        store = Store.create_or_resume(folder, description)
        _say(f"{len(editors)} methods on {len(data)} samples into {folder}")
        try:
            if processes > 1:
                failures = run_parallel(store, data.samples, list(editors), model, processes)
            else:
                failures = runner.run(store, data.samples, editors, model)
        except KeyboardInterrupt:
            _say(f"\nInterrupted. What is finished is safe in {folder}; the same command continues.")
            raise typer.Exit(130) from None
        scores = score(store, clip=scorer, device=place)
        _report_scoring(scores.damaged, scores.truncated)
        board = leaderboard([folder])
        board.write(folder)
    _print_board(board)
    typer.echo(f"{folder / 'leaderboard.csv'}")
    if failures:
        _say(f"{len(failures)} edits failed; the same command tries them again:")
        for failure in failures:
            _say(f"  {failure.method} on {failure.sample}: {failure.error}")
        raise typer.Exit(1)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
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
    from eval.leaderboard import leaderboard
    from eval.metrics import METRICS
    from eval.scoring import choose
    from eval.scoring import score as measure
    from eval.store import Store, locked

    _quiet()
    store = Store.open(folder)
    names = choose([name.strip() for name in metrics.split(",") if name.strip()]) if metrics else list(METRICS)
    with locked(folder):
        scores = measure(store, names, clip, _device(device))
        board = leaderboard([folder])
        board.write(folder)
    _report_scoring(scores.damaged, scores.truncated)
    _print_board(board)
    typer.echo(f"{folder / 'scores.csv'}")
    if scores.damaged:
        raise typer.Exit(1)


@app.command("leaderboard")
def leaderboard_command(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs that have been scored.")],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table there.")] = None,
) -> None:
    """Print the leaderboard of a run, or of several as one table.

    Runs that are not comparable (other data, backbone, resolution, steps or metric protocol) are refused.
    """
    from eval.leaderboard import leaderboard

    board = leaderboard(folders)
    if csv:
        board.write_rows(csv)
    _print_board(board)


@app.command()
def figure(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
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
    from eval import registry
    from eval.figure import DPI, choose
    from eval.figure import figure as draw
    from eval.store import Store

    if out.suffix.lower() not in (".png", ".pdf"):
        raise UserError(f"{out}: a figure is written as .png or .pdf")
    store = Store.open(folder)
    known = list(store.run.methods)
    wanted = registry.split(methods) if methods else [label for label in known if label != "identity"]
    if unknown := [label for label in wanted if label not in known]:
        raise UserError(f"{folder} has no method {', '.join(unknown)}; it has {', '.join(known)}")
    rows = [name.strip() for name in samples.split(",")] if samples else choose(store, wanted, pick, count, seed)
    picture = draw(store, rows, wanted)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out, resolution=DPI) if out.suffix.lower() == ".pdf" else picture.save(out, optimize=True)
    typer.echo(f"{out}")


def _print_board(board: Leaderboard) -> None:
    from eval.leaderboard import render

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


def _device(name: str | None) -> str:
    """The device asked for, or the default, made sure of."""
    import torch

    available = torch.cuda.is_available()
    if name is None:
        return "cuda" if available else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"unknown device {name!r}; give cpu, cuda or cuda:N")
    if name.startswith("cuda"):
        if not available:
            raise UserError(f"--device {name}: this machine has no CUDA device that torch can use; give --device cpu")
        index = int(name.partition(":")[2] or 0)
        if index >= torch.cuda.device_count():
            raise UserError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
    return name


def _file_name(name: str) -> str:
    """A data set's or backbone's name as part of a folder's: the last part of a path, nothing unsafe."""
    return re.sub(r"[^\w.-]+", "_", Path(name).name or "root")


def _quiet() -> None:
    """Keep libraries' own progress bars and chatter out of ours."""
    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()  # it warns of casts to float32 even where there is nothing to cast
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("httpx").setLevel(logging.WARNING)


app.command()(cli_edit.edit)
app.command()(cli_edit.studio)
app.command()(cli_tables.table)
app.command()(cli_tables.truth)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_pocket.app, name="pocket")
app.add_typer(cli_study.app, name="study")


def main() -> None:
    """Entry point: what a user can cause is one message and an exit code, and never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    from eval.store import DiskFull

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
