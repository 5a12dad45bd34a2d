"""Train the pocket backbone's AutoencoderKL: factor 8, 4 latent channels, 1.7 M parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cpam_bench.eval.metrics.perceptual import load_lpips
from cpam_bench.eval.pocket.training import Run, half, held_out, pixels, to_tensor, trapezoid
from cpam_bench.imba.pocket.scenes import SIZE, render

SCALES = (0.5, 0.75, 1.0)
"""What latents are reduced to, so that the decoder learns to give the reduced picture."""


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
    steps: int = 3000,
    batch: int = 4,
    scenes: int = 8000,
    lr: float = 5e-4,
    lpips_weight: float = 0.25,
    kl_weight: float = 4e-6,
    equivariant: float = 0.5,
    seed: int = 0,
    device: str = "cpu",
    start: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """L1 + squared error + LPIPS + KL on latents that stay latents when they are scaled or turned.

    In a share of steps the latents are reduced and turned by quarters before they are decoded, and the picture
    likewise (EQ-VAE, Kouzelis et al. 2025): neighbouring latents then mean neighbouring pictures, which a denoiser
    learns faster.  ``scaling_factor`` is set so that latents have unit deviation.  The result is the weights' average.

    Args:
        folder: of the checkpoint and the log; the cache of pictures lies beside it.
        lpips_weight: weight of LPIPS beside L1.
        kl_weight: weight of the KL divergence, summed over a picture's 1024 latents.
        equivariant: share of steps whose latents are reduced and turned.
        start: a trained autoencoder to begin from instead of random weights.
    """
    torch.manual_seed(seed)
    model = build().to(device)
    if start is not None:
        model.load_state_dict(start.float().state_dict())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    lpips = load_lpips().to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    images = pixels(scenes, folder.parent)
    unseen = [render(one).image for one in held_out(32)]
    run = Run(folder, steps, seed, {"model": model, "average": average, "optimiser": optimiser})
    kept: list[tuple[float, ...]] = []
    for step, rng in run:
        for group in optimiser.param_groups:
            group["lr"] = lr * trapezoid(step, steps)
        x = to_tensor(images[np.sort(rng.integers(scenes, size=batch))]).to(device)
        scale, turns = 1.0, 0
        if rng.random() < equivariant:
            scale, turns = float(rng.choice(SCALES)), int(rng.integers(4))
        with half(device):
            posterior = model.encode(x).latent_dist
            mean, deviation = posterior.mean.float(), posterior.std.float()
            z = altered(mean + deviation * torch.randn_like(mean), scale, turns)
            x = altered(x, scale, turns)
            restored = model.decode(z).sample.float()
            perceptual = lpips(restored, x).float().mean()
        l1 = (restored - x).abs().mean()
        # The squared error is what PSNR measures; L1 alone leaves flat regions slightly off.
        loss = l1 + 2 * (restored - x).square().mean() + lpips_weight * perceptual
        kl = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()).sum((1, 2, 3)).mean()
        loss = loss + kl_weight * kl
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step < 200:  # early on the average would remember the random start for too long
            average.n_averaged.zero_()
        average.update_parameters(model)
        kept.append((l1.item(), perceptual.item(), kl.item(), (deviation.mean() / mean.std()).item()))
        if step % 100 == 99:
            figures = np.mean(kept[-100:], 0)
            run.log(**dict(zip(("l1", "lpips", "kl", "noise"), figures, strict=True)), lr=group["lr"])
        if step % 500 == 499 or step + 1 == steps:
            run.log(psnr=reconstruction_psnr(cast(AutoencoderKL, average.module), unseen))
    averaged = cast(AutoencoderKL, average.module).eval()
    with torch.inference_mode():
        # Over channels and pixels at once, as SD's 0.18215 was.
        x = to_tensor(images[:256]).to(device)
        spread = torch.cat([averaged.encode(part).latent_dist.mean for part in x.split(32)]).std().item()
    averaged.register_to_config(scaling_factor=round(1 / spread, 5))
    return averaged


def finish(
    folder: Path,
    model: AutoencoderKL,
    steps: int = 900,
    batch: int = 8,
    scenes: int = 8000,
    lr: float = 3e-4,
    lpips_weight: float = 0.25,
    adversarial: float = 0.02,
    noise: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
) -> AutoencoderKL:
    """Train the decoder alone, for sharpness; the latents, and what has learned them, stay valid.

    The losses of :func:`train` without altered latents; from the middle on a critic of 16 x 16 patches too, by the
    hinge loss (PatchGAN, Isola et al. 2017).  The result is the weights' average; the encoder's are untouched.

    Args:
        folder: of the checkpoint and the log; the cache of pictures lies beside it.
        model: the trained autoencoder; it is changed.
        adversarial: weight of the critic's opinion beside L1.
        noise: deviation of the noise on the latents, as a share of their own; a denoiser's latents are not exact.
    """
    torch.manual_seed(seed)
    model = model.to(device)
    own = nn.ModuleList([model.post_quant_conv, model.decoder])
    average = AveragedModel(own, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    critic, lpips = _critic().to(device), load_lpips().to(device)
    optimiser = torch.optim.AdamW(own.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    judging = torch.optim.AdamW(critic.parameters(), lr=lr, betas=(0.5, 0.99), fused=True)
    images = pixels(scenes, folder.parent)
    unseen = [render(one).image for one in held_out(32)]
    spread = noise / model.config.scaling_factor
    parts = {"decoder": own, "average": average, "optimiser": optimiser, "critic": critic, "judging": judging}
    run = Run(folder, steps, seed, parts)
    kept: list[tuple[float, ...]] = []
    for step, rng in run:
        for group in optimiser.param_groups:
            group["lr"] = lr * trapezoid(step, steps)
        x = to_tensor(images[np.sort(rng.integers(scenes, size=batch))]).to(device)
        with half(device):
            with torch.no_grad():
                mean = model.encode(x).latent_dist.mean.float()
            restored = model.decode(mean + spread * torch.randn_like(mean)).sample.float()
            perceptual = lpips(restored, x).float().mean()
        l1 = (restored - x).abs().mean()
        loss = l1 + 2 * (restored - x).square().mean() + lpips_weight * perceptual
        doubt = torch.zeros(())
        if step >= steps // 2:
            with half(device):
                real, false = critic(x).float(), critic(restored.detach()).float()
            doubt = (1 - real).relu().mean() + (1 + false).relu().mean()
            judging.zero_grad(set_to_none=True)
            doubt.backward()
            judging.step()
            # The critic's first hundred opinions are worth nothing.
            if step >= steps // 2 + 100:
                critic.requires_grad_(False)
                with half(device):
                    loss = loss - adversarial * critic(restored).float().mean()
                critic.requires_grad_(True)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(own)
        kept.append((l1.item(), perceptual.item(), doubt.item()))
        if step % 100 == 99:
            run.log(**dict(zip(("l1", "lpips", "critic"), np.mean(kept[-100:], 0), strict=True)), lr=group["lr"])
        if step % 500 == 499 or step + 1 == steps:
            run.log(psnr_raw=reconstruction_psnr(model, unseen))
    own.load_state_dict(average.module.state_dict())
    return model.eval()


def _critic() -> nn.Sequential:
    """Pictures (B, 3, H, W) -> how real each patch looks, (B, 1, H / 8, W / 8)."""
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(128, 1, 3, padding=1))


def altered(x: Tensor, scale: float, turns: int) -> Tensor:
    """Pictures or latents (B, C, H, W) reduced by ``scale`` and turned by quarters to the left."""
    if scale != 1:
        x = nn.functional.interpolate(x, scale_factor=scale, mode="bicubic", antialias=True)
    return torch.rot90(x, turns, (2, 3)).contiguous()


@torch.inference_mode()
def reconstruction_psnr(model: AutoencoderKL, pictures: Sequence[Image.Image], batch: int = 16) -> float:
    """Mean PSNR in dB of pictures, of the posterior's mean decoded, rounded to 8 bits."""
    images = np.stack([np.asarray(one) for one in pictures])
    device = next(model.parameters()).device
    total = 0.0
    for start in range(0, len(images), batch):
        x = to_tensor(images[start : start + batch]).to(device)
        restored = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        error = ((restored + 1) * 127.5).round().sub((x + 1) * 127.5).square().mean((1, 2, 3))
        total += (10 * torch.log10(255**2 / error)).sum().item()
    return total / len(images)
