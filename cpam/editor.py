"""CPAM: Context-Preserving Adaptive Manipulation (Vo et al.), the paper's Algorithm 1."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cpam_bench.cpam.attention import AttentionControl
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import BesideSource, Capabilities, LaneCount, parameter, source_mask
from cpam_bench.cpam.localization import localize
from cpam_bench.cpam.masks import Shape, target_mask
from cpam_bench.cpam.preservation import Region, preserve, region
from cpam_bench.cpam.refinement import Refinement, enlarge
from cpam_bench.cpam.removal import Hole
from cpam_bench.cpam.sampling import Branch, sample_together
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Kind, Sample


class PreservingControl(AttentionControl):
    """CPAM inside attention: Eq. 1-3 in self-attention, Eq. 4 in cross-attention.

    Args:
        mask_source, mask_target: M_s and the first M_t, bool (H, W).
        retain: whether the object is retained (Eq. 2).
        start_step, start_layer: first step and self-attention layer, both from 0, in which it is.
        preservation, localization: switches of the two modules (the ablation of Figure 6).
        refinement: how M_t follows the generated object, or None to keep it.
        normal_layers: share of self-attention layers that run as usual, drawn anew at each step (Section 4.2.3).
        seed: of that draw.
        hole: the place of an object that is removed, or None.
        uniform: where a mask leaves no key, attend to all alike; see :func:`cpam_bench.cpam.preservation.from_source`.
    """

    def __init__(
        self,
        mask_source: Tensor,
        mask_target: Tensor,
        *,
        retain: bool,
        start_step: int = 3,
        start_layer: int = 7,
        preservation: bool = True,
        localization: bool = True,
        refinement: Refinement | None = None,
        normal_layers: float = 0.0,
        seed: int = 0,
        hole: Hole | None = None,
        uniform: bool = False,
    ):
        self.mask_source, self.mask_target = mask_source, mask_target
        self.retain, self.start_step, self.start_layer = retain, start_step, start_layer
        self.preservation, self.localization = preservation, localization
        self.refinement, self.normal_layers = refinement, normal_layers
        self.hole, self.uniform = hole, uniform
        self._seed = seed
        self._regions: dict[int, Region] = {}

    def self_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if not self.preservation or self._runs_as_usual(layer):
            return scaled_dot_product_attention(q, k, v)
        retain = self.retain and self.step >= self.start_step and layer >= self.start_layer
        return preserve(q, k, v, self._region(q.shape[2]), retain, self.uniform)

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        if self.refinement:
            refined = self.refinement.collect(q, k, layer, self.step)
            if refined is not None:
                self.mask_target = enlarge(refined, (self.mask_source.shape[0], self.mask_source.shape[1]))
                self._regions.clear()
        if not self.localization:
            return scaled_dot_product_attention(q, k, v)
        return localize(q, k, v, self._region(q.shape[2]))

    def start(self, noise: Tensor) -> Tensor:
        return noise if self.hole is None else self.hole.start()

    def after_step(self, source: Tensor, target: Tensor) -> Tensor:
        return target if self.hole is None else self.hole.after_step(self.step, source, target)

    def _region(self, tokens: int) -> Region:
        if tokens not in self._regions:
            self._regions[tokens] = region(self.mask_source, self.mask_target, tokens)
        return self._regions[tokens]

    def _runs_as_usual(self, layer: int) -> bool:
        # Seeded by step and layer rather than by the order of calls, so that nothing else can shift the draw.
        return (
            self.normal_layers > 0 and random.Random(f"{self._seed}/{self.step}/{layer}").random() < self.normal_layers
        )


@dataclass(frozen=True)
class CPAM(BesideSource):
    """CPAM as an editor; the defaults are the paper's.

    ``preservation`` and ``localization`` are the switches of the ablation (Figure 6).  The region M_t follows from the
    sample's kind of edit (Section 4.4, :func:`cpam_bench.cpam.masks.target_mask`).
    """

    name: ClassVar[str] = "cpam"
    title: ClassVar[str] = "CPAM"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = (
        "Vo et al., CPAM: Context-Preserving Adaptive Manipulation for Zero-Shot Real Image Editing"
    )
    capabilities: ClassVar[Capabilities] = Capabilities(
        local_edit=True, object_removal=True, caption_free=True, mask_control=True, high_guidance=True
    )
    needs_mask: ClassVar[bool] = True
    refined_kinds: ClassVar[tuple[Kind, ...]] = ("replace", "pose")
    """Kinds of edit whose M_t follows cross-attention if ``refine`` is set."""
    retained_kinds: ClassVar[tuple[Kind, ...]] = ("replace", "pose", "remove", "add")
    """Kinds that keep an object which the sample says is retained.  A background's M_t is the background itself."""
    uniform: ClassVar[bool] = False
    """Where a mask leaves no key, attend to all alike; see :func:`cpam_bench.cpam.preservation.from_source`."""

    guidance: float = parameter(7.5, "scale of classifier-free guidance", "Section 5.1")
    preservation: bool = parameter(True, "adapt self-attention (Eq. 1-3)", "Section 4.2")
    localization: bool = parameter(True, "keep the prompt inside M_t (Eq. 4)", "Section 4.3")
    start_step: int = parameter(
        3, "first step, from 0, that keeps a retained object", "Eq. 2, T = 3, steps counted from 1"
    )
    start_layer: int = parameter(
        8, "first self-attention layer, from 0, that keeps a retained object", "Eq. 2, L = 8, layers counted from 1"
    )
    normal_layers: float = parameter(
        0.1, "share of self-attention layers left as they are, drawn anew each step", "4.2.3"
    )
    shape: Shape = parameter("dilate", "first M_t of replace and pose: dilate, hull or source", "Section 4.4, release")
    margin: float = parameter(0.1, "edge of the dilating square as a share of sqrt(area of M_s)", "authors' release")
    refine: bool = parameter(False, "let M_t of replace and pose follow cross-attention", "Section 4.4")
    refine_step: int = parameter(1, "first step, from 0, with a refined mask (T_m)", "authors' release")
    refine_threshold: float = parameter(0.45, "cut of the scaled cross-attention, in [0, 1]", "authors' release")
    refine_words: Literal["prompt", "object"] = parameter(
        "prompt", "words whose attention counts: all of P_t or the object prompt's", "authors' release"
    )
    remove_noise: Literal["background", "inverted"] = parameter(
        "background", "where a removed object was, begin with a continuation of the background, or as inverted", "ours"
    )
    remove_steps: float = parameter(0.5, "share of the steps in which that is kept there", "ours")
    remove_hold: bool = parameter(
        True, "outside a removed object, keep the source's latents at every step", "ours; the paper blends nothing"
    )

    def lanes(self, steps: int) -> LaneCount:
        return LaneCount(plain=3 * steps)

    def branches(self, samples: Sequence[Sample], sources: Sequence[Source], seeds: Sequence[int]) -> list[Branch]:
        """Algorithm 1.

        Raises:
            UserError: a sample has no mask or an empty one.
        """
        each = zip(samples, sources, seeds, strict=True)
        return [self._branch(sample, source, self.control(sample, source, seed)) for sample, source, seed in each]

    def edit_and_mask(self, sample: Sample, source: Source, seed: int) -> tuple[Image.Image, np.ndarray]:
        """The edited image and the last target mask M_t, bool (resolution, resolution), refined if it is so."""
        control = self.control(sample, source, seed)
        latents = sample_together(source.backbone, [self._branch(sample, source, control)])[0]
        return source.backbone.decode(latents), control.mask_target.cpu().numpy()

    def _branch(self, sample: Sample, source: Source, control: PreservingControl) -> Branch:
        return Branch(source.trajectory, sample.target_prompt, self.guidance, control)

    def control(self, sample: Sample, source: Source, seed: int = 0) -> PreservingControl:
        """What CPAM does inside attention for a sample."""
        backbone = source.backbone
        mask = source_mask(sample, source)
        first = target_mask(mask, sample.kind, self.shape, self.margin)
        altered = torch.from_numpy(mask).to(backbone.device)
        hole = None
        if sample.kind == "remove":
            fill = self.remove_noise == "background"
            hole = Hole(source.trajectory, altered, seed, self.remove_steps, fill, self.remove_hold)
        follows = self.refine and sample.kind in self.refined_kinds
        return PreservingControl(
            altered,
            torch.from_numpy(first).to(backbone.device),
            retain=sample.retain_object and sample.kind in self.retained_kinds,
            start_step=self.start_step,
            start_layer=backbone.layer(self.start_layer),
            preservation=self.preservation,
            localization=self.localization,
            refinement=self._refinement(sample, backbone) if follows else None,
            normal_layers=self.normal_layers,
            seed=seed,
            hole=hole,
            uniform=self.uniform,
        )

    def _refinement(self, sample: Sample, backbone: Backbone) -> Refinement:
        words = backbone.word_positions(
            sample.target_prompt, sample.object_prompt if self.refine_words == "object" else None
        )
        return Refinement(words, backbone.grid, backbone.cross_layers, self.refine_step, self.refine_threshold)

    @classmethod
    def from_pretrained(
        cls, backbone: str = "sd15", device: str = "cpu", dtype: str = "float32", **parameters: Any
    ) -> CPAMPipeline:
        """CPAM on a backbone, for editing single pictures.

        Args:
            backbone: ``pocket``, ``sd15``, ``sdxl`` or another name, a hub id, a folder or a file.
            device, dtype: where and how the networks run.
            parameters: any of this class's fields.

        Example:
            >>> editor = CPAM.from_pretrained("pocket")  # doctest: +SKIP
            >>> edited = editor(image, mask, "a photo of an orange on a beach")  # doctest: +SKIP
        """
        return CPAMPipeline(cls(**parameters), Backbone.load(backbone, device, dtype))


