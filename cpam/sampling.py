"""The one sampling loop that all attention-based editors share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from cpam_bench.cpam.attention import AttentionControl, controlled
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import ddim
from cpam_bench.cpam.finite import Watch
from cpam_bench.cpam.inversion import Trajectory
from cpam_bench.cpam.text import Text

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
        negative: what the :data:`NULL` lane is conditioned on: a prompt, or for each step an embedding (1, tokens, D)
            in place of the empty prompt's hidden states.

    Raises:
        NotFinite: the latents are NaN or infinite; the message names the step.

    Returns:
        The edited latents z_0, (B, C, h, w) float32; B is 1 for one sample.
    """
    schedule = trajectory.schedule
    wanted = Text.together([backbone.text(one) for one in ([prompt] if isinstance(prompt, str) else prompt)])
    described = backbone.text(source_prompt).expand(len(wanted))
    if isinstance(negative, str):
        nulls = [backbone.text(negative)] * len(schedule)
    else:
        nulls = [replace(backbone.text(""), hidden=hidden) for hidden in negative]
    source = trajectory.at(0)
    target = source if control is None else control.start(source)
    watch = Watch("sampling")
    with nullcontext() if control is None else controlled(backbone.unet, control):
        for step, (timestep, alpha, previous_alpha) in enumerate(schedule.levels()):
            if control is None:
                guided = guide(backbone, target, timestep, nulls[step], wanted, guidance)
            else:
                control.step = step
                told = Text.together([described, nulls[step].expand(len(wanted)), wanted])
                noise = backbone.predict(torch.cat([source, target, target]), timestep, told)
                own, null, text = noise.chunk(3)
                source = trajectory.at(step + 1) if follow else ddim(source, own, alpha, previous_alpha)
                guided = null + guidance * (text - null)
            target = ddim(target, guided, alpha, previous_alpha)
            if control is not None:
                target = control.after_step(source, target)
            watch.see(target)
    watch.check()
    return target


def guide(backbone: Backbone, latents: Tensor, timestep: int, null: Text, text: Text, guidance: float) -> Tensor:
    """Predicted noise of latents (B, C, h, w) under classifier-free guidance, two evaluations.

    Args:
        null, text: what it leads away from and towards, of 1 or B lanes and of B.
    """
    told = Text.together([null.expand(len(text)), text])
    away, towards = backbone.predict(torch.cat([latents, latents]), timestep, told).chunk(2)
    noise: Tensor = away + guidance * (towards - away)
    return noise


def reconstruct(backbone: Backbone, trajectory: Trajectory) -> Tensor:
    """Denoise z_T with the null prompt and no guidance, one evaluation a step; returns z_0, (B, C, h, w) float32."""
    return retrace(backbone, trajectory).latents[0]


def retrace(backbone: Backbone, trajectory: Trajectory, prompt: str = "") -> Trajectory:
    """Where z_T leads back to under a prompt without guidance, one evaluation a step: near the inversion, not on it."""
    path = [trajectory.at(0)]
    text = backbone.text(prompt).expand(len(path[0]))
    for timestep, alpha, previous_alpha in trajectory.schedule.levels():
        noise = backbone.predict(path[-1], timestep, text)
        path.append(ddim(path[-1], noise, alpha, previous_alpha))
    return Trajectory(path[::-1], trajectory.schedule)
