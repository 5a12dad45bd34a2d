"""Tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

from typing import Literal

from cpam_bench.eval.analysis.numbers import tex
from cpam_bench.eval.tables.model import Table
from cpam_bench.imba.common.files import no_formula

Format = Literal["md", "csv", "latex"]


def render(table: Table, format: Format) -> str:
    """A table as Markdown, as LaTeX (booktabs; amssymb for Table 1), or as CSV with all digits.

    The caption says by which protocol was measured; in CSV the column ``protocol`` does.  Texts that a
    spreadsheet would take for formulas are escaped there.
    """
    if format == "csv":
        return table.data.map(no_formula).to_csv(index=False, lineterminator="\n")
    if format == "latex":
        return latex(table)
    notes = "".join(f"- {note}\n" for note in table.notes)
    return f"**Table {table.number}:** {table.caption}\n\n{markdown(table)}" + (f"\n{notes}" if notes else "")


def markdown(table: Table) -> str:
    """The rows alone."""
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


def latex(table: Table) -> str:
    r"""A ``table*`` with booktabs' rules."""
    columns = len(table.heads)
    styles = {"best": r"\textbf{{{}}}", "second": r"\underline{{{}}}", "": "{}"}
    needs = "booktabs, amssymb" if table.number == 1 else "booktabs"
    caption = " ".join([table.caption, *table.notes])
    lines = [rf"% needs \usepackage{{{needs}}}", r"\begin{table*}", r"\centering", rf"\caption{{{tex(caption)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'c' * (columns - 1)}}}", r"\toprule"]
    if table.groups:
        lines.append("".join(rf" & \multicolumn{{{n}}}{{c}}{{{tex(group)}}}" for group, n in table.groups) + r" \\")
    lines.append(" & ".join(map(tex, table.heads)) + r" \\")
    for block in table.blocks:
        lines.append(r"\midrule")
        if block.title:
            lines += [rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{tex(block.title)}}}}} \\"]
        for row in block.rows:
            lines.append(
                " & ".join(styles[cell.mark].format(tex(cell.text)) + tex(cell.after) for cell in row) + r" \\"
            )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table*}"]) + "\n"
