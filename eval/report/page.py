"""From runs to a folder with one page and its pictures.

The page carries its style and its script, asks nothing of any server, and works when the file is opened.  All that
comes from a run (prompts, names, messages) is escaped by Jinja2; pictures are named by number, whatever a sample is
called.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from PIL import Image

from cpam_bench.eval.analysis.leaderboard import CHANGED, SHOWN, Leaderboard, leaderboard, shown_as
from cpam_bench.eval.analysis.numbers import DAGGER, FEW, number
from cpam_bench.eval.analysis.slices import Slice, slice_of, tags
from cpam_bench.eval.analysis.statistics import Estimate, mean_interval
from cpam_bench.eval.metrics.metric import Facts, facts
from cpam_bench.eval.report.scatter import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, scatter
from cpam_bench.eval.scoring.scored import Row as ScoredRow
from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.store.records import Task
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.common.folders import replacing
from cpam_bench.imba.common.names import without_places
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.pictures import OUTLINE, outline

_HERE = Path(__file__).parent
_SLICE_TITLES: dict[Slice, str] = {
    "kind": "By kind of edit",
    "retain": "By retention of the object",
    "several": "By number of objects",
}
MOST_BLOCKS = 12
"""Of a tag that the page slices by."""

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

    @property
    def shown(self) -> Picture | None:
        """What stands in the viewer first: the first edit that is there."""
        return next((picture for picture in self.pictures if picture.file), None)


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
    scored = Scored.together(folders)
    with replacing(out, "report") as place:
        (place / "pictures").mkdir()
        html = _page(scored, place, title)
        write_atomic(place / "index.html", html.strip().encode())
    return out / "index.html"


def _page(scored: Scored, place: Path, title: str | None) -> str:
    board = leaderboard(scored)
    metrics = list(board.metrics.values())
    shown = [metric for metric in metrics if board.rows[metric.name].notna().any()]
    methods = _methods(scored, board)
    scores = scored.scores
    cards = _cards(scored, methods, shown, place)
    tasks = {card.id: card.task for card in cards if card.task}
    style, script = ((_HERE / "static" / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        title=title or board.title,
        heading=title or board.title.partition(":")[0].capitalize(),
        pocket=scored.is_pocket,
        notes=[without_places(note) for note in board.notes],
        facts=_facts(scored, cards, board),
        overall=_overall(board, shown),
        slices={
            words: grids
            for slice, words in _slices(tasks.values()).items()
            if (grids := _sliced(slice, words, tasks, scores, methods))
        },
        paired=_paired(board),
        scatter=scatter(
            board.rows,
            board.references,
            *(shown_as(name, board.metrics) for name in ("lpips_background", "clip_score", CHANGED)),
        ),
        plot={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
        methods=methods,
        metrics=metrics,
        shown=shown,
        cards=cards,
        kinds=Counter(card.task.kind for card in cards if card.task),
        failures=[(card, picture) for card in cards for picture in card.pictures if picture.failed],
        edge=scored.run.backbone.resolution,
        protocol=scored.measured[0],
        runs=list(zip(scored.stores, scored.runs, scored.measured, strict=True)),
        style=Markup(style),  # our own files, which the page's policy names by their hashes
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """As a content security policy names an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _facts(scored: Scored, cards: Sequence[Card], board: Leaderboard) -> list[tuple[str, str]]:
    run, stores = scored.run, scored.stores
    edits, failed = int(board.rows["n"].sum()), int(board.rows["failed"].sum())
    return [
        ("data set", f"{run.dataset.name}, {scored.count} samples"),
        ("backbone", f"{run.backbone.name}, {run.backbone.resolution} px"),
        ("sampling", f"{run.steps} steps, seed {', '.join(map(str, sorted({store.run.seed for store in stores})))}"),
        ("methods", f"{len(board.rows) - len(board.references)}, with {len(board.references)} reference rows"),
        ("edits", f"{edits:,}" + (f", {failed:,} failed" if failed else "")),
        ("made", ", ".join(dict.fromkeys(store.run.created[:10] for store in stores))),
    ]


