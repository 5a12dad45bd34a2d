"""Why numbers differ: the same pictures scored under every protocol at hand.

A paper that names neither its CLIP nor its LPIPS leaves choices open; here each is made in turn, and nothing else is
changed, so that what moves in the table is moved by the choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from tqdm import tqdm

from cpam_bench.eval.analysis.numbers import number
from cpam_bench.eval.analysis.statistics import kendall_tau, mean_interval, ranks
from cpam_bench.eval.metrics.background import SMALLEST, LPIPSBackground
from cpam_bench.eval.metrics.filters import FILTERS, Name
from cpam_bench.eval.metrics.metric import Metric, facts, measure
from cpam_bench.eval.metrics.networks import Networks
from cpam_bench.eval.metrics.perceptual import Trunk
from cpam_bench.eval.metrics.prompt import CLIPScore
from cpam_bench.eval.scoring.score import BATCH, collect, describe, load_batch
from cpam_bench.eval.scoring.scored import read_protocol
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_rows
from cpam_bench.imba.common.labels import canonical
from cpam_bench.imba.common.names import distinct, shown
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group

TRUNKS: tuple[Trunk, ...] = get_args(Trunk)
COLUMNS = ["metric", "protocol", "default", "scorer", "weights_sha256", "method", "reference", "mean", "low", "high"]
COLUMNS += ["n", "difference", "rank", "rank_default", "tau", "ranks_changed"]


@dataclass(frozen=True)
class Protocol:
    """One way to measure: a metric under another label, or by another CLIP.

    Attributes:
        metric: the metric with its parameters.
        networks: what it is measured by.
        name: the choices in words.
        default: whether it is the one that the run was scored with.
        scorer, weights_sha256: the network.
    """

    metric: Metric
    networks: Networks
    name: str
    default: bool
    scorer: str
    weights_sha256: str

    @property
    def label(self) -> str:
        return canonical(self.metric.name, self.metric)


@dataclass(frozen=True)
class Sensitivity:
    """What the choices do.

    Attributes:
        rows: one a protocol and method, with :data:`COLUMNS`.  ``difference`` is to the default protocol's mean; ranks
            are among the methods that edit, 1 the best; ``tau`` (Kendall's, to the default's order) and
            ``ranks_changed`` are the protocol's.
        unavailable: a line for each model that was wanted and could not be had.
        notes: what a reader must know besides.
    """

    rows: pd.DataFrame
    unavailable: list[str]
    notes: list[str]

    def write(self, path: Path) -> None:
        """Write the rows as CSV."""
        write_rows(path, COLUMNS, self.rows[COLUMNS].itertuples(index=False))


def sensitivity(
    folder: str | Path,
    clips: Sequence[str] = (),
    trunks: Sequence[Trunk] = TRUNKS,
    device: str = "cpu",
    progress: bool | None = None,
) -> Sensitivity:
    """Score a run's edits under every protocol.

    Args:
        folder: of a scored run.
        clips: CLIP scorers besides the run's own, as :func:`cpam_bench.eval.metrics.clip.load_clip` takes them.
        trunks: of LPIPS; ``alex`` is always among them, since it is the default.
        device: a torch device.
        progress: show a bar on stderr; None shows it on a terminal only.

    Raises:
        UserError: the run is not scored, has no edits, or its own scorer cannot be loaded.
    """
    store = Store.open(folder)
    scored = read_protocol(folder).metrics
    if "clip_score" not in scored:
        raise UserError(f"{folder} has no clip_score; measure it with: cpam-bench score {folder}")
    tasks, edits, damaged = collect(store)
    if not edits:
        raise UserError(f"{folder} has no edits to score; run it first")
    notes = [f"damaged, left out: {line}" for line in damaged]
    protocols: list[Protocol] = []
    unavailable: list[str] = []
    own = Networks(scored["clip_score"].scorer, device)
    if own.clip().weights_sha256 != scored["clip_score"].weights_sha256:
        notes.append(f"the scorer {own.clip().name} has other weights now than when {folder} was scored")
    protocols += _clip_protocols(own, default=True)
    for name in dict.fromkeys(clips):
        if name == own.clip().name:
            continue
        try:
            protocols += _clip_protocols(Networks(name, device), default=False)
        except UserError as error:
            unavailable.append(str(error).partition("\n")[0])
    half = store.run.backbone.resolution // 2
    if half < SMALLEST:
        notes.append(f"LPIPS at half the size is left out: {half} pixels are too few")
    for trunk in dict.fromkeys(("alex", *trunks)):  # the first comes with the package
        try:
            protocols += _lpips_protocols(trunk, own, half >= SMALLEST)
        except UserError as error:
            unavailable.append(str(error))
    values = measure_protocols(store, tasks, edits, protocols, progress)
    return Sensitivity(_rows(store, edits, protocols, values), unavailable, notes)


# protocols ------------------------------------------------------------------------------------------------------------


def _protocol(metric: Metric, networks: Networks, name: str, default: bool) -> Protocol:
    held = describe(canonical(metric.name, metric), metric, networks)
    return Protocol(
        metric, networks, name, default, shown(held.scorer or "", held.weights_sha256), held.weights_sha256 or ""
    )


def _clip_protocols(networks: Networks, default: bool) -> list[Protocol]:
    """A scorer with its own preprocessing, and with each other filter in the place of its own."""
    scorer = networks.clip()
    own, called = scorer.own_filter, shown(scorer.name, scorer.weights_sha256)
    if own is None:  # a scorer that resizes in another way is measured as it is
        return [_protocol(CLIPScore(), networks, f"CLIP {called}, its own preprocessing", default)]
    return [
        _protocol(CLIPScore(), networks, f"CLIP {called}, {own} (its own)", default),
        *(
            _protocol(CLIPScore(filter=name), networks, f"CLIP {called}, {chosen.words}", False)
            for name, chosen in FILTERS.items()
            if name != own
        ),
    ]


def _lpips_protocols(trunk: Trunk, networks: Networks, halved: bool) -> list[Protocol]:
    """A trunk, masked and spatial, on the pictures as they are and at half their size by each filter."""
    found = []
    filters: list[Name | None] = [None, *(FILTERS if halved else ())]
    for convention in ("masked", "spatial"):
        for name in filters:
            choices: dict[str, Any] = {"net": trunk, "convention": convention}
            size = "size of the run"
            if name is not None:
                choices |= {"size": "half", "filter": name}
                size = f"half the size, {FILTERS[name].words}"
            metric = LPIPSBackground(**choices)
            words = f"LPIPS {trunk}, {convention}, {size}"
            found.append(_protocol(metric, networks, words, metric == LPIPSBackground()))
    return found


# numbers --------------------------------------------------------------------------------------------------------------


def measure_protocols(
    store: Store, tasks: Any, edits: Sequence[Any], protocols: Sequence[Protocol], progress: bool | None
) -> list[list[float]]:
    """For each protocol a value an edit."""
    values: list[list[float]] = [[] for _ in protocols]
    hidden = None if progress is None else not progress
    with tqdm(total=len(edits) * len(protocols), unit="score", dynamic_ncols=True, disable=hidden) as bar:
        for start in range(0, len(edits), BATCH):
            chunk = list(edits[start : start + BATCH])
            for networks in dict.fromkeys(protocol.networks for protocol in protocols):
                batch = load_batch(store, tasks, chunk, networks.device)  # what a batch keeps is of these networks
                for found, protocol in zip(values, protocols, strict=True):
                    if protocol.networks is networks:
                        found += measure(batch, {protocol.label: protocol.metric}, networks)[protocol.label]
                        bar.update(len(batch))
    return values


def _rows(
    store: Store, edits: Sequence[Any], protocols: Sequence[Protocol], values: Sequence[Sequence[float]]
) -> pd.DataFrame:
    called = {label: method.called or label for label, method in store.run.methods.items()}
    bare = distinct(called.values())
    names = {label: bare[name] for label, name in called.items()}
    methods = [names[label] for label in names if any(edit.method == label for edit in edits)]
    editing = [names[label] for label in names if names[label] in methods and store.run.methods[label].edits]
    of = np.array([names[edit.method] for edit in edits])
    means = [{label: mean_interval(np.asarray(found)[of == label]) for label in methods} for found in values]
    default = {one.metric.name: mine for one, mine in zip(protocols, means, strict=True) if one.default}
    rows = []
    for protocol, mine in zip(protocols, means, strict=True):
        usual = default[protocol.metric.name]
        higher = protocol.metric.better == "higher"
        ranked = [label for label in editing if mine[label].n and usual[label].n]
        placed = dict(zip(ranked, ranks([mine[label].mean for label in ranked], higher), strict=True))
        usual_ranks = dict(zip(ranked, ranks([usual[label].mean for label in ranked], higher), strict=True))
        tau, _ = kendall_tau(list(placed.values()), list(usual_ranks.values()))
        changed = sum(placed[label] != usual_ranks[label] for label in ranked)
        head = (protocol.metric.name, protocol.name, protocol.default, protocol.scorer, protocol.weights_sha256)
        for label in methods:
            found = mine[label]
            numbers = (found.mean, found.low, found.high, found.n, found.mean - usual[label].mean)
            rows.append(
                (*head, label, label not in editing, *numbers, placed.get(label), usual_ranks.get(label), tau, changed)
            )
    table = pd.DataFrame(rows, columns=COLUMNS)
    return (
        table.astype({"rank": "Int64", "rank_default": "Int64"}).astype(object).where(lambda cells: cells.notna(), None)
    )


# terminal -------------------------------------------------------------------------------------------------------------


def render(found: Sensitivity, title: str) -> Group:
    """Two tables a metric: how far each method moves, and what each protocol moves."""
    from rich.console import Group as Lines
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = [Text(title, style="bold")]
    for name in found.rows["metric"].unique():
        metric = facts(name)
        digits = metric.digits
        rows = found.rows[found.rows["metric"] == name]
        count = rows["protocol"].nunique()
        parts.append(Text(f"\n{metric.title} ({metric.better} is better) under {count} protocols", style="italic"))
        table = Table("method")
        for head in ("default", "lowest", "highest", "range", "rank", "ranks"):
            table.add_column(head, justify="right")
        for label in rows["method"].unique():
            mine = rows[(rows["method"] == label) & rows["mean"].notna()]
            if mine.empty:
                continue
            default = mine[mine["default"]]["mean"]
            low, high = float(mine["mean"].min()), float(mine["mean"].max())
            ranks = mine["rank"].dropna()
            usual = mine["rank_default"].dropna()
            table.add_row(
                Text(label),
                number(default.iloc[0], digits) if len(default) else "–",
                number(low, digits),
                number(high, digits),
                number(high - low, digits),
                str(usual.iloc[0]) if len(usual) else "–",
                f"{ranks.min()} to {ranks.max()}" if len(ranks) else "–",
            )
        parts.append(table)
        table = Table("protocol")
        for head in ("mean shift", "Kendall's tau", "ranks changed"):
            table.add_column(head, justify="right")
        for words in rows["protocol"].unique():
            mine = rows[rows["protocol"] == words]
            first = mine.iloc[0]
            shift = mine["difference"].dropna().astype(float).mean()
            tau = "–" if first["tau"] is None else number(first["tau"], 2, sign=True)
            mark = " (default)" if first["default"] else ""
            changes = (
                ("", "", "")
                if first["default"]
                else (number(shift, digits, sign=True), tau, str(first["ranks_changed"]))
            )
            table.add_row(Text(f"{words}{mark}"), *changes)
        parts.append(table)
    parts.append(
        Text("Ranks and Kendall's tau are to the default protocol, over the methods that edit; the shift is over all.")
    )
    parts += [Text(f"Not at hand: {line}") for line in found.unavailable]
    parts += [Text(f"Note: {line}") for line in found.notes]
    return Lines(*parts)
