"""The one sampling loop that all attention-based editors share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cpam_bench.cpam.attention import AttentionControl, Lanes, Together, controlled
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import ddim
from cpam_bench.cpam.finite import Watch
from cpam_bench.cpam.inversion import Trajectory, texts_for
from cpam_bench.cpam.text import Text

SOURCE, NULL, TEXT = 0, 1, 2
"""Lanes of the batch: the source (with the null prompt unless a method gives another), the target with the null prompt,
the target with P_t."""


@dataclass(frozen=True)
class Branch:
    """A target that is denoised towards a prompt beside its source (Algorithm 1), under classifier-free guidance.

    Attributes:
        trajectory: the source's inversion; its z_T starts the target, unless the control has another start.
        prompt: P_t.
        guidance: scale of classifier-free guidance (Ho and Salimans 2021).
        control: what to do inside the denoiser and between steps; it leaves the source's lane as it is.  Without one
            there is no source lane.
        follow: take the source lane from the trajectory at each step; otherwise it is denoised on its own from z_T.
        source_prompt: what the :data:`SOURCE` lane is conditioned on.
        negative: what the :data:`NULL` lane is conditioned on: a prompt, or for each step an embedding (1, tokens, D)
            in place of the empty prompt's hidden states.
    """

    trajectory: Trajectory
    prompt: str
    guidance: float = 7.5
    control: AttentionControl | None = None
    follow: bool = True
    source_prompt: str = ""
    negative: str | Sequence[Tensor] = ""

    @property
    def source(self) -> tuple[int, bool, str]:
        """What decides the source's lane: branches in which it is the same share one."""
        return id(self.trajectory), self.follow, self.source_prompt


def sample(
    backbone: Backbone,
    trajectory: Trajectory,
    prompt: str,
    *,
    guidance: float = 7.5,
    control: AttentionControl | None = None,
    follow: bool = True,
    source_prompt: str = "",
    negative: str | Sequence[Tensor] = "",
) -> Tensor:
    """Denoise z_T towards a prompt beside its source: :func:`sample_together` with one :class:`Branch`.

    Returns:
        The edited latents z_0, (1, C, h, w) float32.
    """
    branch = Branch(trajectory, prompt, guidance, control, follow, source_prompt, negative)
    return sample_together(backbone, [branch])[0]


def sample_together(backbone: Backbone, branches: Sequence[Branch]) -> list[Tensor]:
    """Denoise several targets in one batch, each as it would be alone, to rounding.

    A step evaluates the denoiser once: on every source that a control looks at, then on all targets with what their
    :data:`NULL` lanes have, then on all with their prompts.  A source that several targets have is there once.

    Raises:
        NotFinite: the latents are NaN or infinite; the message names the step.
        ValueError: the branches have different schedules.

    Returns:
        The edited latents z_0 of each, (1, C, h, w) float32.
    """
    schedule = branches[0].trajectory.schedule
    if any(branch.trajectory.schedule != schedule for branch in branches):
        raise ValueError("targets that are denoised together need one schedule")
    beside = {branch.source: branch for branch in branches if branch.control is not None}
    control = _joined(branches, list(beside), backbone.device)
    described = [backbone.text(branch.source_prompt) for branch in beside.values()]
    wanted = [backbone.text(branch.prompt) for branch in branches]
    nulls = [_nulls(backbone, branch) for branch in branches]
    guidance = torch.tensor([branch.guidance for branch in branches], device=backbone.device)[:, None, None, None]
    source = [branch.trajectory.at(0) for branch in beside.values()]
    target = torch.cat([_start(branch) for branch in branches])
    watch = Watch("sampling")
    with nullcontext() if control is None else controlled(backbone.unet, control):
        for step, (timestep, alpha, previous_alpha) in enumerate(schedule.levels()):
            for branch in branches:
                if branch.control is not None:
                    branch.control.step = step
            told = Text.together([*described, *(null[step] for null in nulls), *wanted])
            noise = backbone.predict(torch.cat([*source, target, target]), timestep, told)
            own, null, text = noise.split([len(source), len(target), len(target)])
            source = [
                branch.trajectory.at(step + 1) if branch.follow else ddim(latents, alone, alpha, previous_alpha)
                for branch, latents, alone in zip(beside.values(), source, own[:, None], strict=True)
            ]
            target = ddim(target, null + guidance * (text - null), alpha, previous_alpha)
            if control is not None:
                beneath = dict(zip(beside, source, strict=True))
                target = torch.cat(
                    [
                        one if branch.control is None else branch.control.after_step(beneath[branch.source], one)
                        for branch, one in zip(branches, target.split(1), strict=True)
                    ]
                )
            watch.see(target)
    watch.check()
    return list(target.split(1))


def _nulls(backbone: Backbone, branch: Branch) -> list[Text]:
    """What a branch's :data:`NULL` lane is told at each step."""
    if isinstance(branch.negative, str):
        return [backbone.text(branch.negative)] * len(branch.trajectory.schedule)
    return [replace(backbone.text(""), hidden=hidden) for hidden in branch.negative]


def _start(branch: Branch) -> Tensor:
    noise = branch.trajectory.at(0)
    return noise if branch.control is None else branch.control.start(noise)


def _joined(branches: Sequence[Branch], sources: Sequence[object], device: torch.device) -> AttentionControl | None:
    """What acts on the whole batch: the only branch's control, or all of them, each on its lanes."""
    if len(branches) == 1:
        return branches[0].control
    controls: list[AttentionControl] = []
    lanes: list[Lanes] = []
    plain: list[int] = []
    for index, branch in enumerate(branches):
        null = len(sources) + index
        text = null + len(branches)
        if branch.control is None:
            plain += [null, text]
            continue
        source = sources.index(branch.source)
        controls.append(branch.control)
        # Evenly spaced lanes, as where each source has one target, need not be copied.
        even = null - source == len(branches)
        lanes.append(slice(source, None, len(branches)) if even else torch.tensor([source, null, text], device=device))
    return Together(controls, lanes, torch.tensor(plain, device=device) if plain else None) if controls else None


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


def retrace(backbone: Backbone, trajectory: Trajectory, prompt: str | Sequence[str] = "") -> Trajectory:
    """Where z_T leads back to without guidance, one evaluation a step: near the inversion, not on it.

    Args:
        prompt: what it is conditioned on, or that of each sample.
    """
    path = [trajectory.at(0)]
    text = texts_for(backbone, prompt, len(path[0]))
    for timestep, alpha, previous_alpha in trajectory.schedule.levels():
        noise = backbone.predict(path[-1], timestep, text)
        path.append(ddim(path[-1], noise, alpha, previous_alpha))
    return Trajectory(path[::-1], trajectory.schedule)
