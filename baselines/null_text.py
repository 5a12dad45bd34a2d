"""Null-text inversion (Mokady et al., CVPR 2023; github.com/google/prompt-to-prompt, null_text_w_ptp.ipynb)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import ddim
from cpam_bench.cpam.inversion import Trajectory, texts_for
from cpam_bench.cpam.text import Text


@dataclass(frozen=True)
class NullText:
    """An inversion that guided sampling follows back.

    Attributes:
        embeddings: for each step, from noisy to clean, what the unconditional lane is given in place of the empty
            prompt's hidden states, (1, tokens, D) float32.
        trajectory: the latents that guided sampling with them goes through, z_T being the inversion's.
    """

    embeddings: list[Tensor]
    trajectory: Trajectory


def invert_null_text(
    backbone: Backbone,
    pivots: Sequence[Trajectory],
    prompts: Sequence[str],
    *,
    guidance: float = 7.5,
    inner_steps: int = 10,
    epsilon: float = 1e-5,
) -> list[NullText]:
    """Optimise a null embedding a step so that guided sampling keeps to an inversion (Algorithm 1), of several samples.

    Each step starts from the embedding of the one before and from where the optimised steps have led to, and minimises
    |z*_{t-1} - z_{t-1}|^2 with Adam.  Rate and early stop change with the step as in the notebook, whose 50 steps
    are here any number: over the steps the rate falls from 0.01 to half of it (its 1e-2 (1 - i/100)), and the loss
    that is good enough rises from epsilon by 0.001 (its epsilon + 2e-5 i).

    Samples do not know of each other: each has its own embedding, loss and early stop, and one that has stopped is
    evaluated no more at that level.

    Args:
        backbone: the model; its weights stay as they are.
        pivots: of each sample the inversion z*_0 ... z*_T under its prompt, unguided; all of one schedule.
        prompts: of each sample a caption of the source.
        guidance: scale of classifier-free guidance.
        inner_steps: the most optimisation steps at each level; with 0 the embeddings stay the null prompt's, and the
            trajectory is where guided sampling strays to.
        epsilon: of the early stop, in mean squared error of latents.
    """
    # Half precision would round the gradient of a mean over all latents to nothing; Adam does not see the scale.
    scale = 1.0 if backbone.dtype == torch.float32 else 2.0**14
    pivot = Trajectory.together(pivots)
    wanted = texts_for(backbone, prompts, len(prompts))
    nulls = [backbone.text("").hidden.float() for _ in prompts]
    path = [pivot.at(0)]
    embeddings = []

    def told(hidden: list[Tensor]) -> Text:
        return replace(backbone.text("").expand(len(hidden)), hidden=torch.cat(hidden))

    for step, (timestep, alpha, previous_alpha) in enumerate(pivot.schedule.levels()):
        progress = step / len(pivot.schedule)
        latents = path[-1]
        text = backbone.predict(latents, timestep, wanted)
        with torch.inference_mode(False), torch.enable_grad():
            goal = pivot.at(step + 1).clone()
            nulls = [null.clone().requires_grad_() for null in nulls]
            adam = torch.optim.Adam(nulls, lr=0.01 * (1 - progress / 2))
            going = list(range(len(nulls)))
            for _ in range(inner_steps):
                moving = [nulls[index] for index in going]
                empty = backbone.predict_with_gradient(latents[going], timestep, told(moving))
                guided = empty + guidance * (text[going] - empty)
                moved = ddim(latents[going], guided, alpha, previous_alpha)
                losses = (moved - goal[going]).square().mean((1, 2, 3))
                adam.zero_grad()  # Adam leaves a sample that has no gradient as it is
                for null, gradient in zip(moving, torch.autograd.grad(losses.sum() * scale, moving), strict=True):
                    null.grad = gradient
                adam.step()
                found = zip(going, losses.tolist(), strict=True)
                going = [index for index, loss in found if loss >= epsilon + 0.001 * progress]
                if not going:
                    break
            nulls = [null.detach() for null in nulls]
        empty = backbone.predict(latents, timestep, told(nulls))
        path.append(ddim(latents, empty + guidance * (text - empty), alpha, previous_alpha))
        embeddings.append(nulls)
    return [
        NullText(list(own), trajectory)
        for own, trajectory in zip(
            zip(*embeddings, strict=True), Trajectory(path[::-1], pivot.schedule).split(), strict=True
        )
    ]
