"""Who sees what when, and what the study's folder holds."""

from __future__ import annotations

import csv
import sqlite3
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from study_runs import make_run

from cpam_bench.eval.study import database, design
from cpam_bench.imba.errors import UserError


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9])
def test_williams_square_is_balanced(n: int) -> None:
    square = design.williams(n)
    assert (np.sort(square, axis=1) == np.arange(n)).all()
    for column in square.T:
        assert len(set(np.bincount(column, minlength=n))) == 1
    after = np.zeros((n, n), int)
    for row in square:
        for a, b in pairwise(row):
            after[a, b] += 1
    assert len(set(after[~np.eye(n, dtype=bool)])) == 1


def test_the_papers_size() -> None:
    orders = design.order(20, 50, 9, seed=0)
    assert orders.shape == (20, 450, 2)
    assert orders.shape[0] * orders.shape[1] * 4 == 36_000
    for rater in orders:
        assert len({tuple(pair) for pair in rater}) == 450  # each image of each method once
        assert (np.diff(rater[:, 0]) != 0).all()  # never the same source twice in a row
    even = design.balance(orders)
    assert even["rounds"] < 0.05
    assert even["place"] < 0.01
    # A method of an image is seen in every round by about as many raters: 20 over 9 rounds.
    rounds = np.zeros((50, 9, 9), int)
    for rater in orders:
        for turn, (sample, method) in enumerate(rater):
            rounds[sample, method, turn // 50] += 1
    assert rounds.min() >= 1
    assert rounds.max() <= 4
    assert len({tuple(rater[:50, 0]) for rater in orders}) == 20  # shuffled anew for each


def test_design_follows_the_seed() -> None:
    assert (design.order(3, 7, 4, seed=5) == design.order(3, 7, 4, seed=5)).all()
    assert (design.order(3, 7, 4, seed=5) != design.order(3, 7, 4, seed=6)).any()


def test_repeats_and_controls_are_mixed_in() -> None:
    orders = design.order(4, 20, 5, seed=1)
    for rater in range(4):
        mixed = design.tasks(orders, rater, repeats=6, controls=5, seed=1)
        assert [task[1:] for task in mixed if task[0] == "edit"] == [tuple(pair) for pair in orders[rater].tolist()]
        assert sorted(task[2] for task in mixed if task[0] == "control") == ["other"] * 2 + ["same"] * 3
        repeats = [(i, task[1:]) for i, task in enumerate(mixed) if task[0] == "repeat"]
        assert len(repeats) == 6
        for at, shown in repeats:
            assert at - mixed.index(("edit", *shown)) >= 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "one"
    return make_run(folder, ["cpam", "masactrl", "cpam:localization=false", "identity"], 8, (("masactrl", "scene-03"),))


def test_init(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    made = design.init([run], out, raters=3, images=6, repeats=2, controls=4, seed=3)
    assert made.methods == ["cpam", "cpam:localization=false", "masactrl"]  # identity is a reference row
    assert made.ratings == 3 * 3 * 6 * 4
    assert made.pictures == 3 * 6 + 2 + 4
    assert made.left_out == [("masactrl", "scene-03")]
    connection = database.connect(out)
    shown = connection.execute("SELECT count(*), count(DISTINCT public) FROM task").fetchone()
    assert shown == (3 * 24, 3 * 24)
    assert "scene-03" not in [name for (name,) in connection.execute("SELECT name FROM sample")]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    connection.close()

    with (out / "links.csv").open() as file:
        links = list(csv.DictReader(file))
    assert [row["rater"] for row in links] == ["r01", "r02", "r03"]
    assert len({row["link"] for row in links}) == 3
    assert (out / "links.csv").stat().st_mode & 0o077 == 0 and out.stat().st_mode & 0o077 == 0
    token = links[0]["link"].removeprefix("/r/")
    assert token.encode() not in (out / "study.db").read_bytes()  # a copy of the database opens nobody's tasks

    for file in (out / "media").iterdir():
        assert "cpam" not in file.name and "scene" not in file.name
        with Image.open(file) as image:
            assert image.size == (128, 128)
            assert not image.info


def test_media_hold_no_text_of_the_run(run: Path, tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", ["secretmethod"], 3)
    for file in (made / "edits" / "secretmethod").glob("*.png"):
        assert Image.open(file).size == (128, 128)
    design.init([made], tmp_path / "study", raters=1, images=2)
    for file in (tmp_path / "study" / "media").iterdir():
        assert b"secretmethod" not in file.read_bytes()


def test_two_runs_make_one_study(run: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "two", ["ddim"], 8)
    made = design.init([run, other], tmp_path / "study", raters=2, images=4, methods=["ddim", "cpam"])
    assert made.methods == ["ddim", "cpam"]
    with pytest.raises(UserError, match="'cpam' is in"):
        design.init([run, run], tmp_path / "study2")


def test_what_init_refuses(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only 7 samples"):
        design.init([run], tmp_path / "a", images=8)
    with pytest.raises(UserError, match="no edits by pnp"):
        design.init([run], tmp_path / "a", methods=["pnp"])
    with pytest.raises(UserError, match="not the folder of a run"):
        design.init([tmp_path], tmp_path / "a")
    with pytest.raises(UserError, match="named twice"):
        design.init([run], tmp_path / "a", methods=["cpam", "cpam"])
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="already"):
        design.init([run], tmp_path / "b")


def test_no_folder_of_somebody_else_is_touched(run: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "study.part"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    design.init([run], tmp_path / "study", raters=1, images=2)
    assert (foreign / "thesis.tex").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study", "study.part"]
    assert (tmp_path / "study").stat().st_mode & 0o077 == 0 and (
        tmp_path / "study" / "links.csv"
    ).stat().st_mode & 0o077 == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        design.init([run], tmp_path / "file" / "study", raters=1, images=2)


def test_a_damaged_edit_is_left_out_and_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", ["cpam"], 3)
    picture = run / "edits" / "cpam" / "scene-01.png"
    picture.write_bytes(picture.read_bytes()[:-40])
    made = design.init([run], tmp_path / "study", raters=1)
    assert made.images == 2
    assert len(made.damaged) == 1 and "scene-01" in made.damaged[0]


def test_plans(tmp_path: Path) -> None:
    plan = design.read_plan()
    assert [q.id for q in plan.questions] == ["object_retention", "background_retention", "realistic", "satisfaction"]
    assert plan.scale.values == [1, 2, 3, 4, 5, 6]
    assert (plan.scale.labels[0], plan.scale.labels[-1]) == ("very bad", "very good")
    own = tmp_path / "plan.toml"
    question = '[[questions]]\nid="q"\nlabel="Q"\ntext="Well?"\n'
    own.write_text('title="T"\n[scale]\nvalues=[0, 0.5, 1]\nlabels=["no", "so", "yes"]\n' + question)
    assert design.read_plan(own).scale.values == [0, 0.5, 1]
    for text, what in (
        ('title="T"\n[scale]\nvalues=[1, 1]\nlabels=["a", "b"]\n' + question, "rise"),
        ('title="T"\n[scale]\nvalues=[1, 2]\nlabels=["a"]\n' + question, "2 values and 1 labels"),
        ('title="T"\n[scale]\nvalues=[1, 2]\nlabels=["a", "b"]\n' + question * 2, "same id"),
        ('title="T"\nquestion=1\n[scale]\nvalues=[1, 2]\nlabels=["a", "b"]\n' + question, "question"),
        ("title=", "not TOML"),
    ):
        own.write_text(text)
        with pytest.raises(UserError, match=what):
            design.read_plan(own)


def test_outline_is_the_masks_contour() -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:40, 10:50] = True
    outline = np.asarray(design.draw_outline(mask))
    assert outline.shape == (64, 64, 4)
    assert outline[30, 30, 3] == 0 and outline[5, 5, 3] == 0
    assert outline[20, 30].tolist() == [255] * 4
    assert outline[19, 30].tolist() == [0, 0, 0, 255]


def test_a_file_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study at"):
        database.connect(tmp_path)
    sqlite3.connect(tmp_path / "study.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(UserError, match="not a study"):
        database.connect(tmp_path)
