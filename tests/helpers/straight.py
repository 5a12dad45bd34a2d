"""A backbone's networks used by hand, with dense attention: what straight-line computations of methods are made of."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from paths import TINY
from torch import Tensor

ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).tolist()
"""Stable Diffusion's cumulative alphas, written out."""


class Dense:
    """diffusers' seam of attention: the maps as they are, multiplied out and kept."""

    def __init__(self, maps: dict[str, Tensor], name: str):
        self.maps, self.name = maps, name

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(values)
            for values in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * attn.scale, -1)
        self.maps[self.name] = probabilities.unflatten(0, (-1, attn.heads))
        return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(probabilities, v)))


class Straight:
    """Another copy of the tiny Stable Diffusion.

    Attributes:
        maps: name of an attention layer -> its last maps, (lanes, heads, tokens, words).
    """

    def __init__(self) -> None:
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            TINY, safety_checker=None, requires_safety_checker=False
        )
        self.unet = self.pipeline.unet.requires_grad_(False)
        self.maps: dict[str, Tensor] = {}
        self.unet.set_attn_processor({name: Dense(self.maps, name) for name in self.unet.attn_processors})

    @torch.no_grad()
    def embed(self, *texts: str) -> Tensor:
        """Texts -> embeddings (texts, 77, D)."""
        tokens = self.pipeline.tokenizer(list(texts), padding="max_length", max_length=77, return_tensors="pt")
        return self.pipeline.text_encoder(tokens.input_ids)[0]

    def predict(self, latents: Tensor, timestep: int, embeddings: Tensor) -> Tensor:
        return self.unet(latents, timestep, encoder_hidden_states=embeddings).sample

    def cross(self) -> dict[str, Tensor]:
        """The maps of cross-attention alone."""
        return {name: maps for name, maps in self.maps.items() if ".attn2." in name}


@functools.cache
def straight() -> Straight:
    return Straight()


def moved(latents: Tensor, noise: Tensor, alpha_from: float, alpha_to: float) -> Tensor:
    """DDIM without randomness from one level to another."""
    clean = (latents - (1 - alpha_from) ** 0.5 * noise) / alpha_from**0.5
    return alpha_to**0.5 * clean + (1 - alpha_to) ** 0.5 * noise


def distance(ours: Tensor, theirs: Tensor) -> float:
    """L2 distance relative to the second."""
    return ((ours - theirs).norm() / theirs.norm()).item()
