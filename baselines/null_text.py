"""Null-text inversion (Mokady et al., CVPR 2023; github.com/google/prompt-to-prompt, null_text_w_ptp.ipynb)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import ddim
from cpam_bench.cpam.inversion import Trajectory


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
    pivot: Trajectory,
    prompt: str,
    *,
    guidance: float = 7.5,
    inner_steps: int = 10,
    epsilon: float = 1e-5,
) -> NullText:
    """Optimise a null embedding a step so that guided sampling keeps to an inversion (Algorithm 1).

    Each step starts from the embedding of the one before and from where the optimised steps have led to, and minimises
    |z*_{t-1} - z_{t-1}|^2 with Adam.  Rate and early stop change with the step as in the notebook, whose 50 steps
    are here any number: over the steps the rate falls from 0.01 to half of it (its 1e-2 (1 - i/100)), and the loss
    that is good enough rises from epsilon by 0.001 (its epsilon + 2e-5 i).

    Args:
        backbone: the model; its weights stay as they are.
        pivot: the inversion z*_0 ... z*_T under ``prompt``, unguided.
        prompt: a caption of the source.
        guidance: scale of classifier-free guidance.
        inner_steps: the most optimisation steps at each level; with 0 the embeddings stay the null prompt's, and the
            trajectory is where guided sampling strays to.
        epsilon: of the early stop, in mean squared error of latents.
    """
    # Half precision would round the gradient of a mean over all latents to nothing; Adam does not see the scale.
    scale = 1.0 if backbone.dtype == torch.float32 else 2.0**14
    wanted = backbone.text(prompt)
    empty_prompt = backbone.text("")
    null = empty_prompt.hidden.float()
    latents, embeddings = [pivot.at(0)], []
    for step, (timestep, alpha, previous_alpha) in enumerate(pivot.schedule.levels()):
        progress = step / len(pivot.schedule)
        text = backbone.predict(latents[-1], timestep, wanted)
        with torch.inference_mode(False), torch.enable_grad():
            goal, null = pivot.at(step + 1).clone(), null.clone().requires_grad_()
            adam = torch.optim.Adam([null], lr=0.01 * (1 - progress / 2))
            for _ in range(inner_steps):
                empty = backbone.predict_with_gradient(latents[-1], timestep, replace(empty_prompt, hidden=null))
                moved = ddim(latents[-1], empty + guidance * (text - empty), alpha, previous_alpha)
                loss = mse_loss(moved, goal)
                (null.grad,) = torch.autograd.grad(loss * scale, null)
                adam.step()
                if loss.item() < epsilon + 0.001 * progress:
                    break
            null = null.detach()
        empty = backbone.predict(latents[-1], timestep, replace(empty_prompt, hidden=null))
        latents.append(ddim(latents[-1], empty + guidance * (text - empty), alpha, previous_alpha))
        embeddings.append(null)
    return NullText(embeddings, Trajectory(latents[::-1], pivot.schedule))
