"""Mask refinement (Section 4.4): M_t follows the generated object through cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cpam.sampling import TEXT


@dataclass
class Refinement:
    """Turns the cross-attention of a step into the next step's M_t.

    The probabilities with which the guided lane's pixels attend to the chosen words are averaged over heads and over the
    layers at the latents' own resolution, scaled to [0, 1] by their minimum and maximum, and cut at the threshold.

    Attributes:
        words: positions of the words among the text encoder's tokens.
        tokens: number of tokens of a layer at the latents' resolution, h x w.
        start_step: the first step, from 0, that uses a refined mask (T_m).
        threshold: in [0, 1]; the release has 0.45.
    """

    words: Sequence[int]
    tokens: int
    start_step: int = 1
    threshold: float = 0.45
    _maps: list[Tensor] = field(default_factory=list, repr=False)

    def collect(self, q: Tensor, k: Tensor) -> None:
        """Take in one cross-attention layer: q (lanes, heads, tokens, D), k (lanes, heads, words, D)."""
        if q.shape[2] == self.tokens:
            scores = q[TEXT].float() @ k[TEXT].float().transpose(-1, -2) * q.shape[-1] ** -0.5
            self._maps.append(scores.softmax(-1).mean(0)[:, list(self.words)].sum(-1))

    def refined(self, step: int, shape: tuple[int, int]) -> Tensor | None:
        """The mask, bool of the given shape, for the step after ``step``; None while that is before ``start_step``."""
        maps, self._maps = self._maps, []
        if step + 1 < self.start_step or not maps:
            return None
        mean = torch.stack(maps).mean(0)
        scaled = (mean - mean.min()) / (mean.max() - mean.min()).clamp(min=1e-12)
        height = round((self.tokens * shape[0] / shape[1]) ** 0.5)
        small = (scaled >= self.threshold).reshape(1, 1, height, -1).float()
        return interpolate(small, shape, mode="nearest")[0, 0].bool()
