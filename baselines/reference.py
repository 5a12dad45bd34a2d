"""Reference rows that bound the scale of every leaderboard; none of them follows the prompt under control."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from cpam.editing import Capabilities, parameter
from cpam.sampling import reconstruct
from cpam.sampling import sample as denoise
from cpam.source import Source
from imba.sample import Sample


@dataclass(frozen=True)
class Identity:
    """The source as it is: what no edit at all scores."""

    name: ClassVar[str] = "identity"
    title: ClassVar[str] = "Identity (source)"
    edits: ClassVar[bool] = False
    reference: ClassVar[str] = "the source image, resized as every editor sees it"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)

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

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        return source.backbone.decode(reconstruct(source.backbone, source.trajectory))


@dataclass(frozen=True)
class DDIM:
    """The target prompt from the inverted noise with no control: what the prompt alone does."""

    name: ClassVar[str] = "ddim"
    title: ClassVar[str] = "DDIM (no control)"
    edits: ClassVar[bool] = False
    reference: ClassVar[str] = "DDIM inversion, Song et al., ICLR 2021"
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True)

    guidance: float = parameter(7.5, "scale of classifier-free guidance", "CPAM, Section 5.1")

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        latents = denoise(source.backbone, source.trajectory, sample.target_prompt, guidance=self.guidance)
        return source.backbone.decode(latents)
