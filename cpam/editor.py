"""CPAM: Context-Preserving Adaptive Manipulation (Vo et al.), the paper's Algorithm 1."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from cpam_bench.cpam.attention import AttentionControl
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.devices import choose_device
from cpam_bench.cpam.editing import BesideSource, Capabilities, LaneCount, generator, parameter, source_mask
from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.localization import localize
from cpam_bench.cpam.masks import Shape, target_mask
from cpam_bench.cpam.preservation import Region, preserve, regions
from cpam_bench.cpam.refinement import Refinement, enlarge
from cpam_bench.cpam.removal import Hole
from cpam_bench.cpam.sampling import Branch, sample_together
from cpam_bench.cpam.source import Source
from cpam_bench.imba.common.labels import close, require_types
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.kinds import Fit, Kind
from cpam_bench.imba.sample import Sample

RELEASE_GRID = (64, 64)
"""Height and width at which the authors' release cuts refined masks on Stable Diffusion 2.1 and SDXL."""

RELEASE_SHARE = 54 / 70
"""Where on the way through SDXL the authors' release begins to keep objects: its ``up_blocks.0.attentions.2``."""


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
        outside: of which mask the background's keys lie outside (Eq. 1: M_s).
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
        outside: Literal["source", "target"] = "source",
    ):
        self.mask_source, self.mask_target = mask_source, mask_target
        self.retain, self.start_step, self.start_layer = retain, start_step, start_layer
        self.preservation, self.localization = preservation, localization
        self.refinement, self.normal_layers = refinement, normal_layers
        self.hole, self.uniform, self.outside = hole, uniform, outside
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
                # What has been at so many layers is needed at them again, and is waited for together.
                self._regions = self._found(list(self._regions) or [q.shape[2]])
        if not self.localization:
            return scaled_dot_product_attention(q, k, v)
        return localize(q, k, v, self._region(q.shape[2]))

    def start(self, noise: Tensor) -> Tensor:
        return noise if self.hole is None else self.hole.start()

    def after_step(self, source: Tensor, target: Tensor) -> Tensor:
        return target if self.hole is None else self.hole.after_step(self.step, source, target)

    def _region(self, tokens: int) -> Region:
        if tokens not in self._regions:
            self._regions |= self._found([tokens])
        return self._regions[tokens]

    def _found(self, sizes: list[int]) -> dict[int, Region]:
        background = self.mask_source if self.outside == "source" else self.mask_target
        return regions(background, self.mask_target, sizes)

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

    def __post_init__(self) -> None:
        require_types(self)

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=3 * steps, shared=True)

    def branch(self, sample: Sample, source: Source, seed: int) -> Branch:
        """Algorithm 1.

        Raises:
            UserError: the sample has no mask or an empty one.
        """
        return self._branch(sample, source, seed)[0]

    def edit_and_mask(self, sample: Sample, source: Source, seed: int) -> tuple[Image.Image, np.ndarray]:
        """The edited image and the last target mask M_t, bool (resolution, resolution), refined if it is so."""
        branch, control = self._branch(sample, source, seed)
        latents = sample_together(source.backbone, [branch])[0]
        return source.backbone.decode(latents), control.mask_target.cpu().numpy()

    def _branch(self, sample: Sample, source: Source, seed: int) -> tuple[Branch, PreservingControl]:
        path = self.path(source, seed)
        control = self.control(sample, source, seed, path)
        return Branch(path, sample.target_prompt, self.guidance, control), control

    def path(self, source: Source, seed: int) -> Trajectory:
        """The inversion that an edit stands on."""
        return source.trajectory

    def control(
        self, sample: Sample, source: Source, seed: int = 0, path: Trajectory | None = None
    ) -> PreservingControl:
        """What CPAM does inside attention for a sample; ``path`` is :meth:`path`'s, by default the shared inversion."""
        backbone = source.backbone
        mask = source_mask(sample, source)
        first = target_mask(mask, sample.kind, self.shape, self.margin)
        altered = torch.from_numpy(mask).to(backbone.device)
        hole = None
        if sample.kind == "remove":
            fill = self.remove_noise == "background"
            hole = Hole(path or source.trajectory, altered, seed, self.remove_steps, fill, self.remove_hold)
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
        cls, backbone: str = "sd15", device: str | None = None, dtype: str = "float32", **parameters: Any
    ) -> CPAMPipeline:
        """CPAM on a backbone, for editing single pictures.

        Args:
            backbone: ``pocket``, ``sd15``, ``sdxl`` or another name, a hub id, a folder or a file.
            device: ``cpu``, ``cuda`` or ``cuda:N``; None is CUDA where there is some, as on the command line.
            dtype: how the networks compute.
            parameters: any of this class's fields.

        Raises:
            UserError: a parameter is unknown or does not fit, or the backbone cannot be loaded.

        Example:
            >>> editor = CPAM.from_pretrained("pocket")  # doctest: +SKIP
            >>> edited = editor(image, mask, "a photo of an orange on a beach")  # doctest: +SKIP
        """
        known = [field.name for field in fields(cls)]
        for name in parameters:
            if name not in known:
                raise UserError(
                    f"{cls.__name__} has no parameter {name!r}{close(name, known)}; it has: {', '.join(known)}"
                )
        return CPAMPipeline(cls(**parameters), Backbone.load(backbone, choose_device(device), dtype))


