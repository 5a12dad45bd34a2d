"""Hashes by which files and weights are told apart."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any


def digest(path: Path) -> str | None:
    """sha256 of a regular file's contents, or None if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for without end
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def weights_hash(module: Any) -> str:
    """SHA-256 over a torch module's parameters and buffers, by name."""
    import torch  # what reads data sets alone does without it

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
