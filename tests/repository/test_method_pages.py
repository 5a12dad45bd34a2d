"""The manual's pages about methods: every label in them is one that a run takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from paths import ROOT

from cpam_bench.eval.methods import registry

PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
NAMES = "|".join(registry.EDITORS.entry_points())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_labels_are_taken(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    labels = re.findall(rf"`((?:{NAMES}):[^`]+)`", text)
    for label in labels:
        registry.make(label)


def test_every_row_of_pie_bench_has_another_label() -> None:
    text = (ROOT / "docs" / "methods" / "pie_bench.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|`]+\+[^|`]+) \| `([^`]+)` \|$", text, re.MULTILINE))
    assert len(rows) == 10 and len(set(rows.values())) == 10
