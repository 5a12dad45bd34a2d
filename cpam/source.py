"""A sample's image made ready for editing: resized, encoded, and inverted once for every method that asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from cpam_bench.cpam.attention import AttentionControl, Together
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.sampling import sample as denoise
from cpam_bench.imba.sample import Sample


class Source:
    """The shared starting point of all editors of one sample.

    Attributes:
        backbone: the model to edit with.
        steps: DDIM steps of the inversion and of the editing.
        image: RGB, ``backbone.resolution`` an edge.
        mask: bool (resolution, resolution), True where the edit may alter (M_s), or None if the sample has no mask.
    """

    def __init__(self, sample: Sample, backbone: Backbone, steps: int = 50):
        self.backbone = backbone
        self.steps = steps
        self.image: Image.Image = backbone.fit(sample.read_image())
        self.mask: np.ndarray | None = None if sample.region is None else backbone.fit_mask(sample.read_mask())

    @cached_property
    def latents(self) -> Tensor:
        """z_0, (1, C, h, w) float32."""
        return self.backbone.encode(self.image)

    @cached_property
    def trajectory(self) -> Trajectory:
        """z_0 ... z_T of the null-prompt DDIM inversion; computed on first use, then shared."""
        return invert(self.backbone, self.latents, self.steps)


def denoise_sources(
    sources: Sequence[Source],
    samples: Sequence[Sample],
    controls: Sequence[AttentionControl] = (),
    **options: Any,
) -> list[Image.Image]:
    """Edit the sources of one or several samples together, each towards its target prompt.

    Args:
        sources, samples: as many of the one as of the other, all on one backbone.
        controls: what each does inside attention, or none at all.
        options: of :func:`cpam_bench.cpam.sampling.sample`.
    """
    backbone = sources[0].backbone
    control = controls[0] if len(controls) == 1 else Together(controls) if controls else None
    trajectory = Trajectory.together([source.trajectory for source in sources])
    latents = denoise(backbone, trajectory, [sample.target_prompt for sample in samples], control=control, **options)
    return [backbone.decode(one) for one in latents.split(1)]
