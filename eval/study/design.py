"""From runs to a study: which pictures, in which order, for whom.

Every rater sees every chosen image of every method once.  A rater's pictures come in as many rounds as there are
methods; a round shows each image once, in an order shuffled anew for each rater and round.  Which method's edit of an
image comes in which round follows a Williams square (a Latin square balanced for first-order carry-over: E. J.
Williams, 1949), so that over the raters each method of an image is seen about equally often early and late, and
before and after each other one.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy import ndimage

from cpam_bench.eval.store.store import Store, open_picture
from cpam_bench.eval.study import database
from cpam_bench.imba.common.files import write_atomic, writing
from cpam_bench.imba.common.folders import replacing
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.layouts.layout import read_text

PLAN = Path(__file__).parent / "templates" / "study.toml"
"""The plan of Section 5.5, and the example for other plans."""

_GAP = 20  # pictures between a picture and its repeat, at least (fewer in short studies)


class Question(BaseModel):
    """A question put for each picture; `same` and `other` are what an attentive rater answers on the controls."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    id: str = Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")
    label: str = Field(min_length=1, max_length=60)
    text: str = Field(min_length=1, max_length=300)
    same: Literal["high", "low"] | None = None
    other: Literal["high", "low"] | None = None


class Scale(BaseModel):
    """The ratings that can be given, from worst to best, and what they are called."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    values: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(min_length=2, max_length=10)
    labels: list[str]

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if self.values != sorted(set(self.values)):
            raise ValueError("the scale's values must rise")
        if len(self.labels) != len(self.values):
            raise ValueError(f"the scale has {len(self.values)} values and {len(self.labels)} labels")
        return self


class Plan(BaseModel):
    """What raters are asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    title: str = Field(min_length=1, max_length=100)
    intro: str = ""
    break_every: int = Field(default=50, ge=0)
    scale: Scale
    questions: list[Question] = Field(min_length=1, max_length=8)

    @model_validator(mode="after")
    def _distinct(self) -> Plan:
        if len({question.id for question in self.questions}) != len(self.questions):
            raise ValueError("two questions have the same id")
        return self


def read_plan(path: Path | None = None) -> Plan:
    """Read a plan; the paper's by default.

    Raises:
        UserError: the file is missing or not a plan.
    """
    path = path or PLAN
    text = read_text(path, f"there is no plan {path}")
    try:
        return Plan.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the plan"
        raise UserError(f"{path}: {where}: {first['msg']}; {PLAN} is an example") from error


@dataclass(frozen=True)
class File:
    """A picture of a run, and what its record says that the file holds."""

    path: Path
    sha256: str | None

    def read(self) -> Image.Image:
        """The picture; raises UserError where it is gone or has changed since the run was looked through."""
        try:
            return open_picture(self.path, self.sha256)
        except Damaged as error:
            raise UserError(f"{error}; give the run's command again to make it anew") from error


@dataclass
class Pool:
    """What runs have to show.

    Attributes:
        edits: method label -> sample id -> the edit.
        prompts: sample id -> target prompt.
        sources, masks: sample id -> picture.
        references: labels of reference rows, which are no editors.
        damaged: edits that cannot be used, in words.
    """

    edits: dict[str, dict[str, File]] = field(default_factory=dict)
    prompts: dict[str, str] = field(default_factory=dict)
    sources: dict[str, File] = field(default_factory=dict)
    masks: dict[str, File] = field(default_factory=dict)
    references: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)


def read_runs(runs: Sequence[Path]) -> Pool:
    """Collect the edits of run folders.

    Raises:
        UserError: a folder is not a run, two runs have the same method, or show different pictures under one sample id.
    """
    pool = Pool()
    for folder in runs:
        store = Store.open(folder)
        if twice := sorted(set(store.run.methods) & set(pool.edits)):
            raise UserError(f"method {twice[0]!r} is in {folder} and in another run: leave one of the runs out")
        pool.edits |= {label: {} for label in store.run.methods}
        pool.references |= {label for label, facts in store.run.methods.items() if not facts.edits}
        edits, damaged = store.edits()
        pool.damaged += damaged
        for edit in edits:
            if edit.status == "ok":
                path = store.edit_path(edit.method, edit.sample)
                pool.edits[edit.method][edit.sample] = File(path, edit.image_sha256)
        for sample in store.run.samples:
            try:
                task = store.read_task(sample)
            except Damaged as error:
                pool.damaged.append(str(error))
                continue
            if task is None:
                continue
            source = File(store.source_path(sample), task.image_sha256)
            if sample in pool.sources and not _alike(pool.sources[sample], source):
                there = pool.sources[sample].path.parents[1]
                raise UserError(f"sample {sample!r} is another picture in {folder} than in {there}")
            pool.sources.setdefault(sample, source)
            pool.prompts.setdefault(sample, task.target_prompt)
            if task.mask_sha256:
                pool.masks.setdefault(sample, File(store.mask_path(sample), task.mask_sha256))
    return pool


