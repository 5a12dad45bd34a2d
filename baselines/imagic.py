"""Imagic: fit an embedding and the denoiser to the source, then move towards the prompt (Kawar et al., CVPR 2023)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss

from cpam_bench.baselines.pipelines import picture, pipeline, require_prediction
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Capabilities, LaneCount, generator, parameter
from cpam_bench.cpam.source import Source
from cpam_bench.imba.sample import Sample

PIPELINE = "github.com/huggingface/diffusers, examples/community/imagic_stable_diffusion.py"


@dataclass(frozen=True)
class Imagic:
    """Imagic as diffusers' community pipeline has it for Stable Diffusion; ``preset=paper`` has its paper's numbers.

    What it trains is a float32 copy of the denoiser, so that the backbone stays as it is whatever happens.  The copy,
    its gradients and Adam's moments take four times the denoiser's memory.  Training on a sample takes as long as some
    twenty edits of other methods; the seconds of the edit contain it.
    """

    name: ClassVar[str] = "imagic"
    title: ClassVar[str] = "Imagic"
    edits: ClassVar[bool] = True
    reference: ClassVar[str] = f"Kawar et al., Imagic, CVPR 2023; {PIPELINE}"
    cost: ClassVar[str] = (
        "it trains the denoiser anew for each edit: 670 s on the pocket backbone where CPAM takes 10 (one thread)"
    )
    capabilities: ClassVar[Capabilities] = Capabilities(caption_free=True, fine_tuned=True)
    refuses: ClassVar[Mapping[str, str]] = {
        "sdxl": "it fits one text embedding, and SDXL has the prompt in one vector besides; nobody has published which"
        " to fit"
    }
    shown: ClassVar[Mapping[str, str]] = {
        "caption_free": f"{PIPELINE}, train(prompt, image, ...): the prompt is the target's, and no caption is read"
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "embedding_steps": 1000,
            "embedding_rate": 2e-3,
            "model_steps": 1500,
            "model_rate": 5e-7,
            "alpha": 0.7,
        },
        "pipeline": {
            "embedding_steps": 500,
            "embedding_rate": 1e-3,
            "model_steps": 1000,
            "model_rate": 2e-6,
            "alpha": 1.2,
        },
    }

    embedding_steps: int = parameter(500, "steps that fit the text embedding", PIPELINE)
    embedding_rate: float = parameter(1e-3, "learning rate of the text embedding", PIPELINE)
    model_steps: int = parameter(1000, "steps that fit the denoiser", PIPELINE)
    model_rate: float = parameter(2e-6, "learning rate of the denoiser", PIPELINE)
    alpha: float = parameter(
        1.2, "from the fitted embedding (0) to the prompt's (1) and beyond", f"{PIPELINE}; the paper: 0.6 to 0.8"
    )
    guidance: float = parameter(7.5, "scale of classifier-free guidance", PIPELINE)

    def __post_init__(self) -> None:
        if self.embedding_steps < 0 or self.model_steps < 0:
            raise ValueError("embedding_steps and model_steps are 0 or more")

    def lanes(self, steps: int, family: str = "sd1") -> LaneCount:
        return LaneCount(plain=2 * steps, trained=self.embedding_steps + self.model_steps)

    def edit(self, sample: Sample, source: Source, seed: int) -> Image.Image:
        from diffusers import StableDiffusionPipeline

        backbone, random = source.backbone, generator(seed)
        denoiser = copy.deepcopy(backbone.unet).float()
        # Clones, because what was made in inference mode cannot take part in training.
        latents = source.latents.clone()
        prompt, null = (backbone.embed(text).float().clone() for text in (sample.target_prompt, ""))
        fitted = prompt.clone().requires_grad_(True)
        fit(backbone, denoiser, latents, fitted, [fitted], self.embedding_steps, self.embedding_rate, random)
        fitted.requires_grad_(False)
        denoiser.requires_grad_(True)
        weights = list(denoiser.parameters())
        fit(backbone, denoiser, latents, fitted, weights, self.model_steps, self.model_rate, random)
        denoiser.requires_grad_(False).type(backbone.dtype)
        mixed = self.alpha * prompt + (1 - self.alpha) * fitted
        with pipeline(StableDiffusionPipeline, backbone, unet=denoiser) as generate:
            return picture(
                generate(
                    prompt_embeds=mixed.to(backbone.dtype),
                    negative_prompt_embeds=null.to(backbone.dtype),
                    height=backbone.resolution,
                    width=backbone.resolution,
                    num_inference_steps=source.steps,
                    guidance_scale=self.guidance,
                    generator=random,
                    output_type="np",
                )
            )


def fit(
    backbone: Backbone,
    denoiser: Any,
    latents: Tensor,
    embedding: Tensor,
    learning: Iterable[Tensor],
    steps: int,
    rate: float,
    random: torch.Generator,
) -> None:
    """Train some tensors on the denoising loss of one picture, with Adam (Kawar et al., Eq. 3).

    Args:
        backbone: whose noise levels count.
        denoiser: the network that predicts, float32.
        latents: z_0 of the picture, (1, C, h, w) float32.
        embedding: that it is conditioned on, (1, tokens, D) float32.
        learning: the tensors that are trained, in place.
        steps: of training, each on one noise at one level.
        rate: of learning.
        random: draws noise and levels; on the CPU.

    Raises:
        UserError: the backbone predicts neither noise nor velocity.
    """
    scheduler = backbone.scheduler()
    kind = require_prediction(backbone)
    optimizer = torch.optim.Adam(learning, lr=rate)
    for _ in range(steps):
        noise = torch.randn(latents.shape, generator=random).to(latents.device)
        level = torch.randint(scheduler.config.num_train_timesteps, (1,), generator=random).to(latents.device)
        wanted = noise if kind == "epsilon" else scheduler.get_velocity(latents, noise, level)
        with torch.enable_grad():
            predicted = denoiser(scheduler.add_noise(latents, noise, level), level, embedding).sample
            mse_loss(predicted, wanted).backward()
        backbone.evaluations += len(latents)
        optimizer.step()
        optimizer.zero_grad()
