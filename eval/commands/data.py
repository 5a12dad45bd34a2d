"""``cpam-bench data``: look at a data set, check it, and build one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cpam_bench.eval.commands import masks as cli_masks
from cpam_bench.eval.commands.options import split_names
from cpam_bench.imba.dataset import Dataset, Problem, load, summarize, validate

app = typer.Typer(no_args_is_help=True, help="Look at a data set, check it, and build one.")

PAPER = {"samples": 104, "object retained": 43, "foreground": 97, "background": 7}
"""What Section 5.2 of the paper counts in IMBA; its 97 "object modifications" stand beside "foreground"."""

DatasetName = Annotated[
    str, typer.Argument(metavar="DATASET", help="pocket, or a folder with data.json, images/ and masks/.")
]


@app.command()
def info(dataset: DatasetName) -> None:
    """What a data set holds, beside what the paper says of IMBA, and what is missing from it.

    Files are looked for but not opened; validate opens them.
    """
    data = load(dataset)
    console = Console(soft_wrap=True, highlight=False)
    images = {sample.image for sample in data}
    console.print(
        f"[bold]{escape(data.name)}[/bold]  {escape(str(data.root))}\n"
        f"{len(data)} samples on {len(images)} images, from {data.records} records; "
        f"fingerprint {data.fingerprint[:12]}\n"
    )
    console.print(_counts(data))
    _print_problems(console, data, data.problems)


@app.command("validate")
def validate_command(dataset: DatasetName) -> None:
    """Open every file and list every problem; exit code 1 if a sample cannot be edited or scored."""
    data = load(dataset)
    problems = validate(data)
    # Neither wrapped nor marked up, so that a line is a problem and grep works.
    for problem in problems:
        typer.echo(str(problem))
    errors = [problem for problem in problems if problem.severity == "error"]
    bad = {problem.sample for problem in errors if problem.sample}
    typer.echo(
        f"{data.name}: {len(data)} samples, {len(data) - len(bad)} of them ready; {data.records - len(data)} records "
        f"unusable; {len(errors)} errors, {len(problems) - len(errors)} warnings"
    )
    if errors:
        raise typer.Exit(1)


@app.command()
def build(
    tedbench: Annotated[Path, typer.Option(help="A TEdBench download: input_list.json and originals/.")],
    annotations: Annotated[Path, typer.Option(help="The authors' data.json.")],
    out: Annotated[Path, typer.Option(help="The folder to make: new, empty, or from the same build.")],
    masks: Annotated[Path | None, typer.Option(help="A folder of masks, <stem>.png.")] = None,
) -> None:
    """Make IMBA from a TEdBench download, by copy, and name what could not be matched.

    An image is found by its name, else by its stem under another extension. Exit code 1 if anything is missing from
    the result; run it again with what was missing to complete it.
    """
    from cpam_bench.imba.build import build as build_imba

    report = build_imba(tedbench, annotations, out, masks)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{out}: {report.images} images, {report.masks} masks")
    groups = {
        "under another name": [f"{name} from {source}" for name, source in report.renamed.items()],
        "images not found": report.missing_images,
        "masks not found": report.missing_masks,
        "not in TEdBench's list": [f"{image}: {text}" for image, text in report.only_annotated],
        "in TEdBench's list alone": [f"{image}: {text}" for image, text in report.only_tedbench],
    }
    for title, names in groups.items():
        if names:
            console.print(f"{title} ({len(names)}):")
            for name in names:
                console.print(f"  {name}")
    if report.missing_images or report.missing_masks:
        raise typer.Exit(1)


@app.command()
def pocket(
    out: Annotated[Path, typer.Option(help="The folder to make: new, empty, or from the same build.")],
    count: Annotated[
        int | None,
        typer.Option("--random", metavar="N", min=1, help="Draw N other tasks instead of the benchmark's 24."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of that draw.")] = 0,
    kinds: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Kinds of those tasks.", show_default="all in turn")
    ] = None,
    scenery: Annotated[
        bool,
        typer.Option("--scenery/--no-scenery", help="Whether prompts say where the objects are; few of IMBA's do."),
    ] = True,
) -> None:
    """Render the embedded benchmark, or other tasks like it, into a folder: the same bytes every time."""
    from cpam_bench.imba.pocket.tasks import TASK_KINDS, TASKS, random_tasks
    from cpam_bench.imba.pocket.tasks import build as build_pocket

    if count is None and kinds is not None:
        raise typer.BadParameter("the benchmark's tasks are what they are; add --random N", param_hint="--kinds")
    wanted = TASK_KINDS if kinds is None else split_names(kinds)
    tasks = TASKS if count is None else random_tasks(count, seed, wanted)
    build_pocket(out, tasks, scenery)
    typer.echo(f"{out}: {len(tasks)} samples")


app.command("masks-check")(cli_masks.masks_check)
app.command()(cli_masks.annotate)


def _counts(data: Dataset) -> Table:
    altered = Counter(sample.altered for sample in data)
    kinds = Counter(sample.kind for sample in data)
    rows = {
        "samples": len(data),
        "object retained": sum(sample.retain_object for sample in data),
        "foreground": altered["foreground"],
        "object": altered["object"],
        "background": altered["background"],
    }
    table = Table()
    table.add_column("")
    table.add_column("here", justify="right")
    # The pocket benchmark is not IMBA: the paper's figures beside it would only mislead.
    paper = not data.is_pocket
    if paper:
        table.add_column("paper (IMBA)", justify="right")
    for name, count in rows.items():
        label = f'altered: "{name}"' if name in altered or name in ("foreground", "background") else name
        if name == "object" and not count:
            continue
        table.add_row(label, str(count), *([str(PAPER.get(name, "-"))] if paper else []))
    table.add_section()
    for kind, count in sorted(kinds.items()):
        table.add_row(f"kind: {kind}", str(count), *(["-"] if paper else []))
    several = sum(sample.several_objects for sample in data)
    if several:
        table.add_row("one of several objects", str(several), *(["-"] if paper else []))
    return table


def _print_problems(console: Console, data: Dataset, problems: list[Problem]) -> None:
    if not problems:
        console.print("Every file is there.")
    for line in summarize(problems, len(data)):
        console.print(f"- {line}", markup=False)
