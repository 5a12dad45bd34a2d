"""``cpam-bench leaderboard``, ``ablate``, ``sensitivity`` and ``truth``: what runs say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cpam_bench.eval.commands.options import (
    Clip,
    DataSet,
    Device,
    Dtype,
    Limit,
    Model,
    Samples,
    Seed,
    Sliced,
    Steps,
    split_names,
)
from cpam_bench.eval.commands.run import RUNS, execute_or_tell, file_name, only, ready
from cpam_bench.eval.commands.terminal import console, print_board, report_failures
from cpam_bench.imba.common.labels import split
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError


def leaderboard(
    folders: Annotated[
        list[Path], typer.Argument(parser=place, metavar="RUN...", help="Folders of runs that have been scored.")
    ],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table there.")] = None,
    slice: Sliced = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Metrics and costs to show, or all.",
            show_default="CLIPScore, background LPIPS, the gain to the truth where it is known, seconds",
        ),
    ] = None,
) -> None:
    """Print the leaderboard of a run, or of several as one table.

    Runs that are not comparable (other data, backbone, resolution, steps or metric protocol) are refused.
    """
    from rich.text import Text

    from cpam_bench.eval.analysis.leaderboard import leaderboard as make
    from cpam_bench.eval.analysis.leaderboard import sliced, write_sliced

    names = split(columns) if columns else None
    if slice:
        boards = sliced(folders, slice)
        if csv:
            write_sliced(boards, csv)
        for title, part in boards.items():
            console().print(Text(f"\n{title}", style="bold"))
            print_board(part, names)
        return
    board = make(folders)
    if csv:
        board.write_rows(csv)
    print_board(board, names)


def ablate(
    groups: Annotated[
        str, typer.Option(metavar="A,B,...", help="What to vary: modules, T, L, normal, refine, guidance.")
    ] = "modules,T,L,normal,refine,guidance",
    method: Annotated[
        str, typer.Option(metavar="METHOD", help="CPAM's configuration that is varied: cpam, cpam-release, cpam:...")
    ] = "cpam",
    dataset: DataSet = "pocket",
    backbone: Model = "pocket",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the run.",
            show_default="results/runs/ablation-DATASET-BACKBONE",
            file_okay=False,
        ),
    ] = None,
    tables: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where ablation.csv, modules.png and guidance.png go.",
            show_default="the run's folder",
            file_okay=False,
        ),
    ] = None,
    samples: Samples = None,
    limit: Limit = None,
    rows: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rows of the picture: one a kind of edit, then more.")
    ] = 6,
    slice: Sliced = None,
    steps: Steps = 50,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = "float32",
    clip: Clip = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes that edit.", show_default="as cpam-bench run")
    ] = None,
) -> None:
    """Vary CPAM's parts and settings, and compare each with the default on the same samples.

    modules: preservation and localization on and off (Figure 6). T, L: where a retained object is kept. normal: the
    share of normal layers. refine: M_t refined or not. guidance: 3 to 15. A setting edits only the samples that it can
    act on (T and L those whose object is retained). The same command again finishes what is missing; groups may be
    added. Exit code 1 means that some edits failed.
    """
    arguments = {key: str(value) if isinstance(value, Path) else value for key, value in locals().items()}
    from cpam_bench.eval.analysis import ablation

    plan = ablation.plan(split_names(groups), method, steps)

    import cpam_bench.imba.dataset
    from cpam_bench.eval.run.settings import Settings

    data = ready(only(cpam_bench.imba.dataset.load(dataset).first(limit), samples), "refuse")
    folder = out or RUNS / f"ablation-{file_name(data.name)}-{file_name(backbone)}"
    settings = Settings(
        backbone=backbone, steps=steps, seed=seed, dtype=dtype, device=device, clip=clip, workers=workers
    )
    outcome = execute_or_tell(data, list(plan.editors), folder, settings, arguments, plan.wanted(data.samples))

    from cpam_bench.eval.figures import figure6
    from cpam_bench.eval.figures.figure5 import write
    from cpam_bench.eval.scoring.scored import Scored

    scored = Scored.open(folder)
    place = tables or folder
    chosen = [sample.id for sample in data]
    found = ablation.table(scored, plan, slice, chosen)
    assert outcome.board is not None  # it is scored
    title = f"ablation of {plan.base}; {outcome.board.title.partition(': ')[2]}"
    ablation.write_table(found, place / "ablation.csv")
    written = [place / "ablation.csv"]
    if "modules" in plan.groups and (shown := figure6.one_of_each_kind(scored, plan, rows, chosen)):
        write(figure6.figure(scored, plan, shown), place / "modules.png")
        written.append(place / "modules.png")
    if "guidance" in plan.groups:
        figure6.plot(found, place / "guidance.png", title)
        written.append(place / "guidance.png")
    console().print(ablation.render(found, plan, title))
    for path in written:
        typer.echo(f"{path}")
    report_failures(outcome.failures)


def sensitivity(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run that has been scored.")],
    clip: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORER", help="Another CLIP to score with, as cpam-bench run takes it; may be repeated."),
    ] = None,
    trunks: Annotated[
        str, typer.Option(metavar="A,B,...", help="Trunks of LPIPS: alex, vgg, squeeze.")
    ] = "alex,vgg,squeeze",
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the table goes.", show_default="RUN/sensitivity.csv")
    ] = None,
    device: Device = None,
) -> None:
    """Score the same pictures under every protocol at hand: CLIP models, LPIPS trunks and conventions, resizing.

    Prints how far each method's numbers and ranks move, and what each choice does to the order of the methods. The
    run's own scorer is always among them; scores.csv is left as it is. What cannot be loaded is named.
    """
    from cpam_bench.eval.analysis import sensitivity as choices
    from cpam_bench.eval.run.settings import choose_device, quiet

    where = choose_device(device)

    wanted = split_names(trunks)
    if unknown := [name for name in wanted if name not in choices.TRUNKS]:
        raise UserError(f"unknown trunk {unknown[0]!r}; there are: {', '.join(choices.TRUNKS)}")
    quiet()
    found = choices.sensitivity(folder, clip or (), [name for name in choices.TRUNKS if name in wanted], where)
    target = csv or folder / "sensitivity.csv"
    found.write(target)
    console().print(choices.render(found, f"sensitivity of {folder} to the protocol"))
    typer.echo(f"{target}")


def truth(folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a scored run.")]) -> None:
    """How near edits come to what they should have led to, a row a kind of edit and method; only for rendered data.

    Each column says over what it is measured: LPIPS to the truth over whole pictures, of the edit and of the untouched
    source; and inside the region to alter how much nearer the edit is to the truth than to the source.
    """
    from rich.table import Table
    from rich.text import Text

    from cpam_bench.eval.analysis.numbers import number
    from cpam_bench.eval.analysis.truth import TITLES, by_kind

    shown = Table()
    for title in ("kind", "method", "n", *TITLES.values()):
        shown.add_column(title, justify="left" if title in ("kind", "method") else "right")
    for row in by_kind(folder).to_dict("records"):
        gain = number(row["lpips_truth_gain"], 4, sign=True)
        closer = "–" if row["closer"] != row["closer"] else f"{row['closer']:.0%}"
        lpips = (number(row[name], 4) for name in ("lpips_truth", "lpips_source"))
        shown.add_row(row["kind"], Text(row["method"]), str(row["n"]), *lpips, gain, closer)
    console().print(shown)
