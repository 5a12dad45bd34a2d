"""How numbers are written, the same in the terminal, in Markdown, LaTeX, HTML and in words."""

from __future__ import annotations

import math

FEW = 5
"""Below so many values a bootstrap interval is too narrow to be trusted; it is marked by a dagger."""

DAGGER = f"†: an interval over fewer than {FEW} samples, which is too narrow to be trusted"

_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "✓": r"$\checkmark$",
    "✗": r"$\times$",
    "×": r"$\times$",
    "²": "$^2$",
    "³": "$^3$",
    "⁴": "$^4$",
    "≠": r"$\neq$",
    "−": "$-$",
    "–": "--",
    "±": r"$\pm$",
    "†": r"\dag{}",
    "…": r"\ldots{}",
} | {character: f"\\{character}" for character in "&%$#_{}"}


def number(value: float, digits: int, sign: bool = False) -> str:
    """A number with a real minus sign; a dash for one that is not known.

    >>> number(-0.5, 2), number(0.5, 2, sign=True), number(float("nan"), 2)
    ('−0.50', '+0.50', '–')
    """
    if math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int, sign: bool = False, n: int | None = None) -> str:
    """An interval in brackets, marked where it rests on few values; nothing where there is none.

    >>> interval(1, 2, 1), interval(1, 2, 1, n=4), interval(float("nan"), 2, 1)
    ('[1.0, 2.0]', '[1.0, 2.0]†', '')
    """
    if math.isnan(low):
        return ""
    mark = "†" if n is not None and n < FEW else ""
    return f"[{number(low, digits, sign)}, {number(high, digits, sign)}]{mark}"


def estimate(mean: float, low: float, high: float, digits: int, sign: bool = False, n: int | None = None) -> str:
    """A number with its interval."""
    return " ".join(filter(None, [number(mean, digits, sign), interval(low, high, digits, sign, n)]))


def tex(text: str) -> str:
    """Text as LaTeX has it (``amssymb`` for the ticks)."""
    return "".join(_TEX.get(character, character) for character in text)
