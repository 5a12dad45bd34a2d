"""What a run foretells, and what it says where there is no terminal."""

from __future__ import annotations

import pytest

from cpam_bench.eval.run import progress


def test_the_forecast_is_the_first_edits_times_their_numbers_over_the_workers() -> None:
    line = progress.forecast({"cpam": 10, "imagic": 10}, {"cpam": 3.0, "imagic": 660.0}, 2)
    assert "cpam 3.0 s, imagic 660.0 s" in line
    assert "about 0:55:15 for all 20" in line


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bars({f"s{i}": ["cpam"] for i in range(10)}, None) as bars:
        for _ in range(6):
            now[0] += 10
            bars.advance("cpam", 10.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("the first edits took cpam 10.0 s; about 0:01:40 for all 10")
    assert lines[1:] == ["3 of 10 edits, about 0:01:10 left", "6 of 10 edits, about 0:00:40 left"]


def test_nothing_where_nothing_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bars({"s0": ["cpam"]}, False) as bars:
        bars.advance("cpam", 1.0)
    assert capsys.readouterr().err == ""