# tables ---------------------------------------------------------------------------------------------------------------


def _value(
    mean: float,
    low: float,
    high: float,
    digits: int,
    best: str | None = None,
    signed: bool = False,
    n: int | None = None,
) -> Value:
    """A cell; ``best`` is the text of its column's best mean, if the row competes; ``n`` of how many it is the mean."""
    if math.isnan(mean):
        return Value("–")
    text = number(mean, digits, signed)
    interval = "" if math.isnan(low) else f"{number(low, digits, signed)} to {number(high, digits, signed)}"
    if interval and n is not None and n < FEW:
        interval += " †"
    return Value(text, interval, mean, text == best)


def _overall(board: Leaderboard, metrics: Sequence[Facts]) -> Grid:
    counts = ["n", "failed"] if board.rows["failed"].any() else ["n"]
    columns = [*map(Column, counts), *(Column(m.title, m.better, m.unit) for m in metrics)]
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
            values.append(_value(mean, low, high, metric.digits, marked, n=row[f"{metric.name}_n"]))
        values.append(_value(row["seconds"], math.nan, math.nan, 2))
        rows.append(Row(str(row["method"]), is_reference, values))
    return Grid(f"Means over all samples, with 95 % intervals ({DAGGER})", columns, rows)


def _best(means: Sequence[float], metric: Facts) -> str | None:
    """The best of some means as it is printed, so that equal texts are equally good; None if there is none."""
    found = [mean for mean in means if not math.isnan(mean)]
    if not found:
        return None
    return number(max(found) if metric.better == "higher" else min(found), metric.digits)


def _slices(tasks: Iterable[Task]) -> dict[Slice, str]:
    """What the page slices by: the usual ways, and tags of a few values; a tag of many is no block but a remark."""
    few = [name for name, values in tags(tasks).items() if len(values) <= MOST_BLOCKS]
    return _SLICE_TITLES | {name: f"By {name}" for name in few}


def _sliced(
    slice: Slice, words: str, tasks: Mapping[str, Task], scores: pd.DataFrame, methods: Sequence[Method]
) -> list[Grid]:
    """A table of methods by blocks for each metric of the paper; none if all samples are in one block."""
    blocks: dict[str, set[str]] = {}
    for sample, task in tasks.items():
        blocks.setdefault(slice_of(task, slice), set()).add(sample)
    if len(blocks) < 2:
        return []
    grids = []
    measured = list(scores["metric"].unique())
    for metric in (facts(label) for name in SHOWN if (label := shown_as(name, measured))):
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
                cells[method.name].append(_value(found.mean, found.low, found.high, metric.digits, marked, n=found.n))
        columns = [Column(f"{title} ({len(samples)})", metric.better) for title, samples in blocks.items()]
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
                _difference(Estimate(row["difference"], row["low"], row["high"], row["n"]), board.metrics[name].digits),
                int(row["n"]),
            )
            for row in board.paired[board.paired["metric"] == name].to_dict("records")
            if not {row["method"], row["against"]} & set(board.references)
        ]
        if rows:
            found.append((board.metrics[name].title, rows))
    return found


def _difference(estimate: Estimate, digits: int) -> Value:
    found = _value(estimate.mean, estimate.low, estimate.high, digits, signed=True, n=estimate.n)
    return replace(found, best=estimate.excludes_zero())


def _methods(scored: Scored, board: Leaderboard) -> list[Method]:
    """In the leaderboard's order."""
    by_name = {}
    for row in scored.rows:
        facts = row.facts
        parameters = [(key, str(value)) for key, value in facts.parameters.items()]
        by_name[row.name] = Method(row.name, facts.title, not facts.edits, parameters, facts.reference, facts.package)
    return [by_name[str(name)] for name in board.rows["method"]]


