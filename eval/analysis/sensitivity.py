"""Why numbers differ: the same pictures scored under every protocol at hand.

A paper that names neither its CLIP nor its LPIPS leaves choices open; here each is made in turn, and nothing else is
changed, so that what moves in the table is moved by the choice.
"""

from __future__ import annotations

import contextlib
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms
from tqdm import tqdm

from cpam_bench.eval.analysis.statistics import kendall_tau, mean_interval, ranks
from cpam_bench.eval.metrics.clip import ClipScorer, load_clip
from cpam_bench.eval.metrics.metric import METRICS, Batch, clip_score, lpips_whole, lpips_within
from cpam_bench.eval.metrics.perceptual import load_lpips
from cpam_bench.eval.scoring.score import BATCH, collect, load_batch
from cpam_bench.eval.scoring.scored import read_protocol
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_rows
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group

Trunk = Literal["alex", "vgg", "squeeze"]
TRUNKS: tuple[Trunk, ...] = ("alex", "vgg", "squeeze")
COLUMNS = ["metric", "protocol", "default", "scorer", "weights_sha256", "method", "reference", "mean", "low", "high"]
COLUMNS += ["n", "difference", "rank", "rank_default", "tau", "ranks_changed"]
SMALLEST = 32
"""Edge in pixels below which the trunks of LPIPS have nothing left to compare."""


@dataclass(frozen=True)
class Filter:
    """A way to resize: Pillow's filters always smooth before they shrink (antialias), torch's need not."""

    name: str
    pillow: Image.Resampling | None  # None: torch's mode of the same name, without antialiasing
    mode: str = ""

    def picture(self, image: Image.Image, edge: int) -> Image.Image:
        """Resize a square picture to an edge in pixels."""
        if self.pillow is not None:
            return image.resize((edge, edge), self.pillow)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        small = interpolate(pixels, (edge, edge), mode=self.mode, align_corners=False).round().clamp(0, 255)
        return Image.fromarray(small[0].permute(1, 2, 0).to(torch.uint8).numpy())


FILTERS = (
    Filter("bicubic", Image.Resampling.BICUBIC),
    Filter("bilinear", Image.Resampling.BILINEAR),
    Filter("lanczos", Image.Resampling.LANCZOS),
    Filter("nearest", Image.Resampling.NEAREST),
    Filter("bicubic, not antialiased", None, "bicubic"),
    Filter("bilinear, not antialiased", None, "bilinear"),
)


@dataclass(frozen=True)
class Protocol:
    """One way to measure a metric.

    Attributes:
        metric: in ``scores.csv``.
        name: the choices in words.
        default: whether it is the one that the run was scored with.
        scorer, weights_sha256: the model.
        measure: a batch -> one value an edit, NaN where it is not defined.
    """

    metric: str
    name: str
    default: bool
    scorer: str
    weights_sha256: str
    measure: Callable[[Batch], Tensor] = field(repr=False)


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
    protocols, unavailable = [], []
    used = scored["clip_score"]
    if used.scorer is None:
        raise UserError(f"{folder} does not say which scorer it has; score it again with: cpam-bench score {folder}")
    own = load_clip(used.scorer, device)
    if own.weights_sha256 != used.weights_sha256:
        notes.append(f"the scorer {own.name} has other weights now than when {folder} was scored")
    protocols += _clip_protocols(own, default=True)
    for name in dict.fromkeys(clips):
        if name == own.name:
            continue
        try:
            protocols += _clip_protocols(load_clip(name, device), default=False)
        except UserError as error:
            unavailable.append(str(error).partition("\n")[0])
    half = store.run.backbone.resolution // 2
    if half < SMALLEST:
        notes.append(f"LPIPS at half the size is left out: {half} pixels are too few")
    protocols += _lpips_protocols("alex", _load_trunk("alex").to(device), half, device)  # it comes with the package
    for trunk in dict.fromkeys(trunk for trunk in trunks if trunk != "alex"):
        try:
            model = _load_trunk(trunk)
        except (OSError, RuntimeError) as error:  # of a download, and of a file that is cut short
            unavailable.append(
                f"LPIPS with {trunk}: torchvision's weights of its trunk cannot be had ({error}); they are fetched"
                f" once over the network, or found in {Path(torch.hub.get_dir()) / 'checkpoints'}"
            )
        else:
            protocols += _lpips_protocols(trunk, model.to(device), half, device)
    values = _measure(store, tasks, edits, protocols, progress)
    return Sensitivity(_rows(store, edits, protocols, values), unavailable, notes)


