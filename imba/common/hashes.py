"""Hashes by which files and weights are told apart."""

from __future__ import annotations

import functools
import hashlib
import json
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

POCKET = Path(__file__).parents[1] / "data" / "pocket-hashes.json"
"""Hashes of everything that has shipped as pocket, in this version and in earlier ones."""


def digest(path: Path) -> str | None:
    """sha256 of a regular file's contents, or None if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def records_hash(records: Any) -> str:
    """sha256 over a data set's records as JSON has them, whatever their spacing and the order of their keys."""
    return hashlib.sha256(json.dumps(records, sort_keys=True, default=str).encode()).hexdigest()


def weights_hash(module: Any) -> str:
    """SHA-256 over a torch module's parameters and buffers, by name."""
    import torch  # what reads data sets alone does without it

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def are_pocket(digests: Iterable[str | None]) -> bool:
    """Whether one of these hashes is of the small embedded parts, wherever they lie and whatever they are called.

    Args:
        digests: of weights as :func:`weights_hash` has them in any dtype, or a data set's fingerprint.
    """
    return not _pocket().isdisjoint(digests)


@functools.cache
def _pocket() -> frozenset[str]:
    known = json.loads(POCKET.read_text(encoding="utf-8"))
    return frozenset(digest for part, digests in known.items() if part != "what" for digest in digests)
