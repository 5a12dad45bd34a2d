"""What others are shown of this machine's files: names and hashes, and never where something lies."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = "local-dir:"
"""What stands before a folder where open_clip is given one."""

_PLACE = re.compile(r"/|~|\.{1,2}/|[A-Za-z]:[\\/]|\\\\")
"""How a path begins that is no name: a hub id has one slash inside, and none before."""
_INSIDE = re.compile(r"(?<![\w./~])(?:file://|local-dir:|~|[A-Za-z]:)?(?:[/\\][^\s/\\'\"<>:;,|()\[\]]+){2,}[/\\]?")
"""A path of at least two parts in the middle of a text; what follows a URL's host has a letter before it."""


def is_place(name: str) -> bool:
    """Whether a name says where something lies on this machine.

    >>> [is_place(name) for name in ("pocket", "org/model", "ViT-L-14/openai", "/home/me/sd", "local-dir:clip")]
    [False, False, False, True, True]
    """
    return name.startswith(FOLDER) or bool(_PLACE.match(name)) or ("://" not in name and name.count("/") > 1)


def recorded(name: str) -> str:
    """A name as a record keeps it: of a file or folder that is here the whole path, so that it is told from a hub id.

    A name without a slash is kept, since it says nothing of where it is.
    """
    return str(Path(name).absolute()) if re.search(r"[/\\]", name) and Path(name).exists() else name


def shown(name: str, digest: str | None = None) -> str:
    """A name for others to see: of a path its last part, with the first digits of its hash where that is known.

    >>> shown("/home/me/models/sd", "1a2b3c4d5e6f"), shown("org/model", "1a2b3c4d5e6f"), shown("local-dir:a/clip")
    ('sd (1a2b3c4d)', 'org/model', 'clip')
    """
    if not is_place(name):
        return name
    last = re.split(r"[/\\]", name.removeprefix(FOLDER).rstrip("/\\"))[-1] or "a folder"
    return f"{last} ({digest[:8]})" if digest else last


def without_places(text: str) -> str:
    """A text with the last part of each path in it in place of the whole.

    >>> without_places("no /home/me/a.png, as https://example.org/a/b says; and/or 1/2")
    'no a.png, as https://example.org/a/b says; and/or 1/2'
    """
    return _INSIDE.sub(lambda found: re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)


def cleared(value: Any) -> Any:
    """What JSON can hold, with a name in place of every path in it."""
    if isinstance(value, str):
        return shown(value) if _PLACE.match(value) and not re.search(r"\s", value) else without_places(value)
    if isinstance(value, dict):
        return {key: cleared(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [cleared(part) for part in value]
    return value


def distinct(labels: Iterable[str]) -> dict[str, str]:
    """Label -> the label without paths; two that would be the same then have a hash of the whole in it.

    >>> distinct(["cpam", "mine:weights=/home/me/a.pt"])
    {'cpam': 'cpam', 'mine:weights=/home/me/a.pt': 'mine:weights=a.pt'}
    """
    labels = list(labels)
    bare = {label: without_places(label) for label in labels}
    counts = Counter(bare.values())
    return {
        label: name if counts[name] == 1 else f"{name} ({hashlib.sha256(label.encode()).hexdigest()[:8]})"
        for label, name in bare.items()
    }
