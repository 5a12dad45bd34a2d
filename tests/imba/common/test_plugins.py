"""What other packages add is found, and what is wrong with one of them is told and costs the others nothing."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpam_bench.eval.methods.registry import EDITORS
from cpam_bench.imba.common import plugins
from cpam_bench.imba.common.labels import parameter
from cpam_bench.imba.common.plugins import Group
from cpam_bench.imba.errors import UserError

GROUP: Group[object] = Group("made.up", "gadget", {"name": str, "works": bool}, ["measure"])

CODE = f"""
import sys
from dataclasses import dataclass
from cpam_bench.imba.common.labels import parameter
from cpam_bench.cpam.editing import Capabilities

@dataclass(frozen=True)
class Good:
    name = "good"
    works = True
    size: int = {parameter.__name__}(3, "how large", "the test")
    def measure(self): ...

class Bare:
    name, works = "bare", True
    def measure(self): ...

@dataclass(frozen=True)
class Lacking:
    name = "lacking"

@dataclass(frozen=True)
class Wrong:
    name = None
    works = True
    def measure(self): ...

@dataclass(frozen=True)
class Still:
    name, works, measure = "still", True, 3

@dataclass(frozen=True)
class Odd:
    name, works = "odd", True
    size: "Nowhere" = 3
    def measure(self): ...

@dataclass(frozen=True)
class Editor:
    name, title, reference, edits, capabilities = "e", "E", "", True, Capabilities()
    def edit(self, sample, source, seed): ...

class Untitled(Editor):
    title = 3

class Incapable(Editor):
    capabilities = None
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Packages that are really there, as far as importlib.metadata can tell: name, code of the module, entry points."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(package: str, module: str, code: str, group: str, **points: str) -> None:
        (tmp_path / f"{module}.py").write_text(code)
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name.replace('_', '-')} = {module}{value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()

    return add


def test_what_is_broken_is_listed_and_the_rest_loads(install: Install) -> None:
    names = ("Good", "Bare", "Lacking", "Wrong", "Still", "Odd")
    install("gadgets", "gadgets", CODE, GROUP.name, **{name.lower(): f":{name}" for name in names}, gone=":Gone")
    install("quitter", "quitter", "import sys\nsys.exit('I give up')", GROUP.name, quits=":Any")
    silent = "class Silent(Exception):\n    def __str__(self): raise ValueError\nraise Silent"
    install("mute", "mute", silent, GROUP.name, mute=":Any")
    loaded, broken = GROUP.load_all()
    assert list(loaded) == ["good"]
    for name, words in {
        "bare": "must be a dataclass",
        "lacking": "lacks works, measure",
        "wrong": "its name must be of type str, and is of NoneType",
        "still": "its measure cannot be called",
        "odd": "Nowhere",
        "gone": "AttributeError",
        "quits": "(from quitter 1.0, quitter:Any) cannot be loaded: SystemExit: I give up",
        "mute": "cannot be loaded: Silent",
    }.items():
        assert words in broken.pop(name)
    assert not broken
    label, made = GROUP.make("good:size=4")
    assert label == "good:size=4" and made.size == 4  # type: ignore[attr-defined]
    assert GROUP.make("good:size=3")[0] == "good"
    assert GROUP.package_of("good") == "gadgets 1.0" and GROUP.package_of("nothing") == ""
    with pytest.raises(UserError, match=r"unknown gadget 'goood' \(did you mean good or odd\?\)"):
        GROUP.load("goood")
    with pytest.raises(UserError, match="gadget 'good' has no parameter 'sise'"):
        GROUP.make("good:sise=4")


def test_packages_are_asked_for_only_where_names_clash(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a file to read, and thousands were, which took a run of one sample two seconds."""
    asked: list[str] = []
    monkeypatch.setattr(plugins, "package", lambda point: asked.append(point.value) or "")
    install("one", "one", CODE, GROUP.name, good=":Good", bare=":Bare")
    GROUP.load("good")
    assert asked == []
    install("two", "two", CODE, GROUP.name, good=":Good")
    GROUP.load("good")
    assert set(asked) == {"one:Good", "two:Good"}


def test_no_package_at_all() -> None:
    with pytest.raises(UserError, match="no gadgets are installed"):
        GROUP.load("good")
    assert GROUP.load_all() == ({}, {})


def test_a_taken_name_stays_with_this_package_and_the_clash_is_named(install: Install) -> None:
    install("aaa", "aaa", CODE, EDITORS.name, cpam=":Editor", mine=":Editor")
    install("bbb", "bbb", CODE, EDITORS.name, mine=":Editor")
    loaded, broken = EDITORS.load_all()
    assert loaded["cpam"].title == "CPAM" and loaded["mine"].__module__ == "aaa"
    assert (
        "method 'cpam' from aaa 1.0 (aaa:Editor) is not used: the name is taken by cpam-bench"
        in broken["cpam (aaa 1.0)"]
    )
    assert "is not used: the name is taken by aaa 1.0" in broken["mine (bbb 1.0)"]


def test_editors_with_odd_facts_are_broken(install: Install) -> None:
    install("odd", "odd", CODE, EDITORS.name, untitled=":Untitled", incapable=":Incapable")
    _, broken = EDITORS.load_all()
    assert "its title must be of type str, and is of int" in broken["untitled"]
    assert "its capabilities must be Capabilities, and are None" in broken["incapable"]
    command = [sys.executable, "-m", "cpam_bench.eval.commands.main"]
    where = sys.path[0]
    for arguments in (["methods"], ["table", "1"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env={"PYTHONPATH": where})
        assert done.returncode == 0, done.stderr
        assert "method 'incapable' (odd:Incapable) is broken" in done.stdout + done.stderr
