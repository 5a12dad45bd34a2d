"""Ratings as people really have them, and studies that were damaged: what is read, what is said, what is refused."""

from __future__ import annotations

import sqlite3
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_helpers import Brighten, run_all, samples
from study_runs import make_run
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.store.store import Store
from cpam_bench.eval.study import correlate, design, means, ratings
from cpam_bench.imba.errors import UserError

HEAD = "rater,method,sample,question,rating"
ROWS = [
    f"r{r},{m},s{s},realistic,{1 + (r + s + i) % 6}" for r in range(3) for i, m in enumerate("AB") for s in range(3)
]


def written(path: Path, rows: list[str] = ROWS, head: str = HEAD, encoding: str = "utf-8") -> Path:
    path.write_bytes("\n".join([head, *rows, ""]).encode(encoding))
    return path


def test_utf_16_semicolons_tabs_and_decimal_commas_are_read_and_said(tmp_path: Path) -> None:
    plain = ratings.read_csv(written(tmp_path / "a.csv"))
    held = ratings.read_csv(written(tmp_path / "b.csv", encoding="utf-16"))
    assert held.ratings.equals(plain.ratings) and "b.csv is written in UTF-16" in held.notes[0]
    assert ratings.read_csv(written(tmp_path / "bom.csv", encoding="utf-8-sig")).ratings.equals(plain.ratings)
    (tmp_path / "crlf.csv").write_bytes((tmp_path / "a.csv").read_bytes().replace(b"\n", b"\r\n"))
    assert ratings.read_csv(tmp_path / "crlf.csv").ratings.equals(plain.ratings)
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        rows = [row.replace(",", separator) + ",5" for row in ROWS]
        held = ratings.read_csv(written(tmp_path / "c.csv", rows, HEAD.replace(",", separator)))
        assert (held.ratings["rating"] == plain.ratings["rating"] + 0.5).all()
        assert word in held.notes[0] and "18 numbers of c.csv have decimal commas" in held.notes[1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*ROWS, "r9,C,s1,3"], "line 20: it has 4 cells, and the head 5"),
        ([*ROWS[:3], "r9,C,s1,realistic,3,7"], "line 5: it has 6 cells, and the head 5"),
        ([*ROWS, "", "r9,C,s1,realistic,good"], "line 21: the rating 'good' is not a number"),
        ([*ROWS, "r9,C,s1,realistic,inf"], "line 20: the rating 'inf' is not a number"),
        (['r9,"C,s1,realistic,3'], "is not a CSV file"),
    ],
)
def test_a_wrong_row_is_refused_by_its_line(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ratings.read_csv(written(tmp_path / "a.csv", rows))


def test_latin_1_and_empty_files_are_one_line(tmp_path: Path) -> None:
    latin = written(tmp_path / "a.csv", [*ROWS, "r9,é,s1,realistic,3"], encoding="latin-1")
    called = CliRunner().invoke(app, ["study", "aggregate", str(latin)])
    assert isinstance(called.exception, UserError) and "line 20: its text is not UTF-8" in str(called.exception)
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(UserError, match="is empty"):
        ratings.read_csv(tmp_path / "empty.csv")


def test_names_are_trimmed_and_composed_and_that_is_said(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Café")
    rows = [*ROWS, f"r0,{name},s1,realistic,3", "r1,Café,s1,realistic,3", "r2,A ,s9,realistic,3"]
    held = ratings.read_csv(written(tmp_path / "a.csv", rows))
    assert sorted(held.ratings["method"].unique()) == ["A", "B", "Café"]
    assert any("2 names in the column method" in note and "'A '" in note for note in held.notes)
    with pytest.raises(UserError, match="2 rows rate what the same rater has rated"):
        ratings.read_csv(written(tmp_path / "b.csv", [*ROWS, "r0,A ,s0,realistic,3"]))


def test_the_scale_belongs_to_the_mapping_and_ratings_keep_to_it(tmp_path: Path) -> None:
    table = written(tmp_path / "a.csv", [*ROWS, "r9,A,s0,realistic,60"])
    assert any("taken to be 1 to 60" in note for note in ratings.read(table).notes)
    (tmp_path / "map.toml").write_text("scale = [1, 6]\n")
    with pytest.raises(UserError, match=r"line 20: the rating 60 is not on the scale \(1, 6\)"):
        ratings.read(table, tmp_path / "map.toml")
    held = ratings.read(written(tmp_path / "a.csv", ROWS[:4]), tmp_path / "map.toml")
    assert held.scale == [1, 6] and not held.notes
    for scale in ("[1, inf]", "[1, nan]", "[1]"):
        (tmp_path / "map.toml").write_text(f"scale = {scale}\n")
        with pytest.raises(UserError, match="cannot read the mapping"):
            ratings.read(table, tmp_path / "map.toml")


def test_mappings_plans_and_means_that_are_odd_files_are_one_line(tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    for content, words in ((b"a = 'caf\xe9'", "UTF-8"), (b"\xff\xfea\0", "UTF-8|is not a table of means")):
        odd.write_bytes(content)
        with pytest.raises(UserError, match=f"odd.*({words})"):
            ratings.read_mapping(odd)
        with pytest.raises(UserError, match=f"odd.*({words})"):
            design.read_plan(odd)
        with pytest.raises(UserError, match=f"odd.*({words})"):
            means.read_means(odd)
    for name in (ratings.read_mapping, design.read_plan, means.read_means):
        with pytest.raises(UserError, match="nowhere"):
            name(tmp_path / "nowhere")


def test_tables_of_means_are_read_as_ratings_are(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("method;realistic\nA;1,5\nnan;2,25\n", encoding="utf-16")
    found = means.read_means(tmp_path / "a.csv")
    assert found.methods == ["A", "nan"] and found.mean.tolist() == [[1.5], [2.25]]
    (tmp_path / "b.csv").write_text("method,realistic\nA,1,5\n")
    with pytest.raises(UserError, match="line 2: it has 3 cells, and the head 2"):
        means.read_means(tmp_path / "b.csv")


def test_a_plan_with_an_infinite_scale_is_refused(tmp_path: Path) -> None:
    text = design.PLAN.read_text()
    old = next(line for line in text.splitlines() if line.startswith("values"))
    (tmp_path / "plan.toml").write_text(text.replace(old, old.replace("6", "inf")))
    with pytest.raises(UserError, match="finite number"):
        design.read_plan(tmp_path / "plan.toml")


def test_exported_formulas_are_escaped_and_read_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"method": ["=1+1", "-a", "plain"], "value": [-1.0, 2.0, np.nan]})
    ratings.write_csv(table, tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "method,value\n'=1+1,-1.0\n'-a,2.0\nplain,\n"
    held = ratings.read_csv(written(tmp_path / "a.csv", [*ROWS, "r9,'=1+1,s0,realistic,3"]))
    assert "=1+1" in set(held.ratings["method"])


def test_an_alpha_of_nothing_says_why(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")
    one = written(tmp_path / "a.csv", [f"r1,{m},s{s},realistic,{1 + s}" for m in "AB" for s in range(3)])
    called = CliRunner().invoke(app, ["study", "aggregate", str(one)], env={"COLUMNS": "120"})
    assert called.exit_code == 0, called.output
    assert "no picture was rated by two raters" in called.output and "nan" not in called.output
    same = written(tmp_path / "b.csv", [f"r{r},A,s{s},realistic,3" for r in range(2) for s in range(3)])
    called = CliRunner().invoke(app, ["study", "aggregate", str(same)], env={"COLUMNS": "120"})
    assert "all ratings are the same" in called.output


@pytest.mark.parametrize("how", ["cut", "plan", "table", "text"])
def test_a_damaged_study_is_one_line(tmp_path: Path, how: str) -> None:
    pytest.importorskip("fastapi", reason="the extra 'study' is not installed")
    from cpam_bench.eval.study import server

    design.init([make_run(tmp_path / "run", ["cpam"], 2)], tmp_path / "study", raters=1, images=2)
    file = tmp_path / "study" / "study.db"
    if how in ("cut", "text"):
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 3] if how == "cut" else b"not a database at all")
    else:
        connection = sqlite3.connect(file)
        sql = "UPDATE meta SET value = '{}' WHERE key = 'plan'" if how == "plan" else "DROP TABLE meta"
        connection.execute(sql)
        connection.commit()
        connection.close()
    for use in (ratings.read_study, server.create_app):
        with pytest.raises(UserError, match="is damaged|is not a study"):
            use(tmp_path / "study")


def test_an_out_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")
    (tmp_path / "file").write_text("")
    bad = tmp_path / "file" / "out"
    table = written(tmp_path / "a.csv")
    for command in (["simulate", "--raters", "2", "--images", "2"], ["aggregate", str(table)]):
        called = CliRunner().invoke(app, ["study", *command, "--out", str(bad)])
        assert isinstance(called.exception, UserError) and "cannot be written" in str(called.exception), called.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "file"]


def test_methods_called_nan_and_na_stay_two(tmp_path: Path) -> None:
    chosen = {"nan": Brighten(), "NA": Brighten(20), "None": Brighten(30)}
    run_all(tmp_path / "run", chosen, samples(4))
    score(Store.open(tmp_path / "run"), ["mse_background"])
    rows = [f"r{r},{m},s{s},realistic,{3 + i}" for r in range(2) for i, m in enumerate(chosen) for s in range(4)]
    study = ratings.read_csv(written(tmp_path / "a.csv", rows))
    table = correlate.correlate(study, correlate.read_scores([tmp_path / "run"]), draws=5).set_index("level")
    assert table.loc["method", "n"] == 3 and table.loc["sample", "n"] == 12
    assert table.loc["method", "spearman"] == pytest.approx(1)
    called = CliRunner().invoke(
        app, ["study", "correlate", str(tmp_path / "a.csv"), str(tmp_path / "run"), "--draws", "5"]
    )
    assert called.exit_code == 0 and "nan" not in called.output
