"""The paper's tables, alone and with what was measured beside them.

The published numbers are CSV files in ``eval/paper``.  What was measured is matched with them by the editors' title
("CPAM", "MasaCtrl"), and only for methods at their defaults: another configuration is another method.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from cpam_bench.eval.analysis.slices import Slice, slices
from cpam_bench.eval.analysis.statistics import Estimate, kendall_tau, mean_interval, ranks
from cpam_bench.eval.scoring.scored import Scored

if TYPE_CHECKING:
    from cpam_bench.cpam.editing import Editor

Format = Literal["md", "csv", "latex"]

PAPER = Path(__file__).parents[1] / "paper"
"""Folder of the published tables; its README says where they come from."""

CAPTIONS = {
    1: "Functional comparison across editing methods. Local Edit: region-specific editing. Obj. Removal: ability to "
    "remove objects. Caption-Free: does not require the original image caption. Mask Ctrl: mask-based region control. "
    "Hi-Guidance: compatible with high classifier-free guidance scales. FT: fine-tuning method.",
    2: "Comparison with state-of-the-art methods using CLIPScore to measure text-image alignment and LPIPS "
    "(background) to evaluate background preservation. Imagic is the fine-tuning method (FT).",
    3: "User study results measuring participants' opinion (1: very bad, 6: very good) in rating image editing "
    "methods. Imagic is the fine-tuning method (FT).",
}
"""What the paper writes above its tables."""

FEWEST = 5
"""Methods that a run must share with the paper before their order by other models is set beside the paper's."""

MARKING = {
    2: "In print 0.149 (CPAM) is underlined as the second best LPIPS; by the numbers it is 0.148 (DiffEdit), as here.",
    3: "In print no second best of Realistic is underlined; by the numbers it is 4.57 (LEDITS++), as here.",
}
"""Where the paper's own marks are not those of its numbers."""

_FILES = {1: "table1_capabilities.csv", 2: "table2_metrics.csv", 3: "table3_user_study.csv"}
_CAPABILITIES = {
    "local_edit": "Local Edit",
    "object_removal": "Obj. Removal",
    "caption_free": "Caption-Free",
    "mask_control": "Mask Ctrl",
    "high_guidance": "Hi-Guidance",
}
_SD15 = {"sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"}


@dataclass(frozen=True)
class Metric:
    """A column of Table 2: its name in ``scores.csv``, its head, the digits that the paper prints, and its sense."""

    name: str
    title: str
    digits: int
    higher: bool


METRICS = (Metric("clip_score", "CLIPScore ↑", 2, True), Metric("lpips_background", "LPIPS (background) ↓", 3, False))


