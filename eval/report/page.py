"""From runs to a folder with one page and its pictures.

The page carries its style and its script, asks nothing of any server, and works when the file is opened.  All that
comes from a run (prompts, names, messages) is escaped by Jinja2; pictures are named by number, whatever a sample is
called.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image
from scipy.ndimage import binary_erosion

from cpam_bench.eval.analysis.leaderboard import SHOWN, Leaderboard, leaderboard, names_of
from cpam_bench.eval.analysis.slices import Slice, slice_of
from cpam_bench.eval.analysis.statistics import Estimate, mean_interval
from cpam_bench.eval.metrics.metric import METRICS, Metric
from cpam_bench.eval.report.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, scatter
from cpam_bench.eval.scoring.score import read_protocol, read_scores
from cpam_bench.eval.store.store import Edit, Store, Task, open_picture
from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.common.folders import replacing
from cpam_bench.imba.errors import Damaged

_HERE = Path(__file__).parent
_DIGITS = {"clip_score": 2, "clip_score_region": 2, "psnr_background": 2, "mse_background": 5}
_SLICE_TITLES: dict[Slice, str] = {
    "kind": "By kind of edit",
    "retain": "By retention of the object",
    "several": "By number of objects",
}
QUALITY = 90
"""Of the WebP pictures: they are to be looked at; the run keeps what was measured."""


@dataclass(frozen=True)
class Value:
    """A number of a table: its text, its interval's text, the number to sort by, and whether it is the best."""

    text: str
    interval: str = ""
    number: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a sortable table; ``better`` is ``higher``, ``lower`` or empty."""

    title: str
    better: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Row:
    """A row of a sortable table."""

    name: str
    reference: bool
    values: list[Value]


@dataclass(frozen=True)
class Grid:
    """A sortable table."""

    caption: str
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True)
class Picture:
    """One edit of a sample, or why there is none."""

    method: int
    name: str
    reference: bool
    file: str
    message: str
    failed: bool
    values: list[Value]


@dataclass(frozen=True)
class Card:
    """A sample of the gallery."""

    number: int
    id: str
    task: Task | None
    source: str
    region: str
    truth: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Method:
    """A row of the table of methods."""

    name: str
    title: str
    reference: bool
    parameters: list[tuple[str, str]]
    source: str
    package: str


def write_report(folders: Sequence[str | Path], out: Path, title: str | None = None) -> Path:
    """Write a report of one run or of several that are comparable; returns the page's path.

    Args:
        folders: of scored runs.
        out: the report's folder; one that is there already is replaced.
        title: of the page, by default what was measured.

    Raises:
        UserError: a run is missing, not scored or not comparable with the others, or ``out`` holds something else.
        DiskFull: there is no room; an older report stays.
    """
    stores = [Store.open(folder) for folder in folders]
    protocols = [read_protocol(folder) for folder in folders]
    with replacing(out, "report") as place:
        (place / "pictures").mkdir()
        html = _page(stores, protocols, place, title)
        write_atomic(place / "index.html", html.strip().encode())
    return out / "index.html"


def _page(stores: Sequence[Store], protocols: Sequence[Mapping[str, Any]], place: Path, title: str | None) -> str:
    folders = [store.folder for store in stores]
    board = leaderboard(folders)
    metrics = [METRICS[name] for name in protocols[0]["metrics"] if name in METRICS]
    shown = [metric for metric in metrics if board.rows[metric.name].notna().any()]
    names = names_of(stores)
    methods = _methods(stores, names, board)
    scores = _scores(stores, names)
    cards = _cards(stores, names, methods, shown, scores, place)
    tasks = {card.id: card.task for card in cards if card.task}
    style, script = ((_HERE / "static" / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    run = stores[0].run
    return environment.get_template("report.html").render(
        title=title or board.title,
        heading=title or board.title.partition(":")[0].capitalize(),
        pocket=any(store.run.is_pocket for store in stores),
        notes=board.notes,
        facts=_facts(stores, cards, board),
        overall=_overall(board, shown),
        slices={
            words: grids for slice, words in _SLICE_TITLES.items() if (grids := _sliced(slice, tasks, scores, methods))
        },
        paired=_paired(board),
        scatter=scatter(board.rows, board.references, "lpips_background", "clip_score"),
        plot={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        methods=methods,
        metrics=metrics,
        shown=shown,
        cards=cards,
        kinds=Counter(card.task.kind for card in cards if card.task),
        failures=[(card, picture) for card in cards for picture in card.pictures if picture.failed],
        edge=run.backbone["resolution"],
        protocol=protocols[0],
        runs=[(store, protocol) for store, protocol in zip(stores, protocols, strict=True)],
        style=Markup(style),  # our own files, which the page's policy names by their hashes
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """As a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(stores: Sequence[Store], cards: Sequence[Card], board: Leaderboard) -> list[tuple[str, str]]:
    run = stores[0].run
    edits, failed = int(board.rows["n"].sum()), int(board.rows["failed"].sum())
    return [
        ("data set", f"{run.dataset['name']}, {len(cards)} samples"),
        ("backbone", f"{run.backbone['name']}, {run.backbone['resolution']} px"),
        ("sampling", f"{run.steps} steps, seed {', '.join(map(str, sorted({store.run.seed for store in stores})))}"),
        ("methods", f"{len(board.rows) - len(board.references)}, with {len(board.references)} reference rows"),
        ("edits", f"{edits:,}" + (f", {failed:,} failed" if failed else "")),
        ("made", ", ".join(dict.fromkeys(store.run.created[:10] for store in stores))),
    ]


