"""One step of CPAM on SDXL at full size with random weights: whether it fits into memory, and what it takes.

``python tests/benchmarks/sdxl_step.py`` needs no network: the weights are random, and no picture is worth a look.
``--share 0.1`` makes every layer so much narrower, to try the script itself.  Run one at a time.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from editor_helpers import make_sample, tiny_pipeline

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editor import CPAM
from cpam_bench.cpam.source import Source


def filled(make: Callable[[], torch.nn.Module], dtype: torch.dtype) -> Any:
    """A network of random weights, made without ever being there in float32."""
    with torch.device("meta"):
        network = make().to(dtype)
    network = network.to_empty(device="cpu")
    for _, positions in network.named_buffers():  # those of the text encoders
        positions.copy_(torch.arange(positions.shape[-1]))
    for name, weights in network.named_parameters():
        if "norm" in name and name.endswith("weight"):
            weights.data.fill_(1.0)
        elif weights.ndim > 1:
            weights.data.normal_(std=weights[0].numel() ** -0.5)
        else:
            weights.data.zero_()
    return network.eval().requires_grad_(False)


def encoder(width: int, layers: int, heads: int, kind: type, dtype: torch.dtype) -> Any:
    tokenizer = tiny_pipeline().tokenizer
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return filled(lambda: kind(config), dtype)


def sdxl(share: float, edge: int, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """SDXL's blocks; with ``share`` below 1 with so many of its heads."""
    heads = [max(1, round(share * count)) for count in (5, 10, 20)]
    small, large = (max(1, round(share * count)) for count in (12, 20))
    first, second = 64 * small, 64 * large
    unet = filled(
        lambda: UNet2DConditionModel(
            sample_size=edge // 8,
            block_out_channels=[64 * count for count in heads],
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=heads,
            cross_attention_dim=first + second,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=6 * 256 + second,
        ),
        dtype,
    )
    channels = [32 * max(1, round(share * count)) for count in (4, 8, 16, 16)]
    vae = filled(
        lambda: AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=edge,
            scaling_factor=0.13025,
            force_upcast=True,
        ),
        torch.float32,
    )
    tokenizer = tiny_pipeline().tokenizer
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoder(first, 12, small, CLIPTextModel, dtype),
        text_encoder_2=encoder(second, 32, large, CLIPTextModelWithProjection, dtype),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--edge", type=int, default=1024, help="pixels")
    asked.add_argument("--share", type=float, default=1.0, help="of the heads of every layer")
    asked.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    options = asked.parse_args()
    began = time.perf_counter()
    backbone = Backbone.from_pipeline(sdxl(options.share, options.edge, getattr(torch, options.dtype)), "random sdxl")
    weights = sum(part.numel() for name in backbone.parts for part in getattr(backbone.pipeline, name).parameters())
    print(f"{weights / 1e9:.2f} billion weights, made in {time.perf_counter() - began:.0f} s", flush=True)
    sample = make_sample(retain_object=True)
    began = time.perf_counter()
    CPAM(start_step=0).edit(sample, Source(sample, backbone, steps=1), seed=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took = time.perf_counter() - began
    print(f"encoded, inverted and edited in one step, decoded: {took:.0f} s, {peak:.1f} GiB at the most", flush=True)


if __name__ == "__main__":
    main()
