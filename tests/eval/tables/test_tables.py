"""The paper's tables, alone and beside a run made by hand, whose every number can be worked out."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from paths import ROOT
from run_helpers import Brighten, Noise, editors, run_all, samples
from scipy import stats
from study_runs import make_run
from typer.testing import CliRunner

from cpam_bench.cpam.editing import Capabilities
from cpam_bench.eval.analysis.leaderboard import POCKET, leaderboard
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.methods import registry
from cpam_bench.eval.metrics.metric import PROTOCOLS
from cpam_bench.eval.report.export import export
from cpam_bench.eval.report.page import write_report
from cpam_bench.eval.study.table3 import runs_of
from cpam_bench.eval.tables.model import Table
from cpam_bench.eval.tables.pie_bench import METRICS as PIE_METRICS
from cpam_bench.eval.tables.pie_bench import pie_bench_beside
from cpam_bench.eval.tables.published import PAPER, match, published
from cpam_bench.eval.tables.table1 import table1
from cpam_bench.eval.tables.table2 import table2_beside
from cpam_bench.eval.tables.write import render
from cpam_bench.imba.build import published_annotations
from cpam_bench.imba.common.files import write_json, write_rows
from cpam_bench.imba.common.hashes import POCKET as POCKET_HASHES
from cpam_bench.imba.errors import UserError

# As printed in the paper.
TABLE_1 = """
SDEdit ✗ ✗ ✓ ✗ ✗
MasaCtrl ✓ ✗ ✓ ✓ ✗
PnP ✗ ✗ ✗ ✗ ✗
FPE ✗ ✗ ✗ ✗ ✗
DiffEdit ✓ ✗ ✓ ✓ ✗
Pix2Pix-Zero ✗ ✗ ✗ ✗ ✗
LEDITS++ ✓ ✗ ✓ ✓ ✗
Imagic_(FT) ✗ ✗ ✗ ✗ ✗
CPAM ✓ ✓ ✓ ✓ ✓
"""
TABLE_2 = """
SDEdit 28.19 0.338
MasaCtrl 28.82 0.223
PnP 29.03 0.162
FPE 29.02 0.152
DiffEdit 28.58 <u>0.148</u>
Pix2Pix-Zero 27.01 0.186
LEDITS++ 28.74 **0.141**
Imagic_(FT) **30.34** 0.420
CPAM <u>29.26</u> 0.149
"""
TABLE_3 = """
SDEdit 3.63 3.19 3.38 2.42
MasaCtrl 4.01 4.17 4.32 3.11
PnP <u>4.61</u> 4.49 4.20 2.63
FPE 4.50 4.44 4.33 2.53
DiffEdit 4.58 4.57 4.40 3.13
Pix2Pix-Zero 2.11 4.23 1.84 1.93
LEDITS++ 4.38 <u>4.95</u> <u>4.57</u> 3.26
Imagic_(FT) 3.74 3.48 4.30 **4.82**
CPAM **4.72** **5.09** **4.69** <u>3.30</u>
"""


@dataclass(frozen=True)
class FakeCPAM(Brighten):
    name: ClassVar[str] = "cpam"
    title: ClassVar[str] = "CPAM"


@dataclass(frozen=True)
class FakeMasaCtrl(Noise):
    name: ClassVar[str] = "masactrl"
    title: ClassVar[str] = "MasaCtrl"


@dataclass(frozen=True)
class FakePnP(Brighten):
    name: ClassVar[str] = "pnp"
    title: ClassVar[str] = "PnP"


@dataclass(frozen=True)
class Own(Brighten):
    """Called as one of the paper's methods on the command line, but it is another."""

    name: ClassVar[str] = "FPE"
    title: ClassVar[str] = "FPE, my own"


@dataclass(frozen=True)
class Reference(Brighten):
    name: ClassVar[str] = "identity"
    title: ClassVar[str] = "Identity (source)"
    edits: ClassVar[bool] = False


