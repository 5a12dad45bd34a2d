"""A scored run, or several that are comparable, as one object: what tables, pages and figures read."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cpam_bench.eval.store.derived import check
from cpam_bench.eval.store.records import Edit, Measured, Method, Protocol, Run, Task, load, parse
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.hashes import are_pocket
from cpam_bench.imba.common.names import distinct
from cpam_bench.imba.common.places import get, place
from cpam_bench.imba.errors import Damaged, UserError

COLUMNS = ["method", "sample", "metric", "value"]


@dataclass(frozen=True)
class Row:
    """A method of a scored run, as a table has it.

    Attributes:
        name: in tables: the label, with the run's folder where several runs have the method.
        label: in the run.
        store: the run.
        facts: what the run says of the method.
        edits: its records of the samples that are looked at; failed ones too, damaged ones not.
    """

    name: str
    label: str
    store: Store
    facts: Method
    edits: list[Edit]

    @property
    def done(self) -> list[Edit]:
        """The edits that are there."""
        return [edit for edit in self.edits if edit.status == "ok"]

    @property
    def mask_read(self) -> bool | None:
        """Whether the method has read the samples' masks, or some of them; None where that is not known."""
        noted = [edit.mask_read for edit in self.done if edit.mask_read is not None]
        return any(noted) if noted and self.facts.called is None else None