def _alike(a: File, b: File) -> bool:
    """Whether two files show the same picture, be it at different sizes."""
    small = [np.asarray(file.read().convert("RGB").resize((32, 32), Image.Resampling.BOX), float) for file in (a, b)]
    return float(np.abs(small[0] - small[1]).mean()) < 8.0


def williams(n: int) -> np.ndarray:
    """A Williams square of n treatments: int (n or 2n, n); each row an order.

    Each treatment is equally often in each column, and each is followed by each other equally often.
    """
    first = [0]
    for step in range(1, n):
        first.append((step + 1) // 2 if step % 2 else n - step // 2)
    square = (np.array(first)[None] + np.arange(n)[:, None]) % n
    return square if n % 2 == 0 else np.concatenate([square, square[:, ::-1]])


def order(raters: int, samples: int, methods: int, seed: int) -> np.ndarray:
    """Who sees what when: int (raters, methods * samples, 2), the last axis (sample, method)."""
    rng = np.random.default_rng([seed, 0])
    square = rng.permutation(methods)[williams(methods)]
    square = square[rng.permutation(len(square))]
    shift = rng.permutation(samples)
    result = np.empty((raters, methods, samples, 2), dtype=int)
    for rater in range(raters):
        shuffle = np.random.default_rng([seed, 1, rater])
        previous = -1
        for turn in range(methods):
            sequence = shuffle.permutation(samples)
            if samples > 1 and sequence[0] == previous:  # never the same source twice in a row
                sequence = np.roll(sequence, 1)
            previous = sequence[-1]
            result[rater, turn, :, 0] = sequence
            result[rater, turn, :, 1] = square[(rater + shift[sequence]) % len(square), turn]
    return result.reshape(raters, methods * samples, 2)


def balance(orders: np.ndarray) -> dict[str, float]:
    """How even a design is.

    Args:
        orders: as :func:`order` gives them.

    Returns:
        rounds: the most that the number of times a method is seen in a round differs from the even share, as a
            fraction of it;
        place: the most that a method's mean place differs from the middle, as a fraction of the length.
    """
    methods = int(orders[..., 1].max()) + 1
    raters, length, _ = orders.shape
    rounds = orders[..., 1].reshape(raters, methods, -1)
    counts = np.stack([(rounds == m).sum(axis=(0, 2)) for m in range(methods)])
    even = counts.sum() / counts.size
    place = [np.nonzero(orders[..., 1] == m)[1].mean() / max(length - 1, 1) - 0.5 for m in range(methods)]
    return {"rounds": float(np.abs(counts / even - 1).max()), "place": float(np.abs(place).max())}


def tasks(orders: np.ndarray, rater: int, repeats: int, controls: int, seed: int) -> list[tuple[str, int, int | str]]:
    """One rater's pictures with repeats and controls mixed in: (role, sample, method or kind of control)."""
    base = orders[rater]
    rng = np.random.default_rng([seed, 2, rater])
    keyed: list[tuple[float, tuple[str, int, int | str]]] = [
        (float(i), ("edit", int(s), int(m))) for i, (s, m) in enumerate(base)
    ]
    gap = min(_GAP, len(base) // 4)
    for i in rng.choice(max(len(base) - 2 * gap, 1), size=repeats, replace=False):
        sample, method = (int(x) for x in base[int(i)])
        keyed.append((float(rng.uniform(i + gap, len(base) - 0.5)), ("repeat", sample, method)))
    kinds = ["same", "other"] * controls
    for kind, sample in zip(kinds[:controls], rng.permutation(_cycle(orders, controls)), strict=True):
        keyed.append((float(rng.uniform(0.5, len(base) - 0.5)), ("control", int(sample), kind)))
    return [task for _, task in sorted(keyed, key=lambda pair: pair[0])]


def _cycle(orders: np.ndarray, count: int) -> np.ndarray:
    return np.arange(count) % (int(orders[..., 0].max()) + 1)


@dataclass(frozen=True)
class Summary:
    """What `init` tells.

    Attributes:
        raters, images, questions: counts.
        methods: labels.
        ratings: raters x methods x images x questions; repeats and controls apart.
        pictures: pictures a rater, with repeats and controls.
        extra: pictures a rater that are repeats or controls.
        damaged: files of the runs that could not be used, in words.
        left_out: (method, sample) that a run has no edit for, so that the sample was not chosen.
        balance: see :func:`balance`.
    """

    raters: int
    images: int
    questions: int
    methods: list[str]
    ratings: int
    pictures: int
    extra: int
    damaged: list[str]
    left_out: list[tuple[str, str]]
    balance: dict[str, float]


def init(
    runs: Sequence[Path],
    out: Path,
    raters: int = 20,
    images: int | None = None,
    methods: Sequence[str] | None = None,
    plan: Plan | None = None,
    repeats: int = 0,
    controls: int = 0,
    seed: int = 0,
) -> Summary:
    """Design a study and write its folder: ``study.db``, ``media/`` and ``links.csv`` (the raters' personal links).

    The design follows from the arguments; the links and the pictures' public names are drawn from the system's
    randomness, so that nobody can work them out.

    Args:
        runs: run folders.
        out: a folder that is not there yet.
        raters: number of raters.
        images: samples a method; by default 50, or all if there are fewer.
        methods: labels to show; by default every editor of the runs (reference rows are left out).
        plan: the questions; by default the paper's.
        repeats: pictures shown to each rater a second time.
        controls: control pictures shown to each rater, half of them the source itself, half another source upside down.
        seed: of the samples, the orders, the repeats and the controls.

    Raises:
        UserError: the runs do not hold such a study.
    """
    plan = plan or read_plan()
    if out.exists():
        raise UserError(f"{out} is there already: give another folder, or move that study away")
    pool = read_runs(runs)
    chosen = list(methods) if methods else [label for label in sorted(pool.edits) if label not in pool.references]
    if unknown := [label for label in chosen if label not in pool.edits]:
        raise UserError(
            f"no edits by {', '.join(unknown)} in the runs: they have {', '.join(sorted(pool.edits)) or 'none'}"
        )
    if not chosen or raters < 1 or min(repeats, controls) < 0 or (images is not None and images < 1):
        raise UserError("a study needs a method, a rater and an image at least, and counts that are not negative")
    if len(set(chosen)) != len(chosen):
        raise UserError("a method is named twice")
    ready = [s for s in sorted(pool.sources) if all(s in pool.edits[m] for m in chosen)]
    left_out = sorted({(m, s) for m in chosen for s in pool.sources if s not in pool.edits[m]})
    images = min(50, len(ready)) if images is None else images
    if images > len(ready) or not ready:
        raise UserError(
            f"{images} images asked for, but only {len(ready)} samples have an edit by every method"
            + (f" (missing, for one: {left_out[0][0]} of {left_out[0][1]})" if left_out else "")
            + ": ask for fewer --images or --methods, or finish the runs"
        )
    picked = sorted(np.random.default_rng([seed, 3]).choice(len(ready), size=images, replace=False))
    samples = [ready[i] for i in picked]
    orders = order(raters, images, len(chosen), seed)
    if repeats > max(len(orders[0]) - 2 * min(_GAP, len(orders[0]) // 4), 1):
        raise UserError(f"{repeats} repeats are too many for {len(orders[0])} pictures a rater")
    if controls and images < 2:
        raise UserError("controls need two images at least: one is shown as another's edit")

    with replacing(out, "study") as part, writing(out), database.told(out):
        part.chmod(0o700)  # what raters say is theirs
        (part / "media").mkdir()
        links: list[tuple[str, str]] = []
        with database.created(part / database.NAME) as connection:
            about = {
                "plan": plan.model_dump(),
                "seed": seed,
                "runs": [str(run) for run in runs],
                "raters": raters,
                "images": images,
                "repeats": repeats,
                "controls": controls,
            }
            connection.executemany("INSERT INTO meta VALUES (?, ?)", [(k, json.dumps(v)) for k, v in about.items()])
            connection.executemany("INSERT INTO question VALUES (?, ?)", list(enumerate(q.id for q in plan.questions)))
            connection.executemany("INSERT INTO method VALUES (?, ?)", list(enumerate(chosen)))
            pictures = _media(connection, part / "media", pool, samples, chosen, controls > 0)
            for rater in range(raters):
                token = secrets.token_urlsafe(32)
                label = f"r{rater + 1:0{max(2, len(str(raters)))}d}"
                links.append((label, f"/r/{token}"))
                connection.execute("INSERT INTO rater VALUES (?, ?, ?)", (rater, label, database.digest(token)))
                connection.executemany(
                    "INSERT INTO task (rater, position, picture, role, public) VALUES (?, ?, ?, ?, ?)",
                    [
                        (rater, position, pictures[sample, shown], role, secrets.token_urlsafe(16))
                        for position, (role, sample, shown) in enumerate(tasks(orders, rater, repeats, controls, seed))
                    ],
                )
        lines = "".join(f"{rater},{link}\n" for rater, link in [("rater", "link"), *links])
        # Whoever holds a link can rate in its rater's place.
        write_atomic(part / database.LINKS, lines.encode(), private=True)
    return Summary(
        raters=raters,
        images=images,
        questions=len(plan.questions),
        methods=chosen,
        ratings=raters * len(chosen) * images * len(plan.questions),
        pictures=len(orders[0]) + repeats + controls,
        extra=repeats + controls,
        damaged=pool.damaged,
        left_out=left_out,
        balance=balance(orders),
    )


def _media(
    connection: sqlite3.Connection,
    folder: Path,
    pool: Pool,
    samples: list[str],
    methods: list[str],
    controls: bool,
) -> dict[tuple[int, int | str], int]:
    """Write the pictures under names that say nothing; (sample, method or control) -> row of table picture.

    They are written anew from their pixels, at the source's size: a run's PNG may carry text, and a size may tell a
    method.
    """

    def store(image: Image.Image) -> str:
        name = f"{secrets.token_hex(12)}.png"
        bare = Image.frombytes(image.mode, image.size, image.tobytes())
        bare.save(folder / name, format="PNG")
        return name

    def read(file: File) -> Image.Image:
        return file.read().convert("RGB")

    rows: dict[tuple[int, int | str], int] = {}

    def add(sample: int, shown: int | str, image: Image.Image) -> None:
        rows[sample, shown] = len(rows)
        method, control = (None, shown) if isinstance(shown, str) else (shown, None)
        connection.execute(
            "INSERT INTO picture VALUES (?, ?, ?, ?, ?)", (rows[sample, shown], sample, method, control, store(image))
        )

    for index, sample in enumerate(samples):
        source = read(pool.sources[sample])
        outline = None
        if sample in pool.masks:
            image = pool.masks[sample].read().convert("L")
            mask = np.asarray(image.resize(source.size, Image.Resampling.NEAREST)) > 127
            outline = store(draw_outline(mask))
        prompt = pool.prompts[sample]
        connection.execute("INSERT INTO sample VALUES (?, ?, ?, ?, ?)", (index, sample, prompt, store(source), outline))
        for number, method in enumerate(methods):
            edit = read(pool.edits[method][sample])
            add(index, number, edit if edit.size == source.size else edit.resize(source.size, Image.Resampling.LANCZOS))
        if controls:
            other = read(pool.sources[samples[(index + len(samples) // 2) % len(samples)]])
            add(index, "same", source)
            add(index, "other", other.rotate(180).resize(source.size, Image.Resampling.LANCZOS))
    return rows


def draw_outline(mask: np.ndarray) -> Image.Image:
    """The contour of a mask, white within black, so that it is seen on any ground.

    Args:
        mask: bool (H, W).

    Returns:
        RGBA of the mask's size, transparent but for the contour.
    """
    width = max(1, round(max(mask.shape) / 256))
    inner = mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=0)
    outer = ndimage.binary_dilation(mask, iterations=width) & ~mask
    pixels = np.zeros((*mask.shape, 4), dtype=np.uint8)
    pixels[outer] = (0, 0, 0, 255)
    pixels[inner] = (255, 255, 255, 255)
    return Image.fromarray(pixels, "RGBA")
