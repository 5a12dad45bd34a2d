"""The committed tables are those of the committed scores, and the README prints them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from eval import registry, runner
from eval.leaderboard import leaderboard
from eval.metrics import METRICS
from eval.scoring import read_scores
from eval.store import Edit, Run, Store

ROOT = Path(__file__).parents[1]
POCKET = ROOT / "results" / "pocket"
COSTS = ["seconds", "inversion_seconds", "peak_memory_mib"]  # in the records of the edits, which are not committed


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables that the committed scores give, by way of a run that has them and no pictures to speak of."""
    scores = read_scores(POCKET)
    labels, ids = (list(scores[column].unique()) for column in ("method", "sample"))
    run = Run(
        arguments={},
        dataset={"name": "pocket", "fingerprint": "", "pocket": True},
        backbone={"name": "pocket", "weights": {}, "resolution": 128, "pocket": True},
        steps=50,
        seed=0,
        dtype="float32",
        device="cpu",
        protocol=dict(runner.PROTOCOL),
        methods={label: runner.describe_editor(label, registry.make(label)[1]) for label in labels},
        samples=ids,
    )
    folder = tmp_path_factory.mktemp("runs") / "committed"
    folder.mkdir()
    store = Store.create_or_resume(folder, run)
    for label, sample in scores[["method", "sample"]].drop_duplicates().itertuples(index=False):
        store.write_edit(Edit(label, sample, "ok", {}, 0), Image.new("RGB", (1, 1)))
    for name in ("scores.csv", "scores.json"):
        shutil.copy(POCKET / name, folder / name)
    leaderboard([folder]).write(folder)
    return folder


@pytest.mark.parametrize("name", ["leaderboard.csv", "paired.csv"])
def test_committed_tables_are_those_of_the_committed_scores(regenerated: Path, name: str) -> None:
    committed, made = pd.read_csv(POCKET / name), pd.read_csv(regenerated / name)
    assert len(committed) and list(committed.columns) == list(made.columns)
    kept = [column for column in committed.columns if column not in COSTS]
    # To the last digits but one, which other versions of numpy and scipy may round otherwise.
    pd.testing.assert_frame_equal(made[kept], committed[kept], check_exact=False, rtol=1e-9, atol=1e-12)


def _section(title: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _is_printed(text: str, value: float) -> bool:
    """Whether a number is what is printed of it."""
    digits = len(text.partition(".")[2])
    return text == f"{value:.{digits}f}"


NUMBER = r"-?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")


def test_the_readme_prints_the_committed_leaderboard() -> None:
    lines = [line.strip("|").split("|") for line in _section("Two commands").splitlines() if line.startswith("|")]
    heads, _, *rows = [[cell.strip() for cell in line] for line in lines]
    board = pd.read_csv(POCKET / "leaderboard.csv").set_index("method")
    assert [row[0] for row in rows] == list(board.index)
    columns = {metric.title: metric.name for metric in METRICS.values()} | {"n": "n", "seconds an edit": "seconds"}
    checked = 0
    for row in rows:
        for head, cell in zip(heads[1:], row[1:], strict=True):
            column = columns[head.rstrip(" ↑↓")]
            names = [column, f"{column}_low", f"{column}_high"] if "[" in cell else [column]
            printed = re.findall(NUMBER, cell)
            assert len(printed) == len(names), cell
            for text, name in zip(printed, names, strict=True):
                assert _is_printed(text, board.loc[row[0], name]), f"README: {row[0]}, {head}: {cell}"
                checked += 1
    assert checked >= 8 * len(rows)


def test_the_readme_prints_the_committed_differences() -> None:
    prose = [line for line in _section("Two commands").splitlines() if not line.startswith("|")]
    found = INTERVAL.findall(" ".join(prose))
    assert len(found) >= 2, "the README no longer tells the paired differences"
    rows = pd.read_csv(POCKET / "paired.csv")[["difference", "low", "high"]].values.tolist()
    # "Below by 0.08 [0.04, 0.12]" is a difference of -0.08 [-0.12, -0.04].
    rows += [[-difference, -high, -low] for difference, low, high in rows]
    for texts in found:
        assert any(all(map(_is_printed, texts, row)) for row in rows), f"not in paired.csv: {texts}"
