"""The one sampling loop that all attention-based editors share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cpam.attention import AttentionControl, controlled
from cpam.backbone import Backbone, ddim
from cpam.inversion import Trajectory

SOURCE, NULL, TEXT = 0, 1, 2
"""Lanes of the batch: the source with the null prompt, the target with the null prompt, the target with P_t."""


def sample(
    backbone: Backbone,
    trajectory: Trajectory,
    prompt: str | Sequence[str],
    *,
    guidance: float = 7.5,
    control: AttentionControl | None = None,
    follow: bool = True,
    negative_prompt: str = "",
) -> Tensor:
    """Denoise z_T towards a prompt beside its source (Algorithm 1), under classifier-free guidance.

    Three denoiser evaluations a step with a control (lanes :data:`SOURCE`, :data:`NULL`, :data:`TEXT`), two without
    one: then no source lane is needed.

    Args:
        backbone: the model.
        trajectory: the source's inversion; z_T starts the target.  Several samples may be edited at once, each with
            its prompt: then it holds their trajectories together, every lane is B samples wide, and a control must be
            :class:`cpam.attention.Together`.
        prompt: P_t, or that of each sample.
        guidance: scale of classifier-free guidance (Ho and Salimans 2021).
        control: what to do inside attention.
        follow: take the source lane from the trajectory at each step; otherwise it is denoised on its own from z_T.
        negative_prompt: what the :data:`NULL` lane is conditioned on.

    Returns:
        The edited latents z_0, (B, C, h, w) float32; B is 1 for one sample.
    """
    text = torch.cat([backbone.embed(one) for one in ([prompt] if isinstance(prompt, str) else prompt)])
    null = backbone.embed(negative_prompt).expand_as(text)
    if control is None:
        return _loop(backbone, trajectory, torch.cat([null, text]), guidance, None, follow)
    embeddings = torch.cat([backbone.embed("").expand_as(text), null, text])
    with controlled(backbone.unet, control):
        return _loop(backbone, trajectory, embeddings, guidance, control, follow)


def _loop(
    backbone: Backbone,
    trajectory: Trajectory,
    embeddings: Tensor,
    guidance: float,
    control: AttentionControl | None,
    follow: bool,
) -> Tensor:
    schedule = trajectory.schedule
    source = target = trajectory.latents[-1]
    levels = zip(schedule.timesteps, schedule.alphas, schedule.previous_alphas, strict=True)
    for step, (timestep, alpha, previous_alpha) in enumerate(levels):
        if control is None:
            null, text = backbone.predict(torch.cat([target, target]), timestep, embeddings).chunk(2)
        else:
            control.step = step
            if follow:
                source = trajectory.at(step)
            noise = backbone.predict(torch.cat([source, target, target]), timestep, embeddings)
            own, null, text = noise.chunk(3)
            if not follow:
                source = ddim(source, own, alpha, previous_alpha)
        target = ddim(target, null + guidance * (text - null), alpha, previous_alpha)
    return target


def reconstruct(backbone: Backbone, trajectory: Trajectory) -> Tensor:
    """Denoise z_T with the null prompt and no guidance, one evaluation a step; returns z_0, (B, C, h, w) float32."""
    schedule = trajectory.schedule
    latents = trajectory.latents[-1]
    null = backbone.embed("").expand(len(latents), -1, -1)
    levels = zip(schedule.timesteps, schedule.alphas, schedule.previous_alphas, strict=True)
    for timestep, alpha, previous_alpha in levels:
        latents = ddim(latents, backbone.predict(latents, timestep, null), alpha, previous_alpha)
    return latents
