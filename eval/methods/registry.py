"""Which editors there are, and how a label on the command line becomes one.

Editors are found by the entry-point group ``cpam_bench.editors``, so that another package adds a method without a line
changed here.  A *label* is ``name`` or ``name:key=value,key=value``; its canonical form names only the parameters that
differ from their defaults, sorted, so that one configuration has one label.  ``NAME=FOLDER`` is the label of pictures
that were made elsewhere.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import inspect
import math
import re
import types
import typing
from typing import TYPE_CHECKING, Any, Literal, Union

from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from cpam_bench.baselines.imported import Imported
    from cpam_bench.cpam.editing import Editor
    from cpam_bench.imba.sample import Sample

GROUP = "cpam_bench.editors"
"""Entry-point group of editors."""

REFERENCES = ("identity", "reconstruction", "ddim", "ddim-paste")
"""Methods that bound the scale; a run shows them beside the ones asked for."""

_IMPORTED = re.compile(r"(\w[\w .+-]*)=(.+)")
"""``NAME=FOLDER``; a label with parameters has a colon before its first equals sign."""

_REQUIRED = ("name", "title", "capabilities", "reference", "edits", "edit")


def entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Name -> entry point of every installed editor; nothing is imported yet.

    If two packages use one name, the one of this package wins, else the first by name of the package.
    """
    found = list(importlib.metadata.entry_points(group=GROUP))
    found.sort(key=lambda point: (distribution(point)[0] != "cpam-bench", distribution(point)))
    points: dict[str, importlib.metadata.EntryPoint] = {}
    for point in found:
        points.setdefault(point.name, point)
    return points


def distribution(point: importlib.metadata.EntryPoint) -> tuple[str, str]:
    """Name and version of the package that an entry point comes from, empty if it is not known."""
    return (point.dist.name, point.dist.version) if point.dist else ("", "")


def load(name: str) -> type[Editor]:
    """The editor class of that name.

    Raises:
        UserError: there is no such editor, or it is broken (the message tells which package it comes from).
    """
    points = entry_points()
    if not points:
        raise UserError(
            "no editors are installed; install the package itself (pip install -e .) so that they are found"
        )
    if name not in points:
        raise UserError(f"unknown method {name!r}{_close(name, points)}; there are: {', '.join(sorted(points))}")
    point = points[name]
    try:
        editor = point.load()
    except Exception as error:  # anything at all can go wrong in somebody else's module
        package = " ".join(distribution(point)).strip() or "an unknown package"
        message = f"method {name!r} (from {package}, {point.value}) cannot be loaded: {type(error).__name__}: {error}"
        raise UserError(message) from error
    lacking = [attribute for attribute in _REQUIRED if not hasattr(editor, attribute)]
    if not (inspect.isclass(editor) and dataclasses.is_dataclass(editor)):
        raise UserError(f"method {name!r} ({point.value}) is not an editor: it must be a dataclass")
    if lacking:
        raise UserError(f"method {name!r} ({point.value}) is not an editor: it lacks {', '.join(lacking)}")
    return typing.cast("type[Editor]", editor)


def load_all() -> tuple[dict[str, type[Editor]], dict[str, str]]:
    """All editors that load, reference rows last, and for those that do not: name -> what is wrong."""
    editors: dict[str, type[Editor]] = {}
    broken: dict[str, str] = {}
    for name in sorted(entry_points()):
        try:
            editors[name] = load(name)
        except UserError as error:
            broken[name] = str(error)
    return dict(sorted(editors.items(), key=lambda item: not item[1].edits)), broken


def split(methods: str) -> list[str]:
    """The labels of a comma-separated list; commas also separate a label's own parameters.

    >>> split("cpam:localization=false,guidance=5,masactrl")
    ['cpam:localization=false,guidance=5', 'masactrl']
    """
    labels: list[str] = []
    for part in (part.strip() for part in methods.split(",")):
        if not part:
            continue
        continues = "=" in part and ":" not in part.partition("=")[0]
        if continues and labels and ":" in labels[-1]:
            labels[-1] += f",{part}"
        else:
            labels.append(part)
    return labels


