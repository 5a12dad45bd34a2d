"""What editors tell of their cost is what they cost: every evaluation of the denoiser is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backbones import tiny_sd21, tiny_sdxl
from editor_helpers import make_sample, small_backbone

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import LaneCount, TellsLanes
from cpam_bench.cpam.inversion import Trajectory
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


class Noting(Source):
    """Notes whether the inversion that all share is asked for."""

    path: Trajectory
    asked = False

    @property
    def trajectory(self) -> Trajectory:  # type: ignore[override]
        self.asked = True
        return self.path


def counted(label: str, backbone: Backbone, steps: int) -> LaneCount:
    found = {"plain": 0, "gradient": 0, "trained": 0}

    def count(module: torch.nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        own = module is backbone.unet
        learns = output[0].requires_grad
        found["plain" if not learns else "gradient" if own else "trained"] += len(arguments[0])

    sample = make_sample(source_prompt="a photo of an apple on a beach")
    source = Noting(sample, backbone, steps)
    source.path = Source(sample, backbone, steps).trajectory  # the inversion that all share
    hook = backbone.unet.register_forward_hook(count)  # a copy of the denoiser has it too
    try:
        registry.make(label)[1].edit(sample, source, 0)
    finally:
        hook.remove()
    return LaneCount(**found, shared=source.asked)


@pytest.mark.parametrize("label", LABELS)
def test_lanes_are_those_that_the_denoiser_is_shown(label: str, backbone: Backbone) -> None:
    editor = registry.make(label)[1]
    assert isinstance(editor, TellsLanes)
    assert editor.lanes(4) == counted(label, backbone, 4)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
@pytest.mark.parametrize("label", ["cpam", "cpam-release", "masactrl:step=1", "pnp:inversion_steps=0", "diffedit"])
def test_lanes_on_other_families(label: str, family: str) -> None:
    """The authors' release inverts on its own there."""
    pipeline = {"sd2": tiny_sd21, "sdxl": tiny_sdxl}[family]()
    editor: Any = registry.make(label)[1]
    assert editor.lanes(2, family) == counted(label, Backbone.from_pipeline(pipeline, family), 2)


def test_every_installed_editor_is_among_them() -> None:
    assert {label.partition(":")[0] for label in LABELS} == set(registry.load_all()[0])
