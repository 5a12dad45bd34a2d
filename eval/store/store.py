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

Every file is written whole or not at all, and a record carries the hash of its picture, so what a crash, a full disk or
a damaged disk leaves behind is found when it is read and made anew by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from cpam_bench.imba.common.files import sweep, write_json, write_png, writing
from cpam_bench.imba.common.places import get, held, is_remote, modified, place
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.sample import Altered, Kind

T = TypeVar("T")
Inversion = Literal["", "computed", "shared", "cached"]
R = TypeVar("R")
_READERS = 8


@dataclass(frozen=True)
class Run:
    """How a run is made: the contents of ``run.json``.

    Attributes:
        arguments: of the command, as given.
        dataset: ``name``, ``fingerprint``, ``pocket`` (bool).
        backbone: ``name``, ``weights`` (component -> sha256), ``resolution``, ``pocket`` (bool).
        steps: of the inversion and of the editing.
        seed: of the run; each edit's own is derived from it.
        dtype, device: of the networks; device is its kind, ``cpu`` or ``cuda``.
        protocol: how pictures and masks are prepared, in words.
        methods: label -> ``method``, ``title``, ``edits``, ``parameters``, ``reference``, ``package``.
        samples: ids, in the data set's order.
        versions: of the packages that matter.
        machine: what it ran on.
        created: when, ISO 8601, UTC.
        threads: of torch in each worker, on which sums on the CPU depend; None where they do not matter or are unknown.
        batch: how many samples are edited together, on which the last bits depend.
    """

    arguments: dict[str, Any]
    dataset: dict[str, Any]
    backbone: dict[str, Any]
    steps: int
    seed: int
    dtype: str
    device: str
    protocol: dict[str, str]
    methods: dict[str, dict[str, Any]]
    samples: list[str]
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    created: str = ""
    threads: int | None = None
    batch: int = 1

    @property
    def is_pocket(self) -> bool:
        """Whether data or backbone are the small embedded ones, not to be set beside the paper's numbers."""
        return bool(self.dataset.get("pocket") or self.backbone.get("pocket"))

    def differences(self, new: Run) -> list[str]:
        """What would make edits come out otherwise, as ``key: old -> new``; methods and samples may be added freely."""
        old_keys, new_keys = _decisive(self), _decisive(new)
        shared = [key for key in old_keys if key in new_keys or not key.startswith(_MAY_LACK)]
        added = [key for key in new_keys if key not in old_keys and not key.startswith(_MAY_LACK)]
        return [
            f"{key}: {_short(old_keys.get(key))} -> {_short(new_keys.get(key))}"
            for key in [*shared, *added]
            if old_keys.get(key) != new_keys.get(key)
        ]

    def extended(self, new: Run) -> Run:
        """This run with the methods and samples of another one added."""
        samples = [*self.samples, *(sample for sample in new.samples if sample not in set(self.samples))]
        return replace(self, methods={**self.methods, **new.methods}, samples=samples)


_MAY_LACK = ("methods.", "threads")
"""What decides edits where both runs have it: methods may be added, and early runs did not note their threads."""


def _decisive(run: Run) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "dataset.fingerprint": run.dataset["fingerprint"],
        "backbone.resolution": run.backbone["resolution"],
        "steps": run.steps,
        "seed": run.seed,
        "dtype": run.dtype,
        "device": run.device,
        "batch": run.batch,
    }
    if run.threads is not None:
        keys["threads"] = run.threads
    keys |= {f"backbone.weights.{part}": digest for part, digest in run.backbone["weights"].items()}
    # How costs are measured decides no picture.
    keys |= {f"protocol.{key}": run.protocol[key] for key in ("images", "masks")}
    for label, method in run.methods.items():
        keys |= {f"methods.{label}.{key}": value for key, value in method["parameters"].items()}
    return keys


