"""The notebook is the manual's page about Python, and runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from paths import ROOT

PAGE = ROOT / "docs" / "python.md"
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def code() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_notebook_and_page_have_the_same_code() -> None:
    blocks = re.findall(r"^```python\n(.*?)\n```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert code() == blocks


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code()):
        exec(compile(cell, f"{NOTEBOOK.name}, cell {number}", "exec"), names)
    scores = names["scores"]
    assert set(scores["method"]) == {"cpam", "masactrl"} and scores["sample"].nunique() == 2
    assert (tmp_path / "scatter.png").is_file()
    [row] = names["measured"].board.rows.to_dict("records")
    assert row["n"] == 1 and row["failed"] == 0 and row["psnr_background"] > 10
