"""DDIM inversion: from an image's latents to the noise that leads back to them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from cpam.backbone import Backbone, Schedule, ddim


@dataclass(frozen=True)
class Trajectory:
    """The latents of an inversion.

    Attributes:
        latents: z_0 ... z_T, steps + 1 tensors (1, C, h, w), float32.
        schedule: the sampling schedule; ``latents[T - i]`` is what sampling step i starts from.
    """

    latents: list[Tensor]
    schedule: Schedule

    def at(self, step: int) -> Tensor:
        """The source's latents at sampling step ``step``, 0 (noise) ... T - 1; those of step T are the image's."""
        return self.latents[len(self.schedule) - step]


def invert(backbone: Backbone, latents: Tensor, steps: int = 50, prompt: str = "") -> Trajectory:
    """Deterministic DDIM inversion (Section 5.1), one denoiser evaluation a step.

    The release evaluates null against null under classifier-free guidance: twice the work for the same result.
    As there, the noise at level t is predicted from the latents one level below.
    """
    schedule = backbone.schedule(steps)
    embedding = backbone.embed(prompt)
    latents = latents.float()
    path = [latents]
    for timestep, alpha, previous_alpha in reversed(list(schedule.levels())):
        noise = backbone.predict(latents, timestep, embedding)
        latents = ddim(latents, noise, previous_alpha, alpha)
        path.append(latents)
    return Trajectory(path, schedule)
