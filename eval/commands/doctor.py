"""``cpam-bench doctor``: what this machine has, and what will work on it."""

from __future__ import annotations

import typer


def doctor() -> None:
    """Say what this machine has, and what will work on it: versions, device, weights, network, room.

    Nothing is loaded or fetched. The hub is asked whether it answers, for five seconds at most.
    """
    from cpam_bench.eval.audit.doctor import examine

    for head, text in examine():
        typer.echo(f"{head:<11}{text}")
