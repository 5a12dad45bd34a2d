"""Terminals without our letters, users without a home, numbers that are none, and records that hold such."""

from __future__ import annotations

import io
import json
import os
import pwd
import shutil
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from paths import DATA
from typer.testing import CliRunner

from cpam_bench.eval.commands.main import app, main
from cpam_bench.eval.commands.options import finite
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common import remote
from cpam_bench.imba.errors import UserError

RUN = DATA / "run-0.1" / "run"
COMMANDS = {"--help": 0, f"leaderboard {RUN}": 0, "table 1": 0, "status /nowhere": 2, "table –": 2}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_command_prints_on_any_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    monkeypatch.setenv("PYTHONIOENCODING", "")  # which the command sets for its workers
    monkeypatch.setenv("COLUMNS", "200")
    for command, code in COMMANDS.items():
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True))
        monkeypatch.setattr(sys, "argv", ["cpam-bench", *command.split()])
        try:
            main()
            ended = 0
        except SystemExit as end:
            ended = int(end.code or 0)
        assert ended == code, (command, sys.stderr.buffer.getvalue())
        texts.append(sys.stdout.buffer.getvalue().decode(encoding if "table" not in command else "utf-8", "replace"))
    assert "Trust" in texts[0] and "MasaCtrl" in texts[2]
    assert ("-0.7969 [-0.8457, -0.7480]\\u2020" if encoding == "ascii" else "[-0.8457, -0.7480]†") in texts[1]
    assert os.environ["PYTHONIOENCODING"] == f"{encoding}:backslashreplace"


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    done = CliRunner().invoke(app, ["data", "build", "--out", str(tmp_path / "imba")])
    assert isinstance(done.exception, UserError) and "set HOME or XDG_CACHE_HOME" in str(done.exception)
    assert not (tmp_path / "imba").exists()


def test_a_cache_that_is_damaged_or_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    fs, root = fsspec.core.url_to_fs("memory://bench/cached")
    fs.pipe_file(f"{root}/data.json", b"[]")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = remote.fetch("memory://bench/cached")
    for damage in (b"", b"\xff", b"[]", b'{"data.json": 1}'):
        (folder.parent / "keys.json").write_bytes(damage)
        (folder / "data.json").write_bytes(b"old")
        assert (remote.fetch("memory://bench/cached") / "data.json").read_bytes() == b"[]"
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file/cpam-bench.* cannot be written"):
        remote.fetch("memory://bench/cached")


def floats(group: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Every option that takes a float, of all commands, and what checks it."""
    for inner in group.registered_groups:
        yield from floats(inner.typer_instance)
    for command in group.registered_commands:
        for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            if typing.get_origin(hint) is typing.Annotated and typing.get_args(hint)[0] in (float, float | None):
                yield f"{command.callback.__name__} {name}", typing.get_args(hint)[1].callback


def test_every_option_that_takes_a_float_takes_a_number() -> None:
    found = dict(floats(app))
    assert {"run timeout", "run cache_size", "edit brush", "simulate power"} <= set(found)
    assert [name for name, check in found.items() if check is not finite] == []


@pytest.mark.parametrize(
    "option", ["run --timeout", "run --cache-size", "study simulate --power", "study simulate --sd-noise"]
)
@pytest.mark.parametrize("value", ["inf", "nan", "1e999"])
def test_numbers_that_are_none(option: str, value: str) -> None:
    done = CliRunner().invoke(app, [*option.split(), value])
    assert done.exit_code == 2 and ("finite number" in done.output or "greater than" in done.output), done.output


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("key", ["seconds", "inversion_seconds", "peak_memory_mib"])
def test_a_record_with_a_number_that_is_none(tmp_path: Path, key: str, value: str) -> None:
    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    path = next((run / "edits").rglob("*.json"))
    text = json.dumps(json.loads(path.read_text()) | {key: "here"}).replace('"here"', value)
    path.write_text(text)
    edits, damaged = Store.open(run).edits()
    assert len(damaged) == 1 and f"{path.name} cannot be read ({value} is not a number)" in damaged[0]
    assert edits