# protocols ------------------------------------------------------------------------------------------------------------


def _clip_protocols(scorer: ClipScorer, default: bool) -> list[Protocol]:
    """A scorer with its own preprocessing, and with each other filter in the place of its own."""
    steps = list(scorer.preprocess.transforms)
    places = [i for i, step in enumerate(steps) if isinstance(step, transforms.Resize)]

    def protocol(name: str, preprocess: Any, is_default: bool) -> Protocol:
        def measure(batch: Batch) -> Tensor:
            used, scorer.preprocess = scorer.preprocess, preprocess
            try:
                return clip_score(scorer, batch.edit, batch.prompts)
            finally:
                scorer.preprocess = used

        return Protocol("clip_score", name, is_default, scorer.name, scorer.weights_sha256, measure)

    if len(places) != 1:  # a scorer that resizes in another way is measured as it is
        return [protocol(f"CLIP {scorer.name}, its own preprocessing", scorer.preprocess, default)]
    resize = steps[places[0]]
    own = str(resize.interpolation.value)
    edge = resize.size if isinstance(resize.size, int) else min(resize.size)
    found = [protocol(f"CLIP {scorer.name}, {own} (its own)", scorer.preprocess, default)]
    for chosen in FILTERS:
        if chosen.name != own:
            step = transforms.Lambda(lambda image, chosen=chosen: chosen.picture(image.convert("RGB"), edge))
            changed = transforms.Compose([*steps[: places[0]], step, *steps[places[0] + 1 :]])
            found.append(protocol(f"CLIP {scorer.name}, {chosen.name}", changed, False))
    return found


def _lpips_protocols(trunk: str, model: Any, half: int, device: str) -> list[Protocol]:
    """A trunk, masked and spatial, on the pictures as they are and at half their size by each filter."""
    digest = weights_hash(model)

    def protocol(convention: str, chosen: Filter | None) -> Protocol:
        def measure(batch: Batch) -> Tensor:
            model.spatial = convention == "spatial"
            return _background_lpips(model, batch, chosen, half, device)

        size = "size of the run" if chosen is None else f"half the size, {chosen.name}"
        is_default = trunk == "alex" and convention == "masked" and chosen is None
        name = f"LPIPS {trunk}, {convention}, {size}"
        return Protocol("lpips_background", name, is_default, f"LPIPS {trunk} v0.1", digest, measure)

    inputs = [None, *FILTERS] if half >= SMALLEST else [None]
    return [protocol(convention, chosen) for convention in ("masked", "spatial") for chosen in inputs]


def _background_lpips(model: Any, batch: Batch, chosen: Filter | None, half: int, device: str) -> Tensor:
    """LPIPS between source and edit over the background, as the metric defines it; the mask is resized nearest."""
    source, edit, mask = batch.source, batch.edit, batch.mask
    if chosen is not None:
        nearest = Filter("nearest", Image.Resampling.NEAREST)
        source, edit = (
            np.stack([np.asarray(chosen.picture(Image.fromarray(one), half)) for one in pictures])
            for pictures in (source, edit)
        )
        mask = np.stack([np.asarray(nearest.picture(Image.fromarray(one), half)) for one in mask])
    background = ~torch.from_numpy(mask)[:, None].to(device)
    a, b = (torch.from_numpy(one).permute(0, 3, 1, 2).to(device).float() / 255 for one in (source, edit))
    if model.spatial:
        found = lpips_within(model, a, b, background)
    else:
        found = lpips_whole(model, a * background, b * background)
    defined = torch.from_numpy(batch.masked).to(device) & background.flatten(1).any(1)
    return torch.where(defined, found, torch.nan)


