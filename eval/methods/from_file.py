"""A method out of a Python file, tried before there is a package for it."""

from __future__ import annotations

import copyreg
import dataclasses
import hashlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cpam_bench.eval.methods.registry import EDITORS
from cpam_bench.imba.common.places import get
from cpam_bench.imba.errors import UserError

WHAT = "FILE.py:CLASS"


@dataclass(frozen=True)
class MethodFile:
    """A file with a method, as it was read: what happens to the file later changes nothing.

    Attributes:
        name: of the file, without its folder.
        cls: the method's class in it.
        source: its bytes.
    """

    name: str
    cls: str
    source: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.source).hexdigest()


_LOADED: dict[type[Any], MethodFile] = {}


def of(editor: Any) -> MethodFile | None:
    """The file that an editor comes from; None for one of a package."""
    return _LOADED.get(type(editor))


def give(text: str) -> str:
    """Read a file and let its method be made by its name in this process; workers get it with the run.

    Args:
        text: ``FILE.py:CLASS``; ``FILE.py`` where the file defines one dataclass that edits.

    Returns:
        the method's name.

    Raises:
        UserError: the file cannot be read or run, has no such class, its class is no method, or the name is taken.
    """
    place, colon, cls = text.rpartition(":")
    if not colon or not cls.isidentifier():
        place, cls = text, ""
    path = Path(place).expanduser()
    try:
        source = get(path)
    except OSError as error:
        raise UserError(f"--method-file {text}: {path} cannot be read ({error.strerror}); give {WHAT}") from error
    file = MethodFile(path.name, cls or _only_class(path, source), source)
    loaded = load(file)
    EDITORS.give(loaded, f"{file.name}, sha256 {file.sha256[:12]}")
    return str(loaded.name)


def load(file: MethodFile) -> Any:
    """The class, loaded once a process; its objects can be sent to workers, and take the file along.

    Raises:
        UserError: the file cannot be run, or has no such class.
    """
    cls = getattr(_module(file.name, file.source), file.cls, None)
    if not inspect.isclass(cls):
        raise UserError(f"--method-file {file.name} has no class {file.cls}")
    if cls not in _LOADED:
        _LOADED[cls] = file
        copyreg.pickle(cls, _reduce)  # type: ignore[arg-type]
    return cls


def _module(name: str, source: bytes) -> ModuleType:
    """The file as a module of a name that nothing else has."""
    called = f"cpam_bench_method_file_{hashlib.sha256(source).hexdigest()[:16]}"
    if called not in sys.modules:
        module = ModuleType(called)
        module.__file__ = name
        sys.modules[called] = module  # dataclasses look their module up while it is made
        try:
            exec(compile(source, name, "exec"), module.__dict__)
        except (Exception, SystemExit) as error:  # anything at all can go wrong in somebody else's file
            del sys.modules[called]
            beside = "; what lies beside it is not imported: a method of several files is a package"
            more = beside if isinstance(error, ImportError) else ""
            raise UserError(f"--method-file {name} cannot be run: {type(error).__name__}: {error}{more}") from error
    return sys.modules[called]


def _only_class(path: Path, source: bytes) -> str:
    module = _module(path.name, source)
    found = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and hasattr(value, "edit")
    ]
    if len(found) != 1:
        there = f"it has {', '.join(found)}" if found else "it has no class with edit()"
        raise UserError(f"--method-file {path}: say which class, {WHAT}; {there}")
    return found[0]


def _reduce(made: Any) -> tuple[Any, tuple[MethodFile, dict[str, Any]]]:
    values = {field.name: getattr(made, field.name) for field in dataclasses.fields(made) if field.init}
    return _rebuild, (_LOADED[type(made)], values)


def _rebuild(file: MethodFile, values: dict[str, Any]) -> Any:
    return load(file)(**values)
