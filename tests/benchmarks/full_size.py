"""Stable Diffusion 1.5 and CLIP ViT-L/14 at full size with random weights: does every method end, and at what cost?

    python tests/benchmarks/full_size.py IMBA --out DIR

IMBA is a data set folder with pictures and masks.  The networks have the published shapes and no training, so that
nothing is fetched: the pictures mean nothing, and time and memory are those of the real ones.  Every method edits real
photographs at 512 px in a few steps, and the edits are scored with every default metric.  What trains or optimises is
bounded (:data:`BOUNDED`).  Prints a line a method and writes ``full_size.json`` into DIR.  ``--models`` keeps the
networks for another call.

Beside what each method took stands what the plan of ``cpam-bench reproduce`` says of it.  At the end stand the plan's
hours for the paper's Table 2: here, and on cards that the plan knows; and the hours that the same operations would take
at the cards' peaks.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import cpam_bench.imba.dataset
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.eval.analysis.leaderboard import leaderboard
from cpam_bench.eval.methods import registry
from cpam_bench.eval.metrics.clip import load_clip
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run import plan
from cpam_bench.eval.run.costs import clock, peak, processor
from cpam_bench.eval.run.describe import describe_run, machine, versions
from cpam_bench.eval.run.executor import Serial
from cpam_bench.eval.run.worker import Recipe
from cpam_bench.eval.scoring.score import score
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.store import Store
from cpam_bench.eval.tables.published import installed
from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.common.labels import split
from cpam_bench.imba.sample import Sample

BOUNDED = (
    "reconstruction,ddim,cpam,cpam-release,masactrl,pnp:inversion_steps=0,fpe,sdedit,diffedit:maps=2,leditspp,"
    "p2p-nti:inner_steps=1,pix2pix-zero,imagic:embedding_steps=1,model_steps=0"
)
"""All methods.  PnP takes the inversion that all share, and not one of 999 steps; DiffEdit has 2 maps and not 10;
null-text inversion 1 inner step and not 10; Imagic fits the embedding once, and the denoiser not at all: its float32
weights, gradients and Adam's moments would take 14 GB."""

LEAST = {"pix2pix-zero": 3}
"""Steps that a method needs: Pix2Pix-Zero inverts without the first and the last."""

UNET = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8, "norm_num_groups": 32}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}
CLIP = "ViT-L-14-quickgelu"

PEAKS = {"an A100": 312e12, "an H100": 989e12}
"""Operations a second in float16, dense, of the SXM cards: NVIDIA's data sheets of A100 and H100."""

SAMPLES, STEPS = 104, 50
"""Of the paper's Table 2."""


def write_models(folder: Path) -> None:
    """Write ``sd15`` and ``clip`` into a folder, in half precision."""
    torch.manual_seed(0)
    tokens = open_clip.tokenizer.SimpleTokenizer()
    named = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    parts = folder / "tokenizer"
    parts.mkdir(parents=True)
    vocabulary = {named.get(word, word): index for word, index in tokens.encoder.items()}
    (parts / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    merges = sorted(tokens.bpe_ranks, key=tokens.bpe_ranks.get)
    (parts / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]), encoding="utf-8")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE).half(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**TEXT)).half(),
        tokenizer=CLIPTokenizer(str(parts / "vocab.json"), str(parts / "merges.txt"), model_max_length=77),
        unet=UNet2DConditionModel(**UNET).half(),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "sd15")
    clip = folder / "clip"
    clip.mkdir()
    shape = open_clip.get_model_config(CLIP)
    # What open_clip's ViT-L-14/openai resizes and normalises by.
    scale = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    (clip / "open_clip_config.json").write_text(json.dumps({"model_cfg": shape, "preprocess_cfg": scale}))
    network = open_clip.create_model(CLIP, precision="fp16", pretrained=None)
    save_file(dict(network.state_dict()), clip / "open_clip_model.safetensors")


def spent(backbone: Any) -> float:
    """Seconds of the processor, which other work on the machine does not stretch; on a card those of the wall."""
    return time.process_time() if str(backbone.device) == "cpu" else clock(backbone)


def captioned(sample: Sample) -> Sample:
    """The sample with a caption, so that no captioner is needed: what it says matters to no time."""
    words = sample.source_prompt or f"a photo of a {sample.object_prompt or 'thing'}"
    return dataclasses.replace(sample, source_prompt=words)


