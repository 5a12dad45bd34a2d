"""What methods share that take the source's self-attention maps: FPE and P2P."""

from __future__ import annotations

import torch
from torch import Tensor

from cpam_bench.cpam.sampling import SOURCE, TEXT


def with_source_maps(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (lanes, heads, tokens, D) that give the guided lane the source's maps, softmax(q k)."""
    return torch.cat([q[:TEXT], q[SOURCE : SOURCE + 1]]), torch.cat([k[:TEXT], k[SOURCE : SOURCE + 1]])


def tokens_at(latents: Tensor, fraction: int) -> int:
    """Tokens of a layer that sees the latents (..., h, w) at 1/fraction of their edge, as the UNet halves them.

    Rules that the reference implementations give in tokens of Stable Diffusion's 64x64 latents are kept in proportion
    to the edge: at most 32x32 of 64x64 means at most half the edge.
    """
    height, width = latents.shape[-2:]
    return -(-height // fraction) * -(-width // fraction)
