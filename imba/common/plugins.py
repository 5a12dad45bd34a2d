"""What other packages add: editors, metrics, layouts and backbones, found by their entry points.

Each is a dataclass whose fields are its parameters (:mod:`cpam_bench.imba.common.labels`) and whose class attributes
are facts about it.  A package adds one by an entry point of its group, without a line changed here.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from cpam_bench.imba.common.labels import build, canonical, close, describe
from cpam_bench.imba.errors import UserError

T = TypeVar("T")

OWN = "cpam-bench"
"""The name of this package, whose entry points win over others of the same name."""


@dataclass(frozen=True)
class Group(Generic[T]):
    """One kind of thing that packages add.

    Attributes:
        name: the entry-point group.
        noun: what one of it is called in messages.
        facts: class attributes that it must have, with the type of each.
        methods: what it must be able to do.
        check: looks at a class whose facts hold, and says what else is wrong with it; "" if nothing is.
        given: what was given by hand in this process, and no package has: name -> class, and where it comes from.
    """

    name: str
    noun: str
    facts: Mapping[str, type]
    methods: Sequence[str] = ()
    check: Callable[[type[T]], str] = lambda cls: ""
    given: dict[str, tuple[type[T], str]] = field(default_factory=dict)

    def entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        """Name -> entry point of everything installed; nothing is imported yet.

        If two packages use one name, the one of this package wins, else the first by name of the package.
        """
        return {name: points[0] for name, points in self._found().items()}

    def load(self, name: str) -> type[T]:
        """The class of that name.

        Raises:
            UserError: there is none, or it is broken (the message tells which package it comes from).
        """
        if name in self.given:
            return self.given[name][0]
        points = self.entry_points()
        if not points:
            raise UserError(
                f"no {self.noun}s are installed; install the package itself (pip install -e .) so that they are found"
            )
        if name not in points:
            known = ", ".join(sorted([*points, *self.given]))
            raise UserError(f"unknown {self.noun} {name!r}{close(name, points)}; there are: {known}")
        point = points[name]
        what = f"{self.noun} {name!r} ({point.value})"
        try:
            cls = point.load()
        except (Exception, SystemExit) as error:  # anything at all can go wrong in somebody else's module
            where = f"(from {package(point) or 'an unknown package'}, {point.value})"
            raise UserError(f"{self.noun} {name!r} {where} cannot be loaded: {_words(error)}") from error
        return self._whole(cls, what)

    def give(self, cls: type[T], origin: str) -> None:
        """Let a class that no package has be made by its name in this process.

        Raises:
            UserError: it is not what it must be, or its name is taken.
        """
        what = f"{self.noun} {getattr(cls, '__name__', cls)!r} ({origin})"
        name = str(getattr(self._whole(cls, what), "name"))  # noqa: B009
        if name in self.entry_points():
            raise UserError(f"{what}: its name {name!r} is an installed {self.noun}'s; give it another name")
        if name in self.given and self.given[name] != (cls, origin):
            raise UserError(f"{what}: its name {name!r} is taken by {self.given[name][1]}; give it another name")
        self.given[name] = (cls, origin)

    def _whole(self, cls: object, what: str) -> type[T]:
        """The class, made sure to be what it must be.

        Raises:
            UserError: it is not.
        """
        if not (inspect.isclass(cls) and dataclasses.is_dataclass(cls)):
            raise UserError(f"{what} is not {_a(self.noun)}: it must be a dataclass")
        if lacking := [key for key in (*self.facts, *self.methods) if not hasattr(cls, key)]:
            raise UserError(f"{what} is not {_a(self.noun)}: it lacks {', '.join(lacking)}")
        for key, kind in self.facts.items():
            if not isinstance(value := getattr(cls, key), kind):
                found = type(value).__name__
                raise UserError(f"{what} is broken: its {key} must be of type {kind.__name__}, and is of {found}")
        if uncallable := [key for key in self.methods if not callable(getattr(cls, key))]:
            raise UserError(f"{what} is broken: its {uncallable[0]} cannot be called")
        try:
            describe(cls)
            wrong = self.check(cast("type[T]", cls))
        except Exception as error:  # annotations that name nothing, for instance
            raise UserError(f"{what} is broken: {_words(error)}") from error
        if wrong:
            raise UserError(f"{what} is broken: {wrong}")
        return cast("type[T]", cls)

    def load_all(self) -> tuple[dict[str, type[T]], dict[str, str]]:
        """Everything that loads, by name, and for what does not or has a taken name: name -> what is wrong."""
        loaded: dict[str, type[T]] = {}
        broken: dict[str, str] = {}
        for name, (used, *others) in sorted(self._found().items()):
            try:
                loaded[name] = self.load(name)
            except UserError as error:
                broken[name] = str(error)
            for point in others:
                theirs = package(point) or "an unknown package"
                broken[f"{point.name} ({theirs})"] = (
                    f"{self.noun} {point.name!r} from {theirs} ({point.value}) is not used: the name is taken by"
                    f" {package(used) or 'an unknown package'} ({used.value}); rename one of them"
                )
        return loaded, broken

    def make(self, label: str) -> tuple[str, T]:
        """The canonical label and the object that a label describes.

        Raises:
            UserError: unknown name or parameter, or a value that does not fit; the message lists what there is.
        """
        name, _, text = label.strip().partition(":")
        made = build(self.load(name), f"{self.noun} {name!r}", text)
        return canonical(name, made), made

    def package_of(self, name: str) -> str:
        """Name and version of the package that one comes from, or the file; empty if it is not known."""
        if name in self.given:
            return self.given[name][1]
        point = self.entry_points().get(name)
        return package(point) if point else ""

    def _found(self) -> dict[str, list[importlib.metadata.EntryPoint]]:
        """Name -> the entry points of that name and different values, the one that is used first."""
        found: dict[str, dict[str, importlib.metadata.EntryPoint]] = {}
        for point in _installed(self.name):
            found.setdefault(point.name, {}).setdefault(point.value, point)
        return {name: _by_package(list(points.values())) for name, points in found.items()}


def _by_package(points: list[importlib.metadata.EntryPoint]) -> list[importlib.metadata.EntryPoint]:
    """This package's own first, the others by name of their package.

    One alone is not asked for its package, which is read from a file of some kilobytes each time.
    """
    if len(points) == 1:
        return points
    return sorted(points, key=lambda point: (not package(point).startswith(f"{OWN} "), package(point)))


def package(point: importlib.metadata.EntryPoint) -> str:
    """Name and version of the package that an entry point comes from, empty if it is not known."""
    return f"{point.dist.name} {point.dist.version}" if point.dist else ""


def _installed(group: str) -> Sequence[importlib.metadata.EntryPoint]:
    return list(importlib.metadata.entry_points(group=group))


def _words(error: BaseException) -> str:
    """An exception in words, even one that fails to say what it is."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