class Bench:
    """Real samples on a backbone of full size."""

    def __init__(self, data: Path, models: Path, device: str, dtype: str, steps: int, limit: int):
        whole = cpam_bench.imba.dataset.load(str(data))
        kept = whole.complete(cpam_bench.imba.dataset.validate(whole))[0].first(limit)
        self.data = dataclasses.replace(kept, samples=[captioned(sample) for sample in kept])
        self.load = functools.partial(Backbone.load, str(models / "sd15"), device=device, dtype=dtype)
        self.backbone = self.load()
        self.clip = f"local-dir:{models / 'clip'}"
        self.device, self.dtype, self.steps = device, dtype, steps
        self.pace = plan.probe(self.backbone, clock=spent)

    def edit(self, label: str, folder: Path) -> dict[str, Any]:
        """Edit the samples by one method; what that cost, in seconds of the processor."""
        editors = dict([registry.make(label)])
        steps = max(self.steps, LEAST.get(label.partition(":")[0], 0))
        label = next(iter(editors))
        costs = plan.costs(editors, 1, steps, self.pace)
        planned = costs.methods[label]
        started = spent(self.backbone)
        before = self.backbone.evaluations
        description = describe_run(
            {},
            self.data,
            self.data.samples,
            self.backbone,
            editors,
            steps=steps,
            seed=0,
            dtype=self.dtype,
            device=self.device,
        )
        recipe = Recipe(editors, self.load, {}, steps, 0)
        with locked(folder / f"{steps}-steps"):
            store = Store.create_or_resume(folder / f"{steps}-steps", description)
            executor = Serial(recipe.with_backbone(self.backbone))
            failures = runner.run(
                store, self.data.samples, editors, self.backbone, executor=executor, progress=False, warnings=False
            )
        edits = [edit for edit in store.edits()[0] if edit.method in editors and edit.status == "ok"]
        lanes = (self.backbone.evaluations - before) / len(self.data)
        seconds = (spent(self.backbone) - started) / len(self.data)
        return {
            "method": label,
            "steps": steps,
            "edits": len(edits),
            "failed": [failure.error for failure in failures],
            "seconds_an_edit": round(seconds, 1),
            "planned_seconds": None if planned.hours is None else round(3600 * costs.hours, 1),
            "lanes_an_edit": lanes,
            "planned_lanes": planned.lanes and dataclasses.asdict(planned.lanes),
            "seconds_a_lane": round(seconds / lanes, 2) if lanes else None,
            "peak_memory_mib": round(max((edit.peak_memory_mib or 0 for edit in edits), default=0)),
        }

    def planned(self) -> dict[str, Any]:
        """What the paper's Table 2 would take, by the plan and by the operations of a lane."""
        editors = dict(registry.make(label) for label in installed(2)[0])
        found = plan.costs(editors, SAMPLES, STEPS, self.pace)
        counter = FlopCounterMode(display=False)
        edge = self.backbone.unet.config.sample_size
        with counter:
            self.backbone.predict(torch.zeros(1, 4, edge, edge), 500, self.backbone.embed(""))
        operations = counter.get_total_flops()
        weighted = plan.hours_elsewhere(found, SAMPLES)
        return {
            "samples": SAMPLES,
            "steps": STEPS,
            "seconds": dataclasses.asdict(self.pace),
            "teraflop_a_lane": round(operations / 1e12, 3),
            "hours_here": {label: cost.hours and round(cost.hours, 1) for label, cost in found.methods.items()},
            "hours_elsewhere": {card: round(hours, 1) for card, hours in weighted.items()},
            "hours_at_the_peak": {
                card: round(weighted[card] * plan.ELSEWHERE[card] * operations / peak, 2)
                for card, peak in PEAKS.items()
            },
        }

    def measure(self, folder: Path) -> dict[str, Any]:
        """Score what was edited with every default metric."""
        started, values = spent(self.backbone), []
        clip = load_clip(self.clip, self.device)
        for run in sorted(folder.glob("*-steps")):
            with locked(run):
                values += score(Store.open(run), clip=clip, device=self.device).table["value"].tolist()
                leaderboard([run]).write(run)
        return {
            "values": len(values),
            "without_a_value": sum(math.isnan(value) for value in values),
            "seconds": round(spent(self.backbone) - started, 1),
            "peak_memory_mib": round(peak(self.backbone) or 0),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of IMBA")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the run and full_size.json")
    parser.add_argument("--models", type=Path, help="folder that keeps the networks; else they are made for this call")
    parser.add_argument("--methods", default=BOUNDED)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--limit", type=int, default=1, help="samples")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        models = arguments.models or Path(temporary) / "models"
        if not models.exists():
            write_models(models)
        bench = Bench(arguments.data, models, arguments.device, arguments.dtype, arguments.steps, arguments.limit)
        found: dict[str, Any] = {
            "machine": {**machine(arguments.device), "threads": torch.get_num_threads()},
            "card": processor(arguments.device),
            "versions": versions(),
            "dtype": arguments.dtype,
            "samples": [sample.id for sample in bench.data],
            "plan": bench.planned(),
            "methods": [],
        }
        print(json.dumps(found["plan"]), flush=True)
        for label in split(arguments.methods):
            found["methods"].append(bench.edit(label, arguments.out))
            print(json.dumps(found["methods"][-1]), flush=True)
            keep(found, arguments.out)
        found["scoring"] = bench.measure(arguments.out)
        print(json.dumps(found["scoring"]))
        keep(found, arguments.out)


def keep(found: Mapping[str, Any], folder: Path) -> None:
    """Write what is known so far: at full size a method takes minutes."""
    write_atomic(folder / "full_size.json", (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
