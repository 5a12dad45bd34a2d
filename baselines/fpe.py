"""FPE: Free-Prompt-Editing (Liu et al., CVPR 2024; github.com/alibaba/EasyNLP, diffusion/FreePromptEditing)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cpam_bench.baselines.maps import tokens_at, with_source_maps
from cpam_bench.cpam.attention import AttentionControl
from cpam_bench.cpam.editing import BesideSource, Capabilities, LaneCount, parameter
from cpam_bench.cpam.sampling import Branch
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample

REPOSITORY = "github.com/alibaba/EasyNLP, diffusion/FreePromptEditing"


class SelfAttentionControl(AttentionControl):
    """The guided lane takes the source's self-attention maps (Section 4) in early steps and coarse layers.

    Args:
        steps: how many steps, from the first, take them.
        tokens: the most tokens of a layer that takes them; see :func:`cpam_bench.baselines.maps.tokens_at`.
    """

    def __init__(self, steps: int, tokens: int):
        self.steps, self.tokens = steps, tokens

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.step < self.steps and q.shape[2] <= self.tokens:
            q, k = with_source_maps(q, k)
        return scaled_dot_product_attention(q, k, v)


@dataclass(frozen=True)
class FPE(BesideSource):
    """FPE as its authors edit real pictures, in layers of at most 32x32 of 64x64 tokens: half the latents' edge."""

    name: ClassVar[str] = "fpe"
    title: ClassVar[str] = "FPE"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = f"Liu et al., Free-Prompt-Editing, CVPR 2024; {REPOSITORY}"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)
    shown: ClassVar[Mapping[str, str]] = {"caption_free": f'{REPOSITORY}/edit_real.ipynb, line source_prompt = ""'}

    guidance: float = parameter(7.5, "scale of classifier-free guidance", f"{REPOSITORY}/edit_real.ipynb")
    replace: float = parameter(
        0.8, "share of the steps that take the source's self-attention maps", "edit_real.ipynb, self_replace_steps"
    )
    trajectory: bool = parameter(
        True,
        "direct inversion: take the source branch from the inversion at each step",
        "edit_real.ipynb, ref_intermediate_latents",
    )

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=3 * steps, shared=True)

    def branch(self, sample: Sample, source: Source, seed: int) -> Branch:
        control = SelfAttentionControl(int(self.replace * source.steps), tokens_at(source.latents, 2))
        return Branch(source.trajectory, sample.target_prompt, self.guidance, control, follow=self.trajectory)
