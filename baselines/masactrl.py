"""MasaCtrl: mutual self-attention control (Cao et al., ICCV 2023; github.com/TencentARC/MasaCtrl)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cpam_bench.cpam.attention import AttentionControl
from cpam_bench.cpam.editing import BesideSource, Capabilities, LaneCount, parameter, source_mask
from cpam_bench.cpam.preservation import TARGETS, Region, from_source, put, regions, taken
from cpam_bench.cpam.sampling import Branch
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample

REPOSITORY = "github.com/TencentARC/MasaCtrl"
CODE = f"{REPOSITORY}, masactrl/masactrl.py"


class MutualControl(AttentionControl):
    """Target queries attend to the source's keys and values from a step and a layer on.

    Args:
        start_step, start_layer: the first sampling step and self-attention layer, both from 0.
        mask: bool (H, W); if given, what lies inside and outside of it attends to the same side of the source.
    """

    def __init__(self, start_step: int = 4, start_layer: int = 10, mask: Tensor | None = None):
        self.start_step, self.start_layer, self.mask = start_step, start_layer, mask
        self._regions: dict[int, Region] = {}

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.step < self.start_step or layer < self.start_layer:
            return scaled_dot_product_attention(q, k, v)
        output = torch.empty_like(q)
        output[:TARGETS] = scaled_dot_product_attention(q[:TARGETS], k[:TARGETS], v[:TARGETS])
        targets = q[TARGETS:]
        if self.mask is None:
            output[TARGETS:] = from_source(targets, k, v)
            return output
        tokens = q.shape[2]
        if tokens not in self._regions:
            self._regions |= regions(self.mask, self.mask, [tokens])
        sides = self._regions[tokens]
        for queries, keys in ((sides.inside, sides.object_keys), (sides.outside, sides.background_keys)):
            if len(queries):
                put(output[TARGETS:], queries, from_source(taken(targets, queries), k, v, keys))
        return output


@dataclass(frozen=True)
class MasaCtrl(BesideSource):
    """MasaCtrl with the inversion's trajectory as its source branch, which its notebook names as the better way.

    The notebook itself denoises the source on its own: ``trajectory=false``.
    """

    name: ClassVar[str] = "masactrl"
    title: ClassVar[str] = "MasaCtrl"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "Cao et al., MasaCtrl, ICCV 2023; github.com/TencentARC/MasaCtrl"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True, caption_free=True, mask_control=True)

    guidance: float = parameter(7.5, "scale of classifier-free guidance", f"{REPOSITORY}, playground_real.ipynb")
    step: int = parameter(4, "first step with mutual attention, from 0", CODE)
    layer: int = parameter(10, "first self-attention layer with mutual attention, from 0", CODE)
    trajectory: bool = parameter(
        True,
        "direct inversion: take the source branch from the inversion at each step",
        "playground_real.ipynb, ref_intermediate_latents (commented out there)",
    )
    masked: bool = parameter(False, "mask-guided: object and background attend apart", "MutualSelfAttentionControlMask")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=3 * steps, shared=True)

    def branch(self, sample: Sample, source: Source, seed: int) -> Branch:
        control = self.control(sample, source)
        return Branch(source.trajectory, sample.target_prompt, self.guidance, control, follow=self.trajectory)

    def control(self, sample: Sample, source: Source) -> MutualControl:
        """What MasaCtrl does inside attention for a sample."""
        mask = torch.from_numpy(source_mask(sample, source)).to(source.backbone.device) if self.masked else None
        return MutualControl(self.step, source.backbone.layer(self.layer), mask)
