"""Train the pocket backbone's denoiser and its text encoder on latents of the scenes."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.distributed
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cpam_bench.eval.pocket.tokenizer import CONTEXT
from cpam_bench.eval.pocket.training import (
    Run,
    example,
    half,
    learns_in_half,
    mean_over_team,
    team,
    to_tensor,
    trapezoid,
    world_digest,
)
from cpam_bench.imba.common.files import making
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pocket.world import picture, sample_caption

WIDTH = 128
"""Width of the text embedding."""

SHARD = 4096
"""Pictures whose latents lie in one file."""


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
def latents(vae: AutoencoderKL, count: int, cache: Path, batch: int = 32) -> Tensor:
    """Scaled posterior means of the training pictures, float16 (count, 4, 16, 16), encoded once.

    They lie in a folder of ``cache`` that is named by the world and the encoder, in files of :data:`SHARD` pictures.
    What is there is read, so that a stopped run goes on.
    """
    cache = cache / f"latents-{world_digest()}-{weights_hash(vae.encoder)[:8]}"
    cache.mkdir(parents=True, exist_ok=True)
    shards = []
    for first in tqdm(range(0, count, SHARD), desc="encoding", mininterval=5):
        path = cache / f"{first:06d}.npy"
        if not path.exists():
            parts = []
            for start in range(first, first + SHARD, batch):
                pictures = np.stack([np.asarray(picture(example(i))) for i in range(start, start + batch)])
                with half("cpu"):
                    mean = vae.encode(to_tensor(pictures)).latent_dist.mean
                parts.append((mean.float() * vae.config.scaling_factor).half().numpy())
            with making(path) as part, part.open("wb") as file:
                np.save(file, np.concatenate(parts))
        shards.append(np.load(path))
    return torch.from_numpy(np.concatenate(shards)[:count])


def train(
    folder: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    steps: int = 8600,
    batch: int = 16,
    scenes: int = 12_288,
    lr: float = 6e-4,
    drop: float = 0.1,
    gamma: float = 5.0,
    seed: int = 0,
    device: str = "cpu",
    start: StableDiffusionPipeline | None = None,
) -> StableDiffusionPipeline:
    """Noise prediction with min-SNR weighting (Hang et al. 2023), averaged weights, and dropped captions.

    The learning rate is level until the last quarter of the steps (:func:`trapezoid`), and the average follows the
    weights at all times, so ``average`` in the checkpoint is worth looking at long before the end.

    Started by ``torchrun`` with several processes, each computes an equal share of every batch.

    Args:
        folder: of the checkpoint and the log; the cache of latents lies beside it.
        drop: share of captions replaced by the null prompt, for classifier-free guidance.
        gamma: cap of the signal-to-noise ratio in the loss.
        start: a trained backbone to begin from instead of random weights; its words are found by their spelling.

    Raises:
        UserError: the processes cannot share a batch equally.
    """
    rank, processes = team()
    if batch % processes:
        raise UserError(
            f"a batch of {batch} has no equal shares for {processes} processes; start a number that divides it"
        )
    torch.manual_seed(seed)
    unet, text = build_unet(), build_text_encoder(tokenizer)
    if start is not None:
        unet.load_state_dict(start.unet.float().state_dict())
        _take_words(text, tokenizer, start.text_encoder.float(), start.tokenizer)
    unet, text = unet.to(device), text.to(device)
    both = nn.ModuleDict({"unet": unet, "text_encoder": text})
    average = AveragedModel(both, multi_avg_fn=get_ema_multi_avg_fn(0.9995))
    optimiser = torch.optim.AdamW(both.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    if rank == 0:
        latents(vae, scenes, folder.parent)
    if processes > 1:
        torch.distributed.barrier()
    data = latents(vae, scenes, folder.parent).to(device)
    specifications = [example(i) for i in tqdm(range(scenes), desc="captions", mininterval=5)]
    alphas = scheduler().alphas_cumprod.to(device)
    if device == "cpu" and learns_in_half(device):
        # In bfloat16 torch's fused attention spends on its CPU backward pass what the rest of the step takes together.
        unet.set_attn_processor(AttnProcessor())
    run = Run(folder, steps, seed, {"both": both, "average": average, "optimiser": optimiser})
    own = slice(rank, None, processes)
    losses: list[float] = []
    for step, rng in run:
        for group in optimiser.param_groups:
            group["lr"] = lr * trapezoid(step, steps, warmup=500)
        chosen = rng.integers(scenes, size=batch)
        words = random.Random(int(rng.integers(2**31)))
        captions = ["" if words.random() < drop else sample_caption(specifications[i], words) for i in chosen]
        ids = tokenizer(captions[own], padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
        clean = data[torch.from_numpy(chosen[own])].float()
        noise = torch.randn(batch, *clean.shape[1:], device=device)[own]
        # One timestep in each of `batch` equal strata: the same distribution, a quieter gradient.
        strata = torch.from_numpy((np.arange(batch) + rng.random(batch)) / batch)
        timesteps = (strata * len(alphas)).long().to(device)[own]
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        with half(device):
            predicted = unet(noisy, timesteps, text(ids)[0]).sample.float()
        snr = (alpha / (1 - alpha)).flatten()
        weight = snr.clamp(max=gamma) / snr
        loss = (weight * (predicted - noise).square().mean((1, 2, 3))).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        mean_loss = mean_over_team(both.parameters(), loss)
        nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimiser.step()
        # Early on the average would remember the random start for too long.
        if step < 1000:
            average.n_averaged.zero_()
        average.update_parameters(both)
        losses.append(mean_loss)
        if step % 100 == 99:
            run.log(loss=float(np.mean(losses[-100:])), lr=group["lr"])
    return pipeline(vae, cast(nn.ModuleDict, average.module), tokenizer)


@torch.no_grad()
def _take_words(
    text: CLIPTextModel, tokenizer: CLIPTokenizer, known: CLIPTextModel, known_tokenizer: CLIPTokenizer
) -> None:
    """Weights of a trained text encoder with another vocabulary; tokens that it lacks keep their random embedding."""
    table = "embeddings.token_embedding.weight"
    weights = known.state_dict()
    name = next(key for key in weights if key.endswith(table))
    rows, trained = text.state_dict()[name].clone(), weights[name]
    ids = known_tokenizer.get_vocab()
    for token, row in tokenizer.get_vocab().items():
        if token in ids:
            rows[row] = trained[ids[token]]
    text.load_state_dict({**weights, name: rows})


def from_checkpoint(folder: Path, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The averaged weights of a run that is not finished, to see how far it is."""
    both = nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)})
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["average"]
    both.load_state_dict({name.removeprefix("module."): t for name, t in saved.items() if name != "n_averaged"})
    return pipeline(vae, both, tokenizer)


def pipeline(vae: AutoencoderKL, parts: nn.ModuleDict, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The parts as diffusers' Stable Diffusion."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=parts["text_encoder"].eval(),
        tokenizer=tokenizer,
        unet=parts["unet"].eval(),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_half(trained: StableDiffusionPipeline, target: Path) -> None:
    """Write a pipeline in diffusers' layout with float16 weights."""
    trained.to(dtype=torch.float16).save_pretrained(target)
    # diffusers notes the folder that the autoencoder was loaded from, which means nothing elsewhere.
    path = target / "vae" / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
    path.write_text(json.dumps(config, indent=2) + "\n")