@dataclass(frozen=True)
class Cell:
    """A cell: its text, whether that is the best or the second of its column, and what follows it unmarked."""

    text: str
    mark: Literal["", "best", "second"] = ""
    after: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under a common title; the first cell of a row names it."""

    title: str
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Table:
    """A table before it is written in some format.

    Attributes:
        number: in the paper.
        caption: what it shows, and by which protocol.
        groups: (head, number of columns) over the columns after the first; empty for none.
        heads: of the columns, the first too.
        blocks: the rows; titles are shown if there are several.
        notes: what a reader must know besides.
        data: the same as a plain table with all digits.
    """

    number: int
    caption: str
    groups: list[tuple[str, int]]
    heads: list[str]
    blocks: list[Block]
    notes: list[str]
    data: pd.DataFrame


def published(number: int) -> pd.DataFrame:
    """A published table: ``method`` and then its columns, as text, since the printed digits are part of it."""
    return pd.read_csv(PAPER / _FILES[number], dtype=str)


def table1(editors: Mapping[str, type[Editor]] | None = None, broken: Mapping[str, str] | None = None) -> Table:
    """Table 1, and beside it what the installed editors declare of themselves.

    Args:
        editors, broken: name -> class, and name -> why it cannot be loaded; by default all that are installed, as
            :func:`cpam_bench.eval.methods.registry.load_all` gives them.
    """
    if editors is None:
        from cpam_bench.eval.methods import registry

        editors, broken = registry.load_all()
    paper = published(1)
    editing = {name: editor for name, editor in editors.items() if editor.edits}
    matched, notes = _match({name: editor.title for name, editor in editing.items()}, list(paper["method"]))
    rows: list[list[Cell]] = []
    records: list[dict[str, Any]] = []
    differences: list[str] = []
    names = _lines(list(paper["method"]), matched, list(editing))
    printed = paper.set_index("method").to_dict("index")
    for method, name in names.items():
        said = {column: value == "yes" for column, value in printed.get(method, {}).items()}
        declared = dataclasses.asdict(editing[name].capabilities) if name else {}
        wrong = [column for column in said if column in declared and said[column] != declared[column]]
        heads = {**_CAPABILITIES, "fine_tuned": "FT"}
        shown = getattr(editing[name], "shown", {}) if name else {}
        differences += [
            f"{method}, {heads[c]}: {_tick(said[c])} in the paper, {_tick(declared[c])} here"
            + (f" ({shown[c]})" if c in shown else "")
            for c in wrong
        ]
        cells = [Cell(_tick(said.get(column))) for column in _CAPABILITIES]
        if editing:
            cells += [
                Cell(f"{_tick(declared[column])} ≠", "best") if column in wrong else Cell(_tick(declared.get(column)))
                for column in _CAPABILITIES
            ]
        rows.append([Cell(_fine_tuned(method, said.get("fine_tuned", declared.get("fine_tuned", False)))), *cells])
        record: dict[str, Any] = {"method": method, **printed.get(method, dict.fromkeys(paper.columns[1:]))}
        if editing:
            record["editor"] = name
            record |= {f"{c}_declared": ("no", "yes")[declared[c]] if name else None for c in paper.columns[1:]}
            record["differs"] = " ".join(wrong) or None
        records.append(record)
    notes = [*differences, *notes, *(broken or {}).values()]
    caption, groups = CAPTIONS[1], []
    if editing:
        caption += (
            " Declared: what the editors installed here say of themselves; ≠ where that is not what the paper says"
        )
        caption += "." if differences else " (nowhere)."
        groups = [("Paper", len(_CAPABILITIES)), ("Declared", len(_CAPABILITIES))]
    titles = list(_CAPABILITIES.values())
    heads_shown = ["Method", *titles, *(titles if editing else [])]
    return Table(1, caption, groups, heads_shown, [Block("", rows)], notes, pd.DataFrame(records))


def table2() -> Table:
    """Table 2 as published."""
    paper = published(2)
    columns = [_marked(dict(zip(paper["method"], paper[m.name].astype(float), strict=True)), m) for m in METRICS]
    rows = [[Cell(printed_name(method)), *(column[method] for column in columns)] for method in paper["method"]]
    heads = ["Method", *(metric.title for metric in METRICS)]
    return Table(2, CAPTIONS[2], [], heads, [Block("", rows)], [MARKING[2]], paper)


def table2_beside(folder: str | Path, slice: Slice | None = None) -> Table:
    """Table 2 with a run's means beside the published values.

    A metric has the published value, the mean with its 95 % interval, their difference, and the rank among the methods
    that both have (in parentheses that of the published values); Kendall's tau (b) compares the two orders.

    Args:
        folder: of a run that has been scored.
        slice: a block of rows for every kind of edit, for objects retained or not, for one object or several.

    Raises:
        UserError: there is no such run, or it has not been scored.
    """
    scored = Scored.open(folder)
    scored.require(*(metric.name for metric in METRICS))
    run = scored.run
    titles = {row.name: row.facts.title for row in scored.rows if row.facts.edits}
    paper = published(2).set_index("method").astype(float)
    matched, notes = _match(titles, list(paper.index))
    statement = _protocol(scored)
    blocks, records = [], []
    for title, part in slices(scored, slice).items():
        means = {
            label: {m.name: mean_interval(part.values(label, m.name)) for m in METRICS}
            for label in [*titles, *(label for label in run.methods if label not in titles)]
        }
        rows, found = _beside(paper, means, matched, set(titles), not scored.is_pocket)
        blocks.append(Block(f"{title} ({len(part.samples)} samples)" if slice else "", rows))
        records += [({"slice": title} if slice else {}) | record | {"protocol": statement} for record in found]
    caption = f"{CAPTIONS[2]} {statement}"
    if slice:
        caption += " A block holds some of the samples, the published numbers all."
    if len(titles) < len(run.methods):
        notes = [*notes, "Reference rows bound the scale: they are neither marked nor ranked."]
    if not matched:
        notes = [*notes, "No method of the run is one of the paper's at its defaults."]
    data = pd.DataFrame(records)
    data = data.astype({column: "Int64" for column in data if "_rank" in str(column)})
    measured = "pocket [95 %]" if scored.is_pocket else "measured [95 %]"
    heads = ["Method", "n", *(["paper", measured, "difference", "rank (paper's)"] * len(METRICS))]
    groups = [("", 1), *((metric.title, 4) for metric in METRICS)]
    reading = "Rank and Kendall's tau are over the methods with both a published and a measured value."
    return Table(2, caption, groups, heads, blocks, [reading, *notes, MARKING[2]], data)


def render(table: Table, format: Format) -> str:
    """A table as Markdown, as LaTeX (booktabs; amssymb for Table 1), or as CSV with all digits.

    The caption says by which protocol was measured; in CSV the column ``protocol`` does.
    """
    if format == "csv":
        return table.data.to_csv(index=False, lineterminator="\n")
    return _latex(table) if format == "latex" else page(table.number, table.caption, _markdown(table), table.notes)


# matching -------------------------------------------------------------------------------------------------------------


def _match(titles: Mapping[str, str], paper: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Published method -> label of the measured one, and notes; titles is label -> title of the editor.

    A label with parameters is another configuration and never taken for the published method.
    """
    matched: dict[str, str] = {}
    notes: list[str] = []
    for method in paper:
        found = [label for label, title in titles.items() if title == method and ":" not in label]
        if len(found) > 1:
            notes.append(f"{', '.join(found)} all call themselves {method}: none is taken for the published one.")
        elif found:
            matched[method] = found[0]
    return matched, notes


