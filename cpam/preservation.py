"""Preservation adaptation (Section 4.2, Eq. 1-3): self-attention under masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, scaled_dot_product_attention

from cpam_bench.cpam.sampling import SOURCE


@dataclass(frozen=True)
class Region:
    """The masks at one layer's resolution, as positions among its tokens.

    Attributes:
        background_keys: tokens outside M_s, whose source content makes up the background (Eq. 1).
        object_keys: tokens inside M_t, whose source content a retained object may take (Eq. 2).
        inside, outside: tokens inside and outside M_t, which get the object's and the background's content (Eq. 3).
    """

    background_keys: Tensor
    object_keys: Tensor
    inside: Tensor
    outside: Tensor


def region(mask_source: Tensor, mask_target: Tensor, tokens: int) -> Region:
    """Masks, bool (H, W), brought to a layer of ``tokens`` tokens by nearest neighbour.

    A mask may leave no key at a coarse layer; :func:`from_source` says what is attended to then.
    """
    # A layer's grid has the latents' aspect ratio, that of the mask.
    height, width = mask_source.shape
    scale = (tokens / (height * width)) ** 0.5
    grid = (round(height * scale), round(width * scale))
    stacked = torch.stack([mask_source, mask_target])[None].float()
    masks = interpolate(stacked, grid, mode="nearest")[0].flatten(1).byte()
    # The tokens outside each mask and then those inside, in their order; how many are outside is the one thing that
    # has to be waited for on a GPU.
    source, target = masks.argsort(stable=True)
    outside_source, outside = (masks == 0).sum(1).tolist()
    return Region(source[:outside_source], target[outside:], target[outside:], target[:outside])


def preserve(q: Tensor, k: Tensor, v: Tensor, region: Region, retain: bool, uniform: bool = False) -> Tensor:
    """Eq. 1-3 on the target lanes; the source lane attends to itself.

    Attention over a masked set of keys equals attention over the gathered keys, and each query needs only its own side
    of M_t: so both sides together cost less than plain attention.

    Args:
        q, k, v: (lanes, heads, tokens, D); lane 0 is the source.
        region: the masks at this layer.
        retain: whether the object's content is the source's (Eq. 2, first case) or the target's own.
        uniform: where a mask leaves no key, as in :func:`from_source`.
    """
    if not retain and not len(region.outside):
        return scaled_dot_product_attention(q, k, v)
    output = torch.empty_like(q)
    output[SOURCE] = scaled_dot_product_attention(q[SOURCE], k[SOURCE], v[SOURCE])
    targets = q[SOURCE + 1 :]
    if len(region.outside):
        background = from_source(targets[:, :, region.outside], k, v, region.background_keys, uniform)
        output[SOURCE + 1 :, :, region.outside] = background
    if len(region.inside):
        inside = targets[:, :, region.inside]
        if retain:
            content = from_source(inside, k, v, region.object_keys, uniform)
        else:
            content = scaled_dot_product_attention(inside, k[SOURCE + 1 :], v[SOURCE + 1 :])
        output[SOURCE + 1 :, :, region.inside] = content
    return output


def from_source(q: Tensor, k: Tensor, v: Tensor, keys: Tensor, uniform: bool = False) -> Tensor:
    """Att(Q, K_i, V_i; mask): all target lanes attend to the same gathered keys of the source lane.

    Args:
        q: queries of the target lanes, (lanes - 1, heads, queries, D).
        k, v: of all lanes, (lanes, heads, tokens, D).
        keys: positions among the tokens, int (keys,).  If there are none, all tokens are attended to as without a mask.
        uniform: if there are none, all tokens are attended to alike: what a softmax over equally masked scores gives.
    """
    lanes, heads, tokens, width = q.shape
    if not len(keys):
        if uniform:
            return v[SOURCE].mean(1, keepdim=True).expand(lanes, heads, tokens, -1)
        keys = torch.arange(k.shape[2], device=k.device)
    # The lanes share keys and values, so they can stand in one row of queries.
    row = q.transpose(0, 1).reshape(heads, lanes * tokens, width)
    output = scaled_dot_product_attention(row, k[SOURCE][:, keys], v[SOURCE][:, keys])
    return output.reshape(heads, lanes, tokens, width).transpose(0, 1)
