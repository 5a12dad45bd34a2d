"""The one seam through which a method reaches into the denoiser.

Every attention-based editor is an :class:`AttentionControl` and a few lines: the control gets the queries, keys and
values of each attention layer, with the layer's index and the step, and returns what the layer gives out.  It may also
change what other parts of the UNet give out, what the target starts from, and its latents between two steps.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import scaled_dot_product_attention

from cpam_bench.imba.errors import UserError


class AttentionControl:
    """Plain denoising; methods override what they change.

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

    def features(self, unet: Any) -> Mapping[Module, Callable[[Tensor], Tensor]]:
        """What is changed outside attention: module of the UNet -> function of its output (lanes, ...)."""
        return {}

    def start(self, noise: Tensor) -> Tensor:
        """The source's z_T, (1, C, h, w) -> what the target starts from."""
        return noise

    def after_step(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents of source and target (1, C, h, w) that a step has led to -> the target's, to go on with."""
        return target


Lanes = slice | Tensor
"""Which lanes of a batch: a slice, or their positions, int (lanes,)."""


class Together(AttentionControl):
    """The controls of several targets that are denoised in one batch, each on lanes of its own.

    A control sees its source's lane and its target's two, as if they were alone.  Targets of one source share its lane:
    so none may change what the source's lane gives out.

    Args:
        controls: of the targets that have one.
        lanes: of each of them: source, null, text.
        plain: lanes that no control acts on, int (lanes,), or None.
    """

    def __init__(self, controls: Sequence[AttentionControl], lanes: Sequence[Lanes], plain: Tensor | None = None):
        self.controls, self.plain = list(zip(controls, lanes, strict=True)), plain

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        output = self._plain(q, k, v)
        for control, lanes in self.controls:
            output[lanes] = control.self_attention(q[lanes], k[lanes], v[lanes], layer)
        return output

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        output = self._plain(q, k, v)
        for control, lanes in self.controls:
            output[lanes] = control.cross_attention(q[lanes], k[lanes], v[lanes], layer)
        return output

    def features(self, unet: Any) -> Mapping[Module, Callable[[Tensor], Tensor]]:
        changes: dict[Module, list[tuple[Lanes, Callable[[Tensor], Tensor]]]] = {}
        for control, lanes in self.controls:
            for module, change in control.features(unet).items():
                changes.setdefault(module, []).append((lanes, change))
        return {module: functools.partial(_on_lanes, parts) for module, parts in changes.items()}

    def _plain(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        output = torch.empty_like(q)
        if self.plain is not None:
            output[self.plain] = scaled_dot_product_attention(q[self.plain], k[self.plain], v[self.plain])
        return output


def _on_lanes(changes: Sequence[tuple[Lanes, Callable[[Tensor], Tensor]]], output: Tensor) -> Tensor:
    """What a module gives out (lanes, ...), some of its lanes changed."""
    changed = output.clone()
    for lanes, change in changes:
        changed[lanes] = change(output[lanes])
    return changed


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
    """Let a control act inside a UNet; what was there before is put back, also after an exception.

    Raises:
        UserError: the UNet has attention layers of another kind than Stable Diffusion's.
    """
    processors = {
        name: _Processor(control, index, cross=kind == "attn2")
        for kind in ("attn1", "attn2")
        for index, name in enumerate(layers(unet, kind))
    }
    with ExitStack() as stack:
        stack.callback(unet.set_attn_processor, dict(unet.attn_processors))
        unet.set_attn_processor(processors)
        for module, change in control.features(unet).items():
            hook = module.register_forward_hook(lambda _module, _inputs, output, change=change: change(output))
            stack.callback(hook.remove)
        yield


def layers(unet: Any, kind: Literal["attn1", "attn2"]) -> list[str]:
    """Names of the self-attention (``attn1``) or cross-attention (``attn2``) layers in the order of execution.

    Raises:
        UserError: the UNet has attention layers of another kind than Stable Diffusion's.
    """
    found: list[str] = []
    for name in unet.attn_processors:
        cross = unet.get_submodule(name.removesuffix(".processor")).is_cross_attention
        if f".attn{1 + cross}." not in name:
            raise UserError(
                f"this backbone's {name.removesuffix('.processor')} is no layer of a transformer block with self- and"
                " cross-attention, which methods that act in attention need; use a Stable Diffusion 1.x or 2.x"
            )
        if f".{kind}." in name:
            found.append(name)
    return sorted(found, key=_execution_order)


def attention_map(q: Tensor, k: Tensor) -> Tensor:
    """Queries (..., tokens, D) and keys (..., words, D) -> attention probabilities (..., tokens, words), float32."""
    scores: Tensor = q.float() @ k.float().transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.softmax(-1)


def quarter_stages(unet: Any) -> tuple[str, str]:
    """What the names of the layers at a quarter of the latents' edge (16x16 of 64x64) begin with, down and up."""
    return "down_blocks.2.", f"up_blocks.{len(unet.up_blocks) - 3}."


def _execution_order(name: str) -> tuple[int, list[int]]:
    stage = ("down_blocks", "mid_block", "up_blocks").index(name.split(".")[0])
    return stage, [int(number) for number in re.findall(r"\.(\d+)\.", name)]
