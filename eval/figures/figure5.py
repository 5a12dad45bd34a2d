"""Figure 5: rows of samples, columns of methods, source and mask first, the prompt under each row."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cpam_bench.eval.figures.sheet import sheet
from cpam_bench.eval.scoring.scored import Scored
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.pictures import overlay

Pick = Literal["random", "gain", "loss"]
"""Samples chosen by chance (seeded), or by where the first method beats or loses against the second."""

DPI = 300
TEXT_WIDTH = 7.0  # inches that a page with two columns leaves for text


def choose(
    scored: Scored, methods: Sequence[str], pick: Pick, count: int, seed: int = 0, metric: str = "clip_score"
) -> list[str]:
    """Ids of samples that all methods have edited.

    ``gain`` and ``loss`` order them by the metric's difference between the first and the second method.

    Raises:
        UserError: nothing is edited by all of them, or there is no second method to compare with.
    """
    names = {row.label: row.name for row in scored.rows}
    methods = [names.get(method, method) for method in methods]
    folder, scores = scored.stores[0].folder, scored.scores
    scored.require(metric)
    table = scores[scores["metric"] == metric].pivot(index="sample", columns="method", values="value")
    if missing := [method for method in methods if method not in table.columns]:
        raise UserError(f"{folder} has no scores of {', '.join(missing)}; it has {', '.join(table.columns)}")
    table = table[list(methods)].dropna()
    if table.empty:
        raise UserError(f"{folder}: no sample is edited by all of {', '.join(methods)}")
    if pick == "random":
        return random.Random(seed).sample(sorted(table.index), min(count, len(table)))
    if len(methods) < 2:
        raise UserError(f"--pick {pick} compares two methods; name at least two")
    difference = table[methods[0]] - table[methods[1]]
    return difference.sort_values(ascending=pick == "loss").index[:count].tolist()


def figure(
    store: Store,
    samples: Sequence[str],
    methods: Sequence[str],
    edge: int = 0,
    titles: Mapping[str, str] | None = None,
) -> Image.Image:
    """The figure as a picture, RGB.

    Args:
        store: a run.
        samples: ids, a row each.
        methods: labels, a column each.
        edge: of each picture in pixels; 0 keeps the run's own size, twice where that is below 200.
        titles: heads of columns by label; else the methods' titles, and labels where methods share one.

    Raises:
        UserError: an edit is missing, failed or damaged.
    """
    heads = _titles(store, methods) | dict(titles or {})
    own = store.run.backbone.resolution
    edge = edge or (own if own >= 200 else 2 * own)
    rows = []
    for sample in samples:
        try:
            task = store.read_task(sample)
            if task is None:
                raise UserError(f"{store.folder} has no sample {sample!r}")
            source = _sized(store.read_source(task), edge)
            pictures = [source, _region(source, store.read_mask(task))]
            pictures += [_sized(_edited(store, method, sample), edge) for method in methods]
        except Damaged as error:
            raise UserError(
                f"{error}; give the run's command again to make it anew, or choose other samples"
            ) from error
        rows.append((pictures, f"{task.kind}: {task.target_prompt}"))
    return sheet(["source", "region", *(heads[method] for method in methods)], rows, edge)


def write(picture: Image.Image, path: Path) -> None:
    """Write a figure as PNG or PDF at print size: 300 dots an inch, more where it would be wider than a page's text."""
    dpi = max(DPI, round(picture.width / TEXT_WIDTH))
    buffer = io.BytesIO()
    if path.suffix.lower() == ".pdf":
        picture.save(buffer, "PDF", resolution=dpi)
    else:
        picture.save(buffer, "PNG", optimize=True, dpi=(dpi, dpi))
    write_atomic(path, buffer.getvalue())


def _titles(store: Store, methods: Sequence[str]) -> dict[str, str]:
    """Label -> title; a title that several methods have tells nothing, so that those keep their labels."""
    titles = {method: store.run.methods[method].title for method in methods}
    shared = Counter(titles.values())
    return {method: title if shared[title] == 1 else method for method, title in titles.items()}


def _edited(store: Store, method: str, sample: str) -> Image.Image:
    edit = store.read_edit(method, sample, check=False)
    if edit is None or edit.status != "ok":
        raise UserError(f"{store.folder}: {method} has no edit of {sample}; run it first, or choose other samples")
    return store.read_picture(edit)


def _sized(picture: Image.Image, edge: int) -> Image.Image:
    return picture.convert("RGB").resize((edge, edge), Image.Resampling.LANCZOS)


def _region(source: Image.Image, mask: np.ndarray | None) -> Image.Image:
    """The source with the region to alter in red."""
    if mask is None:
        return Image.new("RGB", source.size, "white")
    sized = Image.fromarray(mask).convert("L").resize(source.size, Image.Resampling.NEAREST)
    return overlay(source, np.asarray(sized) > 127)
