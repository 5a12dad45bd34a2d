"""DDIM inversion: from an image's latents to the noise that leads back to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import Schedule, ddim
from cpam_bench.cpam.finite import Watch
from cpam_bench.cpam.text import Text
from cpam_bench.imba.errors import UserError


@dataclass(frozen=True)
class Trajectory:
    """The latents of an inversion.

    Attributes:
        latents: z_0 ... z_T, steps + 1 tensors (B, C, h, w), float32; B is 1 but where samples are edited together.
        schedule: the sampling schedule; ``latents[T - i]`` is what sampling step i starts from.
    """

    latents: list[Tensor]
    schedule: Schedule

    def at(self, step: int) -> Tensor:
        """The source's latents at sampling step ``step``, 0 (noise) ... T - 1; those of step T are the image's."""
        return self.latents[len(self.schedule) - step]

    def split(self) -> list[Trajectory]:
        """The trajectory of each sample."""
        each = zip(*(latents.split(1) for latents in self.latents), strict=True)
        return [Trajectory(list(latents), self.schedule) for latents in each]

    def thinned(self, schedule: Schedule) -> Trajectory:
        """Those of the latents that another schedule of fewer steps starts from.

        Raises:
            UserError: a step of it starts from a level that this inversion passed over.
        """
        found = {0: self.latents[0], **dict(zip(reversed(self.schedule.timesteps), self.latents[1:], strict=True))}
        missing = [timestep for timestep in schedule.timesteps if timestep not in found]
        if missing:
            raise UserError(
                f"an inversion in {len(self.schedule)} steps passes over level {missing[-1]}, from which sampling in"
                f" {len(schedule)} steps goes on; 999 steps pass every level"
            )
        return Trajectory([found[timestep] for timestep in (0, *reversed(schedule.timesteps))], schedule)

    @staticmethod
    def together(trajectories: Sequence[Trajectory]) -> Trajectory:
        """The trajectories of several samples as one, the opposite of :meth:`split`."""
        if len(trajectories) == 1:
            return trajectories[0]
        levels = zip(*(trajectory.latents for trajectory in trajectories), strict=True)
        return Trajectory([torch.cat(latents) for latents in levels], trajectories[0].schedule)


def invert(
    backbone: Backbone,
    latents: Tensor,
    steps: int = 50,
    prompt: str | Sequence[str] | Text = "",
    *,
    ahead: bool = False,
) -> Trajectory:
    """Deterministic DDIM inversion (Section 5.1) of latents (B, C, h, w), one denoiser evaluation a step and sample.

    The release evaluates null against null under classifier-free guidance: twice the work for the same result.
    As there, the noise at level t is predicted from the latents one level below.

    Args:
        prompt: what it is conditioned on, or that of each sample.
        ahead: predict at the level that a step leaves, and lead to the next above it: from t = 1, where z_0 is taken to
            be, to 21 ... 981 and the last level of training.  So the authors' release inverts on Stable Diffusion 2.1,
            and every step's latents are one level noisier than where sampling expects them.

    Raises:
        NotFinite: the latents are NaN or infinite; the message names the step.
    """
    schedule = backbone.schedule(steps)
    text = texts_for(backbone, prompt, len(latents))
    latents = latents.float()
    path = [latents]
    watch = Watch("inversion")
    for timestep, alpha_from, alpha_to in _moves(backbone, schedule, ahead):
        noise = backbone.predict(latents, timestep, text)
        latents = ddim(latents, noise, alpha_from, alpha_to)
        path.append(latents)
        watch.see(latents)
    watch.check()
    return Trajectory(path, schedule)


def _moves(backbone: Backbone, schedule: Schedule, ahead: bool) -> list[tuple[int, float, float]]:
    """Timestep, and the cumulative alphas that a step leads from and to, of each step from clean to noisy."""
    if not ahead:
        return [(timestep, previous, alpha) for timestep, alpha, previous in reversed(list(schedule.levels()))]
    alphas = backbone.alphas
    stride, last = len(alphas) // len(schedule), len(alphas) - 1
    return [(t, alphas[t], alphas[min(t + stride, last)]) for t in reversed(schedule.timesteps)]


def texts_for(backbone: Backbone, prompt: str | Sequence[str] | Text, samples: int) -> Text:
    """What the denoiser is told of one prompt for all samples, or of that of each: as many lanes as samples."""
    if isinstance(prompt, Text):
        return prompt.expand(samples)
    if isinstance(prompt, str):
        return backbone.text(prompt).expand(samples)
    return Text.together([backbone.text(one) for one in prompt])
