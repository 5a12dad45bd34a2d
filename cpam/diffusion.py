"""Noise levels and the moves between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Timesteps from noisy to clean, with the cumulative alphas before and after each step."""

    timesteps: list[int]
    alphas: list[float]
    previous_alphas: list[float]

    def __len__(self) -> int:
        return len(self.timesteps)

    def levels(self) -> Iterator[tuple[int, float, float]]:
        """Timestep and cumulative alphas before and after each step, from noisy to clean."""
        return zip(self.timesteps, self.alphas, self.previous_alphas, strict=True)


def ddim(latents: Tensor, noise: Tensor, alpha_from: float, alpha_to: float) -> Tensor:
    """One deterministic DDIM move between two noise levels, in either direction (Song et al. 2021, Eq. 12, eta = 0)."""
    clean = (latents - (1 - alpha_from) ** 0.5 * noise) / alpha_from**0.5
    moved: Tensor = alpha_to**0.5 * clean + (1 - alpha_to) ** 0.5 * noise
    return moved


def noised(latents: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """z_0 -> z at the level of a cumulative alpha, with noise of unit variance (Ho et al. 2020, Eq. 4)."""
    mixed: Tensor = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
    return mixed
