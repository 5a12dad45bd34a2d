"""Table 3: mean opinions, as published and with a study's beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from cpam_bench.eval.store.store import Store
from cpam_bench.eval.study import database
from cpam_bench.eval.study.means import Means, beside, read_means
from cpam_bench.eval.tables.model import Table
from cpam_bench.eval.tables.published import CAPTIONS, FILES, MARKING, PAPER, name, published
from cpam_bench.imba.errors import UserError


def table3(study: Path | None = None) -> Table:
    """Table 3, alone or with a study's means beside it.

    Args:
        study: a study's folder, or a CSV file of ratings.

    Raises:
        UserError: there are no ratings, or packages of the extra ``study`` are missing.
    """
    paper = read_means(PAPER / FILES[3], "published")
    if study is None:
        return beside([_named(paper)], CAPTIONS[3], [MARKING[3]], published(3))
    try:
        from cpam_bench.eval.study import aggregate, ratings
    except ImportError as error:
        raise UserError(f"the study needs the package {error.name}: pip install 'cpam-bench[study]'") from error

    if not study.exists():
        raise UserError(f"{study} is neither a study's folder nor a CSV file of ratings")
    held = ratings.read(study)
    report = aggregate.aggregate(held)
    raters, images = int(report.means["raters"].max()), int(report.means["samples"].max())
    statement = (
        f"This study: {raters} raters, {images} images a method, scale {min(held.scale):g} to {max(held.scale):g}, "
        f"± half the 95 % interval{runs_of(study)}. The paper: 20 raters, 50 images a method, scale 1 to 6, "
        "IMBA, SD 1.5."
    )
    rows = [
        published(3).melt("method", var_name="question", value_name="mean").assign(source="published"),
        report.means[["method", "question", "mean", "low", "high", "ratings"]].assign(source="this study"),
    ]
    data = pd.concat([frame.astype(object) for frame in rows], ignore_index=True).assign(protocol=statement)
    data.insert(0, "source", data.pop("source"))
    shown = [_named(paper), _named(report.table)]
    return beside(shown, f"{CAPTIONS[3]} {statement}", [*report.notes, MARKING[3]], data)


def runs_of(study: Path) -> str:
    """What the edits of a study were made of, as far as its runs are still there to say so."""
    if not (study.is_dir() or study.suffix == ".db"):
        return "; what was edited with which backbone is not in the file"
    connection = database.connect(study, read_only=True)
    try:
        with database.reading(study):
            folders = [Path(folder) for folder in database.meta(connection)["runs"]]
    finally:
        connection.close()
    told = []
    for folder in folders:
        try:
            run = Store.open(folder).run.shared()
            told.append(f"data set {run.dataset.name}, backbone {run.backbone.name}")
        except UserError:
            told.append(f"data set and backbone unknown, since {folder.name} is no longer there")
    return "".join(f"; {line}" for line in dict.fromkeys(told))


def _named(means: Means) -> Means:
    return replace(means, methods=[name(method) for method in means.methods])