def _lines(paper: Sequence[str], matched: Mapping[str, str], labels: Sequence[str]) -> dict[str, str | None]:
    """Row -> label of what was measured for it: the published methods, then whatever else there is."""
    lines: dict[str, str | None] = {method: matched.get(method) for method in paper}
    others = [label for label in labels if label not in matched.values()]
    # A method may be called as a published one on the command line and yet be another.
    return lines | {f"{label} (not the paper's)" if label in lines else label: label for label in others}


# protocol -------------------------------------------------------------------------------------------------------------


def _protocol(scored: Scored) -> str:
    """What was measured and how the paper did it, for the caption."""
    run = scored.run
    clip, lpips = (scored.metrics[metric.name].scorer or "unknown" for metric in METRICS)
    parts = [
        ("data set", f"{run.dataset.name} ({len(run.samples)} samples)", "IMBA (104 samples)"),
        ("backbone", f"{run.backbone.name} ({run.backbone.resolution} px)", "SD 1.5"),
        ("steps", f"{run.steps}", "50"),
        ("CLIP", clip, "not named"),
        ("LPIPS", f"{lpips.removeprefix('LPIPS ')}, masked", "not named"),
    ]
    same = {
        "data set": Path(run.dataset.name).name.lower() == "imba" and len(run.samples) == 104,
        "backbone": run.backbone.name in _SD15 and run.backbone.resolution == 512,
        "steps": run.steps == 50,
    }
    measured = ", ".join(f"{what} {here}" for what, here, _ in parts)
    other = ", ".join(f"{what} {there}" for what, _, there in parts)
    different = [what for what, equal in same.items() if not equal]
    verdict = f"differs in {', '.join(different)}" if different else "agrees where the paper says"
    statement = f"Measured ({verdict}): {measured}. The paper: {other}."
    if scored.is_pocket:
        statement += " Pocket: small models on drawn scenes, whose values are not comparable with the paper's."
    return statement


# rows -----------------------------------------------------------------------------------------------------------------


def _beside(
    paper: pd.DataFrame,
    means: Mapping[str, Mapping[str, Estimate]],
    matched: Mapping[str, str],
    editing: set[str],
    comparable: bool,
) -> tuple[list[list[Cell]], list[dict[str, Any]]]:
    """The rows of a block and the same as records: published methods first, then what only was measured, then tau."""
    names = _lines(list(paper.index), matched, list(means))
    rows: dict[str, list[Cell]] = {}
    records: dict[str, dict[str, Any]] = {}
    for name, label in names.items():
        counts = {estimate.n for estimate in means[label].values()} if label else set()
        title = f"{name} (reference)" if label and label not in editing else printed_name(name)
        rows[name] = [Cell(title), Cell("/".join(str(n) for n in sorted(counts, reverse=True)) or "–")]
        records[name] = {"method": name, "label": label}
    last = [Cell("Kendall's tau"), Cell("")]
    for metric in METRICS:
        printed = {str(name): float(value) for name, value in paper[metric.name].items()}
        found = {name: means[label][metric.name] for name, label in names.items() if label}
        common = [name for name in printed if name in found and found[name].n]
        there, here = [printed[name] for name in common], [found[name].mean for name in common]
        placed = dict(
            zip(common, zip(ranks(here, metric.higher), ranks(there, metric.higher), strict=True), strict=True)
        )
        tau, p = kendall_tau(there, here) if comparable or len(common) >= FEWEST else (math.nan, math.nan)
        marked = _marked(printed, metric)
        measured = _marked({name: found[name].mean for name in found if names[name] in editing}, metric)
        for name in names:
            estimate = found.get(name, Estimate(math.nan, math.nan, math.nan, 0))
            value = printed.get(name, math.nan)
            # Where another thing was measured, only the order of the methods can be looked at.
            difference = estimate.mean - value if comparable else math.nan
            rank, rank_published = placed.get(name, (None, None))
            cell = measured.get(name, Cell(_number(estimate.mean, metric.digits)))
            rows[name] += [
                marked.get(name, Cell("–")),
                replace(cell, after=_interval(estimate, metric.digits)),
                Cell(_number(difference, metric.digits, sign=True)),
                Cell(f"{rank} ({rank_published})" if rank else "–"),
            ]
            columns = {
                "published": value,
                "": estimate.mean,
                "low": estimate.low,
                "high": estimate.high,
                "n": estimate.n,
                "difference": difference,
                "rank": rank,
                "rank_published": rank_published,
                "tau": tau,
                "tau_p": p,
                "tau_methods": len(common),
            }
            records[name] |= {f"{metric.name}_{key}".rstrip("_"): entry for key, entry in columns.items()}
        detail = "" if math.isnan(p) else f", p = {p:.2f}"
        last += [Cell(""), Cell(""), Cell(""), Cell(f"{_number(tau, 2, sign=True)} (n = {len(common)}{detail})")]
    return [*rows.values(), last], list(records.values())


