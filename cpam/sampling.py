"""The one sampling loop that all attention-based editors share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from cpam_bench.cpam.attention import AttentionControl, controlled
from cpam_bench.cpam.backbone import Backbone, ddim
from cpam_bench.cpam.finite import Watch
from cpam_bench.cpam.inversion import Trajectory

SOURCE, NULL, TEXT = 0, 1, 2
"""Lanes of the batch: the source (with the null prompt unless a method gives another), the target with the null prompt,
the target with P_t."""


def sample(
    backbone: Backbone,
    trajectory: Trajectory,
    prompt: str | Sequence[str],
    *,
    guidance: float = 7.5,
    control: AttentionControl | None = None,
    follow: bool = True,
    source_prompt: str = "",
    negative: str | Sequence[Tensor] = "",
) -> Tensor:
    """Denoise z_T towards a prompt beside its source (Algorithm 1), under classifier-free guidance.

    Three denoiser evaluations a step with a control (lanes :data:`SOURCE`, :data:`NULL`, :data:`TEXT`), two without
    one: then no source lane is needed.

    Args:
        backbone: the model.
        trajectory: the source's inversion; its z_T starts the target, unless a control has another start.  Several
            samples may be edited at once, each with its prompt: then it holds their trajectories together, every lane
            is B samples wide, and a control must be :class:`cpam_bench.cpam.attention.Together`.
        prompt: P_t, or that of each sample.
        guidance: scale of classifier-free guidance (Ho and Salimans 2021).
        control: what to do inside the denoiser and between steps.
        follow: take the source lane from the trajectory at each step; otherwise it is denoised on its own from z_T.
        source_prompt: what the :data:`SOURCE` lane is conditioned on.
        negative: what the :data:`NULL` lane is conditioned on: a prompt, or an embedding (1, tokens, D) for each step.

    Raises:
        NotFinite: the latents are NaN or infinite; the message names the step.

    Returns:
        The edited latents z_0, (B, C, h, w) float32; B is 1 for one sample.
    """
    schedule = trajectory.schedule
    wanted = torch.cat([backbone.embed(one) for one in ([prompt] if isinstance(prompt, str) else prompt)])
    described = backbone.embed(source_prompt).expand_as(wanted)
    nulls = [backbone.embed(negative)] * len(schedule) if isinstance(negative, str) else negative
    source = trajectory.at(0)
    target = source if control is None else control.start(source)
    watch = Watch("sampling")
    with nullcontext() if control is None else controlled(backbone.unet, control):
        for step, (timestep, alpha, previous_alpha) in enumerate(schedule.levels()):
            if control is None:
                guided = guide(backbone, target, timestep, nulls[step], wanted, guidance)
            else:
                control.step = step
                embeddings = torch.cat([described, nulls[step].expand_as(wanted), wanted])
                noise = backbone.predict(torch.cat([source, target, target]), timestep, embeddings)
                own, null, text = noise.chunk(3)
                source = trajectory.at(step + 1) if follow else ddim(source, own, alpha, previous_alpha)
                guided = null + guidance * (text - null)
            target = ddim(target, guided, alpha, previous_alpha)
            if control is not None:
                target = control.after_step(source, target)
            watch.see(target)
    watch.check()
    return target


def guide(backbone: Backbone, latents: Tensor, timestep: int, null: Tensor, text: Tensor, guidance: float) -> Tensor:
    """Predicted noise of latents (B, C, h, w) under classifier-free guidance, two evaluations.

    Args:
        null, text: embeddings (1 or B, tokens, D) and (B, tokens, D) that it leads away from and towards.
    """
    embeddings = torch.cat([null.expand_as(text), text])
    away, towards = backbone.predict(torch.cat([latents, latents]), timestep, embeddings).chunk(2)
    noise: Tensor = away + guidance * (towards - away)
    return noise


def reconstruct(backbone: Backbone, trajectory: Trajectory) -> Tensor:
    """Denoise z_T with the null prompt and no guidance, one evaluation a step; returns z_0, (B, C, h, w) float32."""
    return retrace(backbone, trajectory).latents[0]


def retrace(backbone: Backbone, trajectory: Trajectory, prompt: str = "") -> Trajectory:
    """Where z_T leads back to under a prompt without guidance, one evaluation a step: near the inversion, not on it."""
    path = [trajectory.at(0)]
    embedding = backbone.embed(prompt).expand(len(path[0]), -1, -1)
    for timestep, alpha, previous_alpha in trajectory.schedule.levels():
        noise = backbone.predict(path[-1], timestep, embedding)
        path.append(ddim(path[-1], noise, alpha, previous_alpha))
    return Trajectory(path[::-1], trajectory.schedule)
