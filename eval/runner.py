"""Every method on every sample, into a store."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import logging
import platform
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from cpam.editing import Editor
from cpam.inversion import Trajectory
from cpam.source import Source
from eval import registry
from eval.store import Edit, Run, Store, Task
from imba.sample import Sample, read_picture

log = logging.getLogger(__name__)

PROTOCOL = {
    "images": "RGB, resized to a square of the backbone's resolution, bicubic with antialiasing (Pillow)",
    "masks": "alteration mask (True where the picture may change), resized nearest neighbour",
    "seconds": "wall time of one edit; the inversion that methods share is recorded apart",
    "peak_memory": "weights included; CUDA: torch's highest allocation, CPU: the process's highest resident size",
}
"""How pictures are prepared and costs are measured; stored with every run."""

_PACKAGES = ("cpam-bench", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Failure:
    """An edit that failed."""

    method: str
    sample: str
    error: str


class TimedSource(Source):
    """A source that notes what its inversion took and whether a method used it."""

    def __init__(self, sample: Sample, backbone: Any, steps: int):
        super().__init__(sample, backbone, steps)
        self.inversion_seconds: float | None = None
        self.computed_in_edit = 0.0
        self.used = False

    @property
    def trajectory(self) -> Trajectory:  # type: ignore[override]
        """As :attr:`Source.trajectory`, timed when it is computed."""
        self.used = True
        if self.inversion_seconds is not None:
            return super().trajectory
        started = _clock(self.backbone)
        trajectory = super().trajectory
        self.inversion_seconds = self.computed_in_edit = _clock(self.backbone) - started
        return trajectory

    def begin(self) -> None:
        """Forget what the last edit used."""
        self.used, self.computed_in_edit = False, 0.0


def describe_run(
    arguments: Mapping[str, Any],
    dataset: Any,
    samples: Iterable[Sample],
    backbone: Any,
    editors: Mapping[str, Editor],
    *,
    steps: int,
    seed: int,
    dtype: str = "float32",
    device: str = "cpu",
) -> Run:
    """What ``run.json`` says of a run that is about to start.

    Args:
        arguments: of the command, to be kept as they are.
        dataset: an ``imba.dataset.Dataset``.
        samples: those of it that are to be edited.
        backbone: a ``cpam.backbone.Backbone``.
        editors: canonical label -> editor.
        steps, seed: of the run.
        dtype, device: as asked for.
    """
    return Run(
        arguments=dict(arguments),
        dataset={"name": dataset.name, "fingerprint": dataset.fingerprint, "pocket": dataset.is_pocket},
        backbone={
            "name": backbone.name,
            "weights": dict(backbone.fingerprint),
            "resolution": backbone.resolution,
            "pocket": backbone.is_pocket,
        },
        steps=steps,
        seed=seed,
        dtype=dtype,
        device=device.partition(":")[0],
        protocol=dict(PROTOCOL),
        methods={label: describe_editor(label, editor) for label, editor in editors.items()},
        samples=[sample.id for sample in samples],
        versions=versions(),
        machine=machine(device),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def describe_editor(label: str, editor: Editor) -> dict[str, Any]:
    """What ``run.json`` says of a method."""
    name = label.partition(":")[0]
    point = registry.entry_points().get(name)
    return {
        "method": name,
        "title": editor.title,
        "edits": editor.edits,
        "parameters": registry.parameters(editor),
        "reference": editor.reference,
        "package": " ".join(registry.distribution(point)).strip() if point else "",
    }


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what an edit looks like."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def machine(device: str) -> dict[str, Any]:
    """What the run's times depend on."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }
    if device.startswith("cuda"):
        facts |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    return facts


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def edit_seed(seed: int, method: str, sample: str) -> int:
    """The seed of one edit, 0 ... 2**32 - 1; order and restarts cannot change it."""
    digest = hashlib.sha256(f"{seed}/{method}/{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


def run(
    store: Store,
    samples: Iterable[Sample],
    editors: Mapping[str, Editor],
    backbone: Any,
    *,
    progress: bool | None = None,
    warnings: bool = True,
    make_source: Callable[[Sample, Any, int], TimedSource] = TimedSource,
) -> list[Failure]:
    """Edit every sample with every method, leaving out what the store already has.

    Samples are the outer loop, so that the methods of a sample share its inversion and only one sample is in memory.
    An edit that fails is recorded with its error and tried again by the next run; the others go on.

    Args:
        store: held under :func:`eval.store.locked`; steps and seed are its run's.
        samples: what to edit.
        editors: canonical label -> editor.
        backbone: as the editors take it; the runner itself needs ``resolution`` and ``device``.
        progress: show a bar on stderr; None shows it on a terminal only.
        warnings: say which prompts are cut and which versions differ from the run's.
        make_source: how a sample becomes a source.

    Returns:
        the edits that failed.

    Raises:
        DiskFull, UserError: the store cannot be written.
    """
    samples = list(samples)
    pending = pending_edits(store, samples, editors)
    if warnings:
        warn(store, samples, backbone)
    failures: list[Failure] = []
    with progress_bar(pending, progress) as bar:
        for sample in samples:
            if pending[sample.id] or not store.has_task(sample.id):
                failures += _edit_sample(store, sample, pending[sample.id], editors, backbone, make_source, bar)
    return failures


def pending_edits(store: Store, samples: Iterable[Sample], methods: Iterable[str]) -> dict[str, list[str]]:
    """Sample id -> the methods whose edit of it the store does not have yet."""
    labels = list(methods)
    return {sample.id: [label for label in labels if not store.is_done(label, sample.id)] for sample in samples}


def progress_bar(pending: Mapping[str, Sequence[str]], progress: bool | None) -> tqdm[Any]:
    """A bar over pending edits on stderr; ``progress`` None shows it on a terminal only."""
    total = sum(map(len, pending.values()))
    # Methods take turns and differ in cost, so the plain average over all edits foretells the rest best (smoothing 0).
    return tqdm(
        total=total,
        unit="edit",
        smoothing=0,
        dynamic_ncols=True,
        disable=not total or (None if progress is None else not progress),
    )


def warn(store: Store, samples: Sequence[Sample], backbone: Any) -> None:
    """Say which prompts the backbone cuts, and which packages are not those that the run began with."""
    _warn_of_versions(store)
    _warn_of_long_prompts(list(samples), backbone)


def _edit_sample(
    store: Store,
    sample: Sample,
    methods: list[str],
    editors: Mapping[str, Editor],
    backbone: Any,
    make_source: Callable[[Sample, Any, int], TimedSource],
    bar: Any,
) -> list[Failure]:
    failures = []
    try:
        source = make_source(sample, backbone, store.run.steps)
        truth = read_truth(sample, backbone)
    except Exception as error:  # the sample is of no use; the others are
        for method in methods:
            edit = _failed(store, method, editors[method], sample, error, 0.0)
            store.write_edit(edit)
            failures.append(Failure(method, sample.id, str(edit.error)))
            bar.update()
        return failures
    if not store.has_task(sample.id):
        write_task(store, sample, source, truth)
    for method in methods:
        bar.set_postfix_str(f"{method} {sample.id}"[-48:], refresh=True)
        edit, image = _edit(store, method, editors[method], sample, source)
        store.write_edit(edit, image)
        if edit.error:
            failures.append(Failure(method, sample.id, edit.error))
            tqdm.write(f"failed: {method} on {sample.id}: {edit.error}", file=sys.stderr)
        bar.update()
    return failures


def _edit(
    store: Store, method: str, editor: Editor, sample: Sample, source: TimedSource
) -> tuple[Edit, Image.Image | None]:
    seed = edit_seed(store.run.seed, method, sample.id)
    # An editor should use the seed that it is given; this makes one that draws from global generators repeatable too.
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    source.begin()
    peak_is_fresh = _reset_peak(source.backbone)
    started = _clock(source.backbone)
    try:
        image = editor.edit(sample, source, seed)
        if not isinstance(image, Image.Image):
            raise TypeError(f"the editor returned {type(image).__name__} and not a PIL image")
        if image.mode != "RGB" or image.size != source.image.size:
            raise ValueError(
                f"the editor returned a picture of mode {image.mode} and size {image.size[0]}x{image.size[1]};"
                f" it must be RGB and {source.image.size[0]}x{source.image.size[1]}"
            )
        seconds = _clock(source.backbone) - started - source.computed_in_edit
        params = registry.parameters(editor) | registry.inputs(editor, sample)
    except Exception as error:  # whatever a method does, the others go on
        return _failed(store, method, editor, sample, error, _clock(source.backbone) - started), None
    edit = Edit(
        method=method,
        sample=sample.id,
        status="ok",
        params=params,
        seed=seed,
        seconds=seconds,
        inversion_seconds=(source.inversion_seconds or 0.0) if source.used else 0.0,
        peak_memory_mib=_peak(source.backbone) if peak_is_fresh else None,
        versions=versions(),
    )
    return edit, image


def _failed(store: Store, method: str, editor: Editor, sample: Sample, error: Exception, seconds: float) -> Edit:
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()  # the next method may need less
    return Edit(
        method=method,
        sample=sample.id,
        status="failed",
        params=registry.parameters(editor),
        seed=edit_seed(store.run.seed, method, sample.id),
        seconds=seconds,
        error=f"{type(error).__name__}: {error}",
        traceback="".join(traceback.format_exception(error)),
        versions=versions(),
    )


def read_truth(sample: Sample, backbone: Any) -> Image.Image | None:
    """What the edit should have led to, at the backbone's resolution, or None where the data set does not know.

    Raises:
        UserError: its file cannot be read.
    """
    if sample.truth is None:
        return None
    fitted: Image.Image = backbone.fit(read_picture(sample.truth, f"sample {sample.id}: truth").convert("RGB"))
    return fitted


def write_task(store: Store, sample: Sample, source: Source, truth: Image.Image | None) -> None:
    """Store a sample as the editors see it."""
    shared = {field.name for field in fields(Task)} & {field.name for field in fields(Sample)}
    task = Task(**{name: getattr(sample, name) for name in shared})
    store.write_task(task, source.image, source.mask, truth)


def _warn_of_long_prompts(samples: list[Sample], backbone: Any) -> None:
    for sample in samples:
        for what, prompt in (("target prompt", sample.target_prompt), ("object prompt", sample.object_prompt)):
            if prompt and (rest := backbone.truncated(prompt)) is not None:
                log.warning(
                    "sample %s: the %s is longer than the text encoder reads; it is cut before: “%s”",
                    sample.id,
                    what,
                    rest if len(rest) < 80 else f"{rest[:80]} ...",
                )


def _warn_of_versions(store: Store) -> None:
    now = versions()
    changed = [
        f"{name} {store.run.versions[name]} -> {now[name]}"
        for name in now
        if store.run.versions.get(name, now[name]) != now[name]
    ]
    if changed:
        log.warning(
            "edits already in %s were made with other versions (%s); each record has its own",
            store.folder,
            ", ".join(changed),
        )


# costs ----------------------------------------------------------------------------------------------------------------


def _on_cuda(backbone: Any) -> bool:
    return str(backbone.device).startswith("cuda")


def _clock(backbone: Any) -> float:
    """Seconds; on CUDA once everything that was started has ended."""
    if _on_cuda(backbone):
        torch.cuda.synchronize(backbone.device)
    return time.perf_counter()


def _reset_peak(backbone: Any) -> bool:
    """Start measuring the highest memory anew; False where that cannot be done (not Linux, or not allowed)."""
    if _on_cuda(backbone):
        torch.cuda.reset_peak_memory_stats(backbone.device)
        return True
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
        return True
    return False


def _peak(backbone: Any) -> float | None:
    """Highest memory in MiB since :func:`_reset_peak`, or None where it cannot be told."""
    if _on_cuda(backbone):
        return float(torch.cuda.max_memory_allocated(backbone.device) / 2**20)
    with suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return None
