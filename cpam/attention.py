"""The one seam through which a method reaches into attention.

Every attention-based editor is an :class:`AttentionControl` and a few lines: the control gets the queries, keys and
values of each attention layer, with the layer's index and the step, and returns what the layer gives out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class AttentionControl:
    """Plain attention; methods override what they change.

    Layers are counted from 0 in the order of execution (down, mid, up), self- and cross-attention apart: in SD 1.x each
    counts 0-5 down, 6 mid, 7-15 up.  diffusers lists its processors in another order (down, up, mid).

    Attributes:
        step: the sampling step, 0 ... T - 1, set by the sampling loop.
    """

    step: int = 0

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Queries, keys, values (lanes, heads, tokens, D) -> output of the same shape as the queries."""
        return scaled_dot_product_attention(q, k, v)

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        """Queries (lanes, heads, tokens, D), keys and values (lanes, heads, words, D) -> output like the queries."""
        return scaled_dot_product_attention(q, k, v)

    def after_step(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents of source and target (1, C, h, w) that a step has led to -> the target's, to go on with."""
        return target


class _Processor:
    """Attention processor of one layer: projections as in diffusers' AttnProcessor2_0, the rest left to the control."""

    def __init__(self, control: AttentionControl, layer: int, cross: bool):
        self.control, self.layer, self.cross = control, layer, cross

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            projection.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        attend = self.control.cross_attention if self.cross else self.control.self_attention
        output = attend(q, k, v, self.layer).transpose(1, 2).flatten(-2)
        projected: Tensor = attn.to_out[0](output)
        return projected


@contextmanager
def controlled(unet: Any, control: AttentionControl) -> Iterator[None]:
    """Let a control act inside a UNet; what was there before is put back, also after an exception."""
    before = dict(unet.attn_processors)
    processors: dict[str, Any] = {}
    for kind in ("attn1", "attn2"):
        names = sorted((name for name in before if f".{kind}." in name), key=_execution_order)
        processors |= {name: _Processor(control, layer, kind == "attn2") for layer, name in enumerate(names)}
    if len(processors) != len(before):
        raise ValueError(f"attention layers that are neither self nor cross: {sorted(set(before) - set(processors))}")
    try:
        unet.set_attn_processor(processors)
        yield
    finally:
        unet.set_attn_processor(before)


def _execution_order(name: str) -> tuple[int, list[int]]:
    stage = ("down_blocks", "mid_block", "up_blocks").index(name.split(".")[0])
    return stage, [int(number) for number in re.findall(r"\.(\d+)\.", name)]
