"""What stands in an object's place while it is removed (M_t = 0, Section 4.4).

With M_t = 0 every query takes its content from the source's background (Eq. 1), and the prompt says nothing (Eq. 4).
But where the sampling starts from, the inverted noise z_T, still carries the object, and queries and convolutions bring
it back.  The paper does not say what becomes of it.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from cpam_bench.cpam.inversion import Trajectory
from cpam_bench.imba.errors import UserError

REACH = 0.15
"""Share of the latents' positions among which a position's noise is drawn: near enough to belong to the same part of
the scene, many enough that no neighbour is copied."""


class Hole:
    """The object's place, filled from the background around it.

    At a noise level the hole's latents are a smooth continuation of the image's latents, under the noise that the
    inversion found at positions drawn from the nearest ones around the hole.

    Args:
        trajectory: the source's inversion.
        mask: what is removed, bool (H, W).
        seed: of the draw.
        share: of the sampling steps, from the first, before which the hole is filled; after them it is free.
        fill: False leaves the hole to the inverted noise.
        hold: whether the source's latents are kept around the hole at every step.

    Raises:
        UserError: the mask leaves no background.
    """

    def __init__(
        self, trajectory: Trajectory, mask: Tensor, seed: int, share: float = 0.5, fill: bool = True, hold: bool = True
    ):
        self.trajectory = trajectory
        clean = trajectory.latents[0]
        self.inside = touched(mask, (clean.shape[-2], clean.shape[-1]))
        self.filled_steps = share * len(trajectory.schedule) if fill else 0
        self.fills, self.holds = fill, hold
        if fill:
            self.clean, self.drawn = continued(clean, self.inside), draw(self.inside, seed)

    def start(self) -> Tensor:
        """Where the target starts, (1, C, h, w)."""
        return self._filled(0) if self.fills else self.trajectory.latents[-1]

    def after_step(self, step: int, source: Tensor, target: Tensor) -> Tensor:
        """The target's latents after a step, filled and held; ``source`` are the source's there."""
        if step + 1 < self.filled_steps:
            target = torch.where(self.inside, self._filled(step + 1), target)
        return torch.where(self.inside, target, source) if self.holds else target

    def _filled(self, step: int) -> Tensor:
        alpha, latents = self.trajectory.schedule.alphas[step], self.trajectory.at(step)
        noise = (latents - alpha**0.5 * self.trajectory.latents[0]) / (1 - alpha) ** 0.5
        rows, columns = self.drawn.unbind(1)
        filled = latents.clone()
        filled[..., self.inside] = (
            alpha**0.5 * self.clean[..., self.inside] + (1 - alpha) ** 0.5 * noise[:, :, rows, columns]
        )
        return filled


def touched(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """A mask, bool (H, W), at the latents' size ``shape``: True wherever a latent covers some of it."""
    return adaptive_max_pool2d(mask[None, None].float(), shape)[0, 0].bool()


def draw(hole: Tensor, seed: int, reach: float = REACH) -> Tensor:
    """For each position of the hole, in order, one of the nearest outside of it: rows and columns, int (positions, 2).

    Args:
        hole: bool (h, w).
        seed: of the draw.
        reach: share of all positions among which is drawn.

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
    return outside[nearest.gather(1, drawn)[:, 0]].to(hole.device)


def continued(latents: Tensor, hole: Tensor) -> Tensor:
    """Latents (1, C, h, w) with the hole, bool (h, w), filled by the smoothest continuation of what is around it.

    That solves Laplace's equation, with what is around the hole as its boundary.

    Raises:
        UserError: the hole leaves no background.
    """
    if bool(hole.all()):
        raise UserError("the region to remove fills the picture, so that there is no background to put in its place")
    height, width = hole.shape
    grid = sparse.kronsum(_path(width), _path(height), format="csr")
    inside = hole.flatten().cpu().numpy()
    values = latents[0].flatten(1).cpu().double().numpy()
    solved = spsolve(grid[inside][:, inside].tocsc(), -(grid[inside][:, ~inside] @ values[:, ~inside].T))
    filled = latents.clone()
    filled[0, :, hole] = torch.from_numpy(np.reshape(solved, (-1, len(values))).T.copy()).to(latents)
    return filled


def _path(length: int) -> sparse.csr_matrix:
    """Laplacian of a row of positions."""
    degree = np.full(length, 2.0)
    degree[[0, -1]] = 1.0 if length > 1 else 0.0
    return sparse.diags_array([-np.ones(length - 1), degree, -np.ones(length - 1)], offsets=[-1, 0, 1]).tocsr()
