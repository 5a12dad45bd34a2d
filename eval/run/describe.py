"""What a run says of itself: data, backbone, methods, versions, machine."""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import cpam_bench
from cpam_bench.baselines.imported import Imported
from cpam_bench.cpam.editing import Editor
from cpam_bench.eval.methods import from_file, registry
from cpam_bench.eval.run.costs import processor
from cpam_bench.eval.store.records import READY_MADE, BackboneFacts, DataSet, Method, Run
from cpam_bench.imba.common.labels import parameters
from cpam_bench.imba.common.names import recorded
from cpam_bench.imba.kinds import Fit
from cpam_bench.imba.sample import Sample

_PACKAGES = ("cpam-bench", "torch", "diffusers", "transformers", "pillow")

FILTERS = {
    "bicubic": "bicubic with antialiasing (Pillow)",
    "lanczos": "Lanczos with antialiasing (Pillow)",
    "nearest": "nearest neighbour (torch.nn.functional.interpolate)",
}
"""What :attr:`cpam_bench.cpam.backbone.Backbone.resize` means, in words."""

FITS: dict[Fit, str] = {
    "squash": "resized",
    "crop": "cropped to the largest square around what is marked, resized",
    "pad": "padded to a square with the colours of its edge, resized",
}
"""What :attr:`cpam_bench.imba.sample.Sample.fit` means, in words."""

PROTOCOL = {
    "images": f"RGB, resized to a square of the backbone's resolution, {FILTERS['bicubic']}",
    "masks": "alteration mask (True where the picture may change), resized nearest neighbour",
    "seconds": "wall time of one edit; the inversion that methods share is recorded apart",
    "peak_memory": "weights included; CUDA: torch's highest allocation, CPU: the process's highest resident size",
}
"""How pictures are prepared and costs are measured; stored with every run, with the filter that it has."""


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
    threads: int | None = None,
    batch: int = 1,
    fit: Fit = "squash",
    lockstep: Sequence[str] = (),
) -> Run:
    """What ``run.json`` says of a run that is about to start.

    Args:
        arguments: of the command, to be kept as they are.
        dataset: an ``cpam_bench.imba.dataset.Dataset``.
        samples: those of it that are to be edited.
        backbone: a ``cpam_bench.cpam.backbone.Backbone``.
        editors: canonical label -> editor.
        steps, seed: of the run.
        dtype, device: as asked for.
        threads: of torch in each worker, if they are set.
        batch: how many samples are edited together.
        fit: how pictures that are not square are brought to one.
        lockstep: labels of the methods that are edited together.
    """
    filtered = PROTOCOL["images"].replace(FILTERS["bicubic"], FILTERS[backbone.resize])
    fitted = {key: text.replace("resized", FITS[fit], 1) for key, text in {**PROTOCOL, "images": filtered}.items()}
    return Run(
        arguments=dict(arguments),
        dataset=DataSet(
            dataset.name,
            dataset.fingerprint,
            dataset.is_pocket,
            dataset.records,
            dict(dataset.left_out),
            dataset.masks or None,
            dataset.annotations or None,
        ),
        backbone=BackboneFacts(
            recorded(backbone.name), dict(backbone.fingerprint), backbone.resolution, backbone.is_pocket
        ),
        steps=steps,
        seed=seed,
        dtype=dtype,
        device=device.partition(":")[0],
        protocol=fitted,
        methods={label: describe_editor(label, editor) for label, editor in editors.items()},
        samples=[sample.id for sample in samples],
        versions=versions(),
        machine=machine(device),
        threads=threads,
        batch=batch,
        lockstep=list(lockstep),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def describe_editor(label: str, editor: Editor) -> Method:
    """What ``run.json`` says of a method."""
    name = READY_MADE if isinstance(editor, Imported) else label.partition(":")[0]
    file = from_file.of(editor)
    return Method(
        method=name,
        title=editor.title,
        edits=editor.edits,
        # What is in the file decides the edits as a parameter does, so that a run is not gone on with by another.
        parameters=parameters(editor) | ({"method_file_sha256": file.sha256} if file else {}),
        reference=editor.reference,
        package=registry.EDITORS.package_of(name),
    )


def machine(device: str) -> dict[str, Any]:
    """What the run's times depend on."""
    facts: dict[str, Any] = {
        "platform": platform.platform(),
        "processor": processor("cpu"),
        "cores": os.cpu_count(),
    }
    if device.startswith("cuda") and torch.cuda.is_available():  # a driver need not have the card of its workers
        facts |= {"gpu": processor(device), "cuda": torch.version.cuda}
    return facts


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what an edit looks like."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found | {"cpam-bench code": code_hash()[:12]}


@functools.cache
def code_hash() -> str:
    """SHA-256 of this package's own modules: what a version number does not tell of a checkout."""
    root = Path(cpam_bench.__file__).parent
    digest = hashlib.sha256()
    for folder, _, names in sorted(os.walk(root, followlinks=True)):  # in a checkout the packages are links
        for name in sorted(name for name in names if name.endswith(".py")):
            path = Path(folder, name)
            digest.update(f"{path.relative_to(root)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
