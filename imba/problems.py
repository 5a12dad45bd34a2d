"""What can be wrong with a data set, and how text of others is shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]

# Control characters, which a terminal obeys; those that turn the direction of writing; halves of surrogate pairs.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A text of others as a terminal can show it: what it would obey is written out (``\x1b``); line ends stay."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def shown(text: str, limit: int = 80) -> str:
    """The beginning of a text of others, on one line, and how long it is where it is cut."""
    line = printable(" ".join(text[: 4 * limit].split()))
    if len(text) <= limit and len(line) <= limit:
        return line
    return f"{line[:limit]}... ({len(text)} characters)"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a data set.

    Attributes:
        severity: ``error`` if the sample cannot be edited or scored, else ``warning``.
        what: what is wrong; the same words for the same fault, so that faults can be grouped.
        mend: what to do about it.
        sample: id of the sample, or None if the record did not become one.
        record: which record, counted from 0 or by its key, or None if it is not about one.
        file: the file, relative to the data set's folder (or as the record names it, if it is elsewhere).
        listed: the file that holds the records.
    """

    severity: Severity
    what: str
    mend: str
    sample: str | None = None
    record: int | str | None = None
    file: str | None = None
    listed: str = "data.json"

    def __str__(self) -> str:
        where = [] if self.record is None else [self.place]
        where += [part for part in (self.sample, self.file) if part]
        return printable(f"{self.severity}: {', '.join(where) or 'data set'}: {self.what}. {self.mend}.")

    @property
    def place(self) -> str:
        """The record, as one finds it in its file."""
        return f"{self.listed}[{self.record}]"


def summarize(problems: Iterable[Problem], samples: int, files: int = 4) -> list[str]:
    """One line a kind of problem: how many samples it touches and the first few files or records.

    Args:
        problems: to be grouped by what is wrong and its mend.
        samples: how many samples the data set has.
        files: how many names a line shows.
    """
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.what, problem.mend), []).append(problem)
    lines = []
    for (what, mend), group in groups.items():
        touched = {problem.sample for problem in group if problem.sample}
        names = list(dict.fromkeys(_name(problem) for problem in group))
        listed = ", ".join(names[:files]) + (f" and {len(names) - files} more" if len(names) > files else "")
        every = samples > 1 and len(touched) == samples
        count = (
            "every sample" if every else f"{len(touched)} of {samples} samples" if touched else "no sample made of it"
        )
        lines.append(printable(f"{what} ({count}): {listed}. {mend}."))
    return lines


def _name(problem: Problem) -> str:
    if problem.sample is None and problem.record is not None:
        return f"{problem.place} ({problem.file})" if problem.file else problem.place
    return problem.file or problem.sample or problem.listed
