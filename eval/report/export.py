"""A run in the forms that others read: Parquet with the pictures in it, loadable as Hugging Face data sets, and CSV."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cpam_bench.eval.analysis.leaderboard import COSTS, leaderboard, origin_notes
from cpam_bench.eval.metrics.metric import facts as facts_of
from cpam_bench.eval.scoring.scored import COLUMNS, Row, Scored
from cpam_bench.eval.store.records import Edit, Task, plain
from cpam_bench.eval.store.store import Store, checked
from cpam_bench.imba.common.files import no_room, write_atomic, write_json, write_rows
from cpam_bench.imba.common.folders import replacing
from cpam_bench.imba.common.names import cleared, without_places
from cpam_bench.imba.errors import UserError

SHARD = 400_000_000
"""Bytes of pictures in a Parquet file, roughly."""

LEADERBOARD = {
    "data_set": "name of the data set",
    "data_fingerprint": "sha256 over the data set's records and files",
    "samples": "how many samples the run has",
    "backbone": "name of the diffusion model",
    "resolution": "edge of the pictures in pixels",
    "steps": "DDIM steps",
    "seed": "of the run",
    "pocket": "whether data or backbone are the small embedded ones, not to be set beside the paper's numbers",
    "method": "label: a name, with the parameters that differ from their defaults",
    "title": "of the method, as the paper's tables call it",
    "reference": "whether it is a reference row that bounds the scale and no method of editing",
    "mask_read": "whether the method was given the region to alter; empty where that was not noted",
    "metric": "name of the metric, or of a cost (seconds, inversion_seconds, peak_memory_mib)",
    "better": "higher or lower",
    "scorer": "model behind the metric, empty if it has none",
    "weights_sha256": "of that model",
    "mean": "over the samples that have a value, empty if none has",
    "low": "lower end of the 95 % bootstrap interval; empty for costs, and where there is none",
    "high": "upper end",
    "n": "samples that the mean is over",
    "failed": "edits of the method that failed",
}
"""Columns of the exported ``leaderboard.csv``: one row a method and metric, each with all that makes it comparable."""


def export(folder: str | Path, out: Path) -> list[str]:
    """Write a run as a folder to share; returns a line for each file of the run that is damaged and left out.

    ::

        README.md                      the data set's card: two configurations, edits and samples, and the columns
        data/edits-*.parquet           one row a method and sample: picture, parameters, costs, scores, or the error
        data/samples-*.parquet         one row a sample: source, mask, truth, prompts, flags
        leaderboard.csv                one row a method and metric, columns as in LEADERBOARD
        paired.csv, scores.csv         as in the run
        run.json, scores.json          how it was made and measured, without the command's paths

    Args:
        folder: of a scored run.
        out: a new or empty folder, or an older export, which is replaced.

    Raises:
        UserError: the run is not scored, or ``out`` holds something else.
        DiskFull: there is no room; an older export stays.
    """
    scored = Scored.open(folder)
    damaged = list(scored.damaged)
    tasks: dict[str, tuple[Store, Task]] = {}
    for sample in scored.samples:
        try:
            tasks[sample] = scored.task(sample)
        except UserError as error:
            damaged.append(str(error))
    with replacing(out, "export") as place:
        parts = {
            "edits": _write_edits(scored, tasks, place),
            "samples": _write_samples(tasks, place),
        }
        board = leaderboard(scored)
        write_rows(place / "leaderboard.csv", list(LEADERBOARD), _leaderboard(scored, board.rows), shared=True)
        board.write_paired(place / "paired.csv", shared=True)
        write_rows(place / "scores.csv", COLUMNS, scored.scores.itertuples(index=False), shared=True)
        run = plain(dataclasses.replace(scored.run, methods={row.name: row.facts for row in scored.rows}))
        del run["arguments"]
        write_json(place / "run.json", run)
        write_json(place / "scores.json", plain(scored.measured[0]))
        write_atomic(place / "README.md", _card(scored, parts, board.title, damaged).encode())
    return damaged


# Parquet --------------------------------------------------------------------------------------------------------------

Cells = dict[str, Any]


def _write_edits(scored: Scored, tasks: dict[str, tuple[Store, Task]], place: Path) -> dict[str, str]:
    """Write the edits; returns column -> what it is."""
    import datasets

    values = scored.scores.set_index(["method", "sample", "metric"])["value"].to_dict()
    columns: dict[str, tuple[Any, str]] = {
        "method": (datasets.Value("string"), "label of the method"),
        "sample": (datasets.Value("string"), "id, as in the configuration samples"),
        "kind": (datasets.Value("string"), "kind of edit"),
        "target_prompt": (datasets.Value("string"), "what the edit is to show"),
        "image": (datasets.Image(), "the edited picture (PNG as stored), none if the edit failed"),
        "status": (datasets.Value("string"), "ok or failed"),
        "error": (datasets.Value("string"), "of a failed edit"),
        "parameters": (datasets.Value("string"), "of the method, JSON"),
        "seed": (datasets.Value("uint32"), "that the method was given"),
        "seconds": (datasets.Value("float64"), "wall time of the edit"),
        "inversion_seconds": (datasets.Value("float64"), "wall time of the inversion that it used"),
        "peak_memory_mib": (datasets.Value("float64"), "highest memory, if it could be measured"),
    }
    columns |= {
        name: (datasets.Value("float64"), f"{known.title}, {known.better or 'unknown'} is better")
        for name, held in scored.metrics.items()
        for known in [facts_of(name, held.more)]
    }

    def rows() -> Iterator[Cells]:
        for row in scored.rows:
            for edit in row.edits:
                task = tasks[edit.sample][1] if edit.sample in tasks else None
                found = {name: values.get((row.name, edit.sample, name)) for name in scored.metrics}
                yield {
                    "method": row.name,
                    "sample": edit.sample,
                    "kind": task.kind if task else None,
                    "target_prompt": task.target_prompt if task else None,
                    "image": _image(row.store.edit_path(edit.method, edit.sample), edit.image_sha256)
                    if edit.status == "ok"
                    else None,
                    "status": edit.status,
                    "error": edit.error and without_places(edit.error),
                    "parameters": json.dumps(_shared(row, edit), ensure_ascii=False),
                    "seed": edit.seed,
                    "seconds": edit.seconds,
                    "inversion_seconds": edit.inversion_seconds,
                    "peak_memory_mib": edit.peak_memory_mib,
                    # NaN is "not defined": in Parquet that is null.
                    **{name: None if value is None or value != value else value for name, value in found.items()},
                }

    done = [(row.store, edit) for row in scored.rows for edit in row.done]
    size = sum(store.edit_path(edit.method, edit.sample).stat().st_size for store, edit in done)
    return _write(rows, columns, place, "edits", size)


def _write_samples(tasks: dict[str, tuple[Store, Task]], place: Path) -> dict[str, str]:
    """Write the samples; returns column -> what it is."""
    import datasets

    columns: dict[str, tuple[Any, str]] = {
        "sample": (datasets.Value("string"), "id"),
        "source": (datasets.Image(), "the picture as the methods saw it"),
        "mask": (datasets.Image(), "the region to alter in white, none if there is no mask"),
        "truth": (datasets.Image(), "what the edit should have led to, where the data set knows"),
        "target_prompt": (datasets.Value("string"), "what the edit is to show"),
        "source_prompt": (datasets.Value("string"), "caption of the source, where there is one"),
        "object_prompt": (datasets.Value("string"), "the words of the prompt that name the object"),
        "kind": (datasets.Value("string"), "kind of edit: replace, pose, background, add or remove"),
        "altered": (datasets.Value("string"), "what is altered: foreground, object or background"),
        "retain_object": (datasets.Value("bool"), "whether the object's identity is to be kept"),
        "several_objects": (datasets.Value("bool"), "whether there are several objects, of which one is edited"),
    }

    def rows() -> Iterator[Cells]:
        for sample, (store, task) in tasks.items():
            yield {
                "sample": sample,
                "source": _image(store.source_path(sample), task.image_sha256),
                "mask": _image(store.mask_path(sample), task.mask_sha256) if task.mask_sha256 else None,
                "truth": _image(store.truth_path(sample), task.truth_sha256) if task.truth_sha256 else None,
                **{name: getattr(task, name) for name in columns if name not in ("sample", "source", "mask", "truth")},
            }

    size = sum(store.source_path(sample).stat().st_size for sample, (store, _) in tasks.items())
    return _write(rows, columns, place, "samples", size)


def _image(path: Path, sha256: str | None) -> Cells:
    return {"bytes": checked(path, sha256), "path": path.name}


def _write(
    rows: Callable[[], Iterator[Cells]], columns: dict[str, tuple[Any, str]], place: Path, name: str, size: int
) -> dict[str, str]:
    import datasets

    features = datasets.Features({column: kind for column, (kind, _) in columns.items()})
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        # By way of a file and not of memory, since a run may well be larger.
        with tempfile.TemporaryDirectory(dir=place.parent) as cache:
            made = datasets.Dataset.from_generator(rows, features=features, cache_dir=cache)
            shards = max(1, min(-(-size // SHARD), len(made)))
            (place / "data").mkdir(exist_ok=True)
            for shard in range(shards):
                path = place / "data" / f"{name}-{shard:05d}-of-{shards:05d}.parquet"
                made.shard(shards, shard, contiguous=True).to_parquet(path, batch_size=100)
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from error  # it says no more than that there was one
    except OSError as error:
        if "disk space" in str(error):  # datasets looks before it begins, and raises without a number
            raise no_room(place) from error
        raise
    finally:
        if shown:
            datasets.enable_progress_bars()
    return {column: words for column, (_, words) in columns.items()}


def _shared(row: Row, edit: Edit) -> Cells:
    """The parameters of an edit, without where something is on this machine.

    Early versions noted the folder of ready-made pictures.
    """
    ready_made = row.facts.called is not None
    return {key: cleared(value) for key, value in edit.params.items() if not (ready_made and key == "folder")}


# tables ---------------------------------------------------------------------------------------------------------------


def _leaderboard(scored: Scored, board: pd.DataFrame) -> Iterator[list[Any]]:
    run = scored.run
    head = [run.dataset.name, run.dataset.fingerprint, len(scored.samples), run.backbone.name]
    head += [run.backbone.resolution, run.steps, run.seed, scored.is_pocket]
    facts = {row.name: row.facts for row in scored.rows}
    masks = {row.name: row.mask_read for row in scored.rows}
    for record in board.to_dict("records"):
        name = record["method"]
        mine = [*head, name, facts[name].title, not facts[name].edits, masks[name]]
        for metric, held in scored.metrics.items():
            better = facts_of(metric, held.more).better
            numbers = [record[metric], record[f"{metric}_low"], record[f"{metric}_high"], record[f"{metric}_n"]]
            yield [*mine, metric, better, held.scorer or "", held.weights_sha256 or "", *numbers, record["failed"]]
        for cost in COSTS:
            yield [*mine, cost, "lower", "", "", record[cost], math.nan, math.nan, record["n"], record["failed"]]


def _card(scored: Scored, parts: dict[str, dict[str, str]], title: str, damaged: list[str]) -> str:
    """The README that Hugging Face reads: its head says which files are which configuration."""
    configs = "".join(
        f"- config_name: {name}\n  data_files: data/{name}-*.parquet\n" + ("  default: true\n" if i == 0 else "")
        for i, name in enumerate(parts)
    )
    tables = "\n".join(
        f"## {name}\n\n| column | what it is |\n| --- | --- |\n"
        + "".join(f"| `{column}` | {words} |\n" for column, words in columns.items())
        for name, columns in [*parts.items(), ("leaderboard.csv", LEADERBOARD)]
    )
    methods = "".join(f"- {_code(row.name)}: {_plain(row.facts.title)}\n" for row in scored.rows)
    origin = "".join(f"- {_plain(note)}\n" for note in origin_notes(scored))
    origin = f"\nData:\n\n{origin}" if origin else ""
    left_out = f"\nLeft out, since files of the run were damaged: {len(damaged)} records.\n" if damaged else ""
    return (
        f"---\npretty_name: cpam-bench run\ntags:\n- image-editing\n- benchmark\nconfigs:\n{configs}---\n\n"
        f"# {_plain(title)}\n\n"
        "Edits of a cpam-bench run with their scores. How they were made and measured (versions, weights' hashes, the"
        " protocol of each metric) is in `run.json` and `scores.json`. The pictures are under the terms of the data set"
        f" that they come from.\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'edits = load_dataset("path/to/this/folder", "edits", split="train")\n'
        'samples = load_dataset("parquet", data_files="path/to/this/folder/data/samples-*.parquet", split="train")\n'
        f"```\n\nMethods:\n\n{methods}{origin}{left_out}\n{tables}\n"
        "`paired.csv`: method, against, metric, difference (method − against on the same samples), low, high, n."
        " `scores.csv`: method, sample, metric, value (empty where not defined).\n"
    )


def _plain(text: str) -> str:
    """Text that is neither Markdown nor HTML."""
    return "".join(f"\\{c}" if c in r"\`*_[]<>|#&" else c for c in " ".join(text.split()))


def _code(text: str) -> str:
    line = " ".join(text.split())
    return f"`` {line} ``" if "`" in line else f"`{line}`"