# tables ---------------------------------------------------------------------------------------------------------------


def _value(mean: float, low: float, high: float, digits: int, best: str | None = None, signed: bool = False) -> Value:
    """A cell; ``best`` is the text of its column's best mean, if the row competes."""
    if math.isnan(mean):
        return Value("–")
    text = _text(mean, digits, signed)
    interval = "" if math.isnan(low) else f"{_text(low, digits, signed)} to {_text(high, digits, signed)}"
    return Value(text, interval, mean, text == best)


def _text(number: float, digits: int, signed: bool = False) -> str:
    return f"{number:{'+' if signed else ''}.{digits}f}".replace("-", "−")


def _digits(metric: str) -> int:
    return _DIGITS.get(metric, 4)


def _overall(board: Leaderboard, metrics: Sequence[Metric]) -> Grid:
    counts = ["n", "failed"] if board.rows["failed"].any() else ["n"]
    columns = [*map(Column, counts), *(Column(m.title, m.direction, m.unit) for m in metrics)]
    columns += [Column("time an edit", "lower", "s")]
    records = board.rows.to_dict("records")
    competing = [row for row in records if row["method"] not in board.references]
    best = {metric.name: _best([row[metric.name] for row in competing], metric) for metric in metrics}
    rows = []
    for row in records:
        is_reference = row["method"] in board.references
        values = [Value(str(row[key]), number=row[key]) for key in counts]
        for metric in metrics:
            mean, low, high = (row[f"{metric.name}{end}"] for end in ("", "_low", "_high"))
            marked = None if is_reference else best[metric.name]
            values.append(_value(mean, low, high, _digits(metric.name), marked))
        values.append(_value(row["seconds"], math.nan, math.nan, 2))
        rows.append(Row(str(row["method"]), is_reference, values))
    return Grid("Means over all samples, with 95 % intervals", columns, rows)


def _best(means: Sequence[float], metric: Metric) -> str | None:
    """The best of some means as it is printed, so that equal texts are equally good; None if there is none."""
    found = [mean for mean in means if not math.isnan(mean)]
    if not found:
        return None
    return _text(max(found) if metric.direction == "higher" else min(found), _digits(metric.name))


def _sliced(slice: Slice, tasks: Mapping[str, Task], scores: pd.DataFrame, methods: Sequence[Method]) -> list[Grid]:
    """A table of methods by blocks for each metric of the paper; none if all samples are in one block."""
    blocks: dict[str, set[str]] = {}
    for sample, task in tasks.items():
        blocks.setdefault(slice_of(task, slice), set()).add(sample)
    if len(blocks) < 2:
        return []
    words = _SLICE_TITLES[slice]
    grids = []
    for metric in (METRICS[name] for name in SHOWN if name in set(scores["metric"])):
        mine = scores[scores["metric"] == metric.name]
        cells: dict[str, list[Value]] = {method.name: [] for method in methods}
        for samples in blocks.values():
            # In the order of the scores, as the leaderboard's slices are, so that the intervals are theirs.
            values = mine[mine["sample"].isin(samples)].groupby("method")["value"].agg(list).to_dict()
            means = {name: mean_interval(values.get(name, [])) for name in cells}
            best = _best([means[method.name].mean for method in methods if not method.reference], metric)
            for method in methods:
                found = means[method.name]
                marked = None if method.reference else best
                cells[method.name].append(_value(found.mean, found.low, found.high, _digits(metric.name), marked))
        columns = [Column(f"{title} ({len(samples)})", metric.direction) for title, samples in blocks.items()]
        rows = [Row(method.name, method.reference, cells[method.name]) for method in methods]
        grids.append(Grid(f"{metric.title} {words[0].lower()}{words[1:]}", columns, rows))
    return grids


def _paired(board: Leaderboard) -> list[tuple[str, list[tuple[str, str, Value, int]]]]:
    """Metric's title -> (method, against, difference, n), for methods that edit."""
    found = []
    for name in board.paired["metric"].unique():
        rows = [
            (
                str(row["method"]),
                str(row["against"]),
                _difference(Estimate(row["difference"], row["low"], row["high"], row["n"]), _digits(name)),
                int(row["n"]),
            )
            for row in board.paired[board.paired["metric"] == name].to_dict("records")
            if not {row["method"], row["against"]} & set(board.references)
        ]
        if rows:
            found.append((METRICS[name].title, rows))
    return found


