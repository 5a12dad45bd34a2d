"""The table at the end of a run, of one run or of several that are comparable."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cpam_bench.eval.analysis.slices import Slice, slices
from cpam_bench.eval.analysis.statistics import Estimate, mean_interval, paired_difference
from cpam_bench.eval.scoring.score import read_protocol, read_scores
from cpam_bench.eval.store.store import Edit, Store
from cpam_bench.imba.common.files import write_rows
from cpam_bench.imba.errors import UserError

SHOWN = ("clip_score", "lpips_background")
"""The metrics of the paper's Table 2: those of the terminal's table and of the paired comparisons."""

_NAMED = 20
"""How many failed edits of a method a note names."""

_COSTS = ("seconds", "inversion_seconds", "peak_memory_mib")
_TITLES = {"clip_score": "CLIPScore ↑", "lpips_background": "LPIPS (background) ↓", "lpips_truth": "LPIPS (truth) ↓"}
_DIGITS = {"clip_score": 2, "lpips_background": 4, "lpips_truth": 4}


@dataclass(frozen=True)
class Leaderboard:
    """A leaderboard.

    Attributes:
        title: what was measured on what; says ``pocket`` where data or backbone are.
        notes: what a reader must know besides.
        rows: one a method: method, n, failed, then each metric with _low, _high and _n, then the mean costs.
        paired: every two methods on the samples that both have:
            method, against, metric, difference (method - against), low, high, n.
        references: the methods of ``rows`` that edit nothing or freely, and only bound the scale.
    """

    title: str
    notes: list[str]
    rows: pd.DataFrame
    paired: pd.DataFrame
    references: list[str]

    def write(self, folder: Path) -> None:
        """Write ``leaderboard.csv`` and ``paired.csv``."""
        self.write_rows(folder / "leaderboard.csv")
        write_rows(folder / "paired.csv", list(self.paired.columns), self.paired.itertuples(index=False))

    def write_rows(self, path: Path) -> None:
        """Write the rows as CSV."""
        write_rows(path, list(self.rows.columns), self.rows.itertuples(index=False))


def leaderboard(folders: Sequence[str | Path], only: Collection[str] | None = None) -> Leaderboard:
    """The leaderboard of one run, or of several as one.

    Args:
        folders: of the runs.
        only: ids of the samples to count, by default all.

    Raises:
        UserError: a folder holds no scored run, or the runs are not comparable; the message says why.
    """
    stores = [Store.open(folder) for folder in folders]
    protocols = [read_protocol(folder) for folder in folders]
    require_comparable(stores, protocols)
    names = names_of(stores)
    scores = pd.concat(
        [
            table.assign(method=table["method"].map(lambda label, store=store: names[store.folder, label]))
            for store in stores
            for table in [read_scores(store.folder)]
        ],
        ignore_index=True,
    )
    if only is not None:
        scores = scores[scores["sample"].isin(set(only))]
    metrics = list(protocols[0]["metrics"])
    rows, references, notes = [], [], []
    for store in stores:
        edits, damaged = store.edits()
        notes += [f"damaged, made anew by the next run: {line}" for line in damaged]
        for label, method in store.run.methods.items():
            name = names[store.folder, label]
            asked = [sample for sample in store.run.samples if only is None or sample in only]
            mine = [edit for edit in edits if edit.method == label and edit.sample in asked]
            done = [edit for edit in mine if edit.status == "ok"]
            row: dict[str, Any] = {"method": name, "n": len(done), "failed": len(mine) - len(done)}
            if lost := [edit for edit in mine if edit.status == "failed"]:
                notes.append(failed_note(name, lost))
            if missing := len(asked) - len(mine):
                notes.append(f"{name}: {missing} of {len(asked)} samples not edited yet")
            chosen = scores[scores["method"] == name]
            for metric in metrics:
                estimate = mean_interval(chosen.loc[chosen["metric"] == metric, "value"].to_numpy())
                row |= _columns(metric, estimate)
            for cost in _COSTS:
                values = [value for edit in done if (value := getattr(edit, cost)) is not None]
                row[cost] = sum(values) / len(values) if values else float("nan")
            rows.append(row)
            if not method["edits"]:
                references.append(name)
    rows.sort(key=lambda row: row["method"] in references)  # stable: methods first, each group in the runs' order
    table = pd.DataFrame(rows)
    if table["n"].nunique() > 1:
        notes.append("the rows differ in n: their means are over different samples; the paired differences are not")
    for metric in SHOWN:
        if metric in metrics and (undefined := int((table["n"] - table[f"{metric}_n"]).sum())):
            notes.append(f"{_TITLES[metric]}: not defined for {undefined} edits, which its mean leaves out")
    return Leaderboard(
        _title(stores, only), [*_pocket_note(stores), *notes], table, _paired(table, scores, metrics), references
    )


def failed_note(name: str, edits: Sequence[Edit]) -> str:
    """Which edits of a method failed, and why."""
    listed = [f"{edit.sample} ({(edit.error or '').splitlines()[0][:100]})" for edit in edits[:_NAMED]]
    more = [f"and {len(edits) - _NAMED} more"] if len(edits) > _NAMED else []
    return f"{name} failed on {', '.join([*listed, *more])}; its means are without them"


def sliced(folders: Sequence[str | Path], slice: Slice) -> dict[str, Leaderboard]:
    """A leaderboard for every kind of edit, for objects retained or not, or for one object and several: title -> board.

    Raises:
        UserError: as :func:`leaderboard`, or a sample has lost its task and belongs nowhere.
    """
    blocks: dict[str, set[str]] = {}
    for folder in folders:
        for title, samples in slices(Store.open(folder), slice).items():
            blocks.setdefault(title, set()).update(samples)
    return {title: leaderboard(folders, samples) for title, samples in blocks.items()}


def write_sliced(boards: Mapping[str, Leaderboard], path: Path) -> None:
    """Write the rows of several boards as one CSV; its first column ``slice`` is their titles."""
    rows = pd.concat([board.rows.assign(slice=title) for title, board in boards.items()], ignore_index=True)
    columns = ["slice", *(column for column in rows.columns if column != "slice")]
    write_rows(path, columns, rows[columns].itertuples(index=False))


def require_comparable(stores: Sequence[Store], protocols: Sequence[dict[str, Any]]) -> None:
    """Make sure that runs measured the same thing: data, backbone, resolution, steps, and each metric's protocol.

    Seed, dtype, device and versions may differ: they are what such a table may well want to compare.

    Raises:
        UserError: with what differs.
    """
    first = _measured(stores[0], protocols[0])
    for store, protocol in zip(stores[1:], protocols[1:], strict=True):
        other = _measured(store, protocol)
        different = [key for key in {**first, **other} if first.get(key) != other.get(key)]
        if different:
            listed = "\n".join(f"  {key}: {_brief(first.get(key))} / {_brief(other.get(key))}" for key in different)
            raise UserError(
                f"{stores[0].folder} and {store.folder} cannot stand in one table; they differ in:\n{listed}"
            )


def render(board: Leaderboard) -> Group:
    """The leaderboard for a terminal."""
    # Where a data set knows what its edits should have led to, that is worth a column of the terminal's too.
    shown = [metric for metric in (*SHOWN, "lpips_truth") if metric in board.rows and board.rows[f"{metric}_n"].any()]
    table = Table(title=board.title, title_justify="left", title_style="bold")
    table.add_column("method", overflow="fold")
    table.add_column("n", justify="right")
    for metric in shown:
        table.add_column(_TITLES[metric], justify="right")
    table.add_column("seconds an edit", justify="right")
    table.add_column("failed", justify="right")
    rows = board.rows.to_dict("records")
    for i, row in enumerate(rows):
        last = i + 1 < len(rows) and (row["method"] in board.references) != (rows[i + 1]["method"] in board.references)
        table.add_row(
            Text(row["method"]),
            str(row["n"]),
            *(cell(row[m], row[f"{m}_low"], row[f"{m}_high"], _DIGITS[m]) for m in shown),
            cell(row["seconds"], float("nan"), float("nan"), 2),
            Text(str(row["failed"]), style="red" if row["failed"] else ""),
            end_section=last,
        )
    parts: list[Any] = [table]
    lines = [
        f"  {row['metric']}: {row['method']} − {row['against']} = "
        + cell(row["difference"], row["low"], row["high"], _DIGITS[row["metric"]], sign=True)
        + f", n = {row['n']}"
        for row in board.paired.to_dict("records")
        if row["method"] == board.rows.loc[0, "method"] and row["against"] not in board.references
    ]
    if lines:
        parts.append(Text("\n".join(["Paired on the same samples:", *lines])))
    parts.append(Text("Mean [95 % bootstrap interval over samples]. LPIPS is AlexNet v0.1, masked: black outside the"))
    parts[-1].append(" background. Seconds leave out the inversion that methods share; see leaderboard.csv.")
    parts += [Text(f"Note: {note}") for note in board.notes]
    return Group(*parts)


def _columns(metric: str, estimate: Estimate) -> dict[str, Any]:
    values = asdict(estimate)
    return {
        metric: values["mean"],
        f"{metric}_low": values["low"],
        f"{metric}_high": values["high"],
        f"{metric}_n": values["n"],
    }


def _paired(table: pd.DataFrame, scores: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    order: list[str] = table["method"].tolist()
    rows = []
    for metric in (metric for metric in SHOWN if metric in metrics):
        scored = set(scores.loc[scores["metric"] == metric, "method"])
        for first, other in itertools.combinations((method for method in order if method in scored), 2):
            estimate = paired_difference(scores, first, other, metric)
            rows.append((first, other, metric, estimate.mean, estimate.low, estimate.high, estimate.n))
    return pd.DataFrame(rows, columns=["method", "against", "metric", "difference", "low", "high", "n"])


def names_of(stores: Sequence[Store]) -> dict[tuple[Path, str], str]:
    """(folder, label) -> row name; a method that several runs have is told apart by the run's folder."""
    labels = [label for store in stores for label in store.run.methods]
    folders = [store.folder.resolve() for store in stores]
    if len(set(folders)) < len(folders):
        raise UserError("the same run is given twice")
    same_name = len({folder.name for folder in folders}) < len(folders)
    return {
        (store.folder, label): label
        if labels.count(label) == 1
        else f"{label} [{store.folder if same_name else store.folder.resolve().name}]"
        for store in stores
        for label in store.run.methods
    }


