"""``cpam-bench data``: look at a data set, check it, and build one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cpam_bench.eval.commands.options import LayoutLabel, MaskThreshold, split_names
from cpam_bench.eval.commands.terminal import console as wide
from cpam_bench.eval.commands.terminal import print_named, say
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cpam_bench.imba.dataset import Dataset, Problem

app = typer.Typer(no_args_is_help=True, help="Look at a data set, check it, and build one.")

PAPER = {"samples": 104, "object retained": 43, "foreground": 97, "background": 7}
"""What Section 5.2 of the paper counts in IMBA; its 97 "object modifications" stand beside "foreground"."""

MOST_VALUES = 12
"""Of a tag that is counted; one of more is a remark of its own on each sample."""

FLOOR = 0.8
"""Mean IoU that clicks on pocket objects must reach."""

DatasetName = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="pocket, or a folder, table or URL; see: cpam-bench datasets."),
]


def datasets(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these with parameters.")] = None,
) -> None:
    """List the layouts of data sets that can be read, and the packages they come from.

    A layout is recognised by what is in the folder; --layout NAME:KEY=VALUE or layout = "..." in dataset.toml says it.
    """
    import inspect

    from rich.table import Table

    from cpam_bench.imba.layouts.layout import LAYOUTS

    if names:
        print_named(LAYOUTS, names, page=lambda layout: inspect.getdoc(inspect.getmodule(layout) or layout))
        return
    found, broken = LAYOUTS.load_all()
    shown = wide()
    table = Table(title="layouts of data sets", title_justify="left")
    for column in ("name", "title", "of", "package"):
        table.add_column(column, overflow="fold")
    for name, layout in found.items():
        table.add_row(name, layout.title, layout.reference, LAYOUTS.package_of(name))
    shown.print(table)
    shown.print("pocket is the embedded data set. cpam-bench data info DATASET says which layout it has, and why.")
    shown.print("cpam-bench datasets NAME shows a layout's parameters.")
    for reason in broken.values():
        say(f"broken: {reason}")


@app.command()
def info(dataset: DatasetName, layout: LayoutLabel = None, mask_threshold: MaskThreshold = None) -> None:
    """What a data set holds, beside what the paper says of IMBA, and what is missing from it.

    Files are looked for but not opened; validate opens them.
    """
    from rich.console import Console
    from rich.markup import escape

    from cpam_bench.imba.dataset import load

    data = load(dataset, layout, mask_threshold)
    console = Console(soft_wrap=True, highlight=False)
    images = {sample.image if isinstance(sample.image, Path) else id(sample.image) for sample in data}
    console.print(
        f"[bold]{escape(data.name)}[/bold]  {escape(str(data.root))}\n"
        f"{len(data)} samples on {len(images)} images, from {data.records} records; "
        f"fingerprint {data.fingerprint[:12]}\n"
        f"layout {escape(data.layout)}: {escape(data.why)}\n"
    )
    for name, fact in data.facts.items():
        console.print(f"{escape(name)}: {escape(fact)}")
    console.print(_counts(data))
    _print_problems(console, data, data.problems)


@app.command("validate")
def validate_command(
    dataset: DatasetName,
    layout: LayoutLabel = None,
    mask_threshold: MaskThreshold = None,
    resolution: Annotated[
        int | None, typer.Option(metavar="N", min=8, help="Of the model: also say where a region is lost at it.")
    ] = None,
) -> None:
    """Open every file and list every problem; exit code 1 if a sample cannot be edited or scored."""
    from cpam_bench.imba.dataset import load, validate

    data = load(dataset, layout, mask_threshold)
    problems = validate(data, resolution)
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
    out: Annotated[Path, typer.Option(help="The folder to make: new, empty, or from the same build.")],
    tedbench: Annotated[
        Path | None,
        typer.Option(help="A TEdBench download: input_list.json and originals/.", show_default="fetched"),
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="The authors' data.json.", show_default="fetched")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="A folder of masks, <stem>.png.", show_default="the masks that come along, which are ours"),
    ] = None,
) -> None:
    """Make IMBA, and name what could not be had: from where it is published, or from a TEdBench download, by copy.

    An image is found by its name, else by its stem under another extension. Exit code 1 if anything is missing from
    the result; run it again to complete it: what broke off is gone on with.
    """
    from rich.console import Console

    from cpam_bench.imba.build import build as build_imba
    from cpam_bench.imba.build import fetch_published

    if (tedbench is None) != (annotations is None):
        raise UserError("give --tedbench and --annotations, or neither to have both fetched")
    if tedbench is None or annotations is None:
        tedbench, annotations = fetch_published(say)
    report = build_imba(tedbench, annotations, out, masks)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{out}: {report.images} images, {report.masks} masks")
    if masks is None and report.masks:
        console.print("The masks are ours and not the authors', who published none; see the manual's page on masks.")
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
    ] = False,
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


@app.command("masks-check")
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
    from cpam_bench.imba.masking.segmenters import for_clicks
    from cpam_bench.imba.pictures import overlay
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
        from cpam_bench.imba.pocket.world import article

        backbone = Backbone.load("pocket")
        found = []
        for one in check.pocket_objects(count, seed):
            try:
                found.append(check.iou(select(backbone, one.image, f"{article(one.name)} {one.name}").mask, one.mask))
            except UserError as error:
                typer.echo(f"{one.name}: {error}")
        mean_found = f", mean IoU {sum(found) / len(found):.3f}" if found else ""
        typer.echo(f"named, cross-attention of the pocket backbone: {len(found)} of {count} found{mean_found}")
    if photos is not None:
        for name, image, points in check.photographs(photos, 10, clicks):
            mask = tool.segment(image, points)
            typer.echo(f"{name}: {mask.mask.mean():.0%} of the picture")
            rows.append(([image, overlay(image, mask.mask)], name))
    if out is not None:
        from cpam_bench.eval.figures.sheet import sheet
        from cpam_bench.imba.common.files import write_png

        write_png(out, sheet(["picture", "mask", "exact mask"], rows, edge=160))
    if mean < FLOOR:
        raise typer.Exit(1)


@app.command()
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


def _counts(data: Dataset) -> Table:
    from rich.table import Table

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
    paper = data.is_imba
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
    for name, counts in _tags(data).items():
        if len(counts) <= MOST_VALUES:
            table.add_section()
            for value, count in sorted(counts.items()):
                table.add_row(f"{name}: {value}" if value else name, str(count), *(["-"] if paper else []))
    several = sum(sample.several_objects for sample in data)
    if several:
        table.add_row("one of several objects", str(several), *(["-"] if paper else []))
    return table


def _tags(data: Dataset) -> dict[str, Counter[str]]:
    """Name -> value -> how many samples have the tag."""
    found: dict[str, Counter[str]] = {}
    for sample in data:
        for tag in sample.tags:
            name, _, value = tag.partition("=")
            found.setdefault(name, Counter())[value] += 1
    return found


def _print_problems(console: Console, data: Dataset, problems: list[Problem]) -> None:
    if not problems:
        console.print("Every file is there.")
    from cpam_bench.imba.dataset import summarize

    for line in summarize(problems, len(data)):
        console.print(f"- {line}", markup=False)
