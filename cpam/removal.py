"""What stands in an object's place before it is removed (M_t = 0, Section 4.4).

With M_t = 0 every query takes its content from the source's background (Eq. 1), and the prompt says nothing (Eq. 4).
But where the sampling starts from, the inverted noise z_T, still carries the object, and queries and convolutions bring
it back.  The paper does not say what becomes of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from imba.errors import UserError

REACH = 0.15
"""Share of the latents' positions among which a position's noise is drawn: near enough to belong to the same part of
the scene, many enough that no neighbour is copied."""


@dataclass
class Removal:
    """What is done to the latents of a picture from which an object is removed.

    Attributes:
        mask: M_s, bool (H, W).
        noise: the target starts from z_T drawn from the background around the object, or as inverted.
        hold: keep the source's latents outside the object at every step.
        seed: of the draw.
    """

    mask: Tensor
    noise: Literal["background", "inverted"]
    hold: bool
    seed: int
    _hole: Tensor = field(init=False, repr=False)

    def start(self, noise: Tensor) -> Tensor:
        """The source's z_T, (1, C, h, w) -> what the target starts from.

        Raises:
            UserError: the mask leaves no background.
        """
        self._hole = touched(self.mask, (noise.shape[-2], noise.shape[-1]))
        return background_noise(noise, self._hole, self.seed) if self.noise == "background" else noise

    def after_step(self, source: Tensor, target: Tensor) -> Tensor:
        """Latents of source and target (1, C, h, w) -> the target's."""
        return torch.where(self._hole, target, source) if self.hold else target


def touched(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """A mask, bool (H, W), at the latents' size ``shape``: True wherever a latent covers some of it."""
    return adaptive_max_pool2d(mask[None, None].float(), shape)[0, 0].bool()


def background_noise(noise: Tensor, hole: Tensor, seed: int, reach: float = REACH) -> Tensor:
    """The inverted noise with each position of the hole drawn from the background around it.

    Args:
        noise: z_T, (1, C, h, w).
        hole: the positions that carry the object, bool (h, w).
        seed: of the draw.
        reach: share of all positions among which is drawn, the nearest outside the hole.

    Raises:
        UserError: the hole leaves no background.
    """
    inside, outside = hole.nonzero().cpu(), (~hole).nonzero().cpu()
    if not len(outside):
        raise UserError("the region to remove fills the picture, so that there is no background to put in its place")
    count = min(len(outside), max(1, round(reach * hole.numel())))
    nearest = torch.cdist(inside.double(), outside.double()).topk(count, largest=False).indices
    # Drawn on the CPU, so that a seed means the same on every device.
    drawn = torch.randint(count, (len(inside), 1), generator=torch.Generator().manual_seed(seed))
    rows, columns = outside[nearest.gather(1, drawn)[:, 0]].to(noise.device).unbind(1)
    filled = noise.clone()
    filled[..., hole] = noise[:, :, rows, columns]
    return filled
