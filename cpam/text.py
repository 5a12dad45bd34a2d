"""What a denoiser is told: a prompt's embedding, and whatever else its kind of model is conditioned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Text:
    """The conditions of some lanes, one row each.

    Attributes:
        hidden: what cross-attention sees of each token, (lanes, tokens, D).
        pooled: the whole prompt in one vector, (lanes, P), where the model takes one (SDXL).
        sizes: height and width of the picture, the corner that it is cut at, and height and width that are wanted, in
            pixels, float32 (lanes, 6), where the model takes them (SDXL).
    """

    hidden: Tensor
    pooled: Tensor | None = None
    sizes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.hidden)

    def each(self, change: Callable[[Tensor], Tensor]) -> Text:
        """With every part changed in one way."""
        pooled = None if self.pooled is None else change(self.pooled)
        return Text(change(self.hidden), pooled, None if self.sizes is None else change(self.sizes))

    def expand(self, lanes: int) -> Text:
        """One lane as many; as many lanes stay as they are."""
        return self.each(lambda part: part.expand(lanes, *part.shape[1:]))

    def plus(self, other: Text, factor: float = 1.0) -> Text:
        """With ``factor`` times another of as many lanes added, but for the sizes, which are of the picture."""
        pooled = None if self.pooled is None or other.pooled is None else self.pooled + factor * other.pooled
        return Text(self.hidden + factor * other.hidden, pooled, self.sizes)

    @staticmethod
    def together(texts: Sequence[Text]) -> Text:
        """The lanes of several, in their order."""
        hidden = torch.cat([text.hidden for text in texts])
        return Text(hidden, _joined([text.pooled for text in texts]), _joined([text.sizes for text in texts]))


def _joined(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if there else None
