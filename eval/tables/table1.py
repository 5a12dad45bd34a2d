"""Table 1: what methods can do, in the paper and as the editors installed here declare it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from cpam_bench.eval.tables.model import Block, Cell, Table
from cpam_bench.eval.tables.published import CAPTIONS, fine_tuned, lines, match, published

if TYPE_CHECKING:
    from cpam_bench.cpam.editing import Editor

CAPABILITIES = {
    "local_edit": "Local Edit",
    "object_removal": "Obj. Removal",
    "caption_free": "Caption-Free",
    "mask_control": "Mask Ctrl",
    "high_guidance": "Hi-Guidance",
}
"""Columns of the published table, and what the paper calls them."""


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
    matched, notes = match({name: editor.title for name, editor in editing.items()}, list(paper["method"]))
    rows: list[list[Cell]] = []
    records: list[dict[str, Any]] = []
    differences: list[str] = []
    names = lines(list(paper["method"]), matched, list(editing))
    printed = paper.set_index("method").to_dict("index")
    for method, name in names.items():
        said = {column: value == "yes" for column, value in printed.get(method, {}).items()}
        declared = dataclasses.asdict(editing[name].capabilities) if name else {}
        wrong = [column for column in said if column in declared and said[column] != declared[column]]
        heads = {**CAPABILITIES, "fine_tuned": "FT"}
        shown = getattr(editing[name], "shown", {}) if name else {}
        differences += [
            f"{method}, {heads[c]}: {_tick(said[c])} in the paper, {_tick(declared[c])} here"
            + (f" ({shown[c]})" if c in shown else "")
            for c in wrong
        ]
        cells = [Cell(_tick(said.get(column))) for column in CAPABILITIES]
        if editing:
            cells += [
                Cell(f"{_tick(declared[column])} ≠", "best") if column in wrong else Cell(_tick(declared.get(column)))
                for column in CAPABILITIES
            ]
        rows.append([Cell(fine_tuned(method, said.get("fine_tuned", declared.get("fine_tuned", False)))), *cells])
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
        groups = [("Paper", len(CAPABILITIES)), ("Declared", len(CAPABILITIES))]
    titles = list(CAPABILITIES.values())
    heads_shown = ["Method", *titles, *(titles if editing else [])]
    return Table(1, caption, groups, heads_shown, [Block("", rows)], notes, pd.DataFrame(records))


def _tick(value: bool | None) -> str:
    return "–" if value is None else "✓" if value else "✗"
