"""CPAM's loop with a denoiser of Stable Diffusion 1.5's size: beside a plain loop, and beside what the release spends.

    python tests/benchmarks/full_loop.py [--edge 512] [--rounds 2]
    python tests/benchmarks/full_loop.py --pocket --rounds 5    # the same on the pocket backbone

Random weights, float32 on the CPU, one step, on one thread.  Prints a line of JSON a round: the processor's seconds,
the least so far.

- ``plain``: three lanes with no control.
- ``cpam``, ``refined``: CPAM's loop of the same lanes.
- ``release``: what the authors' code spends on a sample, computed straight on: two lanes to invert (null against null),
  and four lanes for each of its two edits, by diffusers' own attention.  The release's masked attention and its maps
  come on top of that.
- ``saved``: the picture that it saves, by ``cpam-release``, inversion included.
- ``both``: both its pictures, by ``cpam-release`` with and without refinement in lockstep, inversion included.

Neither side encodes or decodes here.  The steps are alike, so that the ratios are those of any number of them but for
the first step, in which the release does not use a refined mask yet.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from full_size import UNET
from sdxl_step import encoder, filled
from torch import Tensor
from transformers import CLIPTextModel

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from editor_helpers import make_sample, tiny_pipeline

from cpam_bench.cpam.attention import AttentionControl
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editor import CPAM, CPAMRelease
from cpam_bench.cpam.inversion import invert
from cpam_bench.cpam.sampling import Branch, sample, sample_together
from cpam_bench.cpam.source import Source


def backbone_of(edge: int) -> Backbone:
    """The denoiser, with a small autoencoder and a text encoder of one layer: neither is measured."""
    parts = dict(tiny_pipeline().components)
    parts["unet"] = filled(lambda: UNet2DConditionModel(**{**UNET, "sample_size": edge // 8}), torch.float32)
    parts["text_encoder"] = encoder(768, 1, 12, CLIPTextModel, torch.float32)
    pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    return Backbone.from_pipeline(pipeline, "random sd15")


def straight(backbone: Backbone, latents: Tensor, prompt: str) -> None:
    """The evaluations of the authors' code: inversion, and two edits."""
    null, text = backbone.embed(""), backbone.embed(prompt)
    with torch.inference_mode():
        backbone.unet(latents.expand(2, -1, -1, -1), 500, encoder_hidden_states=null.expand(2, -1, -1))
        for _ in range(2):
            told = torch.cat([null, null, null, text])
            backbone.unet(latents.expand(4, -1, -1, -1), 500, encoder_hidden_states=told)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--edge", type=int, default=512, help="pixels, eight of them a latent")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pocket", action="store_true", help="the pocket backbone instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = Backbone.load("pocket") if options.pocket else backbone_of(options.edge)
    task = make_sample(retain_object=True)
    source = Source(task, backbone, steps=1)
    edited = task.target_prompt
    trajectory = source.trajectory

    def inverted(*editors: CPAMRelease) -> None:
        path = invert(backbone, source.latents, 1)
        controls = [editor.control(task, source) for editor in editors]
        sample_together(backbone, [Branch(path, edited, 7.5, control) for control in controls])

    works: dict[str, Callable[[], object]] = {
        "plain": lambda: sample(backbone, trajectory, edited, control=AttentionControl()),
        "cpam": lambda: sample(backbone, trajectory, edited, control=CPAM(start_step=0).control(task, source)),
        "refined": lambda: sample(
            backbone, trajectory, edited, control=CPAM(start_step=0, refine=True, refine_step=0).control(task, source)
        ),
        "release": lambda: straight(backbone, source.latents, edited),
        "saved": lambda: inverted(CPAMRelease()),
        "both": lambda: inverted(CPAMRelease(), CPAMRelease(refine=False)),
    }
    least = dict.fromkeys(works, float("inf"))
    lanes = {}
    for turn in range(options.rounds):
        for name, work in works.items():
            before, started = backbone.evaluations, time.process_time()
            work()
            least[name] = min(least[name], time.process_time() - started)
            lanes[name] = backbone.evaluations - before if name != "release" else 10
        print(
            json.dumps(
                {
                    "backbone": backbone.name,
                    "edge": backbone.resolution,
                    "latents": backbone.grid,
                    "rounds": turn + 1,
                    "lanes_a_step": lanes,
                    "seconds": {name: round(seconds, 2) for name, seconds in least.items()},
                    "to_plain": {name: round(least[name] / least["plain"], 3) for name in ("cpam", "refined")},
                    "to_release": {name: round(least[name] / least["release"], 3) for name in ("saved", "both")},
                    "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
