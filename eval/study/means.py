"""Table 3 as CSV, Markdown and LaTeX: methods by questions, the best bold, the second underlined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cpam_bench.imba.errors import UserError


@dataclass(frozen=True)
class Means:
    """Mean opinion scores.

    Attributes:
        title: what the numbers are.
        methods, questions: the rows' and the columns' names.
        mean: float (methods, questions).
        half: half the 95 % interval's length, of the same shape; None where only means are known.
    """

    title: str
    methods: list[str]
    questions: list[str]
    mean: np.ndarray
    half: np.ndarray | None = None


def read_means(path: Path, title: str | None = None) -> Means:
    """Read a table of means such as the published one: a column ``method`` and one column a question.

    Raises:
        UserError: the file is not such a table.
    """
    try:
        table = pd.read_csv(path)
        if table.columns[0] != "method" or len(table.columns) < 2:
            raise ValueError("its columns must be method and then the questions")
        mean = table.iloc[:, 1:].to_numpy(dtype=float)
    except (OSError, ValueError, IndexError, pd.errors.ParserError) as error:
        raise UserError(f"{path} is not a table of means: {error}") from error
    return Means(title or path.stem, [str(m) for m in table["method"]], list(table.columns[1:]), mean)


def label(question: str) -> str:
    """``object_retention`` -> ``Object retention``."""
    return question.replace("_", " ").capitalize()


def ranks(column: Sequence[float] | np.ndarray) -> list[int]:
    """1 for the best as printed (two decimals; ties share), 2 for the second, 0 for the others; higher is better."""
    shown = [round(float(v), 2) for v in column]
    best = sorted({v for v in shown if not np.isnan(v)}, reverse=True)[:2]
    return [best.index(v) + 1 if v in best else 0 for v in shown]


def cells(means: Means, styles: tuple[str, str, str]) -> list[list[str]]:
    """A list a method of a formatted cell a question; `styles` are the formats of interval, best and second."""
    pm, bold, under = styles
    rank = np.array([ranks(means.mean[:, q]) for q in range(len(means.questions))]).T
    rows = []
    for m in range(len(means.methods)):
        row = []
        for q in range(len(means.questions)):
            if np.isnan(means.mean[m, q]):
                row.append("-")
                continue
            text = f"{means.mean[m, q]:.2f}"
            text = {1: bold.format(text), 2: under.format(text)}.get(int(rank[m, q]), text)
            if means.half is not None and not np.isnan(means.half[m, q]):
                text += pm.format(f"{means.half[m, q]:.2f}")
            row.append(text)
        rows.append(row)
    return rows


def _key(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _side_by_side(tables: Sequence[Means]) -> list[tuple[str, list[int | None]]]:
    """Methods of all tables in order of appearance, matched regardless of case and signs, with their row in each."""
    names: dict[str, str] = {}
    for table in tables:
        for method in table.methods:
            names.setdefault(_key(method), method)
    rows = [{_key(m): i for i, m in enumerate(table.methods)} for table in tables]
    return [(name, [row.get(key) for row in rows]) for key, name in names.items()]


def csv(means: Means) -> pd.DataFrame:
    """The paper's layout: method, then a column a question."""
    table = pd.DataFrame(np.round(means.mean, 4), columns=means.questions)
    table.insert(0, "method", means.methods)
    return table


def markdown(tables: Sequence[Means]) -> str:
    """One table, or several side by side."""
    heads = [label(q) + (f" ({t.title})" if len(tables) > 1 else "") for t in tables for q in t.questions]
    lines = ["| Method | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    formatted = [cells(t, (" ± {}", "**{}**", "<u>{}</u>")) for t in tables]
    for name, rows in _side_by_side(tables):
        parts = [
            cell
            for t, table, row in zip(tables, formatted, rows, strict=True)
            for cell in (table[row] if row is not None else ["-"] * len(t.questions))
        ]
        lines.append("| " + " | ".join([name.replace("|", r"\|"), *parts]) + " |")
    return "\n".join(lines) + "\n"


_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    c: "\\" + c for c in "&%$#_{}"
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)


def latex(tables: Sequence[Means], caption: str) -> str:
    r"""One table, or several side by side, as a ``table*`` with booktabs' rules."""
    columns = [len(t.questions) for t in tables]
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table*}", r"\centering", rf"\caption{{{_tex(caption)}}}"]
    lines += [r"\begin{tabular}{l" + "".join("c" * n for n in columns) + "}", r"\toprule"]
    if len(tables) > 1:
        spans = " & ".join(
            rf"\multicolumn{{{n}}}{{c}}{{{_tex(t.title)}}}" for n, t in zip(columns, tables, strict=True)
        )
        lines.append(rf" & {spans} \\")
    lines.append("Method & " + " & ".join(_tex(label(q)) for t in tables for q in t.questions) + r" \\")
    lines.append(r"\midrule")
    formatted = [cells(t, (r" {{\scriptsize$\pm${}}}", r"\textbf{{{}}}", r"\underline{{{}}}")) for t in tables]
    for name, rows in _side_by_side(tables):
        parts = [
            cell
            for t, table, row in zip(tables, formatted, rows, strict=True)
            for cell in (table[row] if row is not None else ["-"] * len(t.questions))
        ]
        lines.append(" & ".join([_tex(name), *parts]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"
