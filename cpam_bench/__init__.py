"""Benchmark of text-guided editing of real images, around IMBA; nothing here is imported before it is asked for.

The folders imba, cpam, baselines and eval are installed under this name, so that a user's own eval.py is never ours.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cpam_bench.cpam.attention import AttentionControl
    from cpam_bench.cpam.editing import Editor, parameter
    from cpam_bench.cpam.editor import CPAM
    from cpam_bench.eval.analysis.leaderboard import leaderboard
    from cpam_bench.eval.metrics.metric import Metric
    from cpam_bench.eval.run.execute import execute as run
    from cpam_bench.eval.scoring.score import score
    from cpam_bench.eval.scoring.scored import Scored
    from cpam_bench.imba.dataset import load
    from cpam_bench.imba.sample import Sample

    __version__: str

_PLACES = {
    "AttentionControl": "cpam.attention",
    "CPAM": "cpam.editor",
    "Editor": "cpam.editing",
    "Metric": "eval.metrics.metric",
    "Sample": "imba.sample",
    "Scored": "eval.scoring.scored",
    "leaderboard": "eval.analysis.leaderboard",
    "load": "imba.dataset",
    "parameter": "cpam.editing",
    "run": "eval.run.execute:execute",
    "score": "eval.scoring.score",
}

__all__ = [
    "CPAM",
    "AttentionControl",
    "Editor",
    "Metric",
    "Sample",
    "Scored",
    "leaderboard",
    "load",
    "parameter",
    "run",
    "score",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cpam-bench")
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, renamed = _PLACES[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), renamed or name)
