"""What the pocket trainers share: scenes to learn from, checkpoints that survive a kill, and a log."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import math
import os
import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from tqdm import tqdm

from cpam_bench.imba.common.files import making
from cpam_bench.imba.pocket.scenes import SIZE, Scene
from cpam_bench.imba.pocket.world import Example, picture, sample_example

HELD_OUT = 10_000_000
"""Renderer seeds from here on are never trained on."""


def example(seed: int) -> Example:
    """The example of a seed; training uses seeds below :data:`HELD_OUT`, evaluation those from it on."""
    return sample_example(random.Random(f"world/{seed}"))


def held_out(count: int, offset: int = 0) -> list[Scene]:
    """Scenes that no trainer has seen."""
    return [example(HELD_OUT + offset + i).scene for i in range(count)]


@functools.cache
def world_digest() -> str:
    """Eight hex digits of the first pictures, for the names of caches: another world's are not taken for this one's."""
    return hashlib.sha256(b"".join(picture(example(seed)).tobytes() for seed in range(64))).hexdigest()[:8]


def pixels(count: int, cache: Path) -> np.ndarray:
    """Training images of the seeds 0 ... count - 1, uint8 (count, 128, 128, 3), rendered once and mapped from disk."""
    path = cache / f"examples-{count}-{world_digest()}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with making(path) as part:
            images = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(count, SIZE, SIZE, 3))
            for seed in tqdm(range(count), desc="rendering", mininterval=5):
                images[seed] = np.asarray(picture(example(seed)))
            images.flush()
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def learns_in_half(device: str) -> bool:
    """Whether bfloat16 is computed by the device itself: a CPU without AVX-512 emulates it, twenty times slower."""
    return device != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def half(device: str) -> torch.autocast:
    """bfloat16 where the device computes in it (:func:`learns_in_half`), else float32."""
    return torch.autocast(device, torch.bfloat16, enabled=learns_in_half(device))


def team() -> tuple[int, int]:
    """Number and count of the processes that ``torchrun`` started to train one model together: (0, 1) without it."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
        atexit.register(torch.distributed.destroy_process_group)  # its threads would end the process with SIGABRT
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def mean_over_team(parameters: Iterable[nn.Parameter], loss: Tensor) -> float:
    """Give every process of the :func:`team` the mean of their gradients, and return the mean of their losses.

    The processes hold equal shares of a batch, so this is the gradient of the batch.
    """
    if team()[1] == 1:
        return loss.item()
    gradients = [p.grad for p in parameters if p.grad is not None]
    sent = torch.cat([*(g.reshape(-1) for g in gradients), loss.detach().reshape(1)])
    torch.distributed.all_reduce(sent)
    sent /= team()[1]
    for gradient, mean in zip(gradients, sent[:-1].split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))
    return float(sent[-1])


def cosine(step: int, steps: int, warmup: int = 100, floor: float = 0.02) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to ``floor``."""
    if step < warmup:
        return (step + 1) / warmup
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def trapezoid(step: int, steps: int, warmup: int = 200, fall: float = 0.25) -> float:
    """Learning-rate factor: linear warm-up, level, then a line down to 0 over the last quarter (Hu et al. 2024, WSD).

    A run that is continued with more or fewer steps has lost nothing, as long as its fall had not begun.
    """
    return min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, fall * steps))


class Run:
    """A training run in a folder: ``checkpoint.pt`` (replaced atomically) and ``log.jsonl``.

    ``state`` maps names to anything with ``state_dict`` and ``load_state_dict``.  Batches are drawn from a generator
    seeded by (seed, step), so that a run that was stopped and continued sees the same data as one that was not.  Of a
    :func:`team` all read and the first process writes.
    """

    def __init__(self, folder: Path, steps: int, seed: int, state: dict[str, Any], save_every: float = 120.0):
        self.folder, self.steps, self.seed, self.state, self.save_every = folder, steps, seed, state, save_every
        folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = folder / "checkpoint.pt"
        self.step = 0
        self.seconds = 0.0
        if self.checkpoint.exists():
            saved = torch.load(self.checkpoint, weights_only=True)
            for name, part in state.items():
                part.load_state_dict(saved[name])
            self.step, self.seconds = saved["step"], saved["seconds"]

    def generator(self, step: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, step))

    def __iter__(self) -> Iterator[tuple[int, np.random.Generator]]:
        """Yield (step, generator) for each remaining step; save every ``save_every`` seconds and at the end."""
        started = saved = time.monotonic()
        with tqdm(
            total=self.steps, initial=self.step, desc=self.folder.name, mininterval=10, disable=team()[0] > 0
        ) as bar:
            while self.step < self.steps:
                torch.manual_seed(hash((self.seed, self.step)) % 2**63)
                yield self.step, self.generator(self.step)
                self.step += 1
                bar.update()
                now = time.monotonic()
                if now - saved > self.save_every or self.step == self.steps:
                    self.seconds += now - started
                    started = saved = now
                    self.save()

    def save(self) -> None:
        if team()[0] > 0:
            return
        parts = {name: part.state_dict() for name, part in self.state.items()}
        with making(self.checkpoint) as place:
            torch.save({**parts, "step": self.step, "seconds": self.seconds}, place)

    def log(self, **figures: float) -> None:
        if team()[0] > 0:
            return
        line = json.dumps({"step": self.step + 1, **{k: round(v, 5) for k, v in figures.items()}})
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(line + "\n")
        tqdm.write(line)
