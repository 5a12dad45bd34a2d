"""Figure 6 of an ablation: rows of samples; source, region, and the four combinations of the two modules."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from cpam_bench.eval.analysis.ablation import Ablation
from cpam_bench.eval.figures import figure5
from cpam_bench.eval.scoring.scored import Scored


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
