"""Files that are made from others (scores, tables): hashes noted once they are written, and checked by readers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cpam_bench.eval.store.store import checked, read_json
from cpam_bench.imba.common.files import write_json
from cpam_bench.imba.errors import Damaged

HASHES = "hashes.json"


def note(folder: Path, names: Iterable[str]) -> None:
    """Note in ``hashes.json`` what some files of a run's folder hold now."""
    try:
        noted = hashes(folder) or {}
    except Damaged:
        noted = {}  # what is not noted anew was not to be trusted
    noted |= {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    write_json(folder / HASHES, dict(sorted(noted.items())))


def check(folder: Path, name: str) -> bool:
    """Make sure that a file is the one that was written; False where no hash of it is noted, as in early runs.

    Raises:
        Damaged: it is not, or the hashes cannot be read.
    """
    noted = hashes(folder)
    if noted is None or name not in noted:
        return False
    checked(folder / name, noted[name])
    return True


def hashes(folder: Path) -> dict[str, str] | None:
    """File name -> sha256 of what is noted, or None for nothing.

    Raises:
        Damaged: ``hashes.json`` cannot be read.
    """
    path = folder / HASHES
    data = read_json(path)
    if data is None:
        return None
    if not all(isinstance(value, str) for value in data.values()):
        raise Damaged(f"{path} is not a list of hashes")
    return data
