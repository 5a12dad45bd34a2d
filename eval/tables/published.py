"""The paper's own numbers and those of PIE-Bench, as they are printed: CSV files in ``eval/paper``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

PAPER = Path(__file__).parents[1] / "paper"
"""Folder of the published tables; its README says where they come from."""

PIE_BENCH = "pie-bench"
"""What names the table of PIE-Bench, which is not of the paper."""

CAPTIONS: dict[int | str, str] = {
    1: "Functional comparison across editing methods. Local Edit: region-specific editing. Obj. Removal: ability to "
    "remove objects. Caption-Free: does not require the original image caption. Mask Ctrl: mask-based region control. "
    "Hi-Guidance: compatible with high classifier-free guidance scales. FT: fine-tuning method.",
    2: "Comparison with state-of-the-art methods using CLIPScore to measure text-image alignment and LPIPS "
    "(background) to evaluate background preservation. Imagic is the fine-tuning method (FT).",
    3: "User study results measuring participants' opinion (1: very bad, 6: very good) in rating image editing "
    "methods. Imagic is the fine-tuning method (FT).",
    PIE_BENCH: "Inversions and editors on PIE-Bench (Ju et al. 2024), read off the picture in the README of"
    " github.com/cure-lab/PnPInversion. SD 1.4 there, SD 1.5 for PnP.",
}
"""What the paper writes above its tables, and of which publication another is."""

MARKING = {
    2: "In print 0.149 (CPAM) is underlined as the second best LPIPS; by the numbers it is 0.148 (DiffEdit), as here.",
    3: "In print no second best of Realistic is underlined; by the numbers it is 4.57 (LEDITS++), as here.",
}
"""Where the paper's own marks are not those of its numbers."""

FILES: dict[int | str, str] = {
    1: "table1_capabilities.csv",
    2: "table2_metrics.csv",
    3: "table3_user_study.csv",
    PIE_BENCH: "pie_bench.csv",
}


def published(number: int | str) -> pd.DataFrame:
    """A published table: ``method`` and then its columns, as text, since the printed digits are part of it."""
    return pd.read_csv(PAPER / FILES[number], dtype=str)


def installed(number: int) -> tuple[list[str], list[str]]:
    """The editors of a published table's methods, fine-tuning ones last; and those of its methods that have none."""
    from cpam_bench.eval.methods import registry

    editors = {editor.title: (name, editor) for name, editor in registry.load_all()[0].items() if editor.edits}
    paper = list(published(number)["method"])
    found = [editors[method] for method in paper if method in editors]
    found.sort(key=lambda one: one[1].capabilities.fine_tuned)
    return [name for name, _ in found], [method for method in paper if method not in editors]


def match(titles: Mapping[str, str], paper: Sequence[str]) -> tuple[dict[str, str], list[str]]:
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


def lines(paper: Sequence[str], matched: Mapping[str, str], labels: Sequence[str]) -> dict[str, str | None]:
    """Row -> label of what was measured for it: the published methods, then whatever else there is."""
    found: dict[str, str | None] = {method: matched.get(method) for method in paper}
    others = [label for label in labels if label not in matched.values()]
    # A method may be called as a published one on the command line and yet be another.
    return found | {f"{label} (not the paper's)" if label in found else label: label for label in others}


def fine_tuned(method: str, is_so: bool) -> str:
    """A method as the paper writes it: with "(FT)" if it is a fine-tuning one."""
    return f"{method} (FT)" if is_so else method


def name(method: str) -> str:
    """A method as the paper writes it, by what its Table 1 says of it."""
    paper = published(1)
    return fine_tuned(method, method in set(paper.loc[paper["fine_tuned"] == "yes", "method"]))
