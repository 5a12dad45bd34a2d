"""The table of inputs names every test, and each that it names is there."""

from __future__ import annotations

from pathlib import Path

from paths import ROOT

TABLE = ROOT / "tests" / "inputs" / "README.md"


def test_every_file_of_tests_is_in_the_table() -> None:
    text = TABLE.read_text(encoding="utf-8")
    here = {path.name for path in TABLE.parent.glob("test_*.py")} - {Path(__file__).name}
    assert here and [name for name in sorted(here) if f"`{name}" not in text] == []


def test_every_test_that_it_names_is_there(request) -> None:  # type: ignore[no-untyped-def]
    (conftest,) = [p for p in request.config.pluginmanager.get_plugins() if hasattr(p, "elsewhere")]
    named = conftest.elsewhere()
    assert len(named) > 20
    for file, test in named:
        assert f"def {test}" in file.read_text(encoding="utf-8"), (file, test)
