"""From ratings to Table 3: means with intervals, agreement, pairwise tests, and raters to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from cpam_bench.eval.study import means as tables
from cpam_bench.eval.study.intervals import alpha_ordinal, pigeonhole, two_way
from cpam_bench.eval.study.means import Means
from cpam_bench.eval.study.ratings import Study, cube, write_csv, write_text
from cpam_bench.eval.tables.write import latex, markdown
from cpam_bench.imba.errors import UserError

Interval = Literal["t", "bootstrap"]


@dataclass(frozen=True)
class Limits:
    """From where on a rater is flagged.

    Attributes:
        controls: share of answers to controls on the wrong side of the scale's middle.
        repeats: mean difference between a picture's first and second rating, as a fraction of the scale's range.
        same: share of pictures with the same answer to every question (with three questions or more).
        one_value: share of all ratings that are one value.
        seconds: median time a question, in seconds, below which a rater is too fast.
        pace: the same as a fraction of the median of all raters.
        others: Spearman correlation with the mean of the other raters, below.
    """

    controls: float = 1 / 3
    repeats: float = 0.3
    same: float = 0.8
    one_value: float = 0.8
    seconds: float = 0.4
    pace: float = 0.3
    others: float = 0.1


@dataclass(frozen=True)
class Report:
    """All that a study says.

    Attributes:
        means: method, question, mean, low, high, se, df, ratings, raters, samples.
        table: the same as Table 3 has it.
        agreement: question ("all": everything), alpha, why there is none (words, "" if there is one).
        pairs: question, a, b, difference (a - b), low, high, p, p_holm, pairs (rater and image).
        raters: rater, ratings, the measures of :class:`Limits`, flags (words, "" if none).
        notes: what is missing or was left out, in words.
    """

    means: pd.DataFrame
    table: Means
    agreement: pd.DataFrame
    pairs: pd.DataFrame
    raters: pd.DataFrame
    notes: list[str]


def aggregate(
    study: Study,
    drop: Sequence[str] = (),
    drop_flagged: bool = False,
    interval: Interval = "t",
    limits: Limits | None = None,
    seed: int = 0,
) -> Report:
    """Aggregate a study.

    Controls and repeats serve the flags alone.  Nobody is dropped unless asked for, and then a note says who.

    Args:
        study: the ratings.
        drop: raters to leave out.
        drop_flagged: leave out every flagged rater.
        interval: of the means, "t" (:func:`~cpam_bench.eval.study.intervals.two_way`) or "bootstrap" (``pigeonhole``);
            the pairs' are always "t".
        limits: of the flags.
        seed: of the bootstrap.

    Raises:
        UserError: there is nothing to aggregate.
    """
    ratings, notes = study.ratings, list(study.notes)
    if ratings.empty or not (ratings["role"] == "edit").any():
        raise UserError("the study has no ratings of edits yet")
    if unknown := sorted(set(drop) - set(ratings["rater"])):
        raise UserError(f"no ratings by {', '.join(unknown)}: they cannot be dropped")
    raters = rater_table(study, limits or Limits())
    flagged = raters.loc[raters["flags"] != "", "rater"]
    gone = sorted({*drop, *(flagged if drop_flagged else ())})
    if gone:
        removed = ratings["rater"].isin(gone)
        notes.append(f"dropped as asked: {', '.join(gone)} ({int(removed.sum())} ratings)")
        ratings = ratings[~removed]
        if ratings.empty:
            raise UserError("every rater was dropped: look at the flags, or drop fewer")
    if kept := [rater for rater in flagged if rater not in gone]:
        notes.append(f"flagged, and counted all the same: {', '.join(kept)}")
    extra = ratings["role"].value_counts()
    for role in ("repeat", "control"):
        if role in extra:
            notes.append(f"{extra[role]} ratings of {role}s are used for the flags alone")
    if study.erased:
        notes.append(f"{study.erased} rater(s) were erased at their request")
    values, methods, questions, people, samples = cube(ratings)
    have = int((~np.isnan(values)).sum())
    if study.planned and have < study.planned and not gone:
        notes.append(f"{have} of {study.planned} planned ratings are in")
    if min(len(people), len(samples)) < 2:
        notes.append("no intervals: they need two raters and two images at least")
    holes = int(np.isnan(values).sum())
    if holes and not study.planned:
        notes.append(f"{holes} combinations of rater, method, sample and question were not rated")

    estimate = two_way(values) if interval == "t" else pigeonhole(values, seed=seed)
    cells = list(np.ndindex(len(methods), len(questions)))
    means = pd.DataFrame(
        [
            {
                "method": methods[m],
                "question": questions[q],
                "mean": estimate.mean[m, q],
                "low": estimate.low[m, q],
                "high": estimate.high[m, q],
                "se": estimate.se[m, q],
                "df": estimate.df[m, q],
                "ratings": int(estimate.count[m, q]),
                "raters": int((~np.isnan(values[m, q])).any(1).sum()),
                "samples": int((~np.isnan(values[m, q])).any(0).sum()),
            }
            for m, q in cells
        ]
    )
    half = (estimate.high - estimate.low) / 2
    return Report(
        means,
        Means("this study", methods, questions, estimate.mean, half),
        _agreement(values, questions),
        _pairs(values, methods, questions),
        raters,
        notes,
    )


def _agreement(values: np.ndarray, questions: list[str]) -> pd.DataFrame:
    """Alpha a question, over all pictures of all methods."""
    people = values.shape[2]
    parts = {question: values[:, q].transpose(1, 0, 2).reshape(people, -1) for q, question in enumerate(questions)}
    parts["all"] = values.transpose(2, 0, 1, 3).reshape(people, -1)
    rows = []
    for question, part in parts.items():
        alpha = alpha_ordinal(part)
        twice = ((~np.isnan(part)).sum(0) > 1).any()
        why = "all ratings are the same" if twice else "no picture was rated by two raters"
        rows.append({"question": question, "alpha": alpha, "why": why if np.isnan(alpha) else ""})
    return pd.DataFrame(rows)


def _pairs(values: np.ndarray, methods: list[str], questions: list[str]) -> pd.DataFrame:
    """Every two methods on what the same rater said of the same image; Holm's correction within a question."""
    frames = []
    pairs = list(combinations(range(len(methods)), 2))
    for q, question in enumerate(questions):
        if not pairs:
            break
        estimate = two_way(np.stack([values[a, q] - values[b, q] for a, b in pairs]))
        known = ~np.isnan(estimate.p)
        holm = np.full(len(pairs), np.nan)
        if known.any():
            holm[known] = multipletests(estimate.p[known], method="holm")[1]
        frames.append(
            pd.DataFrame(
                {
                    "question": question,
                    "a": [methods[a] for a, _ in pairs],
                    "b": [methods[b] for _, b in pairs],
                    "difference": estimate.mean,
                    "low": estimate.low,
                    "high": estimate.high,
                    "p": estimate.p,
                    "p_holm": holm,
                    "pairs": estimate.count,
                }
            )
        )
    columns = ["question", "a", "b", "difference", "low", "high", "p", "p_holm", "pairs"]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)