@dataclass(frozen=True)
class Scored:
    """Scored runs, read and found whole.

    Attributes:
        stores: the runs.
        measured: of each, how it was scored, without what says where something is on this machine.
        rows: the methods of all, in the runs' order.
        samples: ids that are looked at, in the runs' order.
        scores: method (the row's name), sample, metric, value; of edits that are there and whole, and of no others.
        damaged: a line for each edit that cannot be used.
    """

    stores: list[Store]
    measured: list[Measured]
    rows: list[Row]
    samples: list[str]
    scores: pd.DataFrame
    damaged: list[str]

    @classmethod
    def open(cls, folder: str | Path) -> Scored:
        """One run.

        Raises:
            UserError: there is no run in the folder, it is not scored, or its scores are damaged.
        """
        return cls.together([folder])

    @classmethod
    def together(cls, folders: Sequence[str | Path]) -> Scored:
        """Several runs as one.

        Raises:
            UserError: as :meth:`open`, or the runs are not comparable; the message says why.
        """
        stores = [Store.open(folder) for folder in folders]
        measured = [read_protocol(folder) for folder in folders]
        _require_comparable(stores, measured)
        names = _names(stores)
        rows: list[Row] = []
        tables, damaged = [], []
        for store, one in zip(stores, measured, strict=True):
            edits, lost = store.edits()
            damaged += lost
            for label, facts in store.run.methods.items():
                mine = [edit for edit in edits if edit.method == label]
                rows.append(Row(names[store.folder, label], label, store, facts.shared(), mine))
            table = read_scores(store.folder)
            _require_whole(store, one, table)
            there = {(edit.method, edit.sample) for edit in edits if edit.status == "ok"}
            keys = zip(table["method"], table["sample"], strict=True)
            table = table.loc[np.array([key in there for key in keys], dtype=bool)]
            metrics = distinct(one.metrics)
            tables.append(
                table.assign(
                    method=[names[store.folder, label] for label in table["method"]],
                    metric=[metrics[label] for label in table["metric"]],
                )
            )
        samples = list(dict.fromkeys(sample for store in stores for sample in store.run.samples))
        shared = [one.shared() for one in measured]
        return cls(stores, shared, rows, samples, pd.concat(tables, ignore_index=True), damaged)

    def only(self, samples: Collection[str]) -> Scored:
        """The same of some samples."""
        chosen = set(samples)
        rows = [replace(row, edits=[edit for edit in row.edits if edit.sample in chosen]) for row in self.rows]
        scores = self.scores[self.scores["sample"].isin(chosen)]
        return replace(self, rows=rows, samples=[one for one in self.samples if one in chosen], scores=scores)

    @property
    def run(self) -> Run:
        """The first run, which says what all of them have in common, as others may see it."""
        return self.runs[0]

    @property
    def runs(self) -> list[Run]:
        """The runs as others may see them: without what says where something is on this machine."""
        return [store.run.shared() for store in self.stores]

    @property
    def is_pocket(self) -> bool:
        """Whether small embedded parts were used anywhere, whose numbers are never to be set beside the paper's.

        The pocket CLIP, which knows drawn scenes, is such a part where it has scored photographs too.
        """
        clip = self.metrics.get("clip_score")
        scorer = clip is not None and are_pocket([clip.weights_sha256])
        return scorer or any(store.run.is_pocket for store in self.stores)

    @property
    def metrics(self) -> dict[str, Protocol]:
        """Name -> protocol of each metric."""
        return self.measured[0].metrics

    @property
    def references(self) -> list[str]:
        """Names of the rows that edit nothing or freely, and only bound the scale."""
        return [row.name for row in self.rows if not row.facts.edits]

    @property
    def count(self) -> str:
        """How many samples are looked at, and of how many where the data set has more: ``102 of 104``."""
        known = [run.dataset.records for run in self.runs if run.dataset.records]
        some = bool(known) and len(self.samples) < max(known)
        return f"{len(self.samples)} of {max(known)}" if some else f"{len(self.samples)}"

    @property
    def left_out(self) -> dict[str, str]:
        """Samples of the data set that could not be edited -> why; what another run has edited is not among them."""
        found = {name: why for run in self.runs for name, why in run.dataset.left_out.items()}
        edited = {sample for store in self.stores for sample in store.run.samples}
        return {name: why for name, why in found.items() if name not in edited}

    def asked(self, row: Row) -> list[str]:
        """The samples that a row's run has, of those that are looked at."""
        chosen = set(self.samples)
        return [sample for sample in row.store.run.samples if sample in chosen]

    def values(self, name: str, metric: str) -> np.ndarray:
        """A metric's values of a row, in the order of the scores; NaN where it is not defined."""
        found: np.ndarray = self.scores.loc[
            (self.scores["method"] == name) & (self.scores["metric"] == metric), "value"
        ].to_numpy(dtype=float)
        return found

    def require(self, *metrics: str) -> None:
        """Make sure that some metrics were measured.

        Raises:
            UserError: with the first that was not.
        """
        for metric in metrics:
            if metric not in self.metrics:
                folder = self.stores[0].folder
                raise UserError(f"{folder} has no {metric}; measure it with: cpam-bench score {folder}")

    def task(self, sample: str) -> tuple[Store, Task]:
        """A sample's task, and a run that has it and its pictures whole.

        Raises:
            UserError: none has.
        """
        lines = []
        for store in self.stores:
            try:
                if task := store.read_task(sample):
                    return store, task
            except Damaged as error:
                lines.append(str(error))
        if not lines:
            path = self.stores[0].source_path(sample).with_suffix(".json")
            lines = [f"{path} is missing; without it nothing is known of sample {sample}"]
        raise UserError(f"{lines[0]}; run the same command again to make it anew")


def read_scores(folder: str | Path) -> pd.DataFrame:
    """``scores.csv`` of a run: method, sample, metric, value.

    Raises:
        UserError: the run has not been scored, or the file is damaged or was changed.
    """
    folder = place(folder)
    path = folder / "scores.csv"
    if not path.is_file():
        raise UserError(f"{folder} has no scores.csv; make it with: cpam-bench score {folder}")
    try:
        check(folder, path.name)
        data = get(path)
        if not data.endswith(b"\n"):
            raise ValueError("it is cut short")
        # As text first: a parser of numbers may be off in the last digit, and a method may be called "nan".
        table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)[COLUMNS]
        table["value"] = [float(value or "nan") for value in table["value"]]
    except Damaged as error:
        raise UserError(f"{error}; make it again with: cpam-bench score {folder}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}); make it again with: cpam-bench score {folder}") from error
    return table


