"""A method out of a file, without a package."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_helpers import FakeBackbone, method_file, run_all, samples

from cpam_bench.eval.audit.rerun import repeat
from cpam_bench.eval.methods import from_file, registry
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.errors import UserError


@pytest.fixture(autouse=True)
def _given() -> Iterator[None]:
    before = dict(registry.EDITORS.given)
    yield
    registry.EDITORS.given.clear()
    registry.EDITORS.given.update(before)


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_its_label_has_parameters_as_any(tmp_path: Path) -> None:
    path = write(tmp_path, method_file())
    assert from_file.give(f"{path}:Mine") == from_file.give(str(path)) == "mine"
    label, editor = registry.make("mine:by=3")
    assert label == "mine:by=3" and editor.by == 3  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="method 'mine' has no parameter 'strength'"):
        registry.make("mine:strength=3")
    with pytest.raises(UserError, match=r"unknown method 'mina'.*mine"):
        registry.make("mina")


def test_it_goes_to_another_process_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a process finds it that has not read the file; test_executors.py sends one to workers and to Ray."""
    path = write(tmp_path, method_file())
    from_file.give(f"{path}:Mine")
    made = registry.make("mine:by=4")[1]
    file, sent = from_file.of(made), pickle.dumps(made)
    path.unlink()
    monkeypatch.delitem(sys.modules, type(made).__module__)
    monkeypatch.setattr(from_file, "_LOADED", {})
    again = pickle.loads(sent)
    assert type(again) is not type(made) and again.by == 4 and from_file.of(again) == file
    assert pickle.loads(pickle.dumps(again)) == again  # and it goes on from there


def test_a_run_is_gone_on_with_by_the_same_content_alone(tmp_path: Path) -> None:
    path = write(tmp_path, method_file())
    from_file.give(f"{path}:Mine")
    assert run_all(tmp_path / "run", dict([registry.make("mine")]), samples(1)) == []
    store = Store.open(tmp_path / "run")
    edit = store.read_edit("mine", "s0")
    file = from_file.of(registry.make("mine")[1])
    assert file is not None and edit is not None
    assert edit.params == {"by": 1, "method_file": "mine.py", "method_file_sha256": file.sha256}
    assert store.run.methods["mine"].parameters == {"by": 1, "method_file_sha256": file.sha256}
    assert str(tmp_path) not in (tmp_path / "run" / "run.json").read_text()
    registry.EDITORS.given.clear()
    from_file.give(f"{write(tmp_path, method_file() + '# better', 'other.py')}:Mine")
    again = repeat(store, edit, FakeBackbone())
    assert again.error == "other.py is not the file that made it: it has another content"
    with pytest.raises(UserError, match=r"methods\.mine\.method_file_sha256: \w{12} -> \w{12}"):
        run_all(tmp_path / "run", dict([registry.make("mine")]), samples(1))


@pytest.mark.parametrize(
    ("text", "cls", "message"),
    [
        (None, "Mine", "cannot be read"),
        ("x = (", "Mine", r"mine\.py cannot be run: SyntaxError"),
        ("import beside", "Mine", "cannot be run: ModuleNotFoundError.*a method of several files is a package"),
        ("raise SystemExit(3)", "Mine", "cannot be run: SystemExit"),
        ("x = 1", "Mine", "has no class Mine"),
        ("x = 1", "", "it has no class with edit"),
        ("class Mine: pass", "Mine", "is not a method: it must be a dataclass"),
        (method_file("cpam"), "Mine", "its name 'cpam' is an installed method's"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str | None, cls: str, message: str) -> None:
    path = tmp_path / "mine.py" if text is None else write(tmp_path, text)
    with pytest.raises(UserError, match=message):
        from_file.give(f"{path}:{cls}" if cls else str(path))


def test_two_files_cannot_have_one_name(tmp_path: Path) -> None:
    from_file.give(f"{write(tmp_path, method_file())}:Mine")
    with pytest.raises(UserError, match=r"'mine' is taken by mine\.py, sha256"):
        from_file.give(f"{write(tmp_path, method_file(by=2), 'second.py')}:Mine")