@dataclass(frozen=True)
class CPAMRelease(CPAM):
    """CPAM with what the authors' released code does where it departs from the paper.

    The release edits each sample twice, with a fixed and with a refined M_t.  The picture that it saves is the refined
    one, and so it is here; ``refine=false`` gives the other.  It refines every kind of edit that it has, backgrounds
    too, and it has no removal.  It obeys ``retain_object`` for backgrounds.  Where a mask leaves no key at a layer,
    its attention is uniform.
    """

    name: ClassVar[str] = "cpam-release"
    title: ClassVar[str] = "CPAM (release)"
    reference: ClassVar[str] = f"{CPAM.reference}; the authors' code, github.com/vdkhoi20/CPAM"
    refined_kinds: ClassVar[tuple[Kind, ...]] = ("replace", "pose", "background", "add")
    retained_kinds: ClassVar[tuple[Kind, ...]] = get_args(Kind)
    uniform: ClassVar[bool] = True

    start_layer: int = parameter(
        7, "first self-attention layer, from 0, that keeps a retained object", "authors' release"
    )
    normal_layers: float = parameter(0.0, "share of self-attention layers left as they are", "authors' release")
    refine: bool = parameter(
        True, "let M_t follow cross-attention; false: the release's other picture", "authors' release"
    )
    remove_noise: Literal["background", "inverted"] = parameter(
        "inverted", "where a removed object was, begin with a continuation of the background, or as inverted", "paper"
    )
    remove_hold: bool = parameter(False, "outside a removed object, keep the source's latents at every step", "paper")


