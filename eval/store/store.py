"""The store: everything that a run has made, in one folder that can be read again without the process that made it.

::

    run.json                        data, backbone, methods with every parameter, protocol, machine
    sources/<sample>.png, .json     the picture as the editors saw it, and the task (prompts, flags)
    masks/<sample>.png              the alteration mask at the same size, 0 or 255
    truths/<sample>.png             what the edit should have led to, where the data set knows
    edits/<method>/<sample>.png     the edited picture
    edits/<method>/<sample>.json    its record: parameters, seed, time, memory, and what went wrong if it failed
    scores.csv, scores.json         method, sample, metric, value; and the protocol of the metrics
    leaderboard.csv, paired.csv     tables
    hashes.json                     of the files that were made from the others (runs of early versions lack it)

Every file is written whole or not at all, and a record carries the hash of its picture, so what a crash, a full disk or
a damaged disk leaves behind is found when it is read and made anew by the next run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from cpam_bench.eval.store.records import Edit, Run, Task, load, parse, plain
from cpam_bench.imba.common.files import sweep, write_json, write_png
from cpam_bench.imba.common.places import get, modified, place
from cpam_bench.imba.errors import Damaged, UserError

T = TypeVar("T")
R = TypeVar("R")
_READERS = 8
_TRIED = 64  # items that tell whether reading waits


class Store:
    """A run's folder."""

    def __init__(self, folder: Path, run: Run):
        self.folder, self.run = folder, run

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """An existing run, to read.

        Raises:
            UserError: there is no run in the folder, or its ``run.json`` cannot be understood.
        """
        folder = place(folder)
        path = folder / "run.json"
        if not path.is_file():
            raise UserError(f"{folder} is not the folder of a run: it has no run.json")
        try:
            return cls(folder, parse(Run, load(path), path))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is damaged ({error}); the edits beside it are safe: put back a copy of it, or start the run in"
                " another folder"
            ) from error

    @classmethod
    def create_or_resume(cls, folder: str | Path, run: Run) -> Store:
        """A folder for a run, new or to be continued; call it and everything that writes under :func:`locked`.

        Raises:
            UserError: the folder holds something else, or a run that differs in what decides its edits.
        """
        folder = place(folder)
        if (folder / "run.json").is_file():
            store = cls.open(folder)
            if differences := store.run.differences(run):
                listed = "\n".join(f"  {line}" for line in differences)
                raise UserError(
                    f"{folder} holds a run that was made differently (stored -> now):\n{listed}\n"
                    "Give another folder with --out, or the same settings."
                )
            store.run = store.run.extended(run)
        else:
            foreign = [path.name for path in folder.iterdir() if path.name != ".lock"] if folder.is_dir() else []
            if foreign:
                raise UserError(
                    f"{folder} is not empty and holds no run ({', '.join(sorted(foreign)[:3])} ...);"
                    " give an empty or new folder with --out"
                )
            store = cls(folder, run)
        sweep(folder)
        write_json(folder / "run.json", plain(store.run))
        return store

    # places ---------------------------------------------------------------------------------------------------------

    def edit_path(self, method: str, sample: str) -> Path:
        """The PNG of an edit; its record is beside it with the suffix ``.json``."""
        return self.folder / "edits" / slug(method) / f"{sample}.png"

    def source_path(self, sample: str) -> Path:
        return self.folder / "sources" / f"{sample}.png"

    def mask_path(self, sample: str) -> Path:
        return self.folder / "masks" / f"{sample}.png"

    def truth_path(self, sample: str) -> Path:
        return self.folder / "truths" / f"{sample}.png"

    # writing --------------------------------------------------------------------------------------------------------

    def write_edit(self, edit: Edit, image: Image.Image | bytes | None = None) -> None:
        """Store a record and, if the edit is ok, its picture: an image, or the bytes of its PNG file.

        The record comes last: an edit is there when its record says so.
        """
        path = self.edit_path(edit.method, edit.sample)
        if image is None:
            path.unlink(missing_ok=True)
        else:
            edit = replace(edit, image_sha256=write_png(path, image))
        write_json(path.with_suffix(".json"), plain(edit))

    def write_task(
        self, task: Task, image: Image.Image, mask: np.ndarray | None = None, truth: Image.Image | None = None
    ) -> None:
        """Store a sample as editors and metrics see it: RGB image, bool mask and truth, all of one size."""
        image_hash = write_png(self.source_path(task.id), image)
        mask_hash = truth_hash = None
        if mask is not None:
            mask_hash = write_png(self.mask_path(task.id), Image.fromarray(mask.astype(np.uint8) * 255))
        if truth is not None:
            truth_hash = write_png(self.truth_path(task.id), truth)
        task = replace(task, image_sha256=image_hash, mask_sha256=mask_hash, truth_sha256=truth_hash)
        write_json(self.source_path(task.id).with_suffix(".json"), plain(task))

    # reading --------------------------------------------------------------------------------------------------------

    def read_edit(self, method: str, sample: str, check: bool = True) -> Edit | None:
        """The record of an edit, or None if there is none; ``check`` reads its picture too.

        Raises:
            Damaged: the record cannot be read, or its picture is not the one that was written.
        """
        path = self.edit_path(method, sample)
        data = read_json(path.with_suffix(".json"))
        if data is None:
            return None
        edit = _record(Edit, data, path.with_suffix(".json"))
        record = path.with_suffix(".json")
        if (edit.method, edit.sample) != (method, sample):
            raise Damaged(f"{record} is the record of {edit.method}, {edit.sample}")
        if edit.status == "failed" and not edit.error:
            raise Damaged(f"{record} is not a whole record (it failed, and error is empty)")
        if check and edit.status == "ok":
            checked(path, edit.image_sha256)
        return edit

    def made_at(self, method: str, sample: str) -> float:
        """When the record of an edit was written, seconds since the epoch; 0 if there is none."""
        try:
            return modified(self.edit_path(method, sample).with_suffix(".json"))
        except FileNotFoundError:
            return 0.0

    def is_done(self, method: str, sample: str) -> bool:
        """Whether the edit is there, succeeded and is whole."""
        with contextlib.suppress(Damaged):
            edit = self.read_edit(method, sample)
            return edit is not None and edit.status == "ok"
        return False

    def read_task(self, sample: str) -> Task | None:
        """A sample's task, or None if it is not stored.

        Raises:
            Damaged: its record or one of its pictures cannot be trusted.
        """
        path = self.source_path(sample).with_suffix(".json")
        data = read_json(path)
        if data is None:
            return None
        task = _record(Task, data, path)
        checked(self.source_path(sample), task.image_sha256)
        if task.mask_sha256:
            checked(self.mask_path(sample), task.mask_sha256)
        if task.truth_sha256:
            checked(self.truth_path(sample), task.truth_sha256)
        return task

    def has_task(self, sample: str) -> bool:
        """Whether the sample is stored and whole."""
        with contextlib.suppress(Damaged):
            return self.read_task(sample) is not None
        return False

    # Pictures, each made sure to be the one that its record tells of; Damaged is raised where it is gone or another.

    def read_picture(self, edit: Edit) -> Image.Image:
        """The edited picture."""
        return open_picture(self.edit_path(edit.method, edit.sample), edit.image_sha256)

    def read_source(self, task: Task) -> Image.Image:
        """The picture as the editors saw it."""
        return open_picture(self.source_path(task.id), task.image_sha256)

    def read_mask(self, task: Task) -> np.ndarray | None:
        """The alteration mask, bool (H, W), or None if the sample has none."""
        if task.mask_sha256 is None:
            return None
        return np.asarray(open_picture(self.mask_path(task.id), task.mask_sha256).convert("L")) > 127

    def read_truth(self, task: Task) -> Image.Image | None:
        """What the edit should have led to, or None if that is not known."""
        if task.truth_sha256 is None:
            return None
        return open_picture(self.truth_path(task.id), task.truth_sha256)

    def edits(self) -> tuple[list[Edit], list[str]]:
        """All records, by method and then sample in the run's order, and a line for each that is damaged."""

        def read(key: tuple[str, str]) -> Edit | str | None:
            try:
                return self.read_edit(*key)
            except Damaged as error:
                return str(error)

        keys = [(method, sample) for method in self.run.methods for sample in self.run.samples]
        read_all = at_once(read, keys)
        return [one for one in read_all if isinstance(one, Edit)], [one for one in read_all if isinstance(one, str)]


