"""What editors tell of their cost is what they cost: every evaluation of the denoiser is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from editor_helpers import make_sample, small_backbone

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import LaneCount, TellsLanes
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry

LABELS = (
    "cpam",
    "cpam-release",
    "masactrl:step=1",
    "pnp:inversion_steps=0",
    "pnp:inversion_steps=20",
    "pnp:inversion_steps=0,caption=true,trajectory=false",
    "fpe",
    "sdedit",
    "diffedit:maps=2",
    "diffedit:masked=true",
    "leditspp",
    "pix2pix-zero:rounds=1,rolls=1",
    "pix2pix-zero:rounds=1,rolls=1,all_steps=true,trajectory=true",
    "p2p-nti:inner_steps=2,epsilon=-1",
    "p2p-nti:inversion=negative-prompt",
    "p2p-nti:inversion=ddim",
    "p2p-nti:inversion=ddim,trajectory=true",
    "imagic:embedding_steps=2,model_steps=1",
    "identity",
    "reconstruction",
    "ddim",
    "ddim-paste",
)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return small_backbone()


def counted(label: str, backbone: Backbone, steps: int) -> LaneCount:
    found = {"plain": 0, "gradient": 0, "trained": 0}

    def count(module: torch.nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        own = module is backbone.unet
        learns = output[0].requires_grad
        found["plain" if not learns else "gradient" if own else "trained"] += len(arguments[0])

    sample = make_sample(source_prompt="a photo of an apple on a beach")
    source = Source(sample, backbone, steps)
    _ = source.trajectory  # the inversion that all share
    hook = backbone.unet.register_forward_hook(count)  # a copy of the denoiser has it too
    try:
        registry.make(label)[1].edit(sample, source, 0)
    finally:
        hook.remove()
    return LaneCount(**found)


@pytest.mark.parametrize("label", LABELS)
def test_lanes_are_those_that_the_denoiser_is_shown(label: str, backbone: Backbone) -> None:
    editor = registry.make(label)[1]
    assert isinstance(editor, TellsLanes)
    assert editor.lanes(4) == counted(label, backbone, 4)


def test_every_installed_editor_is_among_them() -> None:
    assert {label.partition(":")[0] for label in LABELS} == set(registry.load_all()[0])
