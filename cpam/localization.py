"""Localized extraction (Section 4.3, Eq. 4): the prompt reaches the region to alter and nothing else."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cpam_bench.cpam.preservation import Region, put, taken
from cpam_bench.cpam.sampling import NULL, TEXT


def localize(q: Tensor, k: Tensor, v: Tensor, region: Region) -> Tensor:
    """Eq. 4 on the guided lane: queries inside M_t attend to P_t, those outside to the null prompt.

    Args:
        q: (lanes, heads, tokens, D).
        k, v: (lanes, heads, words, D); the null prompt's are those of the lane :data:`~cpam_bench.cpam.sampling.NULL`.
        region: the masks at this layer.
    """
    output = scaled_dot_product_attention(q, k, v)
    if len(region.outside):
        text, null = slice(TEXT, TEXT + 1), slice(NULL, NULL + 1)
        outside = taken(q[text], region.outside)
        put(output[text], region.outside, scaled_dot_product_attention(outside, k[null], v[null]))
    return output
