"""How cost grows with samples, methods, workers and the pictures' edge, and what the commands cost on large runs.

    python tests/benchmarks/growth.py edits      # runs of pocket, their samples repeated under other names
    python tests/benchmarks/growth.py commands   # runs of two methods that are made up through the store
    python tests/benchmarks/growth.py figure     # results/growth.png of both

Each adds to ``results/growth.json`` (``--out``).  Seconds are the processor's, workers' included, on one thread each,
so that they can be compared on a busy machine.  The model beside the edits is lanes x seconds a lane + a constant a
sample, at the same edge: what an evaluation of one lane takes, and what is left of a run of two samples.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "helpers")]

from report_runs import METHODS, fabricate, pocket_material  # noqa: E402

import cpam_bench.imba.dataset  # noqa: E402
from cpam_bench.cpam.backbone import Backbone  # noqa: E402
from cpam_bench.eval.analysis.leaderboard import leaderboard  # noqa: E402
from cpam_bench.eval.audit.status import status  # noqa: E402
from cpam_bench.eval.audit.verify import verify  # noqa: E402
from cpam_bench.eval.methods import registry  # noqa: E402
from cpam_bench.eval.report.page import write_report  # noqa: E402
from cpam_bench.eval.run import driver as runner  # noqa: E402
from cpam_bench.eval.run.describe import describe_run  # noqa: E402
from cpam_bench.eval.run.executor import Executor, Serial  # noqa: E402
from cpam_bench.eval.run.processes import Processes  # noqa: E402
from cpam_bench.eval.run.worker import Recipe  # noqa: E402
from cpam_bench.eval.store.lock import locked  # noqa: E402
from cpam_bench.eval.store.store import Store  # noqa: E402
from cpam_bench.imba.common.files import write_atomic  # noqa: E402
from cpam_bench.imba.dataset import Dataset  # noqa: E402
from cpam_bench.imba.sample import Sample  # noqa: E402

LABELS = ("ddim", "sdedit", "cpam", "masactrl", "pnp:inversion_steps=0", "fpe")
INVERTED = frozenset(LABELS) - {"sdedit"}


def spent() -> float:
    """Seconds of the processor, of this process and of those that it has waited for."""
    return sum(os.times()[:4])


# edits ----------------------------------------------------------------------------------------------------------------


def named(count: int) -> Dataset:
    """So many samples of pocket; after its 24 they come again under other names, and nothing of theirs is shared."""
    data = cpam_bench.imba.dataset.load("pocket")
    samples = [data.samples[i % len(data)] for i in range(count)]
    return replace(data, samples=[replace(sample, id=f"{i:04d}-{sample.id}") for i, sample in enumerate(samples)])


@functools.cache
def backbone_of(edge: int) -> Backbone:
    """The pocket backbone for pictures of another edge."""
    pipeline = Backbone.load("pocket").pipeline
    pipeline.unet.register_to_config(sample_size=edge // pipeline.vae_scale_factor)
    return Backbone.from_pipeline(pipeline, "pocket")


def cost(samples: int, methods: int, edge: int, steps: int, workers: int = 0) -> dict[str, Any]:
    """What a run costs; 0 workers edit in this process."""
    data, editors = named(samples), dict(registry.make(label) for label in LABELS[:methods])
    backbone = backbone_of(edge)
    load = functools.partial(Backbone.load, "pocket")
    recipe = Recipe(editors, load, backbone.fingerprint, steps, 0, threads=1)
    executor: Executor = Processes(recipe, workers) if workers else Serial(recipe.with_backbone(backbone))
    with tempfile.TemporaryDirectory() as folder, locked(Path(folder) / "run"):
        described = describe_run({}, data, data.samples, backbone, editors, steps=steps, seed=0)
        store = Store.create_or_resume(Path(folder) / "run", described)
        started = spent()
        failures = runner.run(store, data.samples, editors, backbone, executor=executor, progress=False, warnings=False)
        seconds = spent() - started
    assert not failures, failures
    lanes = sum(3 if label in ("cpam", "masactrl", "pnp:inversion_steps=0", "fpe") else 2 for label in LABELS[:methods])
    inverted = any(label in INVERTED for label in LABELS[:methods])
    return {
        "samples": samples,
        "methods": methods,
        "edge": edge,
        "workers": workers,
        "steps": steps,
        "lanes": samples * steps * (lanes + inverted),
        "seconds": round(seconds, 2),
        "seconds_an_edit": round(seconds / samples / methods, 3),
    }


def a_lane(edge: int, rounds: int = 5) -> float:
    """The least seconds of one evaluation of one lane, of some rounds."""
    backbone = backbone_of(edge)
    latents, text = torch.zeros(1, 4, *backbone.grid), backbone.text("")
    least = float("inf")
    for _ in range(rounds):
        started = spent()
        for _ in range(4):
            backbone.predict(latents, 500, text)
        least = min(least, (spent() - started) / 4)
    return least


def edits(steps: int, sizes: Sequence[int]) -> dict[str, Any]:
    cost(1, 1, 128, steps)  # warm
    runs: dict[str, list[dict[str, Any]]] = {
        "samples": [cost(samples, 1, 128, steps) for samples in sizes],
        "methods": [cost(4, methods, 128, steps) for methods in range(1, 1 + len(LABELS))],
        "workers": [cost(16, 2, 128, steps, workers) for workers in (1, 2)],
        "edge": [cost(2, 1, edge, steps) for edge in (128, 256, 512)],
    }
    lanes = {str(edge): round(a_lane(edge), 4) for edge in (128, 256, 512)}
    constants = {}
    for run in runs["edge"]:
        beside = run["seconds"] - run["lanes"] * lanes[str(run["edge"])]
        constants[str(run["edge"])] = round(beside / run["samples"], 3)
    return {"runs": runs, "seconds_a_lane": lanes, "constant_a_sample": constants}


# commands -------------------------------------------------------------------------------------------------------------


def resume(folder: Path, samples: Sequence[str]) -> None:
    """What a run that goes on does before its first edit, and finds nothing missing but what failed."""
    store = Store.open(folder)
    picture = cpam_bench.imba.dataset.load("pocket").samples[0]
    known: list[Sample] = [replace(picture, id=id) for id in samples]
    left = sum(len(methods) for methods in runner.pending_edits(store, known, METHODS[:2]).values())
    assert left == sum((2 * i + j) % 17 == 3 for i in range(len(samples)) for j in range(2))


def apart(work: Callable[[], object]) -> dict[str, float]:
    """Do something in a process of its own: its seconds, and how much more memory it had than at its start, MiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, ended, usage = os.wait4(child, 0)
    assert ended == 0, "see above"
    return {
        "seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "memory_mib": max(0, round((usage.ru_maxrss - before) / 1024)),
    }


