"""The table at the end of a run, of one run or of several that are comparable."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from cpam_bench.eval.analysis.numbers import DAGGER, FEW, estimate, number
from cpam_bench.eval.analysis.slices import Slice, slices
from cpam_bench.eval.analysis.statistics import Estimate, mean_interval, paired_difference
from cpam_bench.eval.metrics.metric import DEFAULT, Facts, facts
from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.store.derived import note
from cpam_bench.eval.store.records import Edit
from cpam_bench.imba.common.files import write_rows
from cpam_bench.imba.common.names import without_places
from cpam_bench.imba.errors import UserError

SHOWN = ("clip_score", "lpips_background")
"""The metrics of the paper's Table 2: those of the terminal's table and of the paired comparisons."""

CHANGED = "lpips_region"
"""The metric that says whether a region was edited at all."""

HARDLY = 0.05
"""Of :data:`CHANGED`: below it a reader calls two pictures the same."""

_NAMED = 20
"""How many failed edits of a method a note names."""

POCKET = "pocket: small models on drawn scenes, really measured, but never to be set beside the paper's numbers"

COSTS = ("seconds", "inversion_seconds", "peak_memory_mib")
_GIVEN = {True: "✓", False: "✗", None: "–"}
_COST_TITLES = {
    "seconds": "seconds an edit",
    "inversion_seconds": "seconds of its inversion",
    "peak_memory_mib": "peak memory (MiB)",
}


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
        metrics: label -> facts of what was measured.
        masks: method -> whether it has read the samples' masks; None where that was not noted.
    """

    title: str
    notes: list[str]
    rows: pd.DataFrame
    paired: pd.DataFrame
    references: list[str]
    metrics: dict[str, Facts]
    masks: dict[str, bool | None]

    def write(self, folder: Path) -> None:
        """Write ``leaderboard.csv`` and ``paired.csv`` into a run's folder, and note their hashes."""
        self.write_rows(folder / "leaderboard.csv")
        self.write_paired(folder / "paired.csv")
        note(folder, ["leaderboard.csv", "paired.csv"])

    def write_paired(self, path: Path, shared: bool = False) -> None:
        """Write the paired differences as CSV; ``shared`` as :func:`write_rows` has it."""
        write_rows(path, list(self.paired.columns), self.paired.itertuples(index=False), shared)

    def write_rows(self, path: Path) -> None:
        """Write the rows as CSV."""
        write_rows(path, list(self.rows.columns), self.rows.itertuples(index=False))


def leaderboard(runs: Scored | Sequence[str | Path]) -> Leaderboard:
    """The leaderboard of one run, or of several as one.

    Args:
        runs: what was scored, or the folders of runs.

    Raises:
        UserError: a folder holds no scored run, or the runs are not comparable; the message says why.
    """
    scored = runs if isinstance(runs, Scored) else Scored.together(runs)
    metrics = list(scored.metrics)
    known = {label: facts(label, held.more) for label, held in scored.metrics.items()}
    notes = [f"damaged, made anew by the next run: {line}" for line in scored.damaged]
    records = []
    for row in scored.rows:
        done, asked = row.done, scored.asked(row)
        record: dict[str, Any] = {"method": row.name, "n": len(done), "failed": len(row.edits) - len(done)}
        if lost := [edit for edit in row.edits if edit.status == "failed"]:
            notes.append(failed_note(row.name, lost))
        if missing := len(asked) - len(row.edits):
            notes.append(f"{row.name}: {missing} of {len(asked)} samples not edited yet")
        for metric in metrics:
            record |= _columns(metric, mean_interval(scored.values(row.name, metric)))
        for cost in COSTS:
            values = [value for edit in done if (value := getattr(edit, cost)) is not None]
            record[cost] = sum(values) / len(values) if values else float("nan")
        records.append(record)
    # Methods first, each group in the runs' order.
    records.sort(key=lambda record: record["method"] in scored.references)
    table = pd.DataFrame(records)
    if table["n"].nunique() > 1:
        notes.append("the rows differ in n: their means are over different samples; the paired differences are not")
    for metric in SHOWN:
        if metric in metrics and (undefined := int((table["n"] - table[f"{metric}_n"]).sum())):
            notes.append(f"{known[metric].heading}: not defined for {undefined} edits, which its mean leaves out")
    if changed := shown_as(CHANGED, metrics):
        for name, change in zip(table["method"], table[changed], strict=True):
            if change < HARDLY and name not in scored.references:
                notes.append(
                    f"{name}: the region to alter hardly changed ({known[changed].title} {change:.3f}, below {HARDLY});"
                    " its background says little"
                )
    notes = [*origin_notes(scored), *notes]
    if scored.is_pocket:
        notes.insert(0, POCKET)
    masks = {row.name: row.mask_read for row in scored.rows}
    paired = _paired(table, scored.scores, metrics)
    return Leaderboard(_title(scored), notes, table, paired, scored.references, known, masks)