@dataclass
class CPAMPipeline:
    """An editor on a loaded backbone: call it with an image, a mask and a prompt."""

    editor: CPAM
    backbone: Backbone

    def __call__(
        self,
        image: Image.Image,
        mask: np.ndarray | Image.Image,
        prompt: str,
        *,
        kind: Kind = "replace",
        object_prompt: str = "",
        retain_object: bool = False,
        steps: int = 50,
        seed: int = 0,
    ) -> Image.Image:
        """Edit one picture.

        Args:
            image: the picture, any size; it is worked on as a square of the backbone's resolution.
            mask: the region to alter, non-zero where it is; an image, or an array (H, W).  For ``kind="background"``
                that is the background.
            prompt: what the edited picture shows (P_t).
            kind: the kind of edit (Section 4.4).
            object_prompt: the words of the prompt that name the object.
            retain_object: keep the object's identity (Eq. 2).
            steps: of DDIM, for the inversion and for the editing.
            seed: of the draw of normal layers.

        Returns:
            RGB, ``backbone.resolution`` an edge.

        Raises:
            UserError: the mask is empty or of another size than the image.
        """
        region = np.asarray(mask.convert("L") if isinstance(mask, Image.Image) else mask) != 0
        sample = Sample(
            id="picture",
            image=image,
            region=region,
            target_prompt=prompt,
            object_prompt=object_prompt,
            retain_object=retain_object,
            kind=kind,
        )
        return self.editor.edit(sample, Source(sample, self.backbone, steps), seed)