def _marked(values: Mapping[str, float], metric: Metric) -> dict[str, Cell]:
    """Cells of a column, the best and the second marked as printed, so that equal texts share a mark."""
    shown = {name: round(value, metric.digits) for name, value in values.items() if not math.isnan(value)}
    best = sorted(set(shown.values()), reverse=metric.higher)
    marks: dict[float, Literal["best", "second"]] = {value: "second" for value in best[1:2]}
    marks |= {value: "best" for value in best[:1]}
    return {
        name: Cell(_number(value, metric.digits), marks.get(shown.get(name, math.nan), ""))
        for name, value in values.items()
    }


def _number(value: float, digits: int, sign: bool = False) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _interval(estimate: Estimate, digits: int) -> str:
    if math.isnan(estimate.low):
        return ""
    return f" [{_number(estimate.low, digits)}, {_number(estimate.high, digits)}]"


def _tick(value: bool | None) -> str:
    return "–" if value is None else "✓" if value else "✗"


def _fine_tuned(method: str, is_so: bool) -> str:
    return f"{method} (FT)" if is_so else method


def printed_name(method: str) -> str:
    """A method as the paper writes it: with "(FT)" if it is a fine-tuning method."""
    paper = published(1)
    return _fine_tuned(method, method in set(paper.loc[paper["fine_tuned"] == "yes", "method"]))


# formats --------------------------------------------------------------------------------------------------------------


def page(number: int, caption: str, body: str, notes: Sequence[str]) -> str:
    listed = "".join(f"- {note}\n" for note in notes)
    return f"**Table {number}:** {caption}\n\n{body}" + (f"\n{listed}" if listed else "")


def _markdown(table: Table) -> str:
    # Markdown has one line of heads, so that a group's is said in each of its columns.
    over = [group for group, count in table.groups for _ in range(count)] or [""] * (len(table.heads) - 1)
    heads = [table.heads[0], *(f"{g}: {h}" if g else h for g, h in zip(over, table.heads[1:], strict=True))]
    styles = {"best": "**{}**", "second": "<u>{}</u>", "": "{}"}
    parts = []
    for block in table.blocks:
        lines = [f"**{block.title}**\n"] if block.title else []
        lines += ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
        for row in block.rows:
            cells = [styles[cell.mark].format(cell.text) + cell.after for cell in row]
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "≠": r"$\neq$",
    "−": "$-$",
    "–": "--",
    "…": r"\ldots{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def _tex(text: str) -> str:
    return "".join(_TEX.get(character, character) for character in text)


def _latex(table: Table) -> str:
    columns = len(table.heads)
    styles = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}
    needs = "booktabs, amssymb" if table.number == 1 else "booktabs"
    caption = " ".join([table.caption, *table.notes])
    lines = [rf"% needs \usepackage{{{needs}}}", r"\begin{table*}", r"\centering", rf"\caption{{{_tex(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'c' * (columns - 1)}}}", r"\toprule"]
    if table.groups:
        lines.append("".join(rf" & \multicolumn{{{n}}}{{c}}{{{_tex(group)}}}" for group, n in table.groups) + r" \\")
    lines.append(" & ".join(map(_tex, table.heads)) + r" \\")
    for block in table.blocks:
        lines.append(r"\midrule")
        if block.title:
            lines += [rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{_tex(block.title)}}}}} \\"]
        for row in block.rows:
            lines.append(
                " & ".join(styles[cell.mark].format(_tex(cell.text)) + _tex(cell.after) for cell in row) + r" \\"
            )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"