# gallery --------------------------------------------------------------------------------------------------------------


def _cards(scored: Scored, methods: Sequence[Method], metrics: Sequence[Facts], place: Path) -> list[Card]:
    order = {method.name: number for number, method in enumerate(methods)}
    rows = sorted(scored.rows, key=lambda row: order[row.name])
    edits = {row.name: {edit.sample: edit for edit in row.edits} for row in rows}
    asked = {row.name: set(scored.asked(row)) for row in rows}
    found = scored.scores.set_index(["method", "sample", "metric"])["value"].to_dict()
    cards = []
    with ThreadPoolExecutor() as pool:  # Pillow lets go of the interpreter while it encodes
        jobs = []
        for number, sample in enumerate(scored.samples, start=1):
            folder = Path("pictures") / f"{number:04d}"
            task: Task | None = None
            shown: dict[str, Callable[[Path], None]] = {}
            with contextlib.suppress(UserError):  # without its task a sample has no source, and its edits all the same
                store, task = scored.task(sample)
                shown = {"source": functools.partial(write_picture, store.read_source, task)}
                if task.mask_sha256:
                    shown["region"] = functools.partial(_region, store, task)
                if task.truth_sha256:
                    shown["truth"] = functools.partial(write_picture, store.read_truth, task)
            files = {what: str(folder / f"{what}.webp") for what in shown}
            jobs += [pool.submit(make, place / files[what]) for what, make in shown.items()]
            pictures = []
            for row in rows:
                if sample not in asked[row.name]:
                    continue
                edit = edits[row.name].get(sample)
                file, message = "", (edit.error or "") if edit else _damage(row, sample)
                if edit and edit.status == "ok":
                    file = str(folder / f"{order[row.name]:03d}.webp")
                    jobs.append(pool.submit(write_picture, row.store.read_picture, edit, place / file))
                values = [
                    _value(found.get((row.name, sample, metric.name), math.nan), math.nan, math.nan, metric.digits)
                    for metric in metrics
                ]
                pictures.append(
                    Picture(
                        order[row.name],
                        row.name,
                        not row.facts.edits,
                        file,
                        without_places(message) or "not edited",
                        bool(message) and not file,
                        values,
                    )
                )
            source, region, truth = (files.get(what, "") for what in ("source", "region", "truth"))
            cards.append(Card(number, sample, task, source, region, truth, pictures))
        for job in jobs:
            try:
                job.result()
            except Damaged as error:  # between being found whole and being drawn
                raise UserError(f"{error}; give the run's command again to make it anew") from error
    return cards


def _damage(row: ScoredRow, sample: str) -> str:
    """Why a row has no record of a sample: empty if it was not edited yet."""
    try:
        row.store.read_edit(row.label, sample)
    except Damaged as error:
        return f"damaged: {error}"
    return ""


def write_picture(read: Callable[[Any], Image.Image | None], record: Any, target: Path) -> None:
    """Write a picture of the store as the page shows it; nothing where there is none.

    Raises:
        Damaged: it is not the one that its record tells of.
    """
    if picture := read(record):
        _write(picture.convert("RGB"), target, quality=QUALITY)


def _region(store: Store, task: Task, target: Path) -> None:
    """The region to alter as a veil to lay over the source: red inside, with an outline in two tones."""
    inside = store.read_mask(task)
    assert inside is not None
    width = max(1, inside.shape[0] // 128)
    veil = np.zeros((*inside.shape, 4), np.uint8)
    veil[inside] = (214, 40, 70, 90)
    for line, colour in zip(outline(inside, width), OUTLINE, strict=True):
        veil[line] = (*colour, 235)
    _write(Image.fromarray(veil, "RGBA"), target, lossless=True)


def _write(picture: Image.Image, target: Path, **options: Any) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", **options)
    write_atomic(target, buffer.getvalue())