def origin_notes(scored: Scored) -> list[str]:
    """What the caption of a table must say of its data: whose the masks are, which samples were left out, and why."""
    notes = []
    if whose := list(dict.fromkeys(run.dataset.masks for run in scored.runs if run.dataset.masks)):
        notes.append(f"masks: {'; '.join(whose)}")
    if lost := scored.left_out:
        listed = [f"{name} ({why})" for name, why in list(lost.items())[:_NAMED]]
        more = [f"and {len(lost) - _NAMED} more"] if len(lost) > _NAMED else []
        edited = {sample for store in scored.stores for sample in store.run.samples}
        whole = max((run.dataset.records or 0 for run in scored.runs), default=0)
        notes.append(f"{len(edited)} of {whole} samples: left out are {', '.join([*listed, *more])}")
    return notes


def origin(scored: Scored) -> str:
    """The same as sentences of a caption, a space before each."""
    return "".join(f" {note[0].upper()}{note[1:]}." for note in origin_notes(scored))


def shown_as(name: str, labels: Iterable[str]) -> str | None:
    """The label by which a metric was measured: its name, or else the first with parameters, as PIE-Bench's are."""
    found = [label for label in labels if label.partition(":")[0] == name]
    return name if name in found else next(iter(found), None)


def failed_note(name: str, edits: Sequence[Edit]) -> str:
    """Which edits of a method failed, and why."""
    listed = [f"{edit.sample} ({without_places((edit.error or '').splitlines()[0])[:100]})" for edit in edits[:_NAMED]]
    more = [f"and {len(edits) - _NAMED} more"] if len(edits) > _NAMED else []
    return f"{name} failed on {', '.join([*listed, *more])}; its means are without them"


def sliced(folders: Sequence[str | Path], slice: Slice) -> dict[str, Leaderboard]:
    """A leaderboard for every kind of edit, for objects retained or not, or for one object and several: title -> board.

    Raises:
        UserError: as :func:`leaderboard`, or a sample has lost its task and belongs nowhere.
    """
    return {title: leaderboard(part) for title, part in slices(Scored.together(folders), slice).items()}


def write_sliced(boards: Mapping[str, Leaderboard], path: Path) -> None:
    """Write the rows of several boards as one CSV; its first column ``slice`` is their titles."""
    rows = pd.concat([board.rows.assign(slice=title) for title, board in boards.items()], ignore_index=True)
    columns = ["slice", *(column for column in rows.columns if column != "slice")]
    write_rows(path, columns, rows[columns].itertuples(index=False))


def columns(board: Leaderboard, names: Sequence[str] | None = None) -> list[str]:
    """The metrics and costs that a table shows: those asked for, else the few that tell most.

    Where a data set knows what its edits should have led to, the gain towards that inside the region is shown, and not
    the distance over the whole picture, by which doing nothing is best wherever most of a picture is to stay.

    Raises:
        UserError: a name is neither a metric of the board nor a cost.
    """
    known = [*board.metrics, *COSTS]
    if names is None:
        few = [*SHOWN, "lpips_truth_gain", *(metric for metric in board.metrics if metric not in DEFAULT)]
        return [*(name for name in few if name in board.metrics and board.rows[f"{name}_n"].any()), "seconds"]
    if names == ["all"]:
        return known
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"no column {unknown[0]!r}; there are: all, {', '.join(known)}")
    return list(dict.fromkeys(names))


