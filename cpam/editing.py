"""What an editor is: the seam between the methods and the harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from cpam_bench.cpam.sampling import Branch, sample_together
from cpam_bench.cpam.source import Source
from cpam_bench.imba.common.labels import parameter as parameter  # editors declare their fields by it
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Capabilities:
    """The columns of the paper's Table 1."""

    local_edit: bool = False
    object_removal: bool = False
    caption_free: bool = False
    mask_control: bool = False
    high_guidance: bool = False
    fine_tuned: bool = False


@dataclass(frozen=True)
class LaneCount:
    """How many latents the denoiser is shown for one edit.

    Attributes:
        plain: without a gradient.
        gradient: with a gradient to latents or an embedding, through the backbone's own weights.
        trained: with one to the weights of a float32 copy of the denoiser.
        shared: whether it also stands on the inversion that all methods of a run share, which is not counted here.
    """

    plain: int = 0
    gradient: int = 0
    trained: int = 0
    shared: bool = False


class Editor(Protocol):
    """An editing method: a frozen dataclass whose fields are its parameters.

    Class attributes:
        name: how it is called on the command line.
        title: how the paper's tables call it.
        capabilities: the columns of Table 1.
        reference: its paper and the implementation that settles its details.
        edits: False for reference rows that bound the scale and edit nothing.
        needs_caption: True if ``sample.source_prompt`` must be there; may be left out.  A captioner fills it in before
            editing where the data set has none.
        refuses: family of backbones (``sd1``, ``sd2``, ``sdxl``) -> why it does not run on them; may be left out.
        needs_mask: True if a sample without a mask cannot be edited; may be left out, and then a field ``masked`` says
            it, where there is one.
        presets: name -> parameters, for ``NAME:preset=paper``; may be left out.
        shown: column of Table 1 -> the file and line that show it, where the paper's table says otherwise; may be left
            out.

        cost: what an edit costs, in words, where that is many times what it is for others; may be left out.  A run
            says it before it begins.

    What an editor may also do is :class:`EditsMany`, :class:`TellsMask`, :class:`TellsLanes` and :class:`ReadsFiles`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    reference: ClassVar[str]
    edits: ClassVar[bool]

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        """The edited image: RGB, ``source.backbone.resolution`` pixels an edge.

        Args:
            sample: what to do (prompts, flags, kind of edit).
            source: the image ready for work (resized, encoded, inverted once for all methods).
            seed: of everything random; the harness derives it from (run seed, method, sample).
        """
        ...


@runtime_checkable
class EditsMany(Protocol):
    """An editor that edits several samples together, which ``cpam-bench run --batch`` uses."""

    def edit_many(
        self, samples: Sequence[Sample], sources: Sequence[Source], seeds: Sequence[int]
    ) -> list[Image.Image]:
        """What ``edit`` gives for each sample, to 1e-4, computed together."""
        ...


@runtime_checkable
class TellsMask(Protocol):
    """An editor that tells where it has edited."""

    def edit_and_mask(self, sample: Sample, source: Source, seed: int) -> tuple[Image.Image, np.ndarray]:
        """What ``edit`` gives, and the last M_t, bool (h, w) at the latents' resolution."""
        ...


@runtime_checkable
class TellsLanes(Protocol):
    """An editor that tells what an edit costs before it is made, which the plan of ``cpam-bench reproduce`` reads."""

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        """What the denoiser is shown for an edit, at most, but for the inversion that all share.

        Args:
            steps: of the run.
            family: of the backbone: ``sd1``, ``sd2`` or ``sdxl``.
        """
        ...


@runtime_checkable
class ReadsFiles(Protocol):
    """An editor that reads other files than the sample's."""

    def inputs(self, sample: Sample) -> dict[str, Any]:
        """Their names and hashes as JSON values; stored with each edit."""
        ...


class BesideSource:
    """An editor that denoises a target beside its source: what it does to a sample is a :class:`Branch`.

    The branches of several samples, and of several such editors, can be sampled in one batch
    (:func:`cpam_bench.cpam.sampling.sample_together`).  A subclass says what it does to one sample, or to several where
    it prepares them together.
    """

    def branch(self, sample: Sample, source: Source, seed: int) -> Branch:
        """What is done to a sample; arguments as of ``edit``."""
        raise NotImplementedError(f"{type(self).__name__} has neither branch() nor branches()")

    def branches(self, samples: Sequence[Sample], sources: Sequence[Source], seeds: Sequence[int]) -> list[Branch]:
        """What is done to each of several samples."""
        return [self.branch(*each) for each in zip(samples, sources, seeds, strict=True)]

    def finished(self, picture: Image.Image, sample: Sample, source: Source) -> Image.Image:
        """What becomes of a branch's picture."""
        return picture

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        return self.edit_many([sample], [source], [seed])[0]

    def edit_many(
        self, samples: Sequence[Sample], sources: Sequence[Source], seeds: Sequence[int]
    ) -> list[Image.Image]:
        backbone = sources[0].backbone
        latents = sample_together(backbone, self.branches(samples, sources, seeds))
        return [
            self.finished(backbone.decode(one), sample, source)
            for one, sample, source in zip(latents, samples, sources, strict=True)
        ]


def source_mask(sample: Sample, source: Source) -> np.ndarray:
    """M_s, bool (resolution, resolution).

    Raises:
        UserError: the sample has no mask, or nothing of it is left at the backbone's resolution.
    """
    if source.mask is None:
        raise UserError(f"sample {sample.id}: no mask; this method needs the region to alter")
    if not source.mask.any():
        raise UserError(f"sample {sample.id}: its mask marks nothing to alter; draw the region in white")
    return source.mask


def latent_mask(sample: Sample, source: Source) -> Tensor:
    """M_s at the latents' resolution, nearest neighbour: float32 (1, 1, h, w), 1 where the edit may alter.

    Raises:
        UserError: the sample has no mask, or nothing of it is left.
    """
    mask = torch.from_numpy(source_mask(sample, source).astype(np.float32))[None, None]
    height, width = source.backbone.grid
    small = interpolate(mask, (height, width), mode="nearest")
    if not small.any():
        raise UserError(
            f"sample {sample.id}: nothing is left of its mask at {width} x {height} latents; draw it larger"
        )
    return small.to(source.backbone.device)


def generator(seed: int) -> torch.Generator:
    """Of a seed, on the CPU, so that an edit draws the same numbers on every device."""
    return torch.Generator().manual_seed(seed)


def first_step(steps: int, share: float, what: str) -> int:
    """The step, from 0, with which the last ``share`` of a run's steps begins.

    Raises:
        UserError: that is no step at all; ``what`` names the share.
    """
    count = int(steps * share)
    if count < 1:
        raise UserError(f"{what} {share:g} of {steps} steps is no step; take more --steps or a greater {what}")
    return steps - count


def source_caption(sample: Sample) -> str:
    """The sample's caption of its source, for methods whose class says ``needs_caption = True``.

    Raises:
        UserError: the sample has none.
    """
    if not sample.source_prompt:
        raise UserError(f"sample {sample.id}: no source_prompt; this method needs a caption of the source")
    return sample.source_prompt
