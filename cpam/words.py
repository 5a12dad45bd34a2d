"""A mask from words by the backbone itself: where the source attends to them.

The maps are aggregated as CPAM's mask refinement does (:mod:`cpam_bench.cpam.refinement`), but of the source's
inversion and not of an edit, and over all tokens but the first.  The prompt holds the words alone; after them, end and
padding say the same (CLIP's text encoder looks back), and where a model reads a word there rather than at its own
place, as the pocket backbone does, its own place shows nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from cpam_bench.cpam.attention import AttentionControl, controlled
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import noised
from cpam_bench.cpam.inversion import invert
from cpam_bench.cpam.refinement import Refinement, enlarge
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import MadeMask, Origin
from cpam_bench.imba.masking.operations import largest, within
from cpam_bench.imba.masking.segmenters import CLIPSEG, Clicks, GrabCut
from cpam_bench.imba.pocket.world import OBJECTS

if TYPE_CHECKING:
    from PIL import Image

THRESHOLD = 0.55
"""Cut of the scaled attention; with it the masks of pocket objects are best (``cpam-bench data masks-check``)."""

FOUND = 0.5
"""Least :func:`evidence` with which the pocket backbone is taken to find what words name.  Of 69 objects in
pictures of the world 63 have it (28 of 29 in the embedded benchmark), of 96 names of what is not there a fifth."""

LEVELS = (150, 250, 350, 450, 550, 650, 750)
"""Noise levels of training at which evidence is looked for."""


class _Watching(AttentionControl):
    """Plain attention that is looked at."""

    def __init__(self, refinement: Refinement):
        self.refinement = refinement
        self.mask: Tensor | None = None

    def cross_attention(self, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
        mask = self.refinement.collect(q, k, layer, self.step)
        self.mask = self.mask if mask is None else mask
        return super().cross_attention(q, k, v, layer)


def select(
    backbone: Backbone,
    image: Image.Image,
    words: str,
    steps: int = 20,
    threshold: float = THRESHOLD,
    snap: bool = True,
) -> MadeMask:
    """The mask of what the words name, by cross-attention.

    Args:
        backbone: the model.
        image: any size.
        words: to look for.
        steps: of the inversion whose latents are looked at.
        threshold: cut of the attention, scaled to [0, 1].
        snap: take the largest part and let GrabCut find its outline in the picture, for attention is as coarse as the
            latents.

    Raises:
        UserError: there are no words, or the pocket backbone finds nothing of what they name.  Attention is somewhere
            for any words, and for other backbones it is not known how much evidence is enough.
    """
    if not words.strip():
        raise UserError("name what to look for in words")
    prompt = f"a photo of {words}"
    latents = backbone.encode(backbone.fit(image))
    if backbone.is_pocket and (seen := evidence(backbone, latents, prompt)) < FOUND:
        raise UserError(
            f"the pocket backbone finds no “{words}” in the picture (evidence {seen:.2f}, and {FOUND:g} is asked for);"
            f" it knows {', '.join(OBJECTS)}. Click on the object, draw around it, or take --mask-with {CLIPSEG}"
        )
    after_start = range(1, backbone.token_ids(prompt).shape[1])
    refinement = Refinement(
        after_start, backbone.grid, backbone.cross_layers, start_step=0, threshold=threshold, lane=0
    )
    watching, trajectory = _Watching(refinement), invert(backbone, latents, steps)
    with controlled(backbone.unet, watching):
        for step, timestep in enumerate(trajectory.schedule.timesteps):
            watching.step = step
            backbone.predict(trajectory.at(step), timestep, backbone.text(prompt))
    if watching.mask is None:
        raise UserError(f"backbone {backbone.name!r} has no cross-attention to look at")
    mask = enlarge(watching.mask.cpu(), (image.height, image.width)).numpy()
    origin = Origin(
        tool="cross-attention",
        weights=backbone.name,
        weights_sha256=backbone.fingerprint["unet"],
        inputs={"words": words, "prompt": prompt, "steps": steps, "threshold": threshold, "snap": snap},
        note=f"stands in for {CLIPSEG}, and marks something for any words: look at it",
    )
    return MadeMask(_snapped(image, mask, backbone.grid[0]) if snap else mask, origin)


def evidence(backbone: Backbone, latents: Tensor, prompt: str) -> float:
    """How much better the noise is predicted with a prompt than without, where that helps most.

    The errors are those of a diffusion classifier (Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot
    Classifier, Eq. 5), at seven levels of noise; the gain is relative to the error without a prompt, and averaged over
    the twentieth of the latents where it is greatest.

    Args:
        backbone: the model.
        latents: z_0, (1, C, h, w).
        prompt: what may be in the picture.
    """
    gains, alphas = [], backbone.alphas
    for number, level in enumerate(LEVELS):
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(number)).to(latents.device)
        noisy = noised(latents, noise, alphas[level])
        without, given = (backbone.predict(noisy, level, backbone.embed(text)) for text in ("", prompt))
        errors = [((predicted - noise) ** 2).mean(1)[0] for predicted in (without, given)]
        gains.append((errors[0] - errors[1]) / errors[0].mean())
    gain = torch.stack(gains).mean(0).flatten()
    return float(gain.topk(max(1, len(gain) // 20)).values.mean())


def _snapped(image: Image.Image, mask: np.ndarray, edge: int) -> np.ndarray:
    part = largest(mask)
    depth = ndimage.distance_transform_edt(part)
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    rows, columns = np.nonzero(within(part, 0.75 * max(image.size) / edge))
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    try:
        return GrabCut().segment(image, Clicks(((float(x), float(y)),), box=box)).mask
    except UserError:  # it fills the picture, or is of the background's colours
        return part