@dataclass(frozen=True)
class CPAMRelease(CPAM):
    """CPAM with what the authors' released code does where it departs from the paper.

    The release edits each sample twice, with a fixed and with a refined M_t.  The picture that it saves is the refined
    one, and so it is here; ``refine=false`` gives the other.  It refines every kind of edit that it has, backgrounds
    too, and it has no removal.  It obeys ``retain_object`` for backgrounds.  Where a mask leaves no key at a layer,
    its attention is uniform.

    On Stable Diffusion 2.1 and SDXL its code is another, and so it is here.  z_0 is drawn from the autoencoder's
    posterior (by the edit's seed), the background's keys lie outside M_t, and refined masks are cut at 64x64 whatever
    the latents.  On 2.1 the inversion leads one level further (``ahead`` of :func:`cpam_bench.cpam.inversion.invert`),
    and the end token counts among the words that refine.  On SDXL it inverts under the encoded empty prompt, though
    sampling has zeros for it, keeps objects from layer 54 of 70, and does not localize.
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

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return super().lanes(steps, family) if family == "sd1" else LaneCount(plain=4 * steps)  # inverts on its own

    def path(self, source: Source, seed: int) -> Trajectory:
        backbone = source.backbone
        if backbone.family == "sd1":
            return source.trajectory
        latents = backbone.encode(source.image, generator(seed))
        encoded = backbone.text("", zeros=False)
        return invert(backbone, latents, source.steps, encoded, ahead=backbone.family == "sd2")

    def control(
        self, sample: Sample, source: Source, seed: int = 0, path: Trajectory | None = None
    ) -> PreservingControl:
        backbone, control = source.backbone, super().control(sample, source, seed, path)
        if backbone.family == "sd1":
            return control
        control.outside = "target"
        if control.refinement:
            control.refinement.grid = RELEASE_GRID
        if backbone.family == "sdxl":
            control.localization = False
            if self.start_layer == type(self).start_layer:  # the release names SDXL's layer apart
                control.start_layer = round(RELEASE_SHARE * backbone.self_layers)
        elif control.refinement and self.refine_words == "prompt":
            end = 1 + len(backbone.tokens(sample.target_prompt)[: backbone.length - 2])
            control.refinement.words = [*control.refinement.words, end]
        return control


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
        fit: Fit = "squash",
    ) -> Image.Image:
        """Edit one picture.

        Args:
            image: the picture, any size; it is worked on as a square of the backbone's resolution.
            mask: of the object, non-zero where it is; an image, or an array (H, W).  For ``kind="background"`` that is
                the object that stays, as on the command line and in data sets.
            prompt: what the edited picture shows (P_t).
            kind: the kind of edit (Section 4.4).
            object_prompt: the words of the prompt that name the object.
            retain_object: keep the object's identity (Eq. 2).
            steps: of DDIM, for the inversion and for the editing.
            seed: of the draw of normal layers.
            fit: how a picture that is not square becomes the square that is edited.

        Returns:
            RGB, ``backbone.resolution`` an edge: the square that the model makes.  ``find_frame().put_back`` of a
            sample sets such a square into its picture, as the command does.

        Raises:
            UserError: there is no such kind, the mask is empty or of another size than the image, or steps are out of
                range.
        """
        marked = np.asarray(mask.convert("L") if isinstance(mask, Image.Image) else mask) != 0
        if marked.shape != (image.height, image.width):
            raise UserError(
                f"the mask has shape {marked.shape}, and the image is {image.width} x {image.height} pixels;"
                " bring it to the image's size, with nearest neighbour"
            )
        sample = Sample(
            id="picture",
            image=image,
            region=~marked if kind == "background" else marked,
            target_prompt=prompt,
            object_prompt=object_prompt,
            altered="background" if kind == "background" else "foreground",
            retain_object=retain_object,
            kind=kind,
            fit=fit,
        )
        return self.editor.edit(sample, Source(sample, self.backbone, steps), seed)
