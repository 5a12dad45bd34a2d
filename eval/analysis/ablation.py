"""Figure 6 and beyond: what each part and setting of CPAM does, each against the default on the same samples.

A configuration is a method by name (``cpam:localization=false``), so that an ablation is a run like any other: edited,
stored, scored and resumed by the same code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from cpam_bench.eval.analysis.numbers import DAGGER, FEW, estimate
from cpam_bench.eval.analysis.slices import Slice, slices
from cpam_bench.eval.analysis.statistics import Estimate, mean_interval, paired_difference
from cpam_bench.eval.methods import registry
from cpam_bench.eval.metrics.metric import facts
from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.imba.common.files import write_rows
from cpam_bench.imba.common.labels import canonical, parameters
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group as Printed

    from cpam_bench.eval.store.records import Task
    from cpam_bench.imba.sample import Sample

Name = Literal["modules", "T", "L", "normal", "refine", "guidance"]
NAMES: tuple[Name, ...] = get_args(Name)

SHOWN = ("clip_score", "lpips_background")
"""The metrics that are printed and drawn; the CSV has all that were measured."""

MODULES = {
    "both": {},
    "no localization": {"localization": False},
    "no preservation": {"preservation": False},
    "neither": {"preservation": False, "localization": False},
}
"""The four combinations of Figure 6."""


def _anywhere(sample: Sample | Task) -> bool:
    return True


@dataclass(frozen=True)
class Group:
    """Settings that are compared with each other.

    Attributes:
        title: of its table.
        settings: words for a setting -> what it changes of the base.
        acts: on which samples it can change anything; the others are neither edited nor counted.
        where: those samples in words, empty for all.
    """

    title: str
    settings: Mapping[str, Mapping[str, Any]]
    acts: Callable[[Sample | Task], bool] = _anywhere
    where: str = ""


@dataclass(frozen=True)
class Ablation:
    """The configurations of an ablation.

    Attributes:
        base: label of the method whose settings are varied.
        editors: canonical label -> editor, the base first.
        groups: name -> group.
        labels: name -> words for a setting -> label, the base among them.
    """

    base: str
    editors: Mapping[str, Any]
    groups: Mapping[Name, Group]
    labels: Mapping[Name, Mapping[str, str]]

    def wanted(self, samples: Iterable[Sample]) -> dict[str, list[str]]:
        """Sample id -> the labels of all that can act on it, the base among them."""
        acting = {
            sample.id: {self.base}.union(
                *(self.labels[name].values() for name, group in self.groups.items() if group.acts(sample))
            )
            for sample in samples
        }
        return {id: [label for label in self.editors if label in labels] for id, labels in acting.items()}


def plan(groups: Sequence[str], method: str = "cpam", steps: int = 50) -> Ablation:
    """The configurations of some groups.

    Args:
        groups: names out of :data:`NAMES`.
        method: the base, ``cpam`` or another configuration of it.
        steps: of the run; T beyond them means never.

    Raises:
        UserError: an unknown group, or a method that is not CPAM.
    """
    if unknown := [name for name in groups if name not in NAMES]:
        raise UserError(f"unknown group {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if not groups:
        raise UserError(f"no groups are given; there are: {', '.join(NAMES)}")
    base, made = registry.make(method)
    editor: Any = made
    chosen = {name: group for name, group in _groups(editor, steps).items() if name in groups}
    settable = parameters(editor)
    changed = {key for group in chosen.values() for setting in group.settings.values() for key in setting}
    if missing := sorted(changed - set(settable)):
        raise UserError(f"--method {method}: only CPAM can be ablated; this method has no {', '.join(missing)}")
    editors: dict[str, Any] = {base: editor}
    labels: dict[Name, dict[str, str]] = {}
    for name, group in chosen.items():
        labels[name] = {}
        for words, setting in group.settings.items():
            varied = dataclasses.replace(editor, **setting)
            label = canonical(base.partition(":")[0], varied)
            editors[label] = varied
            if label not in labels[name].values():
                labels[name][words] = label
        if base not in labels[name].values():  # the base has a setting that is not in the list
            labels[name] = {"base": base, **labels[name]}
    return Ablation(base, editors, chosen, labels)


def _groups(editor: Any, steps: int) -> dict[Name, Group]:
    first_steps = [step for step in (0, 3, 10, 25) if step < steps]
    retained = "samples whose object is retained"
    refined_kinds, retained_kinds = getattr(editor, "refined_kinds", ()), getattr(editor, "retained_kinds", ())
    refined = {"replace": "replacements", "pose": "changes of pose", "background": "backgrounds", "add": "additions"}

    def retains(sample: Sample | Task) -> bool:
        return sample.retain_object and sample.kind in retained_kinds

    def refines(sample: Sample | Task) -> bool:
        return sample.kind in refined_kinds

    return {
        "modules": Group("Preservation and localization (Figure 6)", MODULES),
        "T": Group(
            "T: first step, from 0, that keeps a retained object (Eq. 2)",
            {f"T = {step}": {"start_step": step} for step in first_steps} | {"never": {"start_step": steps}},
            retains,
            retained,
        ),
        "L": Group(
            "L: first layer, from 0, that keeps a retained object (Eq. 2)",
            {f"L = {layer}": {"start_layer": layer} for layer in (0, 4, 7, 8, 12)},
            retains,
            retained,
        ),
        "normal": Group(
            "Share of self-attention layers left as they are (4.2.3)",
            {f"{share:.0%}": {"normal_layers": share} for share in (0.0, 0.05, 0.1, 0.2, 0.4)},
        ),
        "refine": Group(
            "Refinement of M_t (4.4)",
            {
                "fixed M_t": {"refine": False},
                "refined by the prompt": {"refine": True, "refine_words": "prompt"},
                "refined by the object": {"refine": True, "refine_words": "object"},
            },
            refines,
            " and ".join(words for kind, words in refined.items() if kind in refined_kinds),
        ),
        "guidance": Group(
            "Scale of guidance (Hi-Guidance of Table 1)",
            {f"{scale:g}": {"guidance": scale} for scale in (3.0, 5.0, 7.5, 10.0, 12.5, 15.0)},
        ),
    }


COLUMNS = ["slice", "group", "setting", "method", "default", "metric", "mean", "low", "high", "n"]
COLUMNS += ["difference", "difference_low", "difference_high", "difference_n"]


def table(scored: Scored, ablation: Ablation, slice: Slice | None = None, samples: Sequence[str] | None = None) -> Any:
    """Every configuration's means and its paired differences to the base: a data frame with :data:`COLUMNS`.

    Means are over the samples on which the group can act; ``slice`` is "all" for no slice.

    Args:
        scored: the run.
        ablation: what it was made of.
        slice: a block for every kind of edit and the like.
        samples: ids to count, by default all of the run.
    """
    counted = scored if samples is None else scored.only(samples)
    tasks = {sample: counted.task(sample)[1] for sample in counted.samples}
    rows = []
    for title, block in slices(counted, slice).items():
        for name, group in ablation.groups.items():
            mine = block.only([sample for sample in block.samples if group.acts(tasks[sample])])
            for words, label in ablation.labels[name].items():
                for metric in scored.metrics:
                    mean = mean_interval(mine.values(label, metric))
                    difference = _difference(mine.scores, label, ablation.base, metric)
                    head = (title or "all", name, words, label, label == ablation.base, metric)
                    rows.append((*head, *_numbers(mean), *_numbers(difference)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _numbers(found: Estimate) -> tuple[float, float, float, int]:
    return found.mean, found.low, found.high, found.n


def _difference(scores: pd.DataFrame, label: str, base: str, metric: str) -> Estimate:
    try:
        return paired_difference(scores, label, base, metric)
    except KeyError:  # one of the two has no value of it
        nothing = float("nan")
        return Estimate(nothing, nothing, nothing, 0)


def write_table(rows: pd.DataFrame, path: Path) -> None:
    """Write the table as CSV."""
    write_rows(path, COLUMNS, rows.itertuples(index=False))


def render(rows: pd.DataFrame, ablation: Ablation, title: str) -> Printed:
    """The tables of all groups for a terminal."""
    from rich.console import Group as Lines
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(title, style="bold")]
    for block, name in rows[["slice", "group"]].drop_duplicates().itertuples(index=False):
        mine = rows[(rows["slice"] == block) & (rows["group"] == name)]
        group = ablation.groups[name]
        over = [f"over {group.where}"] if group.where else []
        over += [block] if block != "all" else []
        parts.append(Text("\n" + ", ".join([group.title, *over]), style="italic"))
        head = Table()
        head.add_column("setting")
        head.add_column("n", justify="right")
        for metric in SHOWN:
            head.add_column(facts(metric).heading, justify="right")
            head.add_column("− default", justify="right")
        for words in mine["setting"].unique():
            by = mine[mine["setting"] == words].set_index("metric").to_dict("index")
            first = next(iter(by.values()))
            cells = []
            for metric in SHOWN:
                digits = facts(metric).digits
                found = by.get(metric)
                if found is None:
                    cells += ["–", "–"]
                    continue
                cells.append(estimate(found["mean"], found["low"], found["high"], digits, n=found["n"]))
                parted = (found["difference"], found["difference_low"], found["difference_high"])
                cells.append("" if found["default"] else estimate(*parted, digits, sign=True, n=found["difference_n"]))
            mark = " (default)" if first["default"] and words != "base" else ""
            head.add_row(f"{words}{mark}", str(first["n"]), *cells)
        parts.append(head)
    parts.append(
        Text(
            "Mean [95 % bootstrap interval over samples]; − default: paired difference to the default on the same"
            " samples, which holds the draw of normal layers too, since every configuration has its own seed."
        )
    )
    if ((rows["n"] < FEW) & rows["n"].gt(1)).any():
        parts.append(Text(f"{DAGGER}."))
    return Lines(*parts)
