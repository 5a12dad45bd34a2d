"""``cpam-bench metrics``: what can be measured."""

from __future__ import annotations

from typing import Annotated

import typer

from cpam_bench.eval.commands.terminal import console, print_named, say


def metrics(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Show these with parameters.")] = None,
) -> None:
    """List the metrics, which way is better, what a sample must have for each, and its parameters.

    A metric is chosen by its label, as in cpam-bench score RUN --metrics clip_score,lpips_background:net=vgg.
    """
    from rich.table import Table

    from cpam_bench.eval.metrics.metric import DEFAULT, METRICS, PROTOCOLS
    from cpam_bench.eval.metrics.networks import PLACES, ROLES

    if names:
        print_named(METRICS, names)
        return
    found, broken = METRICS.load_all()
    shown = console()
    table = Table(title="metrics", title_justify="left")
    for column in ("name", "title", "better", "range", "unit", "needs", "default", "package"):
        table.add_column(column, overflow="fold")
    for name, metric in found.items():
        low, high = ("" if end is None else f"{end:g}" for end in metric.range)
        cells = (name, metric.title, metric.better, f"{low} to {high}" if low or high else "any", metric.unit)
        default = "✓" if name in DEFAULT else ""
        table.add_row(*cells, ", ".join(metric.needs).replace("_", " "), default, METRICS.package_of(name))
    shown.print(table)
    for name, labels in PROTOCOLS.items():
        shown.print(f"--protocol {name}: {', '.join(labels)}")
    for role, words in ROLES.items():
        usual = f" (usually {PLACES[role]})" if role in PLACES else ""
        shown.print(f"--network {role}=PLACE: {words}{usual}")
    shown.print("cpam-bench metrics NAME shows the formula and the parameters of a metric.")
    for reason in broken.values():
        say(f"broken: {reason}")
