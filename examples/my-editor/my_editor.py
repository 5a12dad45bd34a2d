"""The smallest editor that does something: the prompt inside the region, the source outside of it.

After ``pip install examples/my-editor``, ``cpam-bench run --methods blend,blend:guidance=5`` runs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from PIL import Image

from cpam_bench.cpam.editing import Capabilities, parameter, source_mask
from cpam_bench.cpam.sampling import sample as denoise
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample


@dataclass(frozen=True)
class Blend:
    """The target prompt from the inverted noise, pasted into the source by the sample's mask."""

    name: ClassVar[str] = "blend"
    title: ClassVar[str] = "Blend"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = "an example of cpam-bench"
    capabilities: ClassVar[Capabilities] = Capabilities(local_edit=True, caption_free=True, mask_control=True)
    needs_mask: ClassVar[bool] = True

    guidance: float = parameter(7.5, "scale of classifier-free guidance", "CPAM, Section 5.1")

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        latents = denoise(source.backbone, source.trajectory, sample.target_prompt, guidance=self.guidance)
        generated = source.backbone.decode(latents)
        return Image.composite(generated, source.image, Image.fromarray(source_mask(sample, source)))
