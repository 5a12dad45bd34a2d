"""A sample and small backbones for the tests of editors."""

from __future__ import annotations

import functools
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from paths import TINY

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.imba.pocket.scenes import Item, Scene, render
from cpam_bench.imba.sample import Sample


def make_sample(**changes: object) -> Sample:
    scene = render(Scene("beach", 5, (Item("apple", 0.5, 0.85, 60),)))
    values: dict[str, object] = {
        "id": "apple-orange",
        "image": scene.image,
        "region": scene.masks[0],
        "target_prompt": "a photo of an orange on a beach",
        "object_prompt": "an orange",
    }
    return Sample(**{**values, **changes})  # type: ignore[arg-type]


@functools.cache
def tiny_pipeline() -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None, requires_safety_checker=False)


def small_backbone(prediction_type: str = "epsilon", **unet: Any) -> Backbone:
    """The tiny pipeline with a denoiser of another shape and random weights, for 8x8 latents."""
    parts = dict(tiny_pipeline().components)
    torch.manual_seed(0)
    parts["unet"] = UNet2DConditionModel.from_config({**parts["unet"].config, "sample_size": 8, **unet})
    parts["scheduler"] = DDIMScheduler.from_config(parts["scheduler"].config, prediction_type=prediction_type)
    return Backbone.from_pipeline(StableDiffusionPipeline(**parts, requires_safety_checker=False), "small")
