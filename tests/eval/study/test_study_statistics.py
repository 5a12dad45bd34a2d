"""Intervals, agreement, tables and flags, against known truths and other people's implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

pytest.importorskip("krippendorff", reason="the extra 'study' is not installed")
pytest.importorskip("statsmodels", reason="the extra 'study' is not installed")

from paths import DATA, PUBLISHED

from cpam_bench.eval.study import aggregate, correlate, ratings, simulate
from cpam_bench.eval.study import intervals as statistics
from cpam_bench.eval.study import means as tables
from cpam_bench.eval.tables.model import marked
from cpam_bench.eval.tables.write import latex, markdown
from cpam_bench.imba.errors import UserError

PAPER = PUBLISHED / "table3_user_study.csv"


def test_two_way_is_the_analysis_of_variance_on_complete_data() -> None:
    rng = np.random.default_rng(0)
    r, s = 7, 11
    values = rng.normal(size=(r, 1)) + rng.normal(size=(1, s)) + rng.normal(size=(r, s))
    found = statistics.two_way(values)
    rows, columns, all_ = values.mean(1), values.mean(0), values.mean()
    ms_r = s * ((rows - all_) ** 2).sum() / (r - 1)
    ms_s = r * ((columns - all_) ** 2).sum() / (s - 1)
    ms_e = ((values - rows[:, None] - columns[None] + all_) ** 2).sum() / ((r - 1) * (s - 1))
    variance = (ms_r + ms_s - ms_e) / (r * s)
    assert variance > max(ms_r, ms_s) / (r * s)  # so that the floor is not in play
    assert found.mean == pytest.approx(all_)
    assert found.se**2 == pytest.approx(variance)
    df = variance**2 / ((ms_r / (r * s)) ** 2 / (r - 1) + (ms_s / (r * s)) ** 2 / (s - 1))
    assert found.df == pytest.approx(df)
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, df) * np.sqrt(variance))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(all_) / np.sqrt(variance), df))


def test_one_clustering_alone_gives_the_ordinary_t_interval() -> None:
    raters = np.random.default_rng(1).normal(size=12)
    found = statistics.two_way(np.repeat(raters[:, None], 300, axis=1))
    low, high = stats.t.interval(0.95, 11, raters.mean(), stats.sem(raters))
    assert found.low == pytest.approx(low, rel=1e-6)
    assert found.high == pytest.approx(high, rel=1e-6)


def test_holes_are_left_out_and_too_little_data_has_no_interval() -> None:
    values = np.random.default_rng(2).normal(size=(3, 6, 9))
    values[0, 2] = np.nan
    values[0, :, 4] = np.nan
    less = np.delete(np.delete(values[0], 2, axis=0), 4, axis=1)
    found, known = statistics.two_way(values), statistics.two_way(less)
    for name in ("mean", "low", "high", "df", "count"):
        assert getattr(found, name)[0] == pytest.approx(getattr(known, name)), name
    lone = statistics.two_way(values[1, :1])
    assert lone.mean == pytest.approx(values[1, 0].mean())
    assert np.isnan(lone.low)
    assert np.isnan(statistics.two_way(np.full((4, 4), np.nan)).mean)


def test_constant_ratings() -> None:
    found = statistics.two_way(np.stack([np.zeros((5, 5)), np.full((5, 5), 3.0)]))
    assert found.low.tolist() == [0, 3] and found.high.tolist() == [0, 3]
    assert found.p.tolist() == [1, 0]


def test_ignoring_a_clustering_would_be_far_too_sure() -> None:
    values = simulate.draw(np.full((1, 1), 4.0), 20, 50, np.random.default_rng(3))[0, 0]
    assert statistics.two_way(values).se > 3 * values.std() / np.sqrt(values.size)


def test_pigeonhole_agrees_with_a_plain_loop() -> None:
    values = np.random.default_rng(4).normal(size=(6, 8))
    found = statistics.pigeonhole(values, draws=4000, seed=1)
    rng = np.random.default_rng(5)
    loop = [values[rng.integers(6, size=6)][:, rng.integers(8, size=8)].mean() for _ in range(4000)]
    low, high = np.quantile(loop, [0.025, 0.975])
    width = high - low
    assert abs(found.low - low) < 0.08 * width and abs(found.high - high) < 0.08 * width


def test_alpha_is_krippendorffs_own_example() -> None:
    """K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C: ordinal alpha 0.815."""
    nan = np.nan
    data = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
            [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
        ]
    )
    assert statistics.alpha_ordinal(data) == pytest.approx(0.815, abs=5e-4)
    assert np.isnan(statistics.alpha_ordinal(np.full((3, 4), 2.0)))
    assert np.isnan(statistics.alpha_ordinal(data[:1]))


def test_simulated_means_are_the_ones_asked_for() -> None:
    means = np.array([[1.5, 3.5], [5.7, 4.82]])
    drawn = np.stack([simulate.draw(means, 40, 40, np.random.default_rng(seed)) for seed in range(60)])
    assert set(np.unique(drawn)) == set(simulate.SCALE)
    each = drawn.mean((3, 4))
    assert (np.abs(each.mean(0) - means) < 4 * each.std(0) / np.sqrt(60)).all()
    unit = simulate.draw(np.array([[0.4]]), 5, 5, np.random.default_rng(0), scale=(0, 0.25, 0.5, 0.75, 1))
    assert set(np.unique(unit)) <= {0, 0.25, 0.5, 0.75, 1}


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_coverage_is_nominal(missing: float) -> None:
    means = tables.read_means(PAPER).mean
    found = simulate.coverage(means, studies=200, missing=missing)
    assert 0.93 <= found.means <= 0.97
    assert 0.93 <= found.differences <= 0.97
    assert found.false_alarms < 0.08


def test_more_raters_have_more_power() -> None:
    found = simulate.power(0.3, [4, 40], studies=80)
    assert found["power"].iloc[1] > found["power"].iloc[0]
    assert (found["power_holm"] <= found["power"]).all()
    assert found["half"].iloc[1] < found["half"].iloc[0]


def write_study(path: Path, careless: int = 0, raters: int = 12, images: int = 15) -> ratings.Study:
    truth = tables.read_means(PAPER)
    rng = np.random.default_rng(7)
    values = simulate.draw(truth.mean, raters, images, rng)
    values = simulate.add_careless(values, careless, rng)
    ratings.write_csv(simulate.as_table(values, truth.methods, truth.questions, careless), path)
    return ratings.read(path)


def test_aggregate(tmp_path: Path) -> None:
    study = write_study(tmp_path / "long.csv")
    report = aggregate.aggregate(study)
    truth = tables.read_means(PAPER)
    assert report.table.methods == truth.methods and report.table.questions == truth.questions
    plain = study.ratings.groupby(["method", "question"])["rating"].mean()
    for row in report.means.itertuples():
        assert row.mean == pytest.approx(plain[row.method, row.question])
        assert row.ratings == 12 * 15
        assert row.low < row.mean < row.high
    assert len(report.pairs) == 36 * 4
    assert (report.pairs["p_holm"] >= report.pairs["p"]).all()
    worst = report.pairs[(report.pairs["a"] == "Pix2Pix-Zero") & (report.pairs["b"] == "CPAM")].set_index("question")
    assert worst.loc["object_retention", "p_holm"] < 0.001  # 2.11 against 4.72
    assert worst.loc["object_retention", "difference"] < -2
    assert set(report.agreement["question"]) == {*truth.questions, "all"}
    assert (report.raters["flags"] == "").all()
    boot = aggregate.aggregate(study, interval="bootstrap")
    ratio = (boot.means["high"] - boot.means["low"]) / (report.means["high"] - report.means["low"])
    assert 0.6 < ratio.mean() < 1.2


def test_holm_is_done_by_hand_too(tmp_path: Path) -> None:
    pairs = aggregate.aggregate(write_study(tmp_path / "long.csv")).pairs
    p = pairs[pairs["question"] == "realistic"].sort_values("p")
    by_hand = np.minimum(np.maximum.accumulate(p["p"].to_numpy() * np.arange(36, 0, -1)), 1)
    assert p["p_holm"].to_numpy() == pytest.approx(by_hand)


def test_careless_raters_are_flagged_and_counted_until_dropped(tmp_path: Path) -> None:
    study = write_study(tmp_path / "long.csv", careless=2)
    report = aggregate.aggregate(study)
    flags = report.raters.set_index("rater")["flags"]
    assert set(flags[flags != ""].index) == {"r11", "r12"}
    assert "same answer" in flags["r11"] and "one value" in flags["r11"] and "too fast" in flags["r11"]
    assert "too fast" in flags["r12"] and "disagrees" in flags["r12"]
    assert any("r11, r12" in note and "counted all the same" in note for note in report.notes)
    assert report.means["raters"].eq(12).all()
    fewer = aggregate.aggregate(study, drop_flagged=True)
    assert fewer.means["raters"].eq(10).all()
    assert any(note.startswith("dropped as asked: r11, r12 (1080 ratings)") for note in fewer.notes)
    assert aggregate.aggregate(study, drop=["r03"]).means["raters"].eq(11).all()
    with pytest.raises(UserError, match="r99"):
        aggregate.aggregate(study, drop=["r99"])


def test_attention_checks_flag(tmp_path: Path) -> None:
    table = write_study(tmp_path / "long.csv").ratings
    sure = table[(table["method"] == "CPAM") & (table["question"] == "object_retention") & (table["sample"] == "s001")]
    control = sure.assign(method="(other)", role="control", expected="low", rating=1.0)
    control.loc[control["rater"] == "r02", "rating"] = 6.0
    again = sure.assign(role="repeat")
    again.loc[again["rater"] == "r05", "rating"] = (again["rating"] + 3) % 6 + 1
    study = ratings.Study(pd.concat([table, control, again]), list(simulate.SCALE), {})
    flags = aggregate.rater_table(study, aggregate.Limits()).set_index("rater")["flags"]
    assert flags["r02"] == "fails attention checks"
    assert flags["r05"] == "repeats differ"
    assert flags["r01"] == ""
    report = aggregate.aggregate(study)
    assert "(other)" not in report.table.methods
    assert report.means["ratings"].eq(180).all()


def test_other_scales(tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    table = write_study(file).ratings
    six = aggregate.aggregate(ratings.read(file))
    table["rating"] = (table["rating"] - 1) / 5
    ratings.write_csv(table, file)
    unit = aggregate.aggregate(ratings.read(file))
    assert (unit.means["mean"] * 5 + 1).to_numpy() == pytest.approx(six.means["mean"].to_numpy())
    assert unit.pairs["p_holm"].to_numpy() == pytest.approx(six.pairs["p_holm"].to_numpy())
    assert unit.agreement["alpha"].to_numpy() == pytest.approx(six.agreement["alpha"].to_numpy())


def test_wide_tables_through_a_mapping(tmp_path: Path) -> None:
    table = write_study(tmp_path / "long.csv", raters=4, images=5).ratings
    table["column"] = table["method"] + " - " + table["question"]
    wide = table.pivot(index=["rater", "sample"], columns="column", values="rating").reset_index()
    wide = wide.rename(columns={"rater": "participant", "sample": "image"})
    wide.iloc[0, 2] = -1
    wide.to_csv(tmp_path / "wide.csv", index=False)
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        'rater = "participant"\nsample = "image"\npattern = "(?P<method>.+) - (?P<question>.+)"\nmissing = [-1]\n'
        '[rename.method]\nCPAM = "Ours"\n'
    )
    study = ratings.read(tmp_path / "wide.csv", mapping)
    assert study.notes[0] == "1 of 720 cells of wide.csv hold no rating" and "scale is not said" in study.notes[1]
    assert "Ours" in set(study.ratings["method"]) and "CPAM" not in set(study.ratings["method"])
    keys = ["rater", "method", "sample", "question"]
    read = study.ratings.replace({"Ours": "CPAM"}).set_index(keys)["rating"].sort_index()
    told = table.set_index(keys)["rating"].sort_index()
    assert len(read) == 719
    assert (read == told.loc[read.index]).all()

    pd.DataFrame({"who": ["a", "a", "b", "b"], "pic": [1, 2, 1, 2], "x": [0, 1, 1, 0], "y": [1, 1, 0, 1]}).to_csv(
        tmp_path / "w2.csv", index=False
    )
    mapping.write_text(
        'rater = "who"\nsample = "pic"\n[fixed]\nquestion = "better"\n'
        '[columns]\nx = {method = "X"}\ny = {method = "Y"}\n'
    )
    means = aggregate.aggregate(ratings.read(tmp_path / "w2.csv", mapping)).means.set_index("method")["mean"]
    assert means.to_dict() == {"X": 0.5, "Y": 0.75}
    mapping.write_text('rater = "nobody"')
    with pytest.raises(UserError, match="nobody"):
        ratings.read(tmp_path / "w2.csv", mapping)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("r1,a,s,q,4\nr1,a,s,q,5\n", "the first r1 / a / s / q"),
        ("r1,a,s,q,4\nr1,b,s,q,good\n", "line 3: the rating 'good'"),
        ("r1,a,s,q,inf\n", "line 2"),
        ("r1,,s,q,4\n", "no method"),
        ("", "holds no rating"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: str, what: str) -> None:
    file = tmp_path / "long.csv"
    file.write_text("rater,method,sample,question,rating\n" + rows)
    with pytest.raises(UserError, match=what):
        ratings.read(file)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "long.csv"
    file.write_text("rater,method,sample,score\n1,a,s,4\n")
    with pytest.raises(UserError, match="no column question, rating"):
        ratings.read(file)


def test_best_is_bold_and_second_underlined() -> None:
    column = marked({"a": 3.0, "b": 4.0, "c": 4.001, "d": 2.0, "e": np.nan}, 2, True)
    assert [cell.mark for cell in column.values()] == ["second", "best", "best", "", ""]
    paper = tables.read_means(PAPER, "published")
    text = markdown(tables.beside([paper], "", [], tables.csv(paper)))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines()[2:]}
    assert lines["CPAM"] == "| CPAM | **4.72** | **5.09** | **4.69** | <u>3.30</u> |"
    assert lines["Imagic"] == "| Imagic | 3.74 | 3.48 | 4.30 | **4.82** |"
    assert lines["LEDITS++"] == "| LEDITS++ | 4.38 | <u>4.95</u> | <u>4.57</u> | 3.26 |"
    tex = latex(tables.beside([paper], "50% & more", [], tables.csv(paper)))
    assert r"CPAM & \textbf{4.72} & \textbf{5.09} & \textbf{4.69} & \underline{3.30} \\" in tex
    assert r"\caption{50\% \& more}" in tex
    assert tables.csv(paper).equals(pd.read_csv(PAPER))


def test_published_and_measured_side_by_side(tmp_path: Path) -> None:
    study = write_study(tmp_path / "long.csv")
    study.ratings["method"] = study.ratings["method"].str.lower()
    report = aggregate.aggregate(study)
    paper = tables.read_means(PAPER, "published")
    files = aggregate.write(report, tmp_path / "out", paper)
    assert {file.name for file in files} == {
        "table3.csv", "table3.md", "table3.tex", "means.csv", "agreement.csv", "pairs.csv", "raters.csv"
    }  # fmt: skip
    lines = (tmp_path / "out" / "table3.md").read_text().splitlines()
    assert "published: Realistic" in lines[0] and "this study: Realistic" in lines[0]
    cpam = next(line for line in lines if line.startswith("| CPAM |"))  # matched with "cpam"
    assert cpam.count("|") == 10 and "**4.72**" in cpam and "±" in cpam
    assert sum(line.startswith("| ") for line in lines) == 2 + 9
    again = tables.read_means(tmp_path / "out" / "table3.csv")
    assert again.questions == paper.questions
    assert not list((tmp_path / "out").glob("*.part"))


def test_correlate(tmp_path: Path) -> None:
    study = write_study(tmp_path / "long.csv")
    mean = study.ratings[study.ratings["question"] == "realistic"].groupby(["method", "sample"])["rating"].mean()
    rng = np.random.default_rng(8)
    scores = pd.concat(
        [
            pd.DataFrame({"metric": "good", "value": mean}).reset_index(),
            pd.DataFrame({"metric": "bad", "value": -mean}).reset_index(),
            pd.DataFrame({"metric": "noise", "value": rng.normal(size=len(mean))}, index=mean.index).reset_index(),
            pd.DataFrame({"metric": "flat", "value": 1.0}, index=mean.index).reset_index(),
        ]
    )
    table = correlate.correlate(study, scores, draws=30)
    found = table[table["question"] == "realistic"].set_index(["metric", "level"])
    for level, n in (("sample", 135), ("within", 15), ("method", 9)):
        assert found.loc[("good", level), "spearman"] == pytest.approx(1)
        assert found.loc[("good", level), "kendall"] == pytest.approx(1)
        assert found.loc[("bad", level), "spearman"] == pytest.approx(-1)
        assert found.loc[("good", level), "n"] == n
        assert np.isnan(found.loc[("flat", level), "spearman"])
        assert found.loc[("good", level), "spearman_low"] > 0.5
    assert found.loc[("noise", "sample"), "spearman_low"] < 0 < found.loc[("noise", "sample"), "spearman_high"]
    both = scores[scores["metric"] == "noise"].set_index(["method", "sample"])["value"].loc[mean.index]
    assert found.loc[("noise", "sample"), "kendall"] == pytest.approx(stats.kendalltau(mean, both).statistic)
    each = [
        (stats.spearmanr(o, s).statistic, stats.kendalltau(o, s).statistic)
        for name in mean.index.levels[1]
        for o, s in [(mean.xs(name, level="sample"), both.xs(name, level="sample"))]
    ]
    assert found.loc[("noise", "within"), ["spearman", "kendall"]].tolist() == pytest.approx(np.mean(each, axis=0))
    with pytest.raises(UserError, match="two runs"):
        correlate.read_scores([DATA / "run-0.1" / "run"] * 2)
    with pytest.raises(UserError, match="no picture in common"):
        correlate.correlate(study, scores.assign(method="none"))