def choose(methods: str) -> tuple[dict[str, Editor], list[str]]:
    """Canonical label -> editor of a comma-separated list, and what is wrong with installed editors that cannot load.

    ``all`` stands for every installed editor that edits; one that the list also names itself is only taken as named.

    Raises:
        UserError: unknown method or parameter, or a value that does not fit.
    """
    labels = split(methods)
    problems: list[str] = []
    if "all" in labels:
        installed, broken = load_all()
        problems = list(broken.values())
        named = {label.partition(":")[0] for label in labels}
        rest = [name for name, editor in installed.items() if editor.edits and name not in named]
        place = labels.index("all")
        labels = [label for label in [*labels[:place], *rest, *labels[place:]] if label != "all"]
    for label in labels:
        if is_imported(label):
            raise UserError(
                f"unknown method {label!r}; parameters are set as in cpam:guidance=5,"
                f" and ready-made pictures join with --import {label}"
            )
    return dict(make(label) for label in labels), problems


def imported(label: str) -> Imported:
    """The editor that hands out ready-made pictures, of ``NAME=FOLDER``.

    Raises:
        UserError: it is something else, the name is an installed method's, or the folder holds no pictures.
    """
    from cpam_bench.baselines.imported import Imported

    match = _IMPORTED.fullmatch(label)
    if not match:
        raise UserError(f"{label!r} is not NAME=FOLDER; a name has letters, digits, spaces, '.', '_', '+' and '-'")
    name, folder = match.groups()
    if name.lower() in {installed.lower() for installed in entry_points()}:
        raise UserError(f"--import {label}: {name} is an installed method; choose another name")
    return Imported(name, folder)


def is_imported(label: str) -> bool:
    """Whether a label is of ready-made pictures."""
    return _IMPORTED.fullmatch(label.strip()) is not None


def make(label: str) -> tuple[str, Editor]:
    """The canonical label and the editor that a label describes.

    Raises:
        UserError: unknown method or parameter, or a value that does not fit; the message lists what there is.
    """
    if is_imported(label):
        return label.strip(), imported(label.strip())
    name, _, text = label.strip().partition(":")
    cls = load(name)
    editor = build(cls, name, text)
    return canonical(name, editor), editor


def build(cls: type[Any], name: str, text: str) -> Any:
    """An editor of a class from ``key=value,key=value``; ``name`` is for messages.

    ``preset=NAME`` sets what the class keeps under that name in ``presets``; what else the text sets goes before it.
    """
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    presets = _presets(cls)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    preset = ""
    for assignment in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise UserError(f"method {name!r}: {assignment!r} is not key=value")
        if key == "preset" and presets:
            if preset:
                raise UserError(f"method {name!r}: two presets are given")
            if value not in presets:
                raise UserError(f"method {name!r} has no preset {value!r}; it has: {', '.join(presets)}")
            preset = value
            continue
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise UserError(f"method {name!r} has no parameter {key!r}{_close(key, fields)}; it has: {known}")
        if key in values:
            raise UserError(f"method {name!r}: parameter {key!r} is given twice")
        try:
            values[key] = _parse(value, hints[key])
        except ValueError:
            raise UserError(
                f"method {name!r}: {key}={value} does not fit; it takes {_describe(hints[key])}"
                f" (default {_format(fields[key].default)})"
            ) from None
    try:
        return cls(**{**presets.get(preset, {}), **values})
    except (ValueError, TypeError) as error:
        raise UserError(f"method {name!r}: {error}") from error


