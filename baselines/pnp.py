"""PnP: Plug-and-Play diffusion features (Tumanyan et al., CVPR 2023; github.com/MichalGeyer/pnp-diffusers)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import scaled_dot_product_attention

from cpam_bench.cpam.attention import AttentionControl, layers
from cpam_bench.cpam.editing import BesideSource, Capabilities, LaneCount, parameter, source_caption
from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.sampling import SOURCE, Branch, retrace
from cpam_bench.cpam.source import Source
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

REPOSITORY = "github.com/MichalGeyer/pnp-diffusers"
CONFIG = f"{REPOSITORY}, config_pnp.yaml"
PREPROCESS = f"{REPOSITORY}, preprocess.py"
PIE_BENCH = "github.com/cure-lab/PnPInversion, run_editing_pnp.py"


class InjectingControl(AttentionControl):
    """Every lane takes the source's self-attention and features in the decoder (Section 4, f^4 and A^4 ... A^11).

    Both begin at the second block of the decoder's first stage with attention: of that block the residual features,
    before its input is added, and from its self-attention on the queries and keys of all layers.  In SD 1.x and 2.x
    that is ``up_blocks[1].resnets[1]`` and self-attention layers 8-15, the paper's 4-11 of the decoder.

    Args:
        unet: the denoiser that it will act in.
        attention_steps, feature_steps: how many steps, from the first, inject self-attention and features.

    Raises:
        UserError: the denoiser has no attention in its decoder.
    """

    def __init__(self, unet: Any, attention_steps: int, feature_steps: int):
        self.attention_steps, self.feature_steps = attention_steps, feature_steps
        for layer, name in enumerate(layers(unet, "attn1")):
            place = re.match(r"up_blocks\.(\d+)\.attentions\.1\.", name)
            if place:
                self.start_layer = layer
                self.block: Any = unet.up_blocks[int(place[1])].resnets[1]
                return
        raise UserError("this backbone has no self-attention in its decoder, which PnP injects the source's into")

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.step < self.attention_steps and layer >= self.start_layer:
            q, k = q[SOURCE].expand_as(q), k[SOURCE].expand_as(k)
        return scaled_dot_product_attention(q, k, v)

    def features(self, unet: Any) -> Mapping[Module, Callable[[Tensor], Tensor]]:
        def inject(output: Tensor) -> Tensor:
            return output[SOURCE].expand_as(output) if self.step < self.feature_steps else output

        return {self.block.conv2: inject}


@dataclass(frozen=True)
class PnP(BesideSource):
    """PnP beside an inversion of its own, in 999 steps as its authors', of which the sampling takes its levels.

    The inversion counts as this method's time; with ``inversion_steps=0`` it is the one that all methods share.
    """

    name: ClassVar[str] = "pnp"
    title: ClassVar[str] = "PnP"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = f"Tumanyan et al., Plug-and-Play, CVPR 2023; {REPOSITORY}"
    cost: ClassVar[str] = (
        "it inverts in 999 steps, as its authors do; inversion_steps=0 takes the inversion that the others share"
    )
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)
    shown: ClassVar[Mapping[str, str]] = {
        "caption_free": f"{PREPROCESS}, argument --inversion_prompt, default ''; pnp.py reads no caption"
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"pie-bench": {"inversion_steps": 0, "caption": True}}

    guidance: float = parameter(7.5, "scale of classifier-free guidance", f"{CONFIG}, guidance_scale")
    attention: float = parameter(0.5, "share of the steps that inject self-attention", f"{CONFIG}, pnp_attn_t")
    features: float = parameter(0.8, "share of the steps that inject features", f"{CONFIG}, pnp_f_t")
    negative_prompt: str = parameter(
        "ugly, blurry, black, low res, unrealistic", "what guidance leads away from", f"{CONFIG}, negative_prompt"
    )
    inversion_steps: int = parameter(
        999, "steps of its own inversion; 0: as many as the editing has", f"{PREPROCESS}, --steps; {PIE_BENCH}: 50"
    )
    trajectory: bool = parameter(
        True,
        "direct inversion: take the source branch from the inversion at each step",
        f"{REPOSITORY}, pnp.py, load_source_latents_t",
    )
    caption: bool = parameter(
        False, "invert under the sample's caption", f"{PREPROCESS}, --inversion_prompt ''; {PIE_BENCH}: the caption"
    )

    def __post_init__(self) -> None:
        if self.inversion_steps < 0:
            raise ValueError("inversion_steps is 0 or more")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        own = self.inversion_steps or steps
        shared = own == steps and not self.caption
        return LaneCount(plain=(0 if shared else own) + (3 if self.trajectory else 4) * steps, shared=shared)

    def branches(self, samples: Sequence[Sample], sources: Sequence[Source], seeds: Sequence[int]) -> list[Branch]:
        """See :class:`InjectingControl`.

        Raises:
            UserError: the backbone has no attention in its decoder, a sample has no caption and one is asked for, or
                the inversion's steps pass over one of the sampling's.
        """
        backbone, steps = sources[0].backbone, sources[0].steps
        prompts = [source_caption(sample) if self.caption else "" for sample in samples]
        paths = self.inverted(sources, prompts)
        if not self.trajectory:
            paths = retrace(backbone, Trajectory.together(paths), prompts).split()
        return [
            Branch(
                path,
                sample.target_prompt,
                self.guidance,
                InjectingControl(backbone.unet, int(self.attention * steps), int(self.features * steps)),
                negative=self.negative_prompt,
            )
            for sample, path in zip(samples, paths, strict=True)
        ]

    def inverted(self, sources: Sequence[Source], prompts: Sequence[str]) -> list[Trajectory]:
        """The inversion of each under its prompt, at the levels of the run's steps."""
        backbone, run_steps = sources[0].backbone, sources[0].steps
        steps = self.inversion_steps or run_steps
        if steps == run_steps and not any(prompts):
            return [source.trajectory for source in sources]
        paths = invert(backbone, torch.cat([source.latents for source in sources]), steps, prompts)
        return paths.thinned(backbone.schedule(run_steps)).split()
