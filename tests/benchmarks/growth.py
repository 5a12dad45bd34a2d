"""How cost grows with samples, methods, workers and the pictures' edge, and what the commands cost on large runs.

    python tests/benchmarks/growth.py edits      # runs of pocket, their samples repeated under other names
    python tests/benchmarks/growth.py workers    # the same edits by one process and by two
    python tests/benchmarks/growth.py commands   # runs of two methods that are made up through the store
    python tests/benchmarks/growth.py figure     # results/growth.png of all that is there

Each adds to ``results/growth.json`` (``--out``).  Seconds are the processor's, on one thread, so that they can be
compared on a busy machine; those of ``workers`` are the wall's, start included, and want a quiet one.  The model
beside the edits is lanes x seconds a lane + a constant an edit, at the same edge: what an evaluation of one lane takes,
and what is left of a run of one edit.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from cpam_bench.eval.run.costs import peak, reset_peak  # noqa: E402
from cpam_bench.eval.run.describe import describe_run  # noqa: E402
from cpam_bench.eval.run.executor import Executor, Serial  # noqa: E402
from cpam_bench.eval.run.processes import Processes  # noqa: E402
from cpam_bench.eval.run.worker import Recipe  # noqa: E402
from cpam_bench.eval.store.lock import locked  # noqa: E402
from cpam_bench.eval.store.store import Store  # noqa: E402
from cpam_bench.imba.common.files import write_atomic  # noqa: E402
from cpam_bench.imba.dataset import Dataset  # noqa: E402
from cpam_bench.imba.sample import Sample  # noqa: E402

LABELS = ("ddim", "cpam", "masactrl", "pnp:inversion_steps=0", "fpe", "ddim-paste")


EDGES = (128, 256, 512)


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
    """What a run costs; 0 workers edit in this process.

    Workers are children of a fork server, so that their processor's seconds are not this process's to ask for.
    """
    data, editors = named(samples), dict(registry.make(label) for label in LABELS[:methods])
    backbone = backbone_of(edge)
    load = functools.partial(Backbone.load, "pocket")
    recipe = Recipe(editors, load, backbone.fingerprint, steps, 0, threads=1)
    executor: Executor = Processes(recipe, workers) if workers else Serial(recipe.with_backbone(backbone))
    with tempfile.TemporaryDirectory() as folder, locked(Path(folder) / "run"):
        described = describe_run({}, data, data.samples, backbone, editors, steps=steps, seed=0)
        store = Store.create_or_resume(Path(folder) / "run", described)
        clock = time.perf_counter if workers else time.process_time
        before, started = backbone.evaluations, clock()
        failures = runner.run(store, data.samples, editors, backbone, executor=executor, progress=False, warnings=False)
        seconds = clock() - started
    assert not failures, failures
    return {
        "samples": samples,
        "methods": methods,
        "edge": edge,
        "workers": workers,
        "steps": steps,
        "lanes": None if workers else backbone.evaluations - before,
        "seconds": round(seconds, 2),
        "seconds_an_edit": round(seconds / samples / methods, 3),
    }


def a_lane(edge: int, rounds: int = 3) -> float:
    """The least seconds of one evaluation of one lane, of some rounds."""
    backbone = backbone_of(edge)
    latents, text = torch.zeros(1, 4, *backbone.grid), backbone.text("")
    least = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        backbone.predict(latents, 500, text)
        least = min(least, time.process_time() - started)
    return least


def edits(steps: int, sizes: Sequence[int], keep: Callable[[dict[str, Any]], None]) -> None:
    cost(1, 1, 128, steps)  # warm
    found: dict[str, Any] = {"seconds_a_lane": {str(edge): round(a_lane(edge), 4) for edge in EDGES}, "runs": {}}
    runs = found["runs"]
    runs["samples"] = [cost(samples, 1, 128, steps) for samples in sizes]
    keep(found)
    runs["edge"] = [cost(1, 1, edge, steps) for edge in EDGES]
    found["constant_an_edit"] = {
        str(run["edge"]): round(run["seconds"] - run["lanes"] * found["seconds_a_lane"][str(run["edge"])], 3)
        for run in runs["edge"]
    }
    keep(found)
    runs["methods"] = [cost(2, methods, 128, steps) for methods in range(1, 1 + len(LABELS))]
    keep(found)


def with_workers(steps: int, samples: int) -> list[dict[str, Any]]:
    cost(1, 1, 128, steps, 2)  # the fork server imports once
    return [cost(samples, len(LABELS), 128, steps, workers) for workers in (1, 2)]


# commands -------------------------------------------------------------------------------------------------------------


def resume(folder: Path, samples: Sequence[str]) -> None:
    """What a run that goes on does before its first edit, and finds nothing missing but what failed."""
    store = Store.open(folder)
    picture = cpam_bench.imba.dataset.load("pocket").samples[0]
    known: list[Sample] = [replace(picture, id=id) for id in samples]
    left = sum(len(methods) for methods in runner.pending_edits(store, known, METHODS[:2]).values())
    assert left == sum((2 * i + j) % 17 == 3 for i in range(len(samples)) for j in range(2))


def apart(work: Callable[[], object]) -> dict[str, float]:
    """Do something in a process of its own: its seconds, and the memory in MiB beside what it began with."""
    here = SimpleNamespace(device="cpu")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            reset_peak(here)
            before = peak(here)
            work()
            os.write(writer, str((peak(here) or 0) - (before or 0)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as told:
        memory = told.read()
    _, ended, usage = os.wait4(child, 0)
    assert ended == 0, "see above"
    return {"seconds": round(usage.ru_utime + usage.ru_stime, 2), "memory_mib": round(float(memory), 1)}


def commands(samples: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        started = time.process_time()
        fabricate(folder, pocket_material(), samples, 2)
        made = time.process_time() - started
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
    """Draw what has been measured so far; runs of one command that was stopped lack some."""
    from matplotlib.figure import Figure

    drawn = Figure((13, 6.4), layout="constrained")
    axes = list(drawn.subplots(2, 3).flat)
    made, runs = found.get("edits", {}), found.get("edits", {}).get("runs", {})
    for axis, what in zip(axes, ("samples", "edge", "methods", "workers"), strict=False):
        seconds = "seconds of the wall" if what == "workers" else "processor's seconds"
        axis.set(xlabel=f"{what}, px" if what == "edge" else what, ylabel=f"{seconds} an edit")
        measured = found.get("workers", []) if what == "workers" else runs.get(what, [])
        axis.set_visible(bool(measured))
        axis.plot([run[what] for run in measured], [run["seconds_an_edit"] for run in measured], "o-", label="measured")
        if what != "workers" and "constant_an_edit" in made:
            modelled = [
                run["lanes"] / run["samples"] / run["methods"] * made["seconds_a_lane"][str(run["edge"])]
                + made["constant_an_edit"][str(run["edge"])]
                for run in measured
            ]
            axis.plot([run[what] for run in measured], modelled, "--", label="lanes and a constant")
        axis.set_ylim(bottom=0)
        axis.legend()
    for axis, what, name in zip(axes[-2:], ("seconds", "memory_mib"), ("processor's seconds", "MiB"), strict=True):
        for command in ("resume", "status", "leaderboard", "verify", "report"):
            points = [(run["edits"], run["commands"][command][what]) for run in found.get("commands", [])]
            points = [point for point in points if point[1] is not None]
            axis.plot([edits for edits, _ in points], [value for _, value in points], "o-", label=command)
        axis.set(xlabel="edits in the run", ylabel=name, xlim=(0, None), ylim=(0, None))
        axis.legend()
    drawn.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["edits", "workers", "commands", "figure"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--sizes", help="samples: 1,8,64,512; of workers 24; of commands 500,1000,2000,5000")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "growth.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [int(size) for size in (options.sizes or "").split(",") if size]
    known: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.what == "figure":
        figure(known, options.out.with_suffix(".png"))
        return
    if options.what == "edits":
        edits(options.steps, sizes or [1, 8, 64, 512], lambda found: keep({**known, "edits": found}, options.out))
        return
    if options.what == "workers":
        keep({**known, "workers": with_workers(options.steps, sizes[0] if sizes else 24)}, options.out)
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
