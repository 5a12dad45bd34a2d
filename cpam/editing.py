"""What an editor is: the seam between the methods and the harness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

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

    An editor that reads other files may have a method ``inputs(sample)`` that gives their names and hashes as a dict of
    JSON values; it is stored with each edit.

    An editor may also have ``edit_many(samples, sources, seeds) -> list[Image]``: what ``edit`` gives for each sample,
    to 1e-4, computed together.  ``cpam-bench run --batch`` uses it.
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


def source_caption(sample: Sample) -> str:
    """The sample's caption of its source, for methods whose class says ``needs_caption = True``.

    Raises:
        UserError: the sample has none.
    """
    if not sample.source_prompt:
        raise UserError(f"sample {sample.id}: no source_prompt; this method needs a caption of the source")
    return sample.source_prompt
