"""The one sampling loop that all attention-based editors share."""

from __future__ import annotations

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
    prompt: str,
    *,
    guidance: float = 7.5,
    control: AttentionControl | None = None,
    follow: bool = True,
    negative_prompt: str = "",
    start: Tensor | None = None,
) -> Tensor:
    """Denoise z_T towards a prompt beside its source (Algorithm 1), under classifier-free guidance.

    Three denoiser evaluations a step with a control (lanes :data:`SOURCE`, :data:`NULL`, :data:`TEXT`), two without
    one: then no source lane is needed.

    Args:
        backbone: the model.
        trajectory: the source's inversion.
        prompt: P_t.
        guidance: scale of classifier-free guidance (Ho and Salimans 2021).
        control: what to do inside attention.
        follow: take the source lane from the trajectory at each step; otherwise it is denoised on its own from z_T.
        negative_prompt: what the :data:`NULL` lane is conditioned on.
        start: where the target starts, (1, C, h, w); the source's z_T if left out.

    Returns:
        The edited latents z_0, (1, C, h, w) float32.
    """
    null, text = backbone.embed(negative_prompt), backbone.embed(prompt)
    if control is None:
        return _loop(backbone, trajectory, torch.cat([null, text]), guidance, None, follow, start)
    embeddings = torch.cat([backbone.embed(""), null, text])
    with controlled(backbone.unet, control):
        return _loop(backbone, trajectory, embeddings, guidance, control, follow, start)


def _loop(
    backbone: Backbone,
    trajectory: Trajectory,
    embeddings: Tensor,
    guidance: float,
    control: AttentionControl | None,
    follow: bool,
    start: Tensor | None,
) -> Tensor:
    schedule = trajectory.schedule
    source = trajectory.latents[-1]
    target = source if start is None else start
    levels = zip(schedule.timesteps, schedule.alphas, schedule.previous_alphas, strict=True)
    for step, (timestep, alpha, previous_alpha) in enumerate(levels):
        if control is None:
            null, text = backbone.predict(torch.cat([target, target]), timestep, embeddings).chunk(2)
        else:
            control.step = step
            noise = backbone.predict(torch.cat([source, target, target]), timestep, embeddings)
            own, null, text = noise.chunk(3)
            source = trajectory.at(step + 1) if follow else ddim(source, own, alpha, previous_alpha)
        target = ddim(target, null + guidance * (text - null), alpha, previous_alpha)
        if control is not None:
            target = control.after_step(source, target)
    return target


def reconstruct(backbone: Backbone, trajectory: Trajectory) -> Tensor:
    """Denoise z_T with the null prompt and no guidance, one evaluation a step; returns z_0, (1, C, h, w) float32."""
    schedule = trajectory.schedule
    latents, null = trajectory.latents[-1], backbone.embed("")
    levels = zip(schedule.timesteps, schedule.alphas, schedule.previous_alphas, strict=True)
    for timestep, alpha, previous_alpha in levels:
        latents = ddim(latents, backbone.predict(latents, timestep, null), alpha, previous_alpha)
    return latents
