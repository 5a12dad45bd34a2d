"""Train the pocket backbone's denoiser and its text encoder on latents of the scenes."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cpam_bench.eval.pocket.tokenizer import CONTEXT
from cpam_bench.eval.pocket.training import Run, cosine, pixels, scene, to_tensor
from cpam_bench.imba.pocket.scenes import sample_caption

WIDTH = 128
"""Width of the text embedding."""


def build_unet() -> UNet2DConditionModel:
    """SD 1.5's block structure (16 self- and 16 cross-attention layers) at a fraction of its width."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(64, 80, 80, 80),
        layers_per_block=2,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads, as in SD 1.5's own configuration
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def scheduler() -> DDIMScheduler:
    """SD 1.5's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@torch.inference_mode()
def latents(vae: AutoencoderKL, count: int, cache: Path, batch: int = 64) -> Tensor:
    """Scaled posterior means of the training images, float16 (count, 4, 16, 16), encoded once."""
    path = cache / f"latents-{count}.npy"
    if not path.exists():
        images = pixels(count, cache)
        parts = []
        for start in tqdm(range(0, count, batch), desc="encoding", mininterval=5):
            with torch.autocast("cpu", torch.bfloat16):
                mean = vae.encode(to_tensor(images[start : start + batch])).latent_dist.mean
            parts.append((mean.float() * vae.config.scaling_factor).half().numpy())
        part = path.with_suffix(".part.npy")
        np.save(part, np.concatenate(parts))
        os.replace(part, path)
    return torch.from_numpy(np.load(path))


def train(
    folder: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    steps: int = 10_000,
    batch: int = 16,
    scenes: int = 30_000,
    lr: float = 6e-4,
    drop: float = 0.12,
    gamma: float = 5.0,
    seed: int = 0,
    device: str = "cpu",
    start: StableDiffusionPipeline | None = None,
) -> StableDiffusionPipeline:
    """Noise prediction with min-SNR weighting (Hang et al. 2023), averaged weights, and dropped captions.

    Args:
        folder: of the checkpoint and the log; the cache of latents lies beside it.
        start: a trained pipeline to begin from instead of random weights; the learning rate rises and falls anew.
        drop: share of captions replaced by the null prompt, for classifier-free guidance.
        gamma: cap of the signal-to-noise ratio in the loss.
    """
    torch.manual_seed(seed)
    unet, text = build_unet().to(device), build_text_encoder(tokenizer).to(device)
    both = nn.ModuleDict({"unet": unet, "text_encoder": text})
    if start is not None:
        for name in both:
            both[name].load_state_dict(getattr(start, name).float().state_dict())
    average = AveragedModel(both, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    optimiser = torch.optim.AdamW(both.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    data = latents(vae, scenes, folder.parent).to(device)
    specifications = [scene(i) for i in tqdm(range(scenes), desc="captions", mininterval=5)]
    alphas = scheduler().alphas_cumprod.to(device)
    run = Run(folder, steps, seed, {"both": both, "average": average, "optimiser": optimiser})
    losses: list[float] = []
    for step, rng in run:
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine(step, steps, warmup=300)
        chosen = rng.integers(scenes, size=batch)
        words = random.Random(int(rng.integers(2**31)))
        captions = ["" if words.random() < drop else sample_caption(specifications[i], words) for i in chosen]
        ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        clean = data[torch.from_numpy(chosen)].float()
        noise = torch.randn_like(clean)
        # One timestep in each of `batch` equal strata: the same distribution, a quieter gradient.
        strata = torch.from_numpy((np.arange(batch) + rng.random(batch)) / batch)
        timesteps = (strata * len(alphas)).long().to(device)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        predicted = unet(alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, timesteps, text(ids)[0]).sample
        snr = (alpha / (1 - alpha)).flatten()
        weight = snr.clamp(max=gamma) / snr
        loss = (weight * (predicted - noise).square().mean((1, 2, 3))).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimiser.step()
        # Early on the average would remember the random start for too long.
        if start is None and step < 500:
            average.n_averaged.zero_()
        average.update_parameters(both)
        losses.append(loss.item())
        if step % 100 == 99:
            run.log(loss=float(np.mean(losses[-100:])), lr=group["lr"])
    averaged = cast(nn.ModuleDict, average.module)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=averaged["text_encoder"].eval(),
        tokenizer=tokenizer,
        unet=averaged["unet"].eval(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_half(pipeline: StableDiffusionPipeline, target: Path) -> None:
    """Write a pipeline in diffusers' layout with float16 weights."""
    pipeline.to(dtype=torch.float16).save_pretrained(target)
    # diffusers notes the folder that the autoencoder was loaded from, which means nothing elsewhere.
    path = target / "vae" / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
    path.write_text(json.dumps(config, indent=2) + "\n")
