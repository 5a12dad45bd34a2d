"""The committed tables are those of the committed scores, and the front page and the manual print them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from paths import ROOT
from PIL import Image

import cpam_bench.imba.dataset
from cpam_bench.eval.analysis.ablation import MODULES, NAMES, plan, table
from cpam_bench.eval.analysis.leaderboard import leaderboard
from cpam_bench.eval.methods import registry
from cpam_bench.eval.metrics.metric import DEFAULT, METRICS
from cpam_bench.eval.pocket import runs
from cpam_bench.eval.run.describe import PROTOCOL, describe_editor
from cpam_bench.eval.scoring.scored import Scored, read_scores
from cpam_bench.eval.store.records import BackboneFacts, DataSet, Edit, Run, Task
from cpam_bench.eval.store.store import Store
from cpam_bench.eval.tables.table2 import table2_beside
from cpam_bench.eval.tables.write import render
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pocket.tasks import random_tasks

POCKET = ROOT / "results" / "pocket"
COSTS = ["seconds", "inversion_seconds", "peak_memory_mib"]  # in the records of the edits, which are not committed


OBJECTS = ["replace", "pose", "add", "several"]
BENCHMARK = [
    Task(one.id, "", kind=one.kind, retain_object=one.retain_object) for one in cpam_bench.imba.dataset.load("pocket")
]
SIX = (
    "replace-car-to-bus",
    "replace-dog-to-cat",
    "several-duck-to-penguin",
    "pose-duck-upside-down",
    "background-pig-snow",
    "add-cat-top-hat",
)
SAMPLES = {
    "pocket": BENCHMARK,
    "six": [task for task in BENCHMARK if task.id in SIX],
    "objects": [Task(one.id, "", kind=one.kind) for one in random_tasks(104, seed=1, kinds=OBJECTS)],
    "others": [Task(one.id, "", kind=one.kind) for one in random_tasks(104, seed=1)],
}


def rebuilt(committed: Path, folder: Path, data: str = "pocket") -> Store:
    """A run that has the committed scores, and no pictures to speak of."""
    scores = read_scores(committed)
    labels, ids = list(scores["method"].unique()), [task.id for task in SAMPLES[data]]
    run = Run(
        arguments={},
        dataset=DataSet(data, "", True),
        backbone=BackboneFacts("pocket", {}, 128, True),
        steps=50,
        seed=0,
        dtype="float32",
        device="cpu",
        protocol=dict(PROTOCOL),
        methods={label: describe_editor(label, registry.make(label)[1]) for label in labels},
        samples=ids,
    )
    store = Store.create_or_resume(folder, run)
    dot = Image.new("RGB", (1, 1))
    for task in SAMPLES[data]:
        store.write_task(task, dot)
    for label, sample in scores[["method", "sample"]].drop_duplicates().itertuples(index=False):
        store.write_edit(Edit(label, sample, "ok", {}, 0), dot)
    for name in ("scores.csv", "scores.json"):
        shutil.copy(committed / name, folder / name)
    return store


def same(made: pd.DataFrame, committed: pd.DataFrame) -> None:
    assert len(committed) and list(committed.columns) == list(made.columns)
    kept = [column for column in committed.columns if column not in COSTS]
    # To the last digits but one, which other versions of numpy and scipy may round otherwise.
    pd.testing.assert_frame_equal(made[kept], committed[kept], check_exact=False, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("committed", "data"),
    [(POCKET, "pocket"), (POCKET / "all", "pocket"), (POCKET / "others", "others"), (POCKET / "variants", "six")],
    ids=["default", "all", "others", "variants"],
)
def test_committed_tables_are_those_of_the_committed_scores(committed: Path, data: str, tmp_path: Path) -> None:
    store = rebuilt(committed, tmp_path / "run", data)
    leaderboard([store.folder]).write(tmp_path)
    for name in ("leaderboard.csv", "paired.csv"):
        same(pd.read_csv(tmp_path / name), pd.read_csv(committed / name))
    if committed.name == "all":
        assert render(table2_beside(store.folder), "md") == (committed / "table2.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "data", "groups"), [("ablation", "pocket", NAMES), ("ablation-objects", "objects", ["modules"])]
)
def test_committed_ablations_are_those_of_the_committed_scores(
    name: str, data: str, groups: list[str], tmp_path: Path
) -> None:
    store = rebuilt(POCKET / name, tmp_path / "run", data)
    same(table(Scored.open(store.folder), plan(groups)), pd.read_csv(POCKET / name / "ablation.csv"))


def test_what_the_committed_run_says_of_the_pocket_backbone(tmp_path: Path) -> None:
    store = rebuilt(POCKET / "all", tmp_path / "run")
    found = [*runs.edits(store.folder), *runs.null_text(store.folder), *runs.order(store.folder, resamples=50)]
    values = [one.value for one in found]
    assert values[:5] == [100, 100, 100, 100, 100]  # replace, background, remove, add, pose
    assert values[5:] == pytest.approx([64.88 - 37.33, 0.135 - 0.189, 0.29, 0.50], abs=0.01)
    assert [one.good for one in found] == [True] * 7 + [False] * 2
    with pytest.raises(UserError, match="no imagic;"):
        runs.edits(store.folder, "imagic")


def _section(page: str, title: str) -> str:
    text = (ROOT / page).read_text(encoding="utf-8")
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def _is_printed(text: str, value: float) -> bool:
    """Whether a number is what is printed of it."""
    digits = len(text.partition(".")[2])
    return text == f"{value:.{digits}f}"


NUMBER = r"-?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")


@pytest.mark.parametrize(
    ("page", "title", "committed"),
    [
        ("README.md", "Two commands", POCKET),
        ("docs/measured.md", "Every editor on the pocket benchmark", POCKET / "all"),
    ],
    ids=["default", "all"],
)
def test_pages_print_the_committed_leaderboards(page: str, title: str, committed: Path) -> None:
    lines = [line.strip("|").split("|") for line in _section(page, title).splitlines() if line.startswith("|")]
    heads, _, *rows = [[cell.strip() for cell in line] for line in lines]
    board = pd.read_csv(committed / "leaderboard.csv").set_index("method")
    board.index = board.index.str.split(":").str[0]  # the pages leave out the parameters
    assert [row[0].partition(" ")[0].strip("`") for row in rows] == list(board.index)
    columns = {METRICS.load(name).title: name for name in DEFAULT} | {"n": "n", "seconds an edit": "seconds"}
    checked = 0
    for row in rows:
        name = row[0].partition(" ")[0].strip("`")
        for head, cell in zip(heads[1:], row[1:], strict=True):
            column = columns[head.rstrip(" ↑↓")]
            names = [column, f"{column}_low", f"{column}_high"] if "[" in cell else [column]
            printed = re.findall(NUMBER, cell.replace("−", "-"))
            assert len(printed) == len(names), cell
            for text, wanted in zip(printed, names, strict=True):
                assert _is_printed(text, board.loc[name, wanted]), f"{page}: {row[0]}, {head}: {cell}"
                checked += 1
    assert checked >= 8 * len(rows)


@pytest.mark.parametrize("page", ["cpam", "fpe", "masactrl", "p2p", "pnp"])
def test_pages_of_methods_print_the_committed_variants(page: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{page}.md").read_text(encoding="utf-8").partition("On six pocket samples")[2]
    board = pd.read_csv(POCKET / "variants" / "leaderboard.csv").set_index("method")
    rows = re.findall(rf"\| `([^`]+)` \| ({NUMBER}) \| ({NUMBER}) \|", text)
    assert len(rows) >= 2
    for label, clip, lpips in rows:
        assert _is_printed(clip, board.loc[label, "clip_score"]), (label, clip)
        assert _is_printed(lpips, board.loc[label, "lpips_background"]), (label, lpips)


def test_the_readme_prints_the_committed_differences() -> None:
    prose = [line for line in _section("README.md", "Two commands").splitlines() if not line.startswith("|")]
    found = INTERVAL.findall(" ".join(prose))
    assert len(found) >= 2, "the README no longer tells the paired differences"
    rows = pd.read_csv(POCKET / "paired.csv")[["difference", "low", "high"]].values.tolist()
    # "Below by 0.08 [0.04, 0.12]" is a difference of -0.08 [-0.12, -0.04].
    rows += [[-difference, -high, -low] for difference, low, high in rows]
    for texts in found:
        assert any(all(map(_is_printed, texts, row)) for row in rows), f"not in paired.csv: {texts}"


def test_the_manual_prints_the_committed_ablation() -> None:
    rows = pd.read_csv(POCKET / "ablation-objects" / "ablation.csv").set_index(["setting", "metric"])
    section = _section("docs/analysis.md", "Ablation")
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    printed = {line[0].strip(): [cell.replace("−", "-").replace("+", "") for cell in line[1:]] for line in lines}
    for setting in MODULES:
        cells = iter(printed[setting])
        for metric in ("lpips_background", "psnr_background"):
            row = rows.loc[(setting, metric)]
            wanted = [row["mean"]] + (
                [] if row["default"] else [row[f"difference{end}"] for end in ("", "_low", "_high")]
            )
            texts = re.findall(NUMBER, f"{next(cells)} {next(cells)}")
            assert len(texts) == len(wanted) and all(map(_is_printed, texts, wanted)), (setting, metric, texts, wanted)
