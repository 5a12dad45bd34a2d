"""A small Stable Diffusion 1.x in one file, under the names that CompVis' code gives its weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_single_file(pipeline: Any, path: Path) -> None:
    """Write the denoiser, the autoencoder and the text encoder of a diffusers pipeline into one checkpoint."""
    layers = pipeline.unet.config.layers_per_block + 1
    kinds = pipeline.unet.config.up_block_types
    weights: dict[str, Tensor] = {}
    for name, tensor in pipeline.unet.state_dict().items():
        weights[f"model.diffusion_model.{_denoiser(name, layers, kinds)}"] = tensor
    stages = len(pipeline.vae.config.block_out_channels)
    for name, tensor in pipeline.vae.state_dict().items():
        renamed = _autoencoder(name, stages)
        is_map = ".attn_1." in renamed and renamed.endswith("weight") and tensor.ndim == 2
        weights[f"first_stage_model.{renamed}"] = tensor[:, :, None, None] if is_map else tensor
    for name, tensor in pipeline.text_encoder.state_dict().items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        weights[f"cond_stage_model.transformer.{inner}"] = tensor
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)


def _denoiser(name: str, layers: int, kinds: list[str]) -> str:
    for ours, theirs in _ENDS.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    side, block, what, index, rest = _parts(name)
    if side == "mid_block":
        place = f"middle_block.{1 if what == 'attentions' else 2 * index}"
    elif what == "downsamplers":
        return f"input_blocks.{(block + 1) * layers}.0.op.{rest.removeprefix('conv.')}"
    elif what == "upsamplers":
        return f"output_blocks.{block * layers + layers - 1}.{2 if 'Cross' in kinds[block] else 1}.{rest}"
    else:
        number = block * layers + index + (1 if side == "down_blocks" else 0)
        place = f"{'input' if side == 'down_blocks' else 'output'}_blocks.{number}.{int(what == 'attentions')}"
    return f"{place}.{_renamed(rest, _RESNET) if what == 'resnets' else rest}"


def _autoencoder(name: str, stages: int) -> str:
    half, _, inner = name.partition(".")
    if half not in ("encoder", "decoder"):
        return name
    inner = inner.replace("conv_norm_out", "norm_out")
    if inner.startswith(("conv_", "norm_")):
        return f"{half}.{inner}"
    side, block, what, index, rest = _parts(inner)
    rest = rest.replace("conv_shortcut", "nin_shortcut")
    if side == "mid_block":
        place = "attn_1" if what == "attentions" else f"block_{index + 1}"
        return f"{half}.mid.{place}.{_renamed(rest, _ATTENTION) if what == 'attentions' else rest}"
    stage = f"down.{block}" if side == "down_blocks" else f"up.{stages - 1 - block}"
    place = f"block.{index}" if what == "resnets" else what.removesuffix("rs")  # downsample, upsample
    return f"{half}.{stage}.{place}.{rest}"


def _parts(name: str) -> tuple[str, int, str, int, str]:
    """``down_blocks.1.resnets.0.norm1.weight`` -> side, block, what, its index, the rest."""
    match = re.fullmatch(r"(mid_block|\w+_blocks)(?:\.(\d+))?\.(\w+)\.(\d+)\.(.+)", name)
    assert match, name
    return match[1], int(match[2] or 0), match[3], int(match[4]), match[5]


def _renamed(rest: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if rest.startswith(f"{ours}."):
            return rest.replace(ours, theirs, 1)
    return rest
