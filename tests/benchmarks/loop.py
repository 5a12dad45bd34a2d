"""What the attention of CPAM and of the baselines costs beside a plain guided loop, and what a run spends elsewhere.

    python tests/benchmarks/loop.py

Ratios within one process, measured in turns.  The loops' are of the processor's time on one thread, the least of all
rounds of a sample, so that they hold on a busy machine too.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import cpam_bench.imba.dataset
from cpam_bench.baselines.fpe import SelfAttentionControl
from cpam_bench.baselines.maps import tokens_at
from cpam_bench.baselines.masactrl import MutualControl
from cpam_bench.baselines.p2p import P2P
from cpam_bench.baselines.pnp import InjectingControl
from cpam_bench.cpam.attention import AttentionControl
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editor import CPAM
from cpam_bench.cpam.sampling import sample as denoise
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run import driver as runner
from cpam_bench.eval.run.describe import describe_run
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.sample import Sample

PLAIN = "plain, three lanes"


def seconds(work: Any, clock: Any = time.perf_counter) -> float:
    started = clock()
    work()
    return float(clock() - started)


def loops(backbone: Backbone, steps: int, rounds: int, samples: int) -> None:
    """Ratios to a plain loop of the same three lanes, of some samples and of all together."""
    data = cpam_bench.imba.dataset.load("pocket")
    least: dict[str, list[float]] = {}
    for number in range(samples):
        sample = data.samples[number * 5 % len(data)]
        source = Source(sample, backbone, steps)
        _ = source.trajectory
        taken: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, control in controls(backbone, sample, source).items():
                work = functools.partial(denoise, backbone, source.trajectory, sample.target_prompt, control=control)
                taken.setdefault(name, []).append(seconds(work, time.process_time))
        for name, values in taken.items():
            least.setdefault(name, []).append(min(values))
    plain = least[PLAIN]
    print(f"plain loop: {1000 * sum(plain) / samples / steps:.1f} ms a step")
    for name, values in least.items():
        each = [value / beside for value, beside in zip(values, plain, strict=True)]
        print(f"{name:20s} {sum(values) / sum(plain):5.3f}  ({min(each):.2f} to {max(each):.2f}, {samples} samples)")


def controls(backbone: Backbone, sample: Sample, source: Source) -> dict[str, AttentionControl]:
    steps = source.steps
    return {
        PLAIN: AttentionControl(),
        "CPAM": CPAM().control(sample, source),
        "CPAM, refined": CPAM(refine=True).control(sample, source),
        "MasaCtrl": MutualControl(),
        "PnP": InjectingControl(backbone.unet, steps // 2, steps * 4 // 5),
        "FPE": SelfAttentionControl(steps * 4 // 5, tokens_at(source.latents, 2)),
        "P2P": P2P().control(backbone, source.latents, sample.source_prompt or "", sample.target_prompt, steps),
    }


def evaluations(backbone: Backbone, steps: int) -> None:
    """Lane evaluations of the denoiser, counted."""
    sample = cpam_bench.imba.dataset.load("pocket").samples[0]
    source = Source(sample, backbone, steps)
    start = backbone.evaluations
    _ = source.trajectory
    inverted = backbone.evaluations
    CPAM().edit(sample, source, 0)
    edited = backbone.evaluations
    print(f"lane evaluations a step: {(inverted - start) / steps:g} to invert, {(edited - inverted) / steps:g} to edit")


def outside(backbone: Backbone, steps: int, limit: int) -> None:
    """Share of a run's wall time that is not inside the denoiser, the autoencoder or the text encoder."""
    inside = 0.0
    depth = 0
    entered = 0.0

    def enter(*_: Any) -> None:
        nonlocal depth, entered
        if depth == 0:
            entered = time.perf_counter()
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth, inside
        depth -= 1
        if depth == 0:
            inside += time.perf_counter() - entered

    pipeline = backbone.pipeline
    handles = []
    for part in (pipeline.unet, pipeline.vae.encoder, pipeline.vae.decoder, pipeline.text_encoder):
        handles += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    data = cpam_bench.imba.dataset.load("pocket").first(limit)
    editors = dict(registry.make(label) for label in ("cpam", "masactrl"))
    with tempfile.TemporaryDirectory() as folder:
        run = describe_run({}, data, data.samples, backbone, editors, steps=steps, seed=0)
        store = Store.create_or_resume(Path(folder), run)
        inside = 0.0
        taken = seconds(lambda: runner.run(store, data.samples, editors, backbone, progress=False))
    for handle in handles:
        handle.remove()
    print(
        f"outside the networks: {100 * (1 - inside / taken):.1f} % of {taken:.1f} s ({limit} samples, cpam, masactrl)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="pocket")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--only-loops", action="store_true")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    backbone = Backbone.load(arguments.backbone)
    loops(backbone, arguments.steps, arguments.rounds, arguments.samples)
    if arguments.only_loops:
        return
    evaluations(backbone, arguments.steps)
    outside(backbone, arguments.steps, limit=4)


if __name__ == "__main__":
    main()