def _short(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return "nothing" if value is None else str(value)


@dataclass(frozen=True)
class Edit:
    """The record of one edit.

    Attributes:
        method: canonical label.
        sample: id.
        status: ``ok`` or ``failed``.
        params: every parameter of the method, and what its ``inputs`` says of files that it read.
        seed: that the editor was given.
        seconds: wall time of the edit, without the inversion that the methods of a sample share.
        inversion_seconds: wall time of that inversion if this method used it, else 0; from the cache: when it was made.
        inversion: whether it was ``computed`` for this edit, ``shared`` with one before it, ``cached``, or not used.
        peak_memory_mib: highest memory during the edit, or None where it cannot be measured.
        error, traceback: of a failed edit.
        image_sha256: of the PNG file.
        versions: of the packages that made it.
        processor: name of the processor or graphics card that made it.
    """

    method: str
    sample: str
    status: Literal["ok", "failed"]
    params: dict[str, Any]
    seed: int
    seconds: float = 0.0
    inversion_seconds: float = 0.0
    inversion: Inversion = ""
    peak_memory_mib: float | None = None
    error: str | None = None
    traceback: str | None = None
    image_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    processor: str = ""


@dataclass(frozen=True)
class Task:
    """What the metrics, tables and pages need to know of a sample; ``sources/<id>.json``.

    ``caption_by`` is the captioner that wrote ``source_prompt``, or None if the data set has it.
    """

    id: str
    target_prompt: str
    object_prompt: str = ""
    altered: Altered = "foreground"
    retain_object: bool = False
    kind: Kind = "replace"
    source_prompt: str | None = None
    caption_by: str | None = None
    several_objects: bool = False
    image_sha256: str = ""
    mask_sha256: str | None = None
    truth_sha256: str | None = None


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
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(folder, Run(**data))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{path} is damaged ({error}); the edits beside it are safe, but start the run in another folder"
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
        write_json(folder / "run.json", asdict(store.run))
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
        write_json(path.with_suffix(".json"), asdict(edit))

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
        write_json(self.source_path(task.id).with_suffix(".json"), asdict(task))

    # reading --------------------------------------------------------------------------------------------------------

    def read_edit(self, method: str, sample: str, check: bool = True) -> Edit | None:
        """The record of an edit, or None if there is none; ``check`` reads its picture too.

        Raises:
            Damaged: the record cannot be read, or its picture is not the one that was written.
        """
        path = self.edit_path(method, sample)
        data = _read_json(path.with_suffix(".json"))
        if data is None:
            return None
        edit = _record(Edit, data, path.with_suffix(".json"))
        if (edit.method, edit.sample) != (method, sample):
            raise Damaged(f"{path.with_suffix('.json')} is the record of {edit.method}, {edit.sample}")
        if check and edit.status == "ok":
            _check(path, edit.image_sha256)
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
        data = _read_json(path)
        if data is None:
            return None
        task = _record(Task, data, path)
        _check(self.source_path(sample), task.image_sha256)
        if task.mask_sha256:
            _check(self.mask_path(sample), task.mask_sha256)
        if task.truth_sha256:
            _check(self.truth_path(sample), task.truth_sha256)
        return task

    def has_task(self, sample: str) -> bool:
        """Whether the sample is stored and whole."""
        with contextlib.suppress(Damaged):
            return self.read_task(sample) is not None
        return False

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
    """Work on every item, on threads: reading waits for disks and networks, and hashing leaves Python to others."""
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(work, items))


def open_picture(path: Path) -> Image.Image:
    """A picture of a store, wherever that is."""
    return Image.open(io.BytesIO(path.read_bytes()))


def slug(label: str) -> str:
    """A method label as a folder name: ``cpam:guidance=5,t=3`` -> ``cpam@guidance-5+t-3``."""
    name = label.translate(str.maketrans(":=,", "@-+"))
    safe = re.sub(r"[^\w.@+-]", "_", name, flags=re.ASCII)
    if safe != name or len(safe) > 150:
        # What had to be changed or cut could meet another label's name.
        safe = f"{safe[:150]}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return safe


@dataclass(frozen=True)
class Holder:
    """The process that holds a run's folder, and since when (seconds since the epoch)."""

    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold a run's folder alone; the lock goes with the process, however that ends (a remote one's: soon after).

    Raises:
        UserError: another process works in the folder, or it cannot be made.
    """
    folder = place(folder)
    me = Holder(os.getpid(), platform.node(), time.time())
    if is_remote(folder):
        with contextlib.ExitStack() as stack:
            try:
                with writing(folder):
                    stack.enter_context(held(folder / ".lock", asdict(me)))
            except BlockingIOError:
                raise _taken(folder) from None
            yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+", encoding="utf-8")  # a+ keeps the note of whoever holds it
    with lock:
        for patience in (0.05, 0.2, None):  # whoever looks who holds the lock has it for a moment
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if patience is None:
                    raise _taken(folder) from None
                time.sleep(patience)
        with contextlib.suppress(OSError):  # only a note for whoever meets the lock; a full disk is met later
            lock.truncate(0)
            lock.write(json.dumps(asdict(me)))
            lock.flush()
        yield


def _taken(folder: Path) -> UserError:
    return UserError(f"{_note(folder) or 'another process'} is working in {folder}; wait for it to end")


def holder(folder: str | Path) -> Holder | None:
    """Who works in a run's folder at the moment, or None; of a remote one, who has not said that it is done."""
    folder = place(folder)
    if is_remote(folder):
        return _note(folder)
    try:
        with (folder / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _note(folder) or Holder(0, "an unknown machine", time.time())
    return None


def _note(folder: Path) -> Holder | None:
    """What the holder of the lock has noted in it."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        noted = json.loads(get(folder / ".lock"))
        return Holder(**{name: noted[name] for name in ("pid", "host", "since")})
    return None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read ({error})") from error
    if not isinstance(data, dict):
        raise Damaged(f"{path} is not a record")
    return data


def _record(kind: type[T], data: dict[str, Any], path: Path) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    try:
        # A later version may have added fields; they do not concern us.
        return kind(**{key: value for key, value in data.items() if key in known})
    except TypeError as error:
        raise Damaged(f"{path} is not a whole record ({error})") from error


def _check(path: Path, sha256: str | None) -> None:
    """Make sure that a picture is the one that was written; the hash also covers what a decoder would not notice."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror or error})") from error
    if found != sha256:
        raise Damaged(f"{path} has changed since it was written")