def canonical(name: str, editor: Any) -> str:
    """The label of an editor: its name and the parameters that differ from their defaults, sorted.

    Where the parameters are nearer to one of its presets, the label names that and what differs from it.
    """
    values = parameters(editor)
    defaults = {field.name: field.default for field in dataclasses.fields(editor)}
    described: list[dict[str, Any]] = []
    for preset, settings in {"": {}, **_presets(type(editor))}.items():
        usual = {**defaults, **settings}
        changed = {key: value for key, value in values.items() if value != usual[key]}
        described.append({**changed, **({"preset": preset} if preset else {})})
    shortest = min(described, key=len)
    text = ",".join(f"{key}={_format(value)}" for key, value in sorted(shortest.items()))
    return f"{name}:{text}" if text else name


def _presets(cls: type[Any]) -> dict[str, dict[str, Any]]:
    """Settings under a name that a class may keep: name of the preset -> parameter -> value."""
    return {name: dict(settings) for name, settings in getattr(cls, "presets", {}).items()}


def parameters(editor: Any) -> dict[str, Any]:
    """Every parameter of an editor with its value."""
    return {field.name: getattr(editor, field.name) for field in dataclasses.fields(editor) if field.init}


def inputs(editor: Any, sample: Sample) -> dict[str, Any]:
    """What an edit is made from besides its sample and parameters: files and their hashes, where an editor says so."""
    return dict(editor.inputs(sample)) if hasattr(editor, "inputs") else {}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter as ``cpam-bench methods`` shows it; all fields are text."""

    name: str
    takes: str
    default: str
    help: str
    source: str


def describe(cls: type[Any]) -> list[Parameter]:
    """The presets of an editor class, if it has any, and its parameters in its own order."""
    hints = typing.get_type_hints(cls)
    described = [
        Parameter(
            field.name,
            _describe(hints[field.name]),
            _format(field.default),
            str(field.metadata.get("help", "")),
            str(field.metadata.get("source", "")),
        )
        for field in dataclasses.fields(cls)
        if field.init
    ]
    if presets := _presets(cls):
        told = [
            f"{name} ({', '.join(f'{key}={_format(value)}' for key, value in settings.items())})"
            for name, settings in presets.items()
        ]
        takes = _either(list(presets))
        described.insert(0, Parameter("preset", takes, "none", f"settings under a name: {'; '.join(told)}", ""))
    return described


def _close(word: str, known: typing.Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(matches)}?)" if matches else ""


def _choices(kind: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return [choice for member in typing.get_args(kind) for choice in _choices(member)]
    return [kind]


def _parse(text: str, kind: Any) -> Any:
    """A value from its text by type; ValueError if it is of none of the types."""
    # In a union the strictest reading wins, so that "none" is None and "3" an int before either is a string.
    order = {type(None): 0, bool: 1, int: 2, float: 3}
    for choice in sorted(_choices(kind), key=lambda choice: order.get(choice, 9 if choice is str else 4)):
        try:
            return _parse_one(text, choice)
        except ValueError:
            continue
    raise ValueError(text)


def _parse_one(text: str, kind: Any) -> Any:
    if typing.get_origin(kind) is Literal:
        for value in typing.get_args(kind):
            if _format(value) == text:
                return value
        raise ValueError(text)
    lowered = text.lower()
    if kind is type(None):
        if lowered in ("none", "null"):
            return None
    elif kind is bool:
        if lowered in ("true", "yes", "on", "1"):
            return True
        if lowered in ("false", "no", "off", "0"):
            return False
    elif kind is int:
        return int(text)
    elif kind is float:
        number = float(text)
        if math.isfinite(number):
            return number
    elif kind is str:
        return text
    raise ValueError(text)


def _format(value: Any) -> str:
    """A value as a label writes it; :func:`_parse` reads it back."""
    if value is dataclasses.MISSING:
        return "required"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _describe(kind: Any) -> str:
    """The type of a parameter in words."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "none"}
    parts: list[str] = []
    for choice in _choices(kind):
        if typing.get_origin(choice) is Literal:
            parts.extend(_format(value) for value in typing.get_args(choice))
        else:
            parts.append(names.get(choice, str(choice)))
    return _either(parts)


def _either(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " or " + parts[-1] if len(parts) > 1 else parts[0]