def read_protocol(folder: str | Path) -> Measured:
    """``scores.json`` of a run: how each metric was measured.

    Raises:
        UserError: it is not there, damaged, or was changed.
    """
    folder = place(folder)
    path = folder / "scores.json"
    if not path.is_file():
        raise UserError(f"{folder} has not been scored (it has no scores.json); do it with: cpam-bench score {folder}")
    try:
        check(folder, path.name)
        return parse(Measured, load(path), path)
    except Damaged as error:
        raise UserError(f"{error}; make it again with: cpam-bench score {folder}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); make it again with: cpam-bench score {folder}") from error


def _require_whole(store: Store, measured: Measured, table: pd.DataFrame) -> None:
    """Make sure that a table has each metric of each edit once, as a file that was cut short has not."""
    path = store.folder / "scores.csv"
    again = f"make it again with: cpam-bench score {store.folder}"
    if unknown := set(table["method"]) - set(store.run.methods):
        raise UserError(f"{path} has scores of {sorted(unknown)[0]!r}, which is no method of the run; {again}")
    counts = table.groupby(["method", "sample"], sort=False)["metric"].agg(["size", "nunique"])
    names = set(table["metric"])
    if names - set(measured.metrics):
        raise UserError(f"{path} has metrics that scores.json does not tell of; {again}")
    if not (counts == len(names)).all(axis=None):
        raise UserError(f"{path} does not hold one score for each metric of each edit; {again}")


def _require_comparable(stores: Sequence[Store], measured: Sequence[Measured]) -> None:
    """Make sure that runs measured the same thing: data, backbone, resolution, steps, and each metric's protocol.

    Seed, dtype, device and versions may differ: they are what such a table may well want to compare.

    Raises:
        UserError: with what differs.
    """
    first = _decisive(stores[0], measured[0])
    for store, one in zip(stores[1:], measured[1:], strict=True):
        other = _decisive(store, one)
        different = [key for key in {**first, **other} if first.get(key) != other.get(key)]
        if different:
            listed = "\n".join(f"  {key}: {_brief(first.get(key))} / {_brief(other.get(key))}" for key in different)
            raise UserError(
                f"{stores[0].folder} and {store.folder} cannot stand in one table; they differ in:\n{listed}"
            )


def _decisive(store: Store, measured: Measured) -> dict[str, Any]:
    run = store.run
    # Hashes and not names: the same data or weights from another place are the same.
    keys: dict[str, Any] = {
        "data set": run.dataset.fingerprint,
        "backbone": run.backbone.weights,
        "resolution": run.backbone.resolution,
        "steps": run.steps,
        "images": run.protocol.get("images"),
        "masks": run.protocol.get("masks"),
    }
    for name, metric in measured.metrics.items():
        facts = {"protocol": metric.protocol, "weights_sha256": metric.weights_sha256, **metric.more}
        keys |= {f"{name}, {key}": value for key, value in facts.items()}
    return keys


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(part)}" for key, part in value.items())
    text = "nothing" if value is None else str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text


def _names(stores: Sequence[Store]) -> dict[tuple[Path, str], str]:
    """(folder, label) -> row name; a method that several runs have is told apart by the name of the run's folder, and
    where those are the same by its number, as the runs are given."""
    called = {
        (store.folder, label): method.called or label for store in stores for label, method in store.run.methods.items()
    }
    bare = distinct(dict.fromkeys(called.values()))
    labels = list(called.values())
    folders = [store.folder.resolve() for store in stores]
    if len(set(folders)) < len(folders):
        raise UserError("the same run is given twice")
    names = [folder.name for folder in folders]
    told = [f"{name} {i}" if names.count(name) > 1 else name for i, name in enumerate(names, start=1)]
    return {
        (store.folder, label): bare[called[store.folder, label]]
        + (f" [{run}]" if labels.count(called[store.folder, label]) > 1 else "")
        for store, run in zip(stores, told, strict=True)
        for label in store.run.methods
    }
