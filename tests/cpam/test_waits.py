"""Where the loop waits for the device: counted on the CPU by what would have to be copied from a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from editor_helpers import TINY, make_sample
from torch.utils._python_dispatch import TorchDispatchMode

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.sampling import sample_together
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry

STEPS = 4
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2"}
"""Operations whose result, or its shape, has to come from the device."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


class _Waits(TorchDispatchMode):
    """Waits of each step, of those before the first one too."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = [0]

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.steps[-1] += function.overloadpacket.__name__ in WAITING
        return function(*args, **(kwargs or {}))


@contextmanager
def waits(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    counter = _Waits()
    listed = torch.Tensor.tolist

    def tolist(tensor: torch.Tensor) -> Any:  # which is no operation of its own
        counter.steps[-1] += 1
        return listed(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    hook = backbone.unet.conv_in.register_forward_pre_hook(lambda *_: counter.steps.append(0))
    try:
        with counter:
            yield counter.steps
    finally:
        hook.remove()
        monkeypatch.undo()


@pytest.mark.parametrize(
    ("label", "once", "a_step"),
    [
        ("cpam", 4, 0),  # the masks at the sizes of four layers
        ("cpam:refine=true", 4, 1),  # which change at each step, all at once
        ("masactrl:step=1", 0, 0),
        ("masactrl:step=1,masked=true", 2, 0),
        ("pnp:inversion_steps=0", 0, 0),
        ("fpe", 0, 0),
        ("p2p-nti:inversion=negative-prompt", 0, 0),
        ("ddim", 0, 0),
    ],
)
def test_the_loop_waits_for_no_device(
    label: str, once: int, a_step: int, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, editor = registry.make(label)
    sample = make_sample(source_prompt="a photo of an apple on a beach")
    branches = editor.branches([sample], [Source(sample, backbone, STEPS)], [0])  # type: ignore[attr-defined]
    with waits(backbone, monkeypatch) as counted:
        sample_together(backbone, branches)
    assert len(counted) == 1 + STEPS
    steps = counted[1:-1]  # after the last step all latents are looked at once
    assert steps[-1] <= a_step
    assert sum(steps) <= once + a_step * len(steps)