def commands(samples: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        started = spent()
        fabricate(folder, pocket_material(), samples, 2)
        made = spent() - started
        ids = Store.open(folder).run.samples
        found = {
            "resume": apart(lambda: resume(folder, ids)),
            "status": apart(lambda: status(folder)),
            "leaderboard": apart(lambda: leaderboard([folder])),
            "verify": apart(lambda: verify(folder)),
            "report": apart(lambda: write_report([folder], Path(place) / "report")),
        }
        page = (Path(place) / "report" / "index.html").stat().st_size
    return {
        "samples": samples,
        "edits": 2 * samples,
        "commands": found,
        "page_kb": round(page / 1000),
        "seconds_to_make_up": round(made, 1),
    }


# figure ---------------------------------------------------------------------------------------------------------------


def figure(found: dict[str, Any], out: Path) -> None:
    from matplotlib.figure import Figure

    drawn = Figure((13, 6.4), layout="constrained")
    axes = list(drawn.subplots(2, 3).flat)
    if "edits" in found:
        made = found["edits"]
        for axis, (what, unit) in zip(axes, (("samples", ""), ("methods", ""), ("edge", " px")), strict=False):
            runs = made["runs"][what]
            modelled = [
                run["lanes"] * made["seconds_a_lane"][str(run["edge"])]
                + run["samples"] * made["constant_a_sample"][str(run["edge"])]
                for run in runs
            ]
            edits = [run["samples"] * run["methods"] for run in runs]
            places = [run[what] for run in runs]
            axis.plot(places, [run["seconds_an_edit"] for run in runs], "o-", label="measured")
            axis.plot(places, [s / n for s, n in zip(modelled, edits, strict=True)], "--", label="lanes and a constant")
            axis.set(xlabel=what + unit, ylabel="seconds an edit", ylim=(0, None))
            if what != "methods":
                axis.set_xscale("log", base=2)
            axis.legend()
        axis = axes[3]
        workers = made["runs"]["workers"]
        axis.bar([str(run["workers"]) for run in workers], [run["seconds_an_edit"] for run in workers])
        axis.set(xlabel="workers", ylabel="seconds an edit, start included")
    if "commands" in found:
        kept = axes[-2:]
        for axis, what, name in (
            (kept[0], "seconds", "seconds"),
            (kept[1], "memory_mib", "memory beside its start, MiB"),
        ):
            for command in found["commands"][0]["commands"]:
                points = [(run["edits"], run["commands"][command][what]) for run in found["commands"]]
                axis.plot(*zip(*points, strict=True), "o-", label=command)
            axis.set(xlabel="edits in the run", ylabel=name, xlim=(0, None), ylim=(0, None))
            axis.legend()
    drawn.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["edits", "commands", "figure"])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--sizes", help="how many samples, by default 1,8,64,512 and for commands 500,1000,2000,5000")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "growth.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [int(size) for size in (options.sizes or "").split(",") if size]
    known: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.what == "figure":
        figure(known, options.out.with_suffix(".png"))
        return
    if options.what == "edits":
        known["edits"] = edits(options.steps, sizes or [1, 8, 64, 512])
        keep(known, options.out)
        return
    known["commands"] = []
    for size in sizes or [500, 1000, 2000, 5000]:
        known["commands"].append(commands(size))
        print(json.dumps(known["commands"][-1]), flush=True)
        keep(known, options.out)


def keep(found: dict[str, Any], out: Path) -> None:
    write_atomic(out, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
