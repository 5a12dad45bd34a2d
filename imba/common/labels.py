"""Parameters and labels: how the fields of a dataclass are set by ``NAME:KEY=VALUE`` on the command line.

A *label* is ``name`` or ``name:key=value,key=value``.  Its canonical form names only the parameters that differ from
their defaults, sorted, so that one configuration has one label.  A class may keep settings under a name, as a class
attribute ``presets`` (name -> parameter -> value): ``name:preset=paper``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Any, Literal, TypeVar, Union

from cpam_bench.imba.errors import UserError

T = TypeVar("T")


def parameter(default: Any, help: str, source: str, *, later: bool = False, recorded: bool = True) -> Any:
    """A field of an editor, metric, layout or backbone: its default, what it does, and where the default comes from.

    Args:
        later: it was added to what runs are made with already: at its default it is in no record.
        recorded: False where it says where something is on this machine, and stands in no record and no table.
    """
    facts = {"help": help, "source": source, "later": later, "recorded": recorded}
    return dataclasses.field(default=default, metadata=facts)


def split(text: str) -> list[str]:
    """The labels of a comma-separated list; commas also separate a label's own parameters.

    >>> split("cpam:localization=false,guidance=5,masactrl")
    ['cpam:localization=false,guidance=5', 'masactrl']
    """
    labels: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if not part:
            continue
        continues = "=" in part and ":" not in part.partition("=")[0]
        if continues and labels and ":" in labels[-1]:
            labels[-1] += f",{part}"
        else:
            labels.append(part)
    return labels


def build(cls: type[T], what: str, text: str) -> T:
    """An object of a dataclass from ``key=value,key=value``; ``what`` names it in messages: ``method 'cpam'``.

    ``preset=NAME`` sets what the class keeps under that name in ``presets``; what else the text sets goes before it.

    Raises:
        UserError: unknown parameter, or a value that does not fit.
    """
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    presets = _presets(cls)
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    preset = ""
    for assignment in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in assignment.partition("="))
        if not equals:
            raise UserError(f"{what}: {assignment!r} is not key=value")
        if key == "preset" and presets:
            if preset:
                raise UserError(f"{what}: two presets are given")
            if value not in presets:
                raise UserError(f"{what} has no preset {value!r}; it has: {', '.join(presets)}")
            preset = value
            continue
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise UserError(f"{what} has no parameter {key!r}{close(key, fields)}; it has: {known}")
        if key in values:
            raise UserError(f"{what}: parameter {key!r} is given twice")
        try:
            values[key] = _parse(value, hints[key])
        except ValueError:
            raise UserError(
                f"{what}: {key}={value} does not fit; it takes {_describe(hints[key])}"
                f" (default {format_value(fields[key].default)})"
            ) from None
    try:
        return cls(**{**presets.get(preset, {}), **values})
    except (ValueError, TypeError) as error:
        raise UserError(f"{what}: {error}") from error


def require_types(made: Any) -> None:
    """Make sure that the parameters of an object are of their types, as those of a label are.

    Raises:
        UserError: one is not.
    """
    hints = typing.get_type_hints(type(made))
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        if not any(_is(value, choice) for choice in _choices(hints[field.name])):
            raise UserError(
                f"{type(made).__name__}: {field.name}={value!r} does not fit; it takes {_describe(hints[field.name])}"
                f" (default {format_value(field.default)})"
            )


def _is(value: Any, kind: Any) -> bool:
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def canonical(name: str, made: Any) -> str:
    """The label of an object that :func:`build` made: its name, and the parameters that are not their defaults.

    Where the parameters are nearer to one of its presets, the label names that and what differs from it.
    """
    values = parameters(made)
    defaults = {field.name: field.default for field in dataclasses.fields(made)}
    described: list[dict[str, Any]] = []
    for preset, settings in {"": {}, **_presets(type(made))}.items():
        usual = {**defaults, **settings}
        changed = {key: value for key, value in values.items() if value != usual[key]}
        described.append({**changed, **({"preset": preset} if preset else {})})
    shortest = min(described, key=len)
    text = ",".join(f"{key}={format_value(value)}" for key, value in sorted(shortest.items()))
    return f"{name}:{text}" if text else name


def _presets(cls: type[Any]) -> dict[str, dict[str, Any]]:
    """Settings under a name that a class may keep: name of the preset -> parameter -> value."""
    return {name: dict(settings) for name, settings in getattr(cls, "presets", {}).items()}


def parameters(made: Any) -> dict[str, Any]:
    """Every parameter of an object with its value, as records have it: what came later only where it is used."""
    return {
        field.name: getattr(made, field.name)
        for field in dataclasses.fields(made)
        if field.init
        and field.metadata.get("recorded", True)
        and not (field.metadata.get("later") and getattr(made, field.name) == field.default)
    }


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter as the lists of the command line show it; all fields are text."""

    name: str
    takes: str
    default: str
    help: str
    source: str


def describe(cls: type[Any]) -> list[Parameter]:
    """The presets of a class, if it has any, and its parameters in its own order."""
    hints = typing.get_type_hints(cls)
    described = [
        Parameter(
            field.name,
            _describe(hints[field.name]),
            format_value(field.default),
            str(field.metadata.get("help", "")),
            str(field.metadata.get("source", "")),
        )
        for field in dataclasses.fields(cls)
        if field.init
    ]
    if presets := _presets(cls):
        told = [
            f"{name} ({', '.join(f'{key}={format_value(value)}' for key, value in settings.items())})"
            for name, settings in presets.items()
        ]
        takes = _either(list(presets))
        described.insert(0, Parameter("preset", takes, "none", f"settings under a name: {'; '.join(told)}", ""))
    return described


def texts(cls: type[Any]) -> set[str]:
    """The parameters of a class that take any text, and so perhaps a path."""
    hints = typing.get_type_hints(cls)
    return {field.name for field in dataclasses.fields(cls) if str in _choices(hints[field.name])}


def close(word: str, known: typing.Iterable[str]) -> str:
    """Names that a mistyped one may have meant, as part of a message; "" if none is near."""
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
            if format_value(value) == text:
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


def format_value(value: Any) -> str:
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
            parts.extend(format_value(value) for value in typing.get_args(choice))
        else:
            parts.append(names.get(choice, str(choice)))
    return _either(parts)


def _either(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " or " + parts[-1] if len(parts) > 1 else parts[0]