def rater_table(study: Study, limits: Limits) -> pd.DataFrame:
    """What tells an attentive rater from another, and whom the limits flag; one row a rater."""
    ratings = study.ratings
    span = max(study.scale) - min(study.scale)
    middle = (max(study.scale) + min(study.scale)) / 2
    edits = ratings[ratings["role"] == "edit"]
    picture = ["method", "sample", "question"]
    total = edits.groupby(picture)["rating"].agg(["sum", "count"])
    most = edits.groupby("rater").size().max()
    rows = []
    for rater, mine in ratings.groupby("rater"):
        own = mine[mine["role"] == "edit"]
        row: dict[str, object] = {"rater": rater, "ratings": len(own)}
        controls = mine[(mine["role"] == "control") & mine["expected"].isin(["high", "low"])]
        wrong = np.where(controls["expected"] == "high", controls["rating"] <= middle, controls["rating"] >= middle)
        row["controls_wrong"] = float(wrong.mean()) if len(wrong) else np.nan
        again = mine[mine["role"] == "repeat"].merge(own, on=picture, suffixes=("_again", ""))
        apart = (again["rating_again"] - again["rating"]).abs().mean()
        row["repeat_difference"] = float(apart / span) if len(again) and span else np.nan
        answers = own.groupby(["method", "sample"])["rating"].agg(["nunique", "count"])
        several = answers[answers["count"] >= 3]
        row["same_answers"] = float((several["nunique"] == 1).mean()) if len(several) else np.nan
        row["one_value"] = float(own["rating"].value_counts(normalize=True).iloc[0]) if len(own) else np.nan
        questions = max(own["question"].nunique(), 1)
        row["seconds"] = float(own["seconds"].median() / questions) if own["seconds"].notna().any() else np.nan
        rest = own.set_index(picture)["rating"]
        others = total.loc[rest.index]
        shared = others["count"] > 1
        rest, others = rest[shared], others[shared]
        mean = (others["sum"] - rest) / (others["count"] - 1)
        varied = len(rest) > 9 and rest.nunique() > 1 and mean.nunique() > 1
        row["agreement"] = float(rest.corr(mean, method="spearman")) if varied else np.nan
        rows.append(row)
    table = pd.DataFrame(rows)
    pace = table["seconds"].median()
    flags = {
        "fails attention checks": table["controls_wrong"] > limits.controls,
        "repeats differ": table["repeat_difference"] > limits.repeats,
        "same answer to all questions": table["same_answers"] > limits.same,
        "one value throughout": table["one_value"] > limits.one_value,
        "too fast": (table["seconds"] < limits.seconds) | (table["seconds"] < limits.pace * pace),
        "disagrees with the others": table["agreement"] < limits.others,
        "unfinished": table["ratings"] < (study.planned // study.raters if study.raters else most),
    }
    table["flags"] = ["; ".join(name for name, hit in flags.items() if bool(hit.iloc[i])) for i in range(len(table))]
    return table


def write(report: Report, out: Path, beside: Means | None = None) -> list[Path]:
    """Write a report's tables; the files written.

    ``table3.csv``, ``.md`` and ``.tex`` are Table 3 in the paper's layout, with `beside` next to it if given;
    ``means.csv``, ``agreement.csv``, ``pairs.csv`` and ``raters.csv`` are long tables.
    """
    shown = [report.table] if beside is None else [beside, report.table]
    raters, samples = int(report.means["raters"].max()), int(report.means["samples"].max())
    caption = f"Mean opinion scores with 95% intervals ({raters} raters, {samples} images a method)."
    table = tables.beside(shown, caption, [], tables.csv(report.table))
    frames = {
        "table3.csv": tables.csv(report.table),
        "means.csv": report.means,
        "agreement.csv": report.agreement,
        "pairs.csv": report.pairs,
        "raters.csv": report.raters,
    }
    notes = "".join(f"- {note}\n" for note in report.notes)
    texts = {
        "table3.md": markdown(table) + f"\n{caption}\n" + (f"\n{notes}" if notes else ""),
        "table3.tex": latex(table),
    }
    for name, frame in frames.items():
        write_csv(frame, out / name)
    for name, text in texts.items():
        write_text(text, out / name)
    return [out / name for name in (*frames, *texts)]
