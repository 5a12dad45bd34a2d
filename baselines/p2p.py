"""Prompt-to-Prompt (Hertz et al., ICLR 2023) on null-text inversion and others (github.com/google/prompt-to-prompt)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, scaled_dot_product_attention

from cpam_bench.baselines.alignment import Alignment, Words, align, positions
from cpam_bench.baselines.maps import tokens_at, with_source_maps
from cpam_bench.baselines.null_text import invert_null_text
from cpam_bench.cpam.attention import AttentionControl, layers, quarter_stages
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import BesideSource, Capabilities, LaneCount, parameter, source_caption
from cpam_bench.cpam.inversion import invert
from cpam_bench.cpam.sampling import SOURCE, TEXT, Branch
from cpam_bench.cpam.source import Source
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample

REPOSITORY = "github.com/google/prompt-to-prompt"
NOTEBOOK = "prompt-to-prompt_stable.ipynb"
NULL_TEXT = "null_text_w_ptp.ipynb"
PIE_BENCH = "github.com/cure-lab/PnPInversion, run_editing_p2p.py"

_ARTICLES = {"a", "an", "the"}


@dataclass(frozen=True)
class EditedWords:
    """What an edit is about, as positions of words among each prompt's tokens.

    Attributes:
        source, target: whose attention marks the region of local editing.
        weighted: words of the target whose attention is reweighted.
    """

    source: list[int]
    target: list[int]
    weighted: list[int]


class LocalBlend:
    """Keeps the target like the source where neither attends to what the edit is about (local editing).

    Of the layers at a quarter of the latents' edge (16x16 of Stable Diffusion's 64x64), down and up, the attention to
    those words is summed over words, layers and steps so far, spread by a maximum over 3x3, scaled to a maximum of 1
    and cut at the threshold, source and target apart; the target is kept where either passes.

    Args:
        unet: the denoiser whose layers it will be shown.
        source, target: positions of the words of each prompt whose attention counts.
        start_step: the first step, from 0, that blends.
        threshold: in [0, 1].

    Raises:
        UserError: the denoiser has no cross-attention at that size.
    """

    def __init__(
        self, unet: Any, source: Sequence[int], target: Sequence[int], start_step: int, threshold: float = 0.3
    ):
        names = enumerate(layers(unet, "attn2"))
        self.layers = {layer for layer, name in names if name.startswith(quarter_stages(unet))}
        if not self.layers:
            raise UserError(
                "this backbone has no cross-attention at a quarter of its latents' edge, from which the region to blend"
                " is taken; use blend=false"
            )
        self.words = (list(source), list(target))
        self.start_step, self.threshold = start_step, threshold
        self._sum: Tensor | float = 0.0

    def collect(self, source: Tensor, target: Tensor) -> None:
        """Take in a layer's attention maps (heads, tokens, words) under both prompts."""
        maps = [
            attention[..., own].sum(-1).mean(0) for attention, own in zip((source, target), self.words, strict=True)
        ]
        self._sum = self._sum + torch.stack(maps)

    def __call__(self, source: Tensor, target: Tensor, step: int) -> Tensor:
        """Latents (1, C, h, w) of source and target -> the target's, blended."""
        if step < self.start_step:
            return target
        height, width = source.shape[-2:]
        maps = torch.as_tensor(self._sum).reshape(2, 1, -(-height // 4), -(-width // 4))
        maps = interpolate(max_pool2d(maps, 3, stride=1, padding=1), (height, width))
        maps = maps / maps.amax((-2, -1), keepdim=True).clamp(min=1e-12)
        return torch.where((maps > self.threshold).any(0), target, source)


class PromptControl(AttentionControl):
    """The guided lane takes the source's attention: to words in early steps, to itself in coarse layers as well.

    Args:
        alignment: of the prompts.
        cross_steps, self_steps: how many steps, from the first, take cross- and self-attention.
        tokens: the most tokens of a layer that takes self-attention.
        weights: (words,) factors of the edited attention to the target's words (reweighting, Section 3.2).
        blend: keeps the rest of the picture, or None.
    """

    def __init__(
        self,
        alignment: Alignment,
        *,
        cross_steps: int,
        self_steps: int,
        tokens: int,
        weights: Tensor | float = 1.0,
        blend: LocalBlend | None = None,
    ):
        self.alignment, self.weights, self.blend = alignment, weights, blend
        self.cross_steps, self.self_steps, self.tokens = cross_steps, self_steps, tokens

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.step < self.self_steps and q.shape[2] <= self.tokens:
            q, k = with_source_maps(q, k)
        return scaled_dot_product_attention(q, k, v)

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        output = scaled_dot_product_attention(q, k, v)
        edits = self.step < self.cross_steps
        shows = self.blend is not None and layer in self.blend.layers
        if edits or shows:
            source, target = (
                (q[lane].float() @ k[lane].float().transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
                for lane in (SOURCE, TEXT)
            )
            if edits:
                target = self.alignment.edit(source, target) * self.weights
                output[TEXT] = target.to(v.dtype) @ v[TEXT]
            if self.blend is not None and shows:
                self.blend.collect(source, target)
        return output

    def after_step(self, source: Tensor, target: Tensor) -> Tensor:
        return target if self.blend is None else self.blend(source, target, self.step)


@dataclass(frozen=True)
class P2P(BesideSource):
    """Prompt-to-Prompt beside the source's guided sampling, which an inversion leads back to the source.

    ``inversion`` says how.  ``null-text`` optimises the null prompt of each step (Mokady et al. 2023).
    ``negative-prompt`` gives the caption as null prompt, so that guidance cancels out on the source (Miyake et al.
    2023).  ``ddim`` does nothing, and the source strays.  ``trajectory=true`` puts the source back onto its inversion
    at every step; on ``inversion=ddim`` that is direct inversion (Ju et al. 2024).

    All invert under the caption.  Inversion and optimisation are this method's own and count as its time.
    """

    name: ClassVar[str] = "p2p-nti"
    title: ClassVar[str] = "P2P + NTI"
    edits: ClassVar[bool] = True
    needs_caption: ClassVar[bool] = True
    reference: ClassVar[str] = (
        "Hertz et al., Prompt-to-Prompt, ICLR 2023; Mokady et al., Null-text Inversion, CVPR 2023;"
        f" {REPOSITORY}, {NOTEBOOK} and {NULL_TEXT}"
    )
    cost: ClassVar[str] = "inversion=null-text optimises at every step: 66 s on the pocket backbone where CPAM takes 3"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "pie-bench": {
            "cross_replace": 0.4,
            "self_replace": 0.6,
            "words": "refine",
            "reweight": 2.0,
            "blend_by": "annotation",
        },
    }

    guidance: float = parameter(7.5, "scale of classifier-free guidance", f"{NULL_TEXT}, GUIDANCE_SCALE")
    inversion: Literal["null-text", "negative-prompt", "ddim"] = parameter(
        "null-text", "what leads the source's guided sampling back to it", f"{NULL_TEXT}; all three: {PIE_BENCH}"
    )
    trajectory: bool = parameter(
        False, "direct inversion: take the source branch from the inversion at each step", PIE_BENCH
    )
    inner_steps: int = parameter(
        10, "most optimisation steps of the null text at each level", f"{NULL_TEXT}, num_inner_steps"
    )
    epsilon: float = parameter(1e-5, "early stop of that optimisation", f"{NULL_TEXT}, early_stop_epsilon")
    words: Words = parameter("auto", "replace words in place, refine by alignment, or as the prompts are", NOTEBOOK)
    cross_replace: float = parameter(0.8, "share of the steps that take the source's cross-attention", NOTEBOOK)
    self_replace: float = parameter(
        0.4, "share of the steps that take the source's self-attention", f"{NOTEBOOK} ({NULL_TEXT}: 0.5, 0.6)"
    )
    self_edge: Literal["half", "quarter"] = parameter(
        "half",
        "layers that take it: of at most this share of the latents' edge",
        f"{NULL_TEXT}, 32 ** 2 of 64 ** 2 tokens ({NOTEBOOK}: 16 ** 2)",
    )
    reweight: float = parameter(
        1.0, "factor of the attention to the target's edited words", f"{NULL_TEXT}, make_controller (examples: 2)"
    )
    blend: bool = parameter(
        True, "keep what does not attend to the edited words", f"{NULL_TEXT}, its local edits (make_controller: off)"
    )
    blend_by: Literal["difference", "object", "annotation"] = parameter(
        "difference",
        "edited words: those that differ; to blend where words are only added, the object's that stay; or the sample's"
        " own, and neither blending nor reweighting where it names none",
        f"{NULL_TEXT}, where a reader names them; annotation: {PIE_BENCH}",
    )
    blend_start: float = parameter(0.2, "share of the steps before blending", f"{NULL_TEXT}, LocalBlend, start_blend")
    blend_threshold: float = parameter(0.3, "cut of the scaled attention, in [0, 1]", f"{NULL_TEXT}, LocalBlend, th")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        plain, gradient = 4 * steps, 0  # its own inversion, and the edit
        if self.inversion == "null-text" or (self.inversion == "ddim" and not self.trajectory):
            plain += 2 * steps
            gradient = self.inner_steps * steps if self.inversion == "null-text" else 0
        return LaneCount(plain, gradient)

    def branches(self, samples: Sequence[Sample], sources: Sequence[Source], seeds: Sequence[int]) -> list[Branch]:
        """Invert, and lead back.

        Raises:
            UserError: a sample has no caption, its words cannot be replaced, or the backbone cannot be blended in.
        """
        backbone, steps = sources[0].backbone, sources[0].steps
        captions = [source_caption(sample) for sample in samples]
        controls = [
            self.control(
                backbone,
                source.latents,
                caption,
                sample.target_prompt,
                steps,
                object_prompt=sample.object_prompt,
                annotated=sample.edited_words,
            )
            for sample, source, caption in zip(samples, sources, captions, strict=True)
        ]
        latents = torch.cat([source.latents for source in sources])
        paths = invert(backbone, latents, steps, captions).split()
        follow = True
        negatives: Sequence[str | Sequence[Tensor]] = [""] * len(samples)
        if self.inversion == "negative-prompt":
            # The source lane has the caption: guided away from the caption too, it is denoised as if without guidance.
            negatives, follow = captions, self.trajectory
        elif self.inversion == "null-text" or not self.trajectory:
            inner_steps = self.inner_steps if self.inversion == "null-text" else 0
            led = invert_null_text(
                backbone, paths, captions, guidance=self.guidance, inner_steps=inner_steps, epsilon=self.epsilon
            )
            negatives = [one.embeddings for one in led]
            if not self.trajectory:
                paths = [one.trajectory for one in led]
        return [
            Branch(path, sample.target_prompt, self.guidance, control, follow, caption, negative)
            for sample, path, control, caption, negative in zip(
                samples, paths, controls, captions, negatives, strict=True
            )
        ]

    def control(
        self,
        backbone: Backbone,
        latents: Tensor,
        caption: str,
        prompt: str,
        steps: int,
        *,
        object_prompt: str = "",
        annotated: tuple[str, str] | None = None,
    ) -> PromptControl:
        """What Prompt-to-Prompt does while it samples latents (1, C, h, w).

        Args:
            backbone, latents, caption, prompt, steps: of the edit.
            object_prompt: for ``blend_by="object"``.
            annotated: for ``blend_by="annotation"``, the words of caption and prompt that a data set names.
        """
        alignment = align(backbone, caption, prompt, self.words)
        edited = self.edited_words(backbone, alignment, caption, prompt, object_prompt, annotated)
        weights = torch.ones_like(alignment.taken)
        blend = None
        if edited is not None:
            weights[edited.weighted] = self.reweight
            if self.blend:
                start = int(self.blend_start * steps)
                blend = LocalBlend(backbone.unet, edited.source, edited.target, start, self.blend_threshold)
        return PromptControl(
            alignment,
            cross_steps=int(self.cross_replace * (steps + 1)),  # of the reference's table, which has one row more
            self_steps=int(self.self_replace * steps),
            tokens=tokens_at(latents, {"half": 2, "quarter": 4}[self.self_edge]),
            weights=weights,
            blend=blend,
        )

    def edited_words(
        self,
        backbone: Backbone,
        alignment: Alignment,
        caption: str,
        prompt: str,
        object_prompt: str,
        annotated: tuple[str, str] | None,
    ) -> EditedWords | None:
        """The words that ``blend_by`` chooses, or None where a data set is to name them and does not."""
        if self.blend_by == "annotation":
            if annotated is None:
                return None
            source, target = (
                positions(backbone, text, word.split()) for text, word in zip((caption, prompt), annotated, strict=True)
            )
            return EditedWords(source, target, target)
        if self.blend_by == "object" and not alignment.source:
            kept = set(object_prompt.split()) & set(caption.split()) - _ARTICLES
            source, target = (positions(backbone, text, kept) for text in (caption, prompt))
            if source:
                return EditedWords(source, target, alignment.target)
        return EditedWords(alignment.source, alignment.target, alignment.target)