VALUES = {
    "cpam": ([20.0, 30.0, 40.0, 50.0], [0.1, 0.2, 0.3, 0.4]),
    "masactrl": ([40.0, 40.0, 40.0, 40.0], [0.5, 0.5, 0.5, 0.5]),
    "pnp": ([10.0, 11.0, 12.0, 13.0], [0.2, 0.2, 0.2, 0.204]),
    "cpam:amount=40": ([90.0, 90.0, 90.0, 90.0], [0.01, 0.01, 0.01, 0.01]),
    "FPE": ([1.0, 1.0, 1.0, 1.0], [0.9, 0.9, 0.9, 0.9]),
    "identity": ([5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0]),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "fake"
    chosen = editors(FakeCPAM(), FakeMasaCtrl(), FakePnP(), FakeCPAM(40), Own(), Reference())
    kinds = ["replace", "replace", "remove", "remove"]
    todo = [
        replace(s, kind=kind, retain_object=i == 0) for i, (s, kind) in enumerate(zip(samples(4), kinds, strict=True))
    ]
    assert run_all(folder, chosen, todo) == []
    rows = [
        (label, f"s{i}", metric, value)
        for label, columns in VALUES.items()
        for metric, values in zip(("clip_score", "lpips_background"), columns, strict=True)
        for i, value in enumerate(values)
    ]
    write_rows(folder / "scores.csv", ["method", "sample", "metric", "value"], rows)
    metrics = {"clip_score": {"scorer": "pocket"}, "lpips_background": {"scorer": "LPIPS AlexNet v0.1"}}
    write_json(folder / "scores.json", {"metrics": metrics})
    return folder


def cells(text: str) -> list[list[str]]:
    """The rows of Markdown tables, heads and rules left out, all of one width."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1
    rules = [i for i, row in enumerate(rows) if row[0] == "---"]
    return [row for i, row in enumerate(rows) if i not in rules and i + 1 not in rules]


def expected(text: str) -> list[list[str]]:
    return [[cell.replace("_", " ") for cell in line.split()] for line in text.strip().splitlines()]


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["table", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def check_latex(text: str) -> list[list[str]]:
    """That environments and braces close and all rows are of one width; returns the rows."""
    assert re.findall(r"\\begin\{(.+?)\}", text) == re.findall(r"\\end\{(.+?)\}", text)[::-1]
    bare = re.sub(r"\\[{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert text.isascii()
    width = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in body.splitlines() if line.endswith(r"\\")]
    rows = [row for row in rows if r"\multicolumn" not in " ".join(row)]
    assert {len(row) for row in rows} == {width}
    return rows


# published ------------------------------------------------------------------------------------------------------------


def test_published_tables_are_those_of_the_paper_to_the_digit() -> None:
    assert cells(render(table1({}), "md")) == expected(TABLE_1)
    assert cells(invoke(2)) == expected(TABLE_2)
    assert cells(invoke(3)) == expected(TABLE_3)


@pytest.mark.parametrize(("number", "printed"), [(2, TABLE_2), (3, TABLE_3)])
def test_published_latex_has_the_same_numbers_and_marks(number: int, printed: str) -> None:
    text = invoke(number, "--format", "latex")
    rows = [" & ".join(row) for row in check_latex(text)[1:]]
    wanted = [" & ".join(row) for row in expected(printed)]
    wanted = [re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", row) for row in wanted]
    assert rows == [re.sub(r"<u>(.+?)</u>", r"\\underline{\1}", row) for row in wanted]
    assert r"\toprule" in text and "Imagic is the fine-tuning method" in text


@pytest.mark.parametrize("number", [2, 3])
def test_published_csv_is_the_file_itself(number: int) -> None:
    file = next(PAPER.glob(f"table{number}_*.csv"))
    assert invoke(number, "--format", "csv") == file.read_text()


def test_there_is_one_copy_of_the_published_tables() -> None:
    assert (ROOT / "results" / "paper").resolve() == PAPER.resolve()


def test_where_the_papers_marks_are_not_its_numbers_the_table_says_so() -> None:
    lpips = published(2).set_index("method")["lpips_background"].astype(float).nsmallest(2)
    assert lpips.index[1] == "DiffEdit" and "0.148 (DiffEdit)" in invoke(2)
    realistic = published(3).set_index("method")["realistic"].astype(float).nlargest(2)
    assert realistic.index[1] == "LEDITS++" and "4.57 (LEDITS++)" in invoke(3)


# Table 1 --------------------------------------------------------------------------------------------------------------


def test_declared_capabilities_stand_beside_the_published_ones() -> None:
    text = invoke(1)
    rows = {row[0]: row[1:] for row in cells(text)}
    for method, *printed in expected(TABLE_1):
        assert rows[method][:5] == printed
    assert len(rows["CPAM"]) == 10 and "–" not in rows["CPAM"] and "–" not in rows["MasaCtrl"]
    assert rows["cpam-release"][:5] == ["–"] * 5 and "–" not in rows["cpam-release"][5:]
    assert "identity" not in rows
    check_latex(invoke(1, "--format", "latex"))


def test_what_our_editors_declare_otherwise_is_shown_in_their_code() -> None:
    notes = [note for note in table1().notes if "in the paper" in note]
    assert len(notes) == 3
    assert all(
        re.search(r"\(github\.com/.+(preprocess\.py|\.ipynb|imagic_stable_diffusion\.py)", note) for note in notes
    )


def test_a_declaration_that_differs_is_marked() -> None:
    class Boastful(FakeMasaCtrl):
        capabilities = Capabilities(local_edit=True, object_removal=True, caption_free=True, mask_control=True)
        shown: ClassVar = {"object_removal": "its code, line 3", "caption_free": "not said, for it does not differ"}

    table = table1({"masactrl": Boastful}, {"other": "method 'other' cannot be loaded"})
    text = render(table, "md")
    rows = {row[0]: row[1:] for row in cells(text)}
    assert rows["MasaCtrl"] == ["✓", "✗", "✓", "✓", "✗", "✓", "**✓ ≠**", "✓", "✓", "✗"]
    assert text.count("≠**") == 1
    assert "- MasaCtrl, Obj. Removal: ✗ in the paper, ✓ here (its code, line 3)\n" in text and "not said" not in text
    assert "'other' cannot be loaded" in text
    assert r"\textbf{$\checkmark$ $\neq$}" in render(table, "latex")
    data = pd.read_csv(io.StringIO(render(table, "csv"))).set_index("method")
    assert data.loc["MasaCtrl", "differs"] == "object_removal"
    assert (data.loc["MasaCtrl", "object_removal"], data.loc["MasaCtrl", "object_removal_declared"]) == ("no", "yes")


# Table 2 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def imba(run: Path, tmp_path: Path) -> Path:
    """The same run, of the paper's annotations."""
    folder = Path(shutil.copytree(run, tmp_path / "imba"))
    described = json.loads((folder / "run.json").read_text())
    described["dataset"] |= {"name": "IMBA", "pocket": False, "annotations": published_annotations()}
    described["backbone"] |= {"pocket": False}
    write_json(folder / "run.json", described)
    return folder


def test_what_cannot_be_compared_has_no_difference_and_an_order_of_three_no_tau(run: Path) -> None:
    table = table2_beside(run)
    assert "difference" not in table.heads and "rank (paper's)" in table.heads
    assert table.data[["clip_score_difference", "clip_score_tau", "lpips_background_tau"]].isna().all(axis=None)
    text = invoke(2, run)
    assert "not measured of comparable things" in text
    rows = {row[0]: row[1:] for row in cells(text)}
    assert rows["CPAM"][:4] == ["4", "<u>29.26</u>", "35.00 [25.00, 45.00]†", "2 (1)"]
    few = "– (n = 3: fewer than 5)"
    assert rows["Kendall's tau"] == ["", "", "", few, "", "", few]
    assert "†: an interval over fewer than 5 samples" in text


@pytest.mark.parametrize("part", ["unet", "clip", "data"])
def test_pocket_parts_under_another_name_are_marked_and_not_compared(imba: Path, part: str) -> None:
    assert "difference" in table2_beside(imba).heads
    digest = json.loads(POCKET_HASHES.read_text())[part][0]
    file = imba / ("scores.json" if part == "clip" else "run.json")
    said = json.loads(file.read_text())
    if part == "unet":
        said["backbone"] |= {"name": "/home/me/sd", "weights": {"unet": digest}}
    elif part == "clip":
        said["metrics"]["clip_score"]["weights_sha256"] = digest
    else:
        said["dataset"]["fingerprint"] = digest
    write_json(file, said)
    table, board = table2_beside(imba), leaderboard([imba])
    assert "difference" not in table.heads and "Pocket: small models" in table.caption
    assert board.title.startswith("pocket leaderboard") and board.notes[0] == POCKET


def test_differences_and_ranks(imba: Path) -> None:
    data = table2_beside(imba).data.set_index("method")
    assert list(data.index)[:9] == [row[0].removesuffix(" (FT)") for row in expected(TABLE_2)]
    means = {"CPAM": 35.0, "MasaCtrl": 40.0, "PnP": 11.5}
    means |= {"cpam:amount=40": 90.0, "FPE (not the paper's)": 1.0, "identity": 5.0}
    assert data["clip_score"].dropna().to_dict() == means
    assert data.loc["CPAM", "clip_score_difference"] == pytest.approx(35 - 29.26)
    assert data.loc["PnP", "lpips_background_difference"] == pytest.approx(0.201 - 0.162)
    # By CLIPScore the paper has CPAM, PnP, MasaCtrl; measured MasaCtrl, CPAM, PnP: one pair of three agrees.
    ranks = data.loc[["CPAM", "PnP", "MasaCtrl"], ["clip_score_rank", "clip_score_rank_published"]]
    assert ranks.to_numpy().tolist() == [[2, 1], [3, 2], [1, 3]]
    assert data["clip_score_rank"].count() == 3
    # By LPIPS the paper has CPAM, PnP, MasaCtrl; measured PnP, CPAM, MasaCtrl: two of three.
    assert list(data.loc[["CPAM", "PnP", "MasaCtrl"], "lpips_background_rank"]) == [2, 1, 3]
    # An order of three says nothing.
    assert data[["clip_score_tau", "lpips_background_tau"]].isna().all(axis=None)
    assert set(data["clip_score_tau_methods"]) == {3}
    assert "– (n = 3: fewer than 5)" in invoke(2, imba)


def test_tau_of_five_methods(tmp_path: Path) -> None:
    titles = ("SDEdit", "MasaCtrl", "PnP", "FPE", "CPAM")
    chosen = {name.lower(): type(name, (Brighten,), {"title": name})() for name in titles}
    run_all(tmp_path, chosen, samples(1))
    described = json.loads((tmp_path / "run.json").read_text())
    described["dataset"] |= {"name": "IMBA", "pocket": False}
    described["backbone"] |= {"pocket": False}
    write_json(tmp_path / "run.json", described)
    paper = published(2).set_index("method")["clip_score"].astype(float)
    # The paper's order but for the best two, which change places: one pair of ten.
    clip = {name: paper[name] for name in titles} | {"CPAM": 1 + paper["PnP"], "PnP": 2 + paper["PnP"]}
    rows = [(name.lower(), "s0", "clip_score", float(clip[name])) for name in titles]
    rows += [(name.lower(), "s0", "lpips_background", float(i)) for i, name in enumerate(titles)]
    rows.sort(key=lambda row: row[0])
    write_rows(tmp_path / "scores.csv", ["method", "sample", "metric", "value"], rows)
    write_json(tmp_path / "scores.json", {"metrics": {"clip_score": {}, "lpips_background": {}}})
    data = table2_beside(tmp_path).data
    expected = stats.kendalltau(paper[list(titles)], [clip[name] for name in titles])
    assert data["clip_score_tau"].tolist() == pytest.approx([expected.statistic] * len(data))
    assert 0 < expected.statistic < 1 and f"(n = 5, p = {expected.pvalue:.2f})" in invoke(2, tmp_path)


def test_means_and_intervals_are_the_leaderboards(run: Path) -> None:
    board = leaderboard([run]).rows.set_index("method")
    data = table2_beside(run).data.dropna(subset=["label"]).set_index("label")
    assert set(data.index) == set(board.index)
    for metric in ("clip_score", "lpips_background"):
        for column in (metric, f"{metric}_low", f"{metric}_high", f"{metric}_n"):
            assert data[column].to_dict() == board[column].to_dict()


def test_what_the_paper_does_not_have_stands_below_without_a_published_value(imba: Path) -> None:
    text = invoke(2, imba)
    rows = {row[0]: row[1:] for row in cells(text)}
    assert list(rows)[9:] == ["cpam:amount=40", "FPE (not the paper's)", "identity (reference)", "Kendall's tau"]
    dash, full = "–", "**90.00** [90.00, 90.00]†"
    assert rows["cpam:amount=40"] == ["4", dash, full, dash, dash, dash, "**0.010** [0.010, 0.010]†", dash, dash]
    assert rows["FPE"] == ["–", "29.02", "–", "–", "–", "0.152", "–", "–", "–"]
    assert rows["CPAM"][:2] == ["4", "<u>29.26</u>"] and rows["CPAM"][3:5] == ["+5.74", "2 (1)"]
    assert rows["MasaCtrl"][2] == "<u>40.00</u> [40.00, 40.00]†"
    assert rows["identity (reference)"][6] == "0.000 [0.000, 0.000]†"  # the lowest, and yet not marked
    assert rows["Kendall's tau"][4] == "– (n = 3: fewer than 5)"


@pytest.mark.parametrize("format", ["md", "csv", "latex"])
def test_the_table_itself_says_what_differs_from_the_paper(run: Path, format: str) -> None:
    text = invoke(2, run, "--format", format)
    statement = next(line for line in text.splitlines() if "Measured (differs in data set, backbone, steps)" in line)
    for part in ("test (4 samples)", "backbone fake (64 px)", "steps 5", "CLIP pocket", "IMBA (104 samples)", "SD 1.5"):
        assert part in statement
    assert "not comparable with the paper's" in statement and "LPIPS AlexNet v0.1, masked" in statement
    if format == "md":
        assert "| CLIPScore ↑: paper | CLIPScore ↑: pocket [95 %] |" in text
        assert text.startswith("**Table 2:**") and statement == text.splitlines()[0]
    elif format == "latex":
        assert statement.startswith(r"\caption{")
        check_latex(text)
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == 12 and len({row["protocol"] for row in rows}) == 1


def test_the_papers_own_protocol_is_recognised(run: Path, tmp_path: Path) -> None:
    described = json.loads((run / "run.json").read_text())
    described["dataset"] |= {"name": "my_copy", "pocket": False, "annotations": published_annotations()}
    described["backbone"] |= {"name": "sd15", "resolution": 512, "pocket": False}
    described |= {"steps": 50, "samples": [f"s{i}" for i in range(104)]}
    write_json(tmp_path / "run.json", described)
    for name in ("scores.csv", "scores.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    table = table2_beside(tmp_path)
    assert "Measured (agrees where the paper says)" in table.caption and "not comparable" not in table.caption
    assert "difference" in table.heads


def test_a_folder_called_imba_is_not_imba(imba: Path) -> None:
    described = json.loads((imba / "run.json").read_text())
    described["dataset"] |= {"annotations": "0" * 64}
    described["samples"] = [f"s{i}" for i in range(104)]
    write_json(imba / "run.json", described)
    table = table2_beside(imba)
    assert "difference" not in table.heads and "differs in data set" in table.caption


def test_skipped_samples_and_whose_masks_stand_in_every_table(imba: Path, tmp_path: Path) -> None:
    described = json.loads((imba / "run.json").read_text())
    lost = {"ball-a-rugby-ball": "the image is missing", "data.json[9]": "no object"}
    described["dataset"] |= {"records": 6, "left_out": lost, "masks": "from theirs (1a2b3c4d)"}
    write_json(imba / "run.json", described)
    board = leaderboard([imba])
    said = "4 of 6 samples: left out are ball-a-rugby-ball (the image is missing), data.json[9] (no object)"
    assert "IMBA data set (4 of 6 samples)" in board.title
    assert board.notes[:2] == ["masks: from theirs (1a2b3c4d)", said]
    caption = table2_beside(imba).caption
    assert f"Masks: from theirs (1a2b3c4d). {said}." in caption and "IMBA (4 of 6 samples)" in caption
    page = write_report([imba], tmp_path / "report").read_text()
    assert said in page and "IMBA, 4 of 6 samples" in page
    export(imba, tmp_path / "export")
    assert "left out are ball" in (tmp_path / "export" / "README.md").read_text()
    assert json.loads((tmp_path / "export" / "run.json").read_text())["dataset"]["left_out"] == lost


def test_two_editors_of_one_title_are_both_not_matched() -> None:
    titles = {"a": "PnP", "b": "PnP", "cpam:amount=1": "CPAM", "masactrl": "MasaCtrl"}
    matched, notes = match(titles, ["MasaCtrl", "PnP", "CPAM"])
    assert matched == {"MasaCtrl": "masactrl"} and "a, b" in notes[0]


def test_one_value_has_no_interval(tmp_path: Path) -> None:
    run_all(tmp_path / "one", editors(FakeCPAM(40), FakePnP()), samples(1))
    scored = [(m, "s0", x, 1.0) for m in ("cpam:amount=40", "pnp") for x in ("clip_score", "lpips_background")]
    write_rows(tmp_path / "one" / "scores.csv", ["method", "sample", "metric", "value"], scored)
    write_json(tmp_path / "one" / "scores.json", {"metrics": {"clip_score": {}, "lpips_background": {}}})
    rows = {row[0]: row[1:] for row in cells(invoke(2, tmp_path / "one"))}
    assert rows["PnP"][:4] == ["1", "29.03", "**1.00**", "1 (1)"]


def test_slices(run: Path) -> None:
    data = table2_beside(run, "kind").data.set_index(["slice", "method"])["clip_score"]
    assert (data["replace", "CPAM"], data["remove", "CPAM"]) == (25.0, 45.0)
    text = invoke(2, run, "--slice", "retain")
    assert "**object retained (1 samples)**" in text and "**object not retained (3 samples)**" in text
    assert "the published numbers all" in text.splitlines()[0]
    assert len(cells(text)) == 2 * 13
    assert "one object (4 samples)" in invoke(2, run, "--slice", "several", "--format", "latex")


# Table 3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")
    rng = np.random.default_rng(0)
    questions = list(published(3).columns[1:])
    rows = [
        (f"r{r}", method, f"s{s}", question, int(rng.integers(1, 7)))
        for r in range(4)
        for method in ("cpam", "Imagic", "cpam:t=5")
        for s in range(5)
        for question in questions
    ]
    write_rows(tmp_path / "ratings.csv", ["rater", "method", "sample", "question", "rating"], rows)
    return tmp_path / "ratings.csv"


def test_a_study_beside_the_published_one(ratings: Path) -> None:
    text = invoke(3, ratings)
    rows = {row[0]: row[1:] for row in cells(text)}
    raw = pd.read_csv(ratings)
    mean = raw[(raw["method"] == "cpam") & (raw["question"] == "object_retention")]["rating"].mean()
    assert rows["CPAM"][0] == "**4.72**" and f"{mean:.2f}" in rows["CPAM"][4] and "±" in rows["CPAM"][4]
    assert rows["Imagic (FT)"][3] == "**4.82**" and "±" in rows["Imagic (FT)"][7]
    assert rows["cpam:t=5"][:4] == ["–"] * 4 and "±" in rows["cpam:t=5"][4]
    assert "This study: 4 raters, 5 images a method" in text.splitlines()[0] and "20 raters" in text.splitlines()[0]
    check_latex(invoke(3, ratings, "--format", "latex"))
    data = pd.read_csv(io.StringIO(invoke(3, ratings, "--format", "csv")))
    chosen = data[(data["source"] == "this study") & (data["method"] == "cpam")].set_index("question")
    assert chosen.loc["object_retention", "mean"] == pytest.approx(mean)
    assert (data["source"] == "published").sum() == 36 and data["protocol"].nunique() == 1


def test_a_studys_folder_says_what_was_edited(tmp_path: Path) -> None:
    pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")
    from cpam_bench.eval.study import design

    made = make_run(tmp_path / "run", ["cpam", "masactrl"], 2)
    design.init([made], tmp_path / "study", 2, 2)
    assert "; data set scenes, backbone none" in runs_of(tmp_path / "study")
    made.rename(tmp_path / "elsewhere")
    assert "no longer there" in runs_of(tmp_path / "study")


# misuse ---------------------------------------------------------------------------------------------------------------


def test_misuse_is_told(run: Path, tmp_path: Path) -> None:
    cases: list[tuple[list[object], str]] = [
        ([1, run], "takes no folder"),
        ([2, "--slice", "kind"], "give it with a run"),
        ([3, run, "--slice", "kind"], "give it with a run"),
        ([2, tmp_path], "no run.json"),
        ([3, tmp_path / "none"], "neither a study's folder"),
    ]
    for arguments, message in cases:
        with pytest.raises(UserError, match=message):
            invoke(*arguments)
    (tmp_path / "run.json").write_bytes((run / "run.json").read_bytes())
    with pytest.raises(UserError, match="cpam-bench score"):
        invoke(2, tmp_path)
    (tmp_path / "scores.csv").write_bytes((run / "scores.csv").read_bytes())
    write_json(tmp_path / "scores.json", {"metrics": {"clip_score": {}}})
    with pytest.raises(UserError, match=r"metrics that scores\.json does not tell of"):
        invoke(2, tmp_path)


def test_out_writes_the_file(tmp_path: Path) -> None:
    invoke(2, "--out", tmp_path / "new" / "table2.md")
    assert (tmp_path / "new" / "table2.md").read_text() == invoke(2)


# PIE-Bench ------------------------------------------------------------------------------------------------------------


def test_pie_benchs_table_is_the_published_one_and_its_labels_are_canonical() -> None:
    assert invoke("pie-bench", "--format", "csv") == (PAPER / "pie_bench.csv").read_text()
    rows = {row[0]: row[1:] for row in cells(invoke("pie-bench"))}
    assert len(rows) == 10
    assert rows["null-text + P2P"][0] == "<u>13.44</u>" and rows["direct + PnP"][-1] == "**22.62**"
    labels = published("pie-bench")["label"]
    assert [registry.make(label)[0] for label in labels] == list(labels)
    assert tuple(metric.label for metric in PIE_METRICS) == PROTOCOLS["pie-bench"]
    manual = (ROOT / "docs" / "methods" / "pie_bench.md").read_text()
    for row, label in published("pie-bench")[["method", "label"]].itertuples(index=False):
        assert registry.make(re.search(rf"^\| {re.escape(row)} \| `(.+)` \|$", manual, re.MULTILINE)[1])[0] == label


def test_tau_and_units_of_a_run_of_pie_bench(tmp_path: Path) -> None:
    """Six rows, whose published order is kept but for one pair that changes places."""
    paper = published("pie-bench").set_index("label")[[metric.name for metric in PIE_METRICS]].astype(float)
    labels = list(paper.index[:6])
    chosen = {label: Brighten() for label in labels}
    todo = [replace(one, tags=("type=1 change object",)) for one in samples(1)]
    run_all(tmp_path, chosen, todo)
    described = json.loads((tmp_path / "run.json").read_text())
    described["dataset"]["pocket"] = described["backbone"]["pocket"] = False
    described["backbone"] |= {"name": "sd14", "resolution": 512}
    write_json(tmp_path / "run.json", described | {"steps": 50})
    swapped = {**{label: label for label in labels}, labels[0]: labels[4], labels[4]: labels[0]}
    rows = [
        (label, "s0", metric.label, paper.loc[swapped[label], metric.name] / metric.scale)
        for label in labels
        for metric in PIE_METRICS
    ]
    write_rows(tmp_path / "scores.csv", ["method", "sample", "metric", "value"], rows)
    write_json(tmp_path / "scores.json", {"metrics": {metric.label: {} for metric in PIE_METRICS}})
    table = pie_bench_beside(tmp_path)
    data = table.data.dropna(subset=["label"]).set_index("label")
    for metric in PIE_METRICS:
        measured = [paper.loc[swapped[label], metric.name] for label in labels]
        expected = stats.kendalltau(paper[metric.name][:6], measured)
        assert data[metric.name].tolist() == pytest.approx(measured)
        assert data[f"{metric.name}_tau"].tolist() == pytest.approx([expected.statistic] * 6)
        differences = [one - other for one, other in zip(measured, paper[metric.name][:6], strict=True)]
        assert data[f"{metric.name}_difference"].tolist() == pytest.approx(differences, abs=1e-9)
    assert "differs in data set)" in table.caption and f"(n = 6, p = {expected.pvalue:.2f})" in render(table, "md")
    # Of the pocket parts, or of other data, a difference would say nothing.
    described["backbone"]["pocket"] = True
    write_json(tmp_path / "run.json", described)
    pocket = pie_bench_beside(tmp_path)
    assert "difference" not in pocket.heads and "pocket [95 %]" in pocket.heads
    described["backbone"]["pocket"] = False
    write_json(tmp_path / "run.json", described)
    task = next((tmp_path / "sources").glob("*.json"))
    task.write_text(task.read_text().replace("type=1 change object", "scene=natural"))
    other = pie_bench_beside(tmp_path)
    assert "difference" not in other.heads and "not measured of comparable things" in other.notes[0]
    with pytest.raises(UserError, match="give it with a run"):
        invoke("pie-bench", "--slice", "kind")


def test_a_run_without_the_seven_is_told_how_to_measure_them(run: Path) -> None:
    with pytest.raises(UserError, match="no structure_distance; measure it .* --protocol pie-bench"):
        invoke("pie-bench", run)


def test_formulas_are_escaped_in_csv() -> None:
    data = pd.DataFrame({"method": ["=1+1", "a"], "change": [-1.5, 2.0]})
    table = Table(2, "", [], ["Method", "Change"], [], [], data)
    assert render(table, "csv") == "method,change\n'=1+1,-1.5\na,2.0\n"
