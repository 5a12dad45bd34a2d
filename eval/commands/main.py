"""The command line ``cpam-bench``, one file a group of commands.

What takes long to import (torch and all that stands on it) is imported inside the commands, so that help comes at once.
"""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from cpam_bench.eval.commands import (
    analyse,
    backbones,
    check,
    data,
    doctor,
    edit,
    methods,
    metrics,
    paper,
    pocket,
    reproduce,
    run,
    share,
    study,
)
from cpam_bench.eval.commands.terminal import say
from cpam_bench.imba.errors import Damaged, DiskFull, UserError

app = typer.Typer(
    name="cpam-bench",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Benchmark of text-guided editing of real images, around IMBA: edit, score, compare.",
    epilog="Without a network or a GPU, cpam-bench run does it all on small parts that it brings along (pocket).",
)

PANELS: dict[str, tuple[Callable[..., None], ...]] = {
    "Make": (run.run, run.score, edit.edit, edit.studio),
    "Compare": (analyse.leaderboard, analyse.ablate, analyse.sensitivity, analyse.truth),
    "The paper": (reproduce.reproduce, paper.table, paper.figure),
    "Trust": (check.status, check.verify, check.rerun),
    "Share": (share.report, share.export),
    "What there is": (doctor.doctor, methods.methods, metrics.metrics, data.datasets, backbones.backbones),
}
"""The commands, by what one comes for."""

for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(data.app, name="data", rich_help_panel="What there is")
app.add_typer(pocket.app, name="pocket", rich_help_panel="What there is")
app.add_typer(study.app, name="study", rich_help_panel="Study")


def _version(asked: bool) -> None:
    if asked:
        from cpam_bench import __version__

        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of cpam-bench itself."""


_PLAIN = {"−": "-", "–": "-", "…": "...", "×": "x", "±": "+-", "≠": "!=", "≤": "<=", "≥": ">=", "“": '"', "”": '"'}
"""What stands for letters that a terminal lacks; all others are written out as ``\\u2020``."""


def _in_plain_letters(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeEncodeError) and (plain := _PLAIN.get(error.object[error.start])):
        return plain, error.start + 1
    return codecs.backslashreplace_errors(error)


def _print_anything() -> None:
    """Have a terminal that lacks a letter show it in another way and not end the command, in workers too."""
    codecs.register_error("cpam_bench.plain", _in_plain_letters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="cpam_bench.plain")
            os.environ["PYTHONIOENCODING"] = f"{stream.encoding}:backslashreplace"


def main() -> None:
    """Entry point: what a user can cause is one message and an exit code, and never a traceback."""
    _print_anything()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        app()
    except UserError as error:
        say(f"Error: {error}")
        sys.exit(2)
    except Damaged as error:
        say(f"Error: {error}; give the run's command again to make it anew")
        sys.exit(2)
    except DiskFull as error:
        say(f"Error: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()
