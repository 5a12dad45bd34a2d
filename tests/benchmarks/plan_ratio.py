"""What the plan of ``cpam-bench reproduce`` says of a run, against what the run takes.

    python tests/benchmarks/plan_ratio.py

On the pocket backbone, in one process and without scoring.  Prints for every round, and at its end in the median,
planned seconds over real ones: by the wall, which the command goes by, and by the processor, which other work on the
machine does not stretch.  A run that only copies its sources comes first, and what it takes (loading, reading, writing)
is taken off, since the plan leaves it out.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

import cpam_bench.imba.dataset
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run import plan
from cpam_bench.eval.run.execute import execute
from cpam_bench.eval.run.settings import Settings
from cpam_bench.imba.common.labels import split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="cpam,masactrl,sdedit")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=1, help="samples edited together; the plan counts them alone")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    labels = split(arguments.methods)
    editors = dict(registry.make(label) for label in labels)
    data = cpam_bench.imba.dataset.load("pocket").first(arguments.samples)
    settings = Settings(
        steps=arguments.steps, batch=arguments.batch, executor="serial", threads=torch.get_num_threads()
    )
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    ratios: dict[str, list[float]] = {name: [] for name in clocks}

    def taken(labels: list[str]) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as temporary:
            before = {name: clock() for name, clock in clocks.items()}
            execute(data, labels, Path(temporary) / "run", settings, measure=False, progress=False)
            return {name: clock() - before[name] for name, clock in clocks.items()}

    for _ in range(arguments.rounds):
        backbone = Backbone.load("pocket")
        planned = {}
        for name, clock in clocks.items():
            pace = plan.probe(backbone, clock=lambda model, clock=clock: clock())
            planned[name] = 3600 * plan.costs(editors, len(data), arguments.steps, pace).hours
        start, real = taken(["identity"]), taken(labels)
        for name in clocks:
            ratios[name].append(planned[name] / (real[name] - start[name]))
            print(
                f"{name}: planned {planned[name]:.2f} s, real {real[name]:.2f} s less {start[name]:.2f} s,"
                f" ratio {ratios[name][-1]:.2f}"
            )
    print(", ".join(f"{name} {statistics.median(found):.2f}" for name, found in ratios.items()), "in the median")


if __name__ == "__main__":
    main()