def _difference(estimate: Estimate, digits: int) -> Value:
    found = _value(estimate.mean, estimate.low, estimate.high, digits, signed=True)
    return replace(found, best=estimate.excludes_zero())


def _methods(stores: Sequence[Store], names: Mapping[tuple[Path, str], str], board: Leaderboard) -> list[Method]:
    """In the leaderboard's order."""
    by_name = {}
    for store in stores:
        for label, method in store.run.methods.items():
            name = names[store.folder, label]
            parameters = [(key, str(value)) for key, value in method["parameters"].items()]
            by_name[name] = Method(
                name, method["title"], not method["edits"], parameters, method["reference"], method["package"]
            )
    return [by_name[str(name)] for name in board.rows["method"]]


# gallery --------------------------------------------------------------------------------------------------------------


def _cards(
    stores: Sequence[Store],
    names: Mapping[tuple[Path, str], str],
    methods: Sequence[Method],
    metrics: Sequence[Metric],
    scores: pd.DataFrame,
    place: Path,
) -> list[Card]:
    order = {method.name: number for number, method in enumerate(methods)}
    where = {names[store.folder, label]: (store, label) for store in stores for label in store.run.methods}
    found = scores.set_index(["method", "sample", "metric"])["value"].to_dict()
    ids = list(dict.fromkeys(sample for store in stores for sample in store.run.samples))
    cards = []
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it encodes
        jobs = []
        for number, sample in enumerate(ids, start=1):
            folder = Path("pictures") / f"{number:04d}"
            held = [store for store in stores if sample in set(store.run.samples)]
            store, task = _task(held, sample)
            shown: dict[str, tuple[Callable[[Path, Path], None], Path]] = {}
            if store and task:
                shown = {"source": (_copy, store.source_path(sample))}
                if task.mask_sha256:
                    shown["region"] = (_region, store.mask_path(sample))
                if task.truth_sha256:
                    shown["truth"] = (_copy, store.truth_path(sample))
            files = {what: str(folder / f"{what}.webp") for what in shown}
            jobs += [pool.submit(make, path, place / files[what]) for what, (make, path) in shown.items()]
            pictures = []
            for name, (owner, label) in sorted(where.items(), key=lambda item: order[item[0]]):
                if sample not in set(owner.run.samples):
                    continue
                edit, message = _edit(owner, label, sample)
                file = ""
                if edit and edit.status == "ok":
                    file = str(folder / f"{order[name]:03d}.webp")
                    jobs.append(pool.submit(_copy, owner.edit_path(label, sample), place / file))
                values = [
                    _value(found.get((name, sample, metric.name), math.nan), math.nan, math.nan, _digits(metric.name))
                    for metric in metrics
                ]
                failed = bool(message) and not file
                pictures.append(
                    Picture(
                        order[name], name, methods[order[name]].reference, file, message or "not edited", failed, values
                    )
                )
            source, region, truth = (files.get(what, "") for what in ("source", "region", "truth"))
            cards.append(Card(number, sample, task, source, region, truth, pictures))
        for job in jobs:
            job.result()
    return cards


def _scores(stores: Sequence[Store], names: Mapping[tuple[Path, str], str]) -> pd.DataFrame:
    """The scores of all runs: method's name, sample, metric, value."""
    tables = []
    for store in stores:
        table = read_scores(store.folder)
        named = table["method"].map({label: names[store.folder, label] for label in store.run.methods})
        tables.append(table.assign(method=named)[named.notna()])
    return pd.concat(tables, ignore_index=True)


def _task(stores: Sequence[Store], sample: str) -> tuple[Store | None, Task | None]:
    """A sample's task and the run that has it whole."""
    for store in stores:
        try:
            if task := store.read_task(sample):
                return store, task
        except Damaged:
            continue
    return None, None


def _edit(store: Store, method: str, sample: str) -> tuple[Edit | None, str]:
    """The record of an edit if it is whole, and why there is no picture."""
    try:
        edit = store.read_edit(method, sample)
    except Damaged as error:
        return None, f"damaged: {error}"
    return edit, (edit.error or "") if edit else ""


def _copy(source: Path, target: Path) -> None:
    _write(open_picture(source).convert("RGB"), target, quality=QUALITY)


def _region(mask: Path, target: Path) -> None:
    """The region to alter as a veil to lay over the source: red inside, a light edge that also shows on red."""
    inside = np.asarray(open_picture(mask).convert("L")) > 127
    width = max(1, inside.shape[0] // 128)
    veil = np.zeros((*inside.shape, 4), np.uint8)
    veil[inside] = (214, 40, 70, 90)
    veil[inside & ~binary_erosion(inside, iterations=width)] = (255, 255, 255, 235)
    _write(Image.fromarray(veil, "RGBA"), target, lossless=True)


def _write(picture: Image.Image, target: Path, **options: Any) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", **options)
    write_atomic(target, buffer.getvalue())
