"""A sample's image made ready for editing: resized, encoded, and inverted once for every method that asks."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from PIL import Image
from torch import Tensor

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.inversion import Trajectory, invert
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
