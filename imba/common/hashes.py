"""Hashes by which weights are told apart."""

from __future__ import annotations

import hashlib
from typing import Any


def weights_hash(module: Any) -> str:
    """SHA-256 over a torch module's parameters and buffers, by name."""
    import torch  # what reads data sets alone does without it

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
