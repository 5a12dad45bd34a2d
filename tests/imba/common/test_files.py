"""The one writer: whole or not at all, under temporary names that nobody else can own."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from paths import ROOT

from cpam_bench.imba.common.files import making, no_formula, write_atomic, write_new, write_rows
from cpam_bench.imba.errors import UserError

TEMPORARY = re.compile(r"""os\.replace|mkstemp|["'}]\.(part|tmp)\b|\.(part|tmp)["']""")
"""What makes a temporary name: such a call, or a string that begins or ends with such a suffix."""


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.part").write_text("somebody's")
    with pytest.raises(ValueError, match="no luck"), making(tmp_path / "a") as part:
        part.write_bytes(b"half")
        raise ValueError("no luck")
    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]
    with making(tmp_path / "a") as part:
        part.write_bytes(b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole" and (tmp_path / "a.part").read_text() == "somebody's"


def test_a_new_file_never_takes_the_place_of_another(tmp_path: Path) -> None:
    write_new(tmp_path / "a", b"first")
    with pytest.raises(FileExistsError):
        write_new(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first" and len(list(tmp_path.iterdir())) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_new(tmp_path / "file" / "a", b"")


def test_a_private_file_is_nobody_elses_to_read(tmp_path: Path) -> None:
    os.umask(before := os.umask(0o022))
    write_atomic(tmp_path / "links", b"r01,/r/secret", private=True)
    write_atomic(tmp_path / "table", b"a,b")
    assert stat.S_IMODE((tmp_path / "links").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "table").stat().st_mode) == 0o666 & ~before


def test_formulas_are_escaped_where_others_open_the_table(tmp_path: Path) -> None:
    cells = ["=1+1", "+x", "-x", "@x", "\tx", "plain", -1.5, None]
    assert [no_formula(cell) for cell in cells] == ["'=1+1", "'+x", "'-x", "'@x", "'\tx", "plain", -1.5, None]
    write_rows(tmp_path / "t.csv", ["a", "b"], [("=1+1", -2)], shared=True)
    assert (tmp_path / "t.csv").read_text() == "a,b\n'=1+1,-2\n"


def test_temporary_names_are_made_in_one_place() -> None:
    """So that none of them can ever be a name that somebody else owns."""
    allowed = {"imba/common/files.py", "imba/common/folders.py"}
    found = []
    for folder in ("imba", "cpam", "baselines", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            if name not in allowed and TEMPORARY.search(path.read_text()):
                found.append(name)
    assert found == []
