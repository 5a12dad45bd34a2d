"""``cpam-bench ablate``: Figure 6 and beyond."""

from __future__ import annotations

import dataclasses
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
    Seed,
    Sliced,
    Steps,
    split_names,
)
from cpam_bench.imba.errors import UserError


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
    samples: Annotated[str | None, typer.Option(metavar="ID,ID,...", help="Edit only these samples.")] = None,
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
    from cpam_bench.eval.analysis import ablation as ablation

    plan = ablation.plan(split_names(groups), method, steps)

    import cpam_bench.imba.dataset
    from cpam_bench.eval.commands.main import RUNS, _console, _file_name, _say, execute_or_tell, report_failures
    from cpam_bench.eval.run.execute import Settings

    data = cpam_bench.imba.dataset.load(dataset).first(limit)
    for warning in cpam_bench.imba.dataset.require_complete(data):
        _say(str(warning))
    if samples:
        wanted = split_names(samples)
        known = {sample.id for sample in data}
        if unknown := [name for name in wanted if name not in known]:
            raise UserError(
                f"{data.name} has no sample {', '.join(unknown)}; it has {', '.join(sorted(known)[:8])} ..."
            )
        data = dataclasses.replace(data, samples=[sample for sample in data if sample.id in set(wanted)])
    folder = out or RUNS / f"ablation-{_file_name(data.name)}-{_file_name(backbone)}"
    settings = Settings(
        backbone=backbone, steps=steps, seed=seed, dtype=dtype, device=device, clip=clip, workers=workers
    )
    outcome = execute_or_tell(data, list(plan.editors), folder, settings, arguments, plan.wanted(data.samples))

    from cpam_bench.eval.figures.figure5 import write
    from cpam_bench.eval.store.store import Store

    store = Store.open(folder)
    place = tables or folder
    chosen = [sample.id for sample in data]
    found = ablation.table(store, plan, slice, chosen)
    title = f"ablation of {plan.base}; {outcome.board.title.partition(': ')[2]}"
    ablation.write_table(found, place / "ablation.csv")
    written = [place / "ablation.csv"]
    if "modules" in plan.groups and (shown := ablation.one_of_each_kind(store, plan, rows, chosen)):
        write(ablation.picture(store, plan, shown), place / "modules.png")
        written.append(place / "modules.png")
    if "guidance" in plan.groups:
        ablation.plot(found, place / "guidance.png", title)
        written.append(place / "guidance.png")
    _console().print(ablation.render(found, plan, title))
    for path in written:
        typer.echo(f"{path}")
    report_failures(outcome.failures)
