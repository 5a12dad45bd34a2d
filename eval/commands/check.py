"""``cpam-bench status``, ``verify`` and ``rerun``: whether a run is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cpam_bench.eval.commands.options import Device, MethodFile
from cpam_bench.eval.commands.terminal import console, say
from cpam_bench.imba.common.places import place


def status(folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run.")]) -> None:
    """Show how far a run is: from another shell while it runs, or later."""
    from cpam_bench.eval.audit.status import render
    from cpam_bench.eval.audit.status import status as look

    console().print(render(look(folder)))


def verify(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run, wherever it is now.")],
    clip: Annotated[
        str | None, typer.Option(metavar="SCORER", help="Where the scorer is, if not where the run had it.")
    ] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Which sample is scored again.")] = 0,
    everything: Annotated[bool, typer.Option("--all", help="Score all samples again.")] = False,
) -> None:
    """Hash everything in a run against its records, and score one of its samples again, or all.

    Exit code 1 means that something is not what the records say; each such file is named.
    """
    from cpam_bench.eval.audit.verify import verify as check

    found = check(folder, clip, device, seed, everything)
    for line in found.wrong:
        say(f"wrong: {line}")
    for line in found.unchecked:
        say(f"not checked: {line}")
    typer.echo(f"{found.files} files looked at, {found.scores} scores measured again, {len(found.wrong)} wrong")
    if found.wrong:
        raise typer.Exit(1)


def rerun(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run, wherever it is now.")],
    check: Annotated[int, typer.Option(metavar="N", min=1, help="How many edits, drawn at random.")] = 5,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the draw.")] = 0,
    backbone: Annotated[
        str | None, typer.Option(metavar="NAME|PATH", help="Where the backbone is, if not where the run had it.")
    ] = None,
    device: Device = None,
    method_file: MethodFile = None,
    tolerance: Annotated[
        int, typer.Option(metavar="LEVELS", min=0, help="Difference of a pixel, of 255, that is let pass.")
    ] = 0,
) -> None:
    """Make some edits of a run again and compare them pixel by pixel; nothing is written.

    The same processor, threads and versions give the same bits. Exit code 1 means that an edit came out otherwise.
    """
    from cpam_bench.eval.audit.rerun import rerun as repeat
    from cpam_bench.eval.methods import from_file

    for text in method_file or []:
        from_file.give(text)
    repeats = repeat(folder, check, seed, backbone, device, typer.echo)
    other = [one for one in repeats if one.error or one.largest > tolerance]
    typer.echo(f"{len(repeats) - len(other)} of {len(repeats)} edits are as they were")
    if other:
        raise typer.Exit(1)