def _measured(store: Store, protocol: dict[str, Any]) -> dict[str, Any]:
    run = store.run
    # Hashes and not names: the same data or weights from another place are the same.
    keys: dict[str, Any] = {
        "data set": run.dataset["fingerprint"],
        "backbone": run.backbone["weights"],
        "resolution": run.backbone["resolution"],
        "steps": run.steps,
        "images": run.protocol["images"],
        "masks": run.protocol["masks"],
    }
    for name, metric in protocol["metrics"].items():
        keys |= {f"{name}, {key}": value for key, value in metric.items() if key != "scorer"}
    return keys


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(part)}" for key, part in value.items())
    text = "nothing" if value is None else str(value)
    return text[:12] if len(text) == 64 and text.isalnum() else text


def _title(stores: Sequence[Store], only: Collection[str] | None) -> str:
    run = stores[0].run
    seeds = sorted({store.run.seed for store in stores})
    samples = len({sample for store in stores for sample in store.run.samples if only is None or sample in only})
    mark = "pocket leaderboard" if any(store.run.is_pocket for store in stores) else "leaderboard"
    return (
        f"{mark}: {run.dataset['name']} data set ({samples} samples), {run.backbone['name']} backbone,"
        f" {run.backbone['resolution']} px, {run.steps} steps, seed {', '.join(map(str, seeds))}"
    )


def _pocket_note(stores: Sequence[Store]) -> list[str]:
    if not any(store.run.is_pocket for store in stores):
        return []
    return ["pocket: small models on drawn scenes, really measured, but never to be set beside the paper's numbers"]


def cell(mean: float, low: float, high: float, digits: int, sign: bool = False) -> str:
    """A mean with its interval as tables show it."""
    plus = "+" if sign else ""
    if math.isnan(mean):
        return "–"
    text = f"{mean:{plus}.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:{plus}.{digits}f}, {high:{plus}.{digits}f}]"
