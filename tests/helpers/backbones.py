"""Stable Diffusion 2.1 and SDXL with their real blocks, few channels and random weights."""

from __future__ import annotations

import functools

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from editor_helpers import tiny_pipeline
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

LEVELS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def _encoder(width: int, cls: type = CLIPTextModel, activation: str = "gelu") -> torch.nn.Module:
    tokenizer = tiny_pipeline().tokenizer
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return cls(config).eval()


def _unet(**settings: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(norm_num_groups=4, use_linear_projection=True, **settings).eval()


@functools.cache
def tiny_sd21() -> StableDiffusionPipeline:
    """Velocity, another number of heads in each layer, linear projections, a text encoder of its own."""
    torch.manual_seed(0)
    unet = _unet(
        sample_size=16,
        block_out_channels=(8, 16, 32, 32),
        attention_head_dim=(1, 2, 4, 4),
        cross_attention_dim=24,
    )
    scheduler = DDIMScheduler(
        **LEVELS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, timestep_spacing="leading"
    )
    parts = dict(tiny_pipeline().components)
    parts |= {"unet": unet, "text_encoder": _encoder(24), "scheduler": scheduler}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)


@functools.cache
def tiny_sdxl() -> StableDiffusionXLPipeline:
    """70 layers of self- and of cross-attention, two text encoders, the Euler scheduler of the published model."""
    torch.manual_seed(0)
    unet = _unet(
        sample_size=16,
        block_out_channels=(4, 8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=16 + 24,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 24,
    )
    torch.manual_seed(1)
    vae = AutoencoderKL.from_config({**tiny_pipeline().vae.config, "force_upcast": True, "scaling_factor": 0.13025})
    tokenizer = tiny_pipeline().tokenizer
    return StableDiffusionXLPipeline(
        vae=vae.eval(),
        text_encoder=_encoder(16),
        text_encoder_2=_encoder(24, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**LEVELS, timestep_spacing="leading"),
        force_zeros_for_empty_prompt=True,
    )
