"""Figure 6 of an ablation: the four combinations of the two modules; and how its scores go with guidance."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from PIL import Image

from cpam_bench.eval.analysis.ablation import SHOWN, Ablation
from cpam_bench.eval.figures import figure5
from cpam_bench.eval.methods import registry
from cpam_bench.eval.metrics.metric import facts
from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.common.labels import parameters


def figure(scored: Scored, ablation: Ablation, samples: Sequence[str]) -> Image.Image:
    """The figure as a picture, RGB.

    Raises:
        UserError: an edit is missing, failed or damaged.
    """
    heads = {label: words for words, label in ablation.labels["modules"].items()}
    heads[ablation.base] = "both modules"
    return figure5.figure(scored.stores[0], samples, list(heads), titles=heads)


def one_of_each_kind(scored: Scored, ablation: Ablation, count: int, samples: Sequence[str]) -> list[str]:
    """The first samples of every kind of edit, in the run's order, that all four combinations have edited."""
    labels = set(ablation.labels["modules"].values())
    edited = {row.label: {edit.sample for edit in row.done} for row in scored.rows if row.label in labels}
    everywhere = set.intersection(*edited.values()) if len(edited) == len(labels) else set()
    done = [sample for sample in samples if sample in everywhere]
    kinds: dict[tuple[str, bool], str] = {}
    for sample in done:
        task = scored.task(sample)[1]
        kinds.setdefault((task.kind, task.several_objects), sample)
    chosen = list(kinds.values())[:count]
    return chosen + [sample for sample in done if sample not in chosen][: count - len(chosen)]


def plot(rows: pd.DataFrame, path: Path, title: str) -> None:
    """Draw CLIPScore and background LPIPS against the scale of guidance, with their intervals, as PNG, PDF or SVG."""
    from matplotlib.figure import Figure

    mine = rows[(rows["group"] == "guidance") & (rows["slice"] == rows["slice"].iloc[0])]
    sheet = Figure(figsize=(6.4, 5.0), layout="constrained")
    axes = sheet.subplots(len(SHOWN), 1, sharex=True)
    for axis, metric, colour in zip(axes, SHOWN, ("#2457c5", "#b0451f"), strict=True):
        line = mine[mine["metric"] == metric].assign(scale=lambda table: [_scale(label) for label in table["method"]])
        line = line.sort_values("scale")
        spread = [line["mean"] - line["low"], line["high"] - line["mean"]]
        axis.errorbar(line["scale"], line["mean"], yerr=spread, fmt="o-", color=colour, capsize=3, linewidth=1.5)
        default = line[line["default"]]
        axis.plot(default["scale"], default["mean"], "o", markersize=11, fillstyle="none", color=colour)
        axis.set_ylabel(facts(metric).heading)
        axis.set_xticks(line["scale"])
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("scale of classifier-free guidance (the default is ringed; bars are 95 % intervals)")
    # matplotlib's own wrapping is left out of its layout, which then cuts lines off.
    axes[0].set_title(textwrap.fill(title, 80), fontsize=9, loc="left")
    buffer = io.BytesIO()
    sheet.savefig(buffer, format=path.suffix.lstrip("."), dpi=200)
    write_atomic(path, buffer.getvalue())


def _scale(label: str) -> float:
    return float(parameters(registry.make(label)[1])["guidance"])
