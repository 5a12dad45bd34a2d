"""Runs made up through the store, of any size, for the tests of the report and its benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from paths import POCKET
from PIL import Image

from cpam_bench.eval.store.records import BackboneFacts, DataSet, Edit, Method, Run, Task
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common.files import write_json, write_rows

METHODS = ("cpam", "masactrl", "sdedit", "pnp", "fpe", "diffedit", "pix2pix-zero", "leditspp", "imagic", "p2p-nti")
TITLES = ("CPAM", "MasaCtrl", "SDEdit", "PnP", "FPE", "DiffEdit", "Pix2Pix-Zero", "LEDITS++", "Imagic", "P2P + NTI")
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> & “quoted”"


@dataclass(frozen=True)
class Material:
    """Pictures to make samples of."""

    task: Task
    source: Image.Image
    mask: np.ndarray
    truth: Image.Image | None
    edits: Sequence[Image.Image]


def pocket_material(count: int = 6) -> list[Material]:
    """Of the pocket data set itself, whose truths stand for edits."""
    found = []
    for record in json.loads((POCKET / "data.json").read_text())[:: max(1, 24 // count)][:count]:
        name = record["img_name"]
        source, truth = (Image.open(POCKET / part / name).convert("RGB") for part in ("images", "truth"))
        mask = np.asarray(Image.open(POCKET / "masks" / name).convert("L")) > 0
        task = Task(Path(name).stem, record["target_text"], kind=record["kind"], retain_object=record["retain_object"])
        found.append(Material(task, source, mask, truth, [truth, Image.blend(source, truth, 0.5)]))
    return found


def run_material(folder: Path, edge: int | None = None) -> list[Material]:
    """Of a run's pictures, enlarged to ``edge`` if given."""
    store = Store.open(folder)

    def read(path: Path, mode: str = "RGB") -> Image.Image:
        with Image.open(path) as file:
            picture = file.convert(mode)
        return picture.resize((edge, edge), Image.Resampling.BICUBIC) if edge else picture

    found = []
    for sample in store.run.samples:
        task = store.read_task(sample)
        edits = [read(store.edit_path(m, sample)) for m in store.run.methods if store.is_done(m, sample)]
        assert task and edits, f"{folder} lacks sources or edits of {sample}"
        mask = np.asarray(read(store.mask_path(sample), "L")) > 127
        found.append(Material(task, read(store.source_path(sample)), mask, None, edits))
    return found


def fabricate(folder: Path, material: Sequence[Material], samples: int, methods: int, seed: int = 0) -> Path:
    """A scored run of so many samples and methods; every 17th edit failed, and the first sample's texts are hostile."""
    rng = np.random.default_rng(seed)
    labels = [METHODS[i] if i < len(METHODS) else f"cpam:guidance={i}" for i in range(methods)]
    ids = [f"{i:03d}-{material[i % len(material)].task.id}" for i in range(samples)]
    described = {
        label: Method(
            method=label.partition(":")[0],
            title=TITLES[i % len(TITLES)],
            edits=True,
            parameters={"guidance": 7.5, "note": HOSTILE},
            reference="made up for a test",
            package="cpam-bench 0",
        )
        for i, label in enumerate(labels)
    }
    edge = material[0].source.width
    run = Run(
        arguments={"methods": ",".join(labels)},
        dataset=DataSet("pocket", "f" * 64, True),
        backbone=BackboneFacts("pocket", {"unet": "a" * 64}, edge, True),
        steps=50,
        seed=seed,
        dtype="float32",
        device="cpu",
        protocol={"images": "as they are", "masks": "as they are"},
        methods=described,
        samples=ids,
        versions={"python": "3"},
        machine={"processor": "none"},
        created="2026-01-01T00:00:00+00:00",
    )
    folder.mkdir(parents=True)
    store = Store.create_or_resume(folder, run)
    rows = []
    for i, sample in enumerate(ids):
        piece = material[i % len(material)]
        task = Task(
            sample,
            piece.task.target_prompt if i else HOSTILE,
            kind=piece.task.kind,
            retain_object=piece.task.retain_object,
            several_objects=i % 4 == 0,
            source_prompt=None if i % 3 else f"sample {i}: {HOSTILE}",
        )
        store.write_task(task, piece.source, piece.mask, piece.truth)
        for j, label in enumerate(labels):
            if (i * methods + j) % 17 == 3:
                failed = Edit(label, sample, "failed", {}, 0, error=f"RuntimeError: {HOSTILE}")
                store.write_edit(failed)
                continue
            pixels = np.asarray(piece.edits[(i + j) % len(piece.edits)]).astype(int) + 4 * j - 2 * methods
            picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            store.write_edit(Edit(label, sample, "ok", {}, 0, seconds=1.0 + j), picture)
            rows.append((label, sample, "clip_score", float(40 + 4 * j + 9 * rng.random())))
            rows.append((label, sample, "lpips_background", float(0.05 + 0.04 * j + 0.1 * rng.random())))
    write_rows(folder / "scores.csv", ["method", "sample", "metric", "value"], rows)
    metrics = {
        "clip_score": {"protocol": "made up", "scorer": "pocket", "weights_sha256": "b" * 64},
        "lpips_background": {"protocol": "made up", "scorer": "LPIPS AlexNet v0.1", "weights_sha256": "c" * 64},
    }
    write_json(folder / "scores.json", {"metrics": metrics, "background": "made up", "versions": {"torch": "0"}})
    return folder