def render(board: Leaderboard, names: Sequence[str] | None = None) -> Group:
    """The leaderboard for a terminal.

    Args:
        board: to show.
        names: of metrics and costs, as :func:`columns` takes them.

    Raises:
        UserError: there is no such column.
    """
    shown = columns(board, names)
    table = Table(title=board.title, title_justify="left", title_style="bold")
    table.add_column("method", overflow="fold")
    table.add_column("n", justify="right")
    noted = any(mask is not None for mask in board.masks.values())
    if noted:
        table.add_column("mask")
    for name in shown:
        table.add_column(_COST_TITLES[name] if name in COSTS else board.metrics[name].heading, justify="right")
    table.add_column("failed", justify="right")
    rows = board.rows.to_dict("records")
    for i, row in enumerate(rows):
        last = i + 1 < len(rows) and (row["method"] in board.references) != (rows[i + 1]["method"] in board.references)
        table.add_row(
            Text(row["method"]),
            str(row["n"]),
            *([_GIVEN[board.masks[row["method"]]]] if noted else []),
            *(_cell(board, row, name) for name in shown),
            Text(str(row["failed"]), style="red" if row["failed"] else ""),
            end_section=last,
        )
    parts: list[Any] = [table]
    pairs = [
        row
        for row in board.paired.to_dict("records")
        if row["method"] == board.rows.loc[0, "method"] and row["against"] not in board.references
    ]
    lines = [
        f"  {row['metric']}: {row['method']} − {row['against']} = "
        + estimate(row["difference"], row["low"], row["high"], board.metrics[row["metric"]].digits, True, row["n"])
        + f", n = {row['n']}"
        for row in pairs
    ]
    if lines:
        head = "Paired on the same samples"
        # What is true of one interval in twenty is false by chance: with many of them some are.
        head += f" (95 % each, not corrected for their number, {len(lines)}):" if len(lines) > 1 else ":"
        parts.append(Text("\n".join([head, *lines])))
    parts.append(Text("Mean [95 % bootstrap interval over samples]. LPIPS is AlexNet v0.1, masked: black outside the"))
    parts[-1].append(" background. Seconds leave out the inversion that methods share; see leaderboard.csv.")
    if noted:
        parts[-1].append(" Mask: whether the method was given the region to alter.")
    if "lpips_truth_gain" in shown:
        parts[-1].append(" Gain: LPIPS of edit and source less that of edit and truth, inside the region to alter;")
        parts[-1].append(" above 0 the edit is nearer to what it should have led to.")
    if (board.rows["n"] < FEW).any():
        parts.append(Text(f"{DAGGER}."))
    parts += [Text(f"Note: {note}") for note in board.notes]
    return Group(*parts)


def _cell(board: Leaderboard, row: Mapping[Any, Any], name: str) -> str:
    if name in COSTS:
        return number(row[name], 2)
    low, high, n = (row[f"{name}_{end}"] for end in ("low", "high", "n"))
    return estimate(row[name], low, high, board.metrics[name].digits, n=n)


def _columns(metric: str, found: Estimate) -> dict[str, Any]:
    values = asdict(found)
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
            found = paired_difference(scores, first, other, metric)
            rows.append((first, other, metric, found.mean, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=["method", "against", "metric", "difference", "low", "high", "n"])


def _title(scored: Scored) -> str:
    run = scored.run
    seeds = sorted({store.run.seed for store in scored.stores})
    mark = "pocket leaderboard" if scored.is_pocket else "leaderboard"
    return (
        f"{mark}: {run.dataset.name} data set ({scored.count} samples), {run.backbone.name} backbone,"
        f" {run.backbone.resolution} px, {run.steps} steps, seed {', '.join(map(str, seeds))}"
    )
