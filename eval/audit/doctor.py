"""What this machine has and what will work on it, before anything is run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from cpam_bench.eval.run.costs import processor
from cpam_bench.eval.run.plan import memory
from cpam_bench.eval.run.weights import Weights, free, of_backbone, of_clip, of_hub, to_fetch
from cpam_bench.imba.common import hub
from cpam_bench.imba.masking.segmenters import CLIPSEG, SAM

CAPTIONER = "Salesforce/blip-image-captioning-base"
PACKAGES = ("cpam-bench", "torch", "diffusers", "transformers", "open_clip_torch")

NEEDS = 5.0
"""Gigabytes of memory that Stable Diffusion 1.5 takes at 512 px in half precision; twice that in float32."""


def examine() -> Iterator[tuple[str, str]]:
    """Head and text of each line; the hub is asked for :data:`cpam_bench.imba.common.hub.PATIENCE` seconds at most."""
    yield "versions", ", ".join([f"Python {platform.python_version()}", *_versions()])
    device, memory_free = _device()
    yield "device", device
    why = hub.trouble()
    yield "hub", f"{hub.endpoint()} answers" if why is None else f"{hub.endpoint()} cannot be reached: {why}"
    room = free(hub.cache())
    yield "room", f"{room:.0f} GB for weights in {hub.cache()}, {free(Path.cwd()):.0f} GB for runs in {Path.cwd()}"
    backbones = [of_backbone(name) for name in ("pocket", "sd15", "sd14", "sd21", "sdxl")]
    clips = [of_clip(name) for name in ("pocket", "ViT-L-14/openai")]
    captioner, sam, clipseg = of_hub("captioner", CAPTIONER), of_hub("SAM", SAM), of_hub("CLIPSeg", CLIPSEG)
    yield "backbones", "; ".join(map(str, backbones))
    yield "CLIP", "; ".join(map(str, clips))
    yield "captioner", f"{captioner}; for p2p-nti and pix2pix-zero on pictures without a caption"
    yield "masks", f"{sam}; {clipseg}; GrabCut and the backbone's attention stand in for them"
    yield "pocket", "works: cpam-bench run"
    yield "IMBA", verdict([backbones[1], clips[1], captioner], why, room, memory_free)


def verdict(wanted: Sequence[Weights], trouble: str | None, room: float, memory_free: float) -> str:
    """Whether the paper's benchmark on real weights will work, and what is in its way.

    Args:
        wanted: weights that it needs.
        trouble: why nothing can be fetched, or None.
        room, memory_free: gigabytes on the disk for weights, and of memory.
    """
    lacking = [one for one in wanted if not one.here]
    missing = to_fetch(wanted)
    if lacking and trouble:
        names = ", ".join(f"{one.part} {one.name}" for one in lacking)
        return f"will not work: {names} cannot be fetched; bring them from a machine with a network"
    if missing > room:
        return f"will not work: {missing:.1f} GB of weights are to be fetched, and {room:.1f} GB are free; see HF_HOME"
    if memory_free < NEEDS:
        return (
            f"will not work: Stable Diffusion 1.5 takes some {NEEDS:g} GB of memory, and {memory_free:.1f} GB are free"
        )
    fetched = f" ({missing:.1f} GB of weights are fetched first)" if lacking else ""
    slow = "" if torch.cuda.is_available() else "; without a GPU it takes weeks"
    return f"works{fetched}: cpam-bench reproduce table2 --dry-run{slow}"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"


def _device() -> tuple[str, float]:
    """The device that runs take by default, in words, and gigabytes of its memory that are free."""
    inside, total = (size / 1e9 for size in memory())
    main = f"cpu: {processor('cpu')}, {os.cpu_count()} cores, {inside:.1f} of {total:.1f} GB free"
    if not torch.cuda.is_available():
        return f"{main}; no GPU that torch {torch.__version__} can use", inside
    cards, of_card = [], []
    for index in range(torch.cuda.device_count()):
        inside, total = (size / 1e9 for size in torch.cuda.mem_get_info(index))
        cards.append(f"cuda:{index}: {processor(f'cuda:{index}')}, {inside:.1f} of {total:.1f} GB free")
        of_card.append(inside)
    return "; ".join([*cards, main]), of_card[0]
