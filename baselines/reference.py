"""Reference rows that bound the scale of every leaderboard; none of them follows the prompt under control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from cpam_bench.cpam.editing import BesideSource, Capabilities, LaneCount, parameter, source_mask
from cpam_bench.cpam.inversion import Trajectory
from cpam_bench.cpam.sampling import Branch, reconstruct
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Identity:
    """The source as it is: what no edit at all scores."""

    name: ClassVar[str] = "identity"
    title: ClassVar[str] = "Identity (source)"
    edits: ClassVar[bool] = False
    reference: ClassVar[str] = "the source image, resized as every editor sees it"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount()

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        return source.image


@dataclass(frozen=True)
class Reconstruction:
    """The source through autoencoder, inversion and sampling back with the null prompt: the backbone's own loss."""

    name: ClassVar[str] = "reconstruction"
    title: ClassVar[str] = "Reconstruction"
    edits: ClassVar[bool] = False
    reference: ClassVar[str] = "DDIM inversion, Song et al., ICLR 2021"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=steps, shared=True)

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        return self.edit_many([sample], [source], [seed])[0]

    def edit_many(
        self, samples: Sequence[Sample], sources: Sequence[Source], seeds: Sequence[int]
    ) -> list[Image.Image]:
        backbone = sources[0].backbone
        latents = reconstruct(backbone, Trajectory.together([source.trajectory for source in sources]))
        return [backbone.decode(one) for one in latents.split(1)]


@dataclass(frozen=True)
class DDIM(BesideSource):
    """The target prompt from the inverted noise with no control: what the prompt alone does."""

    name: ClassVar[str] = "ddim"
    title: ClassVar[str] = "DDIM (no control)"
    edits: ClassVar[bool] = False
    reference: ClassVar[str] = "DDIM inversion, Song et al., ICLR 2021"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)

    guidance: float = parameter(7.5, "scale of classifier-free guidance", "CPAM, Section 5.1")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=2 * steps, shared=True)

    def branch(self, sample: Sample, source: Source, seed: int) -> Branch:
        return Branch(source.trajectory, sample.target_prompt, self.guidance)


@dataclass(frozen=True)
class DDIMPaste(DDIM):
    """:class:`DDIM` inside the mask and the source's own pixels outside: the floor of what background metrics can say.

    Its background is the source's to the last bit, and yet it is no better an edit: the seam is where the two meet.
    """

    name: ClassVar[str] = "ddim-paste"
    title: ClassVar[str] = "DDIM, pasted back"
    reference: ClassVar[str] = "DDIM inversion, Song et al., ICLR 2021; pasted back by the mask"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True, mask_control=True)
    needs_mask: ClassVar[bool] = True

    def finished(self, picture: Image.Image, sample: Sample, source: Source) -> Image.Image:
        mask = Image.fromarray(source_mask(sample, source).astype(np.uint8) * 255)
        return Image.composite(picture, source.image, mask)
