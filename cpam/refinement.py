"""Mask refinement (Section 4.4): M_t follows the generated object through cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn.functional import interpolate

from cpam_bench.cpam.attention import attention_map
from cpam_bench.cpam.sampling import TEXT


@dataclass
class Refinement:
    """Aggregates cross-attention over all layers and steps so far, and cuts M_t out of it once a step.

    Of each layer, the probabilities with which the guided lane's pixels attend to the chosen words are divided by their
    greatest value, averaged over heads and summed over words, and brought to the latents' grid by nearest neighbour.
    The sum over layers and steps is scaled to [0, 1] by its minimum and maximum and cut at the threshold.

    As in the authors' release, the new mask takes effect at the last cross-attention layer of a step, before that layer
    is localized, and its maps already count as the next step's.

    Attributes:
        words: positions of the words among the text encoder's tokens.
        grid: height and width of the latents.
        layers: number of cross-attention layers.
        start_step: the first step, from 0, that uses a refined mask (T_m).
        threshold: in [0, 1]; the release has 0.45.
        lane: of the batch, whose attention is collected.
    """

    words: Sequence[int]
    grid: tuple[int, int]
    layers: int
    start_step: int = 1
    threshold: float = 0.45
    lane: int = TEXT
    _sum: Tensor | None = field(default=None, repr=False)

    def collect(self, q: Tensor, k: Tensor, layer: int, step: int) -> Tensor | None:
        """Take in one cross-attention layer; at the last one of a step, give the refined mask.

        Args:
            q, k: (lanes, heads, tokens, D) and (lanes, heads, words, D).
            layer, step: both from 0.

        Returns:
            M_t, bool of the latents' grid, or None between the last layers and before ``start_step``.
        """
        last = layer == self.layers - 1
        if step + last < self.start_step:
            return None
        attention = attention_map(q[self.lane], k[self.lane])[..., list(self.words)]
        field_ = (attention / attention.max()).mean(0).sum(-1)
        scale = (q.shape[2] / (self.grid[0] * self.grid[1])) ** 0.5
        field_ = field_.reshape(1, 1, round(self.grid[0] * scale), round(self.grid[1] * scale))
        field_ = interpolate(field_, self.grid, mode="nearest")[0, 0]
        self._sum = field_ if self._sum is None else self._sum + field_
        if not last:
            return None
        low, high = self._sum.min(), self._sum.max()
        return (self._sum - low) / (high - low).clamp(min=1e-12) >= self.threshold


def enlarge(mask: Tensor, shape: tuple[int, int]) -> Tensor:
    """A bool mask at another size, nearest neighbour."""
    return interpolate(mask[None, None].float(), shape, mode="nearest")[0, 0].bool()
