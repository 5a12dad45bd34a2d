"""What holds of every installed editor, on small random backbones; a new entry point joins by itself."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from editor_helpers import TINY, make_sample, small_backbone

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.common.labels import build
from cpam_bench.imba.errors import UserError

STEPS = 3
CAPTION = "a photo of an apple on a beach"

EDITORS, BROKEN = registry.load_all()

SETTINGS = {
    "masactrl": "step=1",
    "p2p-nti": "inner_steps=1",
    "pnp": "inversion_steps=0",
    "pix2pix-zero": "rounds=1,rolls=1",
    "imagic": "embedding_steps=1,model_steps=1",
}
"""Parameters with which an editor does in these few steps, and cheaply, what it does in many."""

BACKBONES: dict[str, dict[str, Any]] = {
    "one layer a block": {"layers_per_block": 1},
    "heads that differ": {"attention_head_dim": [2, 4, 2, 4]},
    "larger latents": {"sample_size": 20},
    "uneven latents": {"sample_size": 10},
    "two transformers a block": {"transformer_layers_per_block": 2, "use_linear_projection": True},
    "v prediction": {"prediction_type": "v_prediction"},
    "two stages": {
        "block_out_channels": [16, 32],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    "no attention in the decoder": {"up_block_types": ["UpBlock2D"] * 4},
    "self-attention alone": {"down_block_types": ["AttnDownBlock2D"] + ["DownBlock2D"] * 3},
}

REFUSED = {
    ("p2p-nti", "two stages"): "quarter",
    ("leditspp", "two stages"): "quarter",
    ("pnp", "no attention in the decoder"): "decoder",
} | {
    (name, "self-attention alone"): "transformer block"
    for name in ("cpam", "cpam-release", "masactrl", "pnp", "fpe", "p2p-nti", "pix2pix-zero", "leditspp")
}
"""Editors that cannot work with a backbone, and words of the reason that they give."""


def make(name: str) -> Editor:
    return build(EDITORS[name], f"method {name!r}", SETTINGS.get(name, ""))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


def edit(editor: Editor, backbone: Backbone, **changes: object) -> np.ndarray:
    sample = make_sample(**{"source_prompt": CAPTION, **changes})
    torch.manual_seed(0)
    return np.asarray(editor.edit(sample, Source(sample, backbone, STEPS), 0))


def test_all_editors_load() -> None:
    assert not BROKEN
    assert {"cpam", "masactrl", "pnp", "fpe", "p2p-nti", "ddim"} <= set(EDITORS)


# the backbone stays as it was ----------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


@contextmanager
def watched(backbone: Backbone, stop_at: int | None = None) -> Iterator[list[int]]:
    """Counts the calls of the denoiser in a list of one number, and raises at one of them."""
    calls = [0]

    def count(*_: object) -> None:
        calls[0] += 1
        if calls[0] == stop_at:
            raise Interrupted

    hook = backbone.unet.conv_in.register_forward_pre_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


def state(backbone: Backbone) -> dict[str, Any]:
    """Everything about a backbone that an editor could leave behind."""
    pipeline = backbone.pipeline
    parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    modules = {f"{part}.{name}": module for part, net in parts.items() for name, module in net.named_modules()}
    members = {name: vars(module) for name, module in modules.items()}
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "parts": {name: id(part) for name, part in parts.items()} | {"tokenizer": id(pipeline.tokenizer)},
        "weights": {name: weights_hash(part) for name, part in parts.items()},
        "processors": {name: id(processor) for name, processor in pipeline.unet.attn_processors.items()},
        "hooks": {name: [list(getattr(module, hook)) for hook in hooks] for name, module in modules.items()},
        "patched": {
            name: sorted(key for key, value in own.items() if callable(value)) for name, own in members.items()
        },
        "training": {name: module.training for name, module in modules.items()},
        "gradients": {
            f"{part}.{name}": (weight.requires_grad, weight.grad is None)
            for part, net in parts.items()
            for name, weight in net.named_parameters()
        },
        "scheduler": (id(pipeline.scheduler), dict(pipeline.scheduler.config)),
        "torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
    }


@pytest.mark.parametrize("name", EDITORS)
def test_backbone_is_as_before_also_after_an_exception(name: str, backbone: Backbone) -> None:
    before = state(backbone)
    with watched(backbone) as calls:
        first = edit(make(name), backbone)
    assert state(backbone) == before
    for call in {1 + calls[0] // 2, calls[0]} if calls[0] else ():
        with watched(backbone, stop_at=call), pytest.raises(Interrupted):
            edit(make(name), backbone)
        assert state(backbone) == before
    assert np.array_equal(edit(make(name), backbone), first)


# capabilities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EDITORS)
def test_caption_free_is_what_it_says(name: str, backbone: Backbone) -> None:
    editor = make(name)
    alike = np.array_equal(edit(editor, backbone), edit(editor, backbone, source_prompt="a drawing of a cake"))
    assert alike == editor.capabilities.caption_free
    if getattr(editor, "needs_caption", False):
        with pytest.raises(UserError, match="apple-orange"):
            edit(editor, backbone, source_prompt=None)
    else:
        assert edit(editor, backbone, source_prompt=None).shape == (128, 128, 3)


@pytest.mark.parametrize("name", EDITORS)
def test_mask_control_is_what_it_says(name: str, backbone: Backbone) -> None:
    """The mask matters by default or, where that is the capability, with one of the switches turned."""
    other = np.zeros((128, 128), bool)
    other[8:60, 8:60] = True

    def hears(editor: Any) -> bool:
        return not np.array_equal(edit(editor, backbone), edit(editor, backbone, region=other))

    editor = make(name)
    if not editor.capabilities.mask_control:
        assert not hears(editor)
        assert edit(editor, backbone, region=None).shape == (128, 128, 3)
        return
    switches = [field.name for field in dataclasses.fields(editor) if isinstance(field.default, bool)]
    turned = (dataclasses.replace(editor, **{switch: not getattr(editor, switch)}) for switch in switches)
    assert hears(editor) or any(map(hears, turned))


# other backbones -----------------------------------------------------------------------------------------------------


@functools.cache
def shaped(shape: str) -> Backbone:
    return small_backbone(**BACKBONES[shape])


@pytest.mark.parametrize("shape", BACKBONES)
@pytest.mark.parametrize("name", EDITORS)
def test_other_backbones_work_or_are_refused(name: str, shape: str) -> None:
    backbone = shaped(shape)
    if (name, shape) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name, shape]):
            edit(make(name), backbone)
    else:
        picture = edit(make(name), backbone)
        assert picture.shape == (backbone.resolution, backbone.resolution, 3)


@pytest.mark.parametrize("name", EDITORS)
def test_half_precision(name: str) -> None:
    picture = edit(make(name), half())
    assert picture.shape == (128, 128, 3) and picture.std() > 1


@functools.cache
def half() -> Backbone:
    return Backbone.load(str(TINY), dtype="bfloat16")


def test_latents_that_are_not_square_are_refused() -> None:
    with pytest.raises(UserError, match="square"):
        small_backbone(sample_size=(16, 24))


def test_ddim_pasted_back_is_ddim_inside_the_mask_and_the_source_outside(backbone: Backbone) -> None:
    sample = make_sample()
    source = Source(sample, backbone, STEPS)
    pasted, free = (np.asarray(make(name).edit(sample, source, 0)) for name in ("ddim-paste", "ddim"))
    assert source.mask is not None
    assert (pasted[~source.mask] == np.asarray(source.image)[~source.mask]).all()
    assert (pasted[source.mask] == free[source.mask]).all()
