"""Train the pocket backbone's AutoencoderKL: factor 8, 4 latent channels, 1.7 M parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL

from cpam_bench.eval.metrics.perceptual import load_lpips
from cpam_bench.eval.pocket.training import Run, cosine, held_out, pixels, to_tensor
from cpam_bench.imba.pocket.scenes import SIZE, render


def build() -> AutoencoderKL:
    """The untrained autoencoder, in SD 1.5's block structure."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def train(
    folder: Path,
    steps: int = 7000,
    batch: int = 6,
    scenes: int = 12_000,
    lr: float = 1e-3,
    lpips_weight: float = 0.25,
    kl_weight: float = 1e-6,
    seed: int = 0,
    device: str = "cpu",
) -> AutoencoderKL:
    """L1 + LPIPS + small KL, in bfloat16 autocast; sets ``scaling_factor`` so that latents have unit deviation."""
    torch.manual_seed(seed)
    model = build().to(device)
    lpips = load_lpips().to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4)
    images = pixels(scenes, folder.parent)
    run = Run(folder, steps, seed, {"model": model, "optimiser": optimiser})
    for step, rng in run:
        for group in optimiser.param_groups:
            group["lr"] = lr * cosine(step, steps)
        x = to_tensor(images[rng.integers(scenes, size=batch)]).to(device)
        with torch.autocast(device, torch.bfloat16):
            posterior = model.encode(x).latent_dist
            restored = model.decode(posterior.sample()).sample.float()
            perceptual = lpips(restored, x).float().mean()
        l1 = (restored - x).abs().mean()
        # The squared error is what PSNR measures; L1 alone leaves flat regions slightly off.
        loss = l1 + 2 * (restored - x).square().mean() + lpips_weight * perceptual
        loss = loss + kl_weight * posterior.kl().float().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 99:
            run.log(l1=l1.item(), lpips=perceptual.item(), lr=group["lr"])
        if step % 500 == 499 or step + 1 == steps:
            run.log(psnr=reconstruction_psnr(model, 32))
    model.eval()
    with torch.inference_mode():
        # Over channels and pixels at once, as SD's 0.18215 was.
        x = to_tensor(images[:256]).to(device)
        deviation = torch.cat([model.encode(part).latent_dist.mean for part in x.split(32)]).std().item()
    model.register_to_config(scaling_factor=round(1 / deviation, 5))
    return model


@torch.inference_mode()
def reconstruction_psnr(model: AutoencoderKL, count: int, batch: int = 16) -> float:
    """Mean PSNR in dB over held-out scenes, of the posterior's mean decoded, rounded to 8 bits."""
    import numpy as np

    images = np.stack([np.asarray(render(s).image) for s in held_out(count)])
    device = next(model.parameters()).device
    total = 0.0
    for start in range(0, count, batch):
        x = to_tensor(images[start : start + batch]).to(device)
        restored = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((restored + 1) * 127.5).round().sub((x + 1) * 127.5).square().mean((1, 2, 3))
        total += (10 * torch.log10(255**2 / error)).sum().item()
    return total / count