def _load_trunk(trunk: str) -> Any:
    with _patience(20), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torchvision")
        return load_lpips(trunk)


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """A network that does not answer is given up after so long; torchvision itself would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# numbers --------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _measure(
    store: Store, tasks: Any, edits: Sequence[Any], protocols: Sequence[Protocol], progress: bool | None
) -> list[list[float]]:
    """For each protocol a value an edit."""
    values: list[list[float]] = [[] for _ in protocols]
    hidden = None if progress is None else not progress
    with tqdm(total=len(edits) * len(protocols), unit="score", dynamic_ncols=True, disable=hidden) as bar:
        for start in range(0, len(edits), BATCH):
            batch = load_batch(store, tasks, list(edits[start : start + BATCH]))
            for found, protocol in zip(values, protocols, strict=True):
                found += protocol.measure(batch).float().cpu().tolist()
                bar.update(len(batch.prompts))
    return values


def _rows(
    store: Store, edits: Sequence[Any], protocols: Sequence[Protocol], values: Sequence[Sequence[float]]
) -> pd.DataFrame:
    methods = [label for label in store.run.methods if any(edit.method == label for edit in edits)]
    editing = [label for label in methods if store.run.methods[label].edits]
    of = np.array([edit.method for edit in edits])
    means = {
        (protocol.metric, protocol.name): {label: mean_interval(np.asarray(found)[of == label]) for label in methods}
        for protocol, found in zip(protocols, values, strict=True)
    }
    default = {protocol.metric: means[protocol.metric, protocol.name] for protocol in protocols if protocol.default}
    rows = []
    for protocol in protocols:
        mine, usual = means[protocol.metric, protocol.name], default[protocol.metric]
        higher = METRICS[protocol.metric].direction == "higher"
        ranked = [label for label in editing if mine[label].n and usual[label].n]
        placed = dict(zip(ranked, ranks([mine[label].mean for label in ranked], higher), strict=True))
        usual_ranks = dict(zip(ranked, ranks([usual[label].mean for label in ranked], higher), strict=True))
        tau, _ = kendall_tau(list(placed.values()), list(usual_ranks.values()))
        changed = sum(placed[label] != usual_ranks[label] for label in ranked)
        head = (protocol.metric, protocol.name, protocol.default, protocol.scorer, protocol.weights_sha256)
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
        metric = METRICS[name]
        digits = 2 if name == "clip_score" else 4
        rows = found.rows[found.rows["metric"] == name]
        count = rows["protocol"].nunique()
        parts.append(Text(f"\n{metric.title} ({metric.direction} is better) under {count} protocols", style="italic"))
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
                f"{default.iloc[0]:.{digits}f}" if len(default) else "–",
                f"{low:.{digits}f}",
                f"{high:.{digits}f}",
                f"{high - low:.{digits}f}",
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
            tau = "–" if first["tau"] is None else f"{first['tau']:+.2f}"
            mark = " (default)" if first["default"] else ""
            changes = ("", "", "") if first["default"] else (f"{shift:+.{digits}f}", tau, str(first["ranks_changed"]))
            table.add_row(Text(f"{words}{mark}"), *changes)
        parts.append(table)
    parts.append(
        Text("Ranks and Kendall's tau are to the default protocol, over the methods that edit; the shift is over all.")
    )
    parts += [Text(f"Not at hand: {line}") for line in found.unavailable]
    parts += [Text(f"Note: {line}") for line in found.notes]
    return Lines(*parts)