def at_once(work: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Work on every item, on threads where reading waits for a disk or a network.

    Files at hand are read one by one: threads would wait for each other there, and take twice as long.  The first items
    tell which it is.
    """
    wall, own = time.perf_counter(), time.thread_time()
    results = [work(item) for item in items[:_TRIED]]
    waits = time.perf_counter() - wall > 2 * (time.thread_time() - own)
    if not waits:
        return results + [work(item) for item in items[_TRIED:]]
    with ThreadPoolExecutor(_READERS) as pool:
        return results + list(pool.map(work, items[_TRIED:]))


def open_picture(path: Path, sha256: str | None) -> Image.Image:
    """A picture of a store, wherever that is, made sure to be the one that its record tells of.

    Raises:
        Damaged: it is gone, or another.
    """
    data = checked(path, sha256)
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Damaged(f"{path} is no picture ({error})") from error
    return image


def slug(label: str) -> str:
    """A method label as a folder name: ``cpam:guidance=5,t=3`` -> ``cpam@guidance-5+t-3``."""
    name = label.translate(str.maketrans(":=,", "@-+"))
    safe = re.sub(r"[^\w.@+-]", "_", name, flags=re.ASCII)
    if safe != name or len(safe) > 150:
        # What had to be changed or cut could meet another label's name.
        safe = f"{safe[:150]}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return safe


def read_json(path: Path) -> dict[str, Any] | None:
    """A record as JSON has it, or None if there is none.

    Raises:
        Damaged: it cannot be read.
    """
    try:
        data = load(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise Damaged(f"{path} is not a record")
    return data


def _record(kind: type[T], data: dict[str, Any], path: Path) -> T:
    try:
        return parse(kind, data, path)
    except ValueError as error:
        raise Damaged(f"{path} is not a whole record ({error})") from error


def checked(path: Path, sha256: str | None) -> bytes:
    """The bytes of a file, which are those that were written: the hash also covers what a decoder would not notice.

    Raises:
        Damaged: they are not.
    """
    try:
        data = get(path)
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror or error})") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise Damaged(f"{path} has changed since it was written")
    return data
