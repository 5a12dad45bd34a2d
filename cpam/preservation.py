"""Preservation adaptation (Section 4.2, Eq. 1-3): self-attention under masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, scaled_dot_product_attention

from cpam_bench.cpam.sampling import SOURCE

TARGETS = SOURCE + 1
"""The first lane that is no source's."""


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


def regions(mask_source: Tensor, mask_target: Tensor, sizes: Sequence[int]) -> dict[int, Region]:
    """Masks, bool (H, W), brought to layers of so many tokens by nearest neighbour: number of tokens -> region.

    On a GPU the sizes of all regions are waited for once.  A mask may leave no key at a coarse layer;
    :func:`from_source` says what is attended to then.
    """
    # A layer's grid has the latents' aspect ratio, that of the mask.
    height, width = mask_source.shape
    stacked = torch.stack([mask_source, mask_target])[None].float()
    orders, outsides = [], []
    for tokens in sizes:
        scale = (tokens / (height * width)) ** 0.5
        grid = (round(height * scale), round(width * scale))
        masks = interpolate(stacked, grid, mode="nearest")[0].flatten(1).byte()
        # The tokens outside each mask and then those inside, in their order; how many are outside is the one thing
        # that has to be waited for.
        orders.append(masks.argsort(stable=True))
        outsides.append((masks == 0).sum(1))
    found = {}
    counts = torch.stack(outsides).tolist()
    for tokens, (source, target), (outside_source, outside) in zip(sizes, orders, counts, strict=True):
        found[tokens] = Region(source[:outside_source], target[outside:], target[outside:], target[:outside])
    return found


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
    output[:TARGETS] = scaled_dot_product_attention(q[:TARGETS], k[:TARGETS], v[:TARGETS])
    targets = q[TARGETS:]
    if len(region.outside):
        background = from_source(taken(targets, region.outside), k, v, region.background_keys, uniform)
        put(output[TARGETS:], region.outside, background)
    if len(region.inside):
        inside = taken(targets, region.inside)
        if retain:
            content = from_source(inside, k, v, region.object_keys, uniform)
        else:
            content = scaled_dot_product_attention(inside, k[TARGETS:], v[TARGETS:])
        put(output[TARGETS:], region.inside, content)
    return output


def from_source(q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None = None, uniform: bool = False) -> Tensor:
    """Att(Q, K_i, V_i; mask): all target lanes attend to the same gathered keys of the source lane.

    Args:
        q: queries of the target lanes, (lanes - 1, heads, queries, D).
        k, v: of all lanes, (lanes, heads, tokens, D).
        keys: positions among the tokens, int (keys,), or None for all.  If there are none, all tokens are attended to
            as without a mask.
        uniform: if there are none, all tokens are attended to alike: what a softmax over equally masked scores gives.
    """
    k, v = k[:TARGETS], v[:TARGETS]
    if keys is not None and len(keys):
        k, v = taken(k, keys), taken(v, keys)
    elif keys is not None and uniform:
        return v.mean(2, keepdim=True).expand(*q.shape[:3], -1)
    return scaled_dot_product_attention(q, k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1))


def taken(x: Tensor, positions: Tensor) -> Tensor:
    """Some tokens, int (n,), of (lanes, heads, tokens, D): (lanes, heads, n, D).

    A token's heads lie side by side in memory, as its projection has left them; picked token by token they are copied
    whole, which is several times as fast as head by head.
    """
    return x.transpose(1, 2).index_select(1, positions).transpose(1, 2)


def put(x: Tensor, positions: Tensor, content: Tensor) -> None:
    """Set some tokens, int (n,), of (lanes, heads, tokens, D) to what :func:`taken` would give."""
    x.transpose(1, 2).index_copy_(1, positions, content.transpose(1, 2))
