"""A backbone, samples and editors that are cheap, for the tests of the harness itself."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from cpam_bench.cpam.editing import Capabilities, parameter
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.describe import describe_run
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.records import Run
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

RESOLUTION = 64


class FakeBackbone:
    """What the runner needs of a backbone, without networks."""

    name = "fake"
    resolution = RESOLUTION
    device = "cpu"
    is_pocket = True
    family = "sd1"
    resize = "bicubic"
    fingerprint: ClassVar[dict[str, str]] = {"unet": "a" * 64}

    def fit(self, image: Image.Image) -> Image.Image:
        return image.convert("RGB").resize((self.resolution,) * 2, Image.Resampling.BICUBIC)

    def fit_mask(self, mask: np.ndarray) -> np.ndarray:
        resized = Image.fromarray(mask.astype(np.uint8)).resize((self.resolution,) * 2, Image.Resampling.NEAREST)
        return np.asarray(resized).astype(bool)

    def schedule(self, steps: int) -> None:
        if not 1 <= steps < 1000:
            raise UserError(f"steps must be between 1 and 999, not {steps}")

    def truncated(self, prompt: str) -> str | None:
        words = prompt.split()
        return " ".join(words[20:]) if len(words) > 20 else None


class _Base:
    title: ClassVar[str] = "test"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "made up"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True)


@dataclass(frozen=True)
class Brighten(_Base):
    """Adds to every value, so that its background scores can be worked out by hand."""

    name: ClassVar[str] = "brighten"
    amount: int = parameter(10, "what is added", "the test")

    def edit(self, sample: Sample, source: Any, seed: int) -> Image.Image:
        return Image.fromarray((np.asarray(source.image).astype(int) + self.amount).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Noise(_Base):
    """Adds noise from its seed and, to see that those are seeded too, from numpy's global generator."""

    name: ClassVar[str] = "noise"
    scale: float = parameter(20.0, "standard deviation", "the test")
    delay: float = parameter(0.0, "seconds that an edit takes", "the test")

    def edit(self, sample: Sample, source: Any, seed: int) -> Image.Image:
        time.sleep(self.delay)
        shape = np.asarray(source.image).shape
        noise = np.random.default_rng(seed).normal(0, self.scale, shape) + np.random.normal(0, self.scale, shape)
        return Image.fromarray((np.asarray(source.image) + noise).clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Broken(_Base):
    """Fails on the samples whose id holds ``on``."""

    name: ClassVar[str] = "broken"
    on: str = parameter("1", "part of an id", "the test")

    def edit(self, sample: Sample, source: Any, seed: int) -> Image.Image:
        if self.on in sample.id:
            raise RuntimeError("no such luck")
        return source.image.copy()


@dataclass(frozen=True)
class Poison(_Base):
    """Raises, hangs, or kills its process on the samples whose id is given; notes each try in a folder."""

    name: ClassVar[str] = "poison"
    raises: str = parameter("", "id of the sample that it fails on", "the test")
    hangs: str = parameter("", "id of the sample that it never comes back from", "the test")
    kills: str = parameter("", "id of the sample that it kills its process on", "the test")
    times: int = parameter(99, "how often it does so", "the test")
    notes: str = parameter("", "folder that each try leaves a file in", "the test")
    delay: float = parameter(0.0, "seconds that an edit takes", "the test")

    def edit(self, sample: Sample, source: Any, seed: int) -> Image.Image:
        tries = len(list(Path(self.notes).glob(f"{sample.id}-*")))
        (Path(self.notes) / f"{sample.id}-{tries}").touch()
        time.sleep(self.delay)
        if tries < self.times:
            if sample.id == self.raises:
                raise RuntimeError("no such luck")
            if sample.id == self.hangs:
                time.sleep(600)
            if sample.id == self.kills:
                os.kill(os.getpid(), signal.SIGKILL)
        return source.image.copy()


def picture(seed: int, size: tuple[int, int] = (RESOLUTION, RESOLUTION)) -> Image.Image:
    """A smooth picture, mid-grey on the whole."""
    small = np.random.default_rng(seed).integers(40, 200, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def square(size: int = RESOLUTION) -> np.ndarray:
    """A mask of the middle quarter."""
    mask = np.zeros((size, size), dtype=bool)
    mask[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = True
    return mask


def samples(count: int = 3) -> list[Sample]:
    return [Sample(f"s{i}", picture(i), square(), f"a picture of thing {i}", f"thing {i}") for i in range(count)]


def editors(*chosen: Any) -> dict[str, Any]:
    from cpam_bench.imba.common.labels import canonical

    return {canonical(editor.name, editor): editor for editor in chosen}


def described(chosen: Mapping[str, Any], todo: list[Sample], **changes: Any) -> Run:
    known = {"records": None, "left_out": {}, "masks": "", "annotations": ""} | changes.pop("data", {})
    data = SimpleNamespace(name="test", fingerprint="f" * 64, is_pocket=True, **known)
    settings: dict[str, Any] = {"steps": 5, "seed": 0} | changes
    return describe_run({"methods": list(chosen)}, data, todo, FakeBackbone(), chosen, **settings)


def run_all(folder: Path, chosen: Mapping[str, Any], todo: list[Sample], **changes: Any) -> list[runner.Failure]:
    """A run in a folder, new or resumed, as the command does it but for the scoring."""
    with locked(folder):
        store = Store.create_or_resume(folder, described(chosen, todo, **changes))
        return runner.run(store, todo, chosen, FakeBackbone(), progress=False)


def slow_run(folder: str) -> None:
    """What the test of killed runs lets be killed."""
    run_all(Path(folder), editors(Brighten(), Noise(delay=0.02), Noise(scale=5.0, delay=0.01)), samples(6))


def write_dataset(root: Path, count: int = 2, prompt: str = "a red thing") -> Path:
    """A data set in the authors' layout."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    records = []
    for i in range(count):
        picture(i, (80, 60)).save(root / "images" / f"p{i}.png")
        mask = np.zeros((60, 80), np.uint8)
        mask[20:40, 20:60] = 255
        Image.fromarray(mask).save(root / "masks" / f"p{i}.png")
        records.append(
            {
                "img_name": f"p{i}.png",
                "target_text": prompt,
                "object": "foreground",
                "alter_mask": None,
                "retain_object": False,
                "object_prompt": "thing",
            }
        )
    (root / "data.json").write_text(json.dumps(records))
    return root


def method_file(name: str = "mine", by: int = 1) -> str:
    """A file with a method that adds to every value."""
    return f"""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from cpam_bench import parameter
from cpam_bench.cpam.editing import Capabilities


@dataclass(frozen=True)
class Mine:
    name: ClassVar[str] = "{name}"
    title: ClassVar[str] = "Mine"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "a test"
    capabilities: ClassVar[Capabilities] = Capabilities()

    by: int = parameter({by}, "what is added", "the test")

    def edit(self, sample, source, seed):
        return Image.fromarray((np.asarray(source.image).astype(int) + self.by).clip(0, 255).astype(np.uint8))
"""


def write_clip(folder: Path) -> Path:
    """A tiny open_clip model with random weights, saved in open_clip's folder layout; it reads 16 tokens."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    folder.mkdir(parents=True)
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    torch.manual_seed(3)  # of which most of the samples score above zero
    network = open_clip.CLIP(**model)
    save_file(dict(network.state_dict()), folder / "open_clip_model.safetensors")
    return folder
