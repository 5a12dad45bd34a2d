"""What one editor does to the backbone, or how it fails, is no affair of the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from paths import TINY
from run_helpers import Brighten, _Base, described, editors, samples

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import parameter
from cpam_bench.eval.run import driver
from cpam_bench.eval.run.executor import Serial
from cpam_bench.eval.run.guard import Guard
from cpam_bench.eval.run.worker import Recipe
from cpam_bench.eval.store.lock import locked
from cpam_bench.eval.store.store import Store


@pytest.fixture
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


def weights(backbone: Any) -> None:
    with torch.no_grad():
        backbone.unet.conv_in.bias += 1.0


def a_weight_of_another(backbone: Any) -> None:
    bias = backbone.unet.conv_in.bias
    backbone.unet.conv_in.bias = torch.nn.Parameter(torch.zeros(bias.shape), requires_grad=False)


def a_hook(backbone: Any) -> None:
    backbone.pipeline.vae.register_forward_hook(lambda *_: None)


def processors(backbone: Any) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    backbone.unet.set_attn_processor(AttnProcessor())


def training(backbone: Any) -> None:
    backbone.unet.mid_block.train()


def gradients(backbone: Any) -> None:
    backbone.pipeline.text_encoder.requires_grad_(True)


def default_dtype(backbone: Any) -> None:
    torch.set_default_dtype(torch.float64)


def grad_mode(backbone: Any) -> None:
    torch.set_grad_enabled(not torch.is_grad_enabled())


CHANGES = {
    weights: "the weights of its unet",
    a_weight_of_another: "the weights of its unet",
    a_hook: "its vae",
    processors: "its unet",
    training: "its unet",
    gradients: "modes of its text_encoder",
    default_dtype: "torch's default dtype",
    grad_mode: "torch's grad mode",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_named(backbone: Backbone, change: Any) -> None:
    guard = Guard(backbone, backbone.fingerprint)
    assert guard.changed() == []
    change(backbone)
    (found,) = guard.changed()
    assert CHANGES[change] in found
    assert torch.get_default_dtype() == torch.float32


def test_weights_that_are_put_back_are_no_change(backbone: Backbone) -> None:
    guard = Guard(backbone, backbone.fingerprint)
    before = backbone.unet.conv_in.bias.detach().clone()
    weights(backbone)
    with torch.no_grad():
        backbone.unet.conv_in.bias.copy_(before)
    assert guard.changed() == []


@dataclass(frozen=True)
class Vandal(_Base):
    """Edits well, and leaves the weights of the backbone changed."""

    name: ClassVar[str] = "vandal"

    def edit(self, sample: Any, source: Any, seed: int) -> Any:
        weights(source.backbone)
        return source.image.copy()


@dataclass(frozen=True)
class Decoded(_Base):
    """What the backbone makes of the source, so that a changed one shows."""

    name: ClassVar[str] = "decoded"

    def edit(self, sample: Any, source: Any, seed: int) -> Any:
        backbone = source.backbone
        return backbone.decode(backbone.predict(source.latents, 1, backbone.embed("")))


def edits(folder: Path, chosen: dict[str, Any], backbone: Backbone) -> dict[tuple[str, str], Any]:
    recipe = Recipe(chosen, lambda: Backbone.load(str(TINY)), backbone.fingerprint, steps=2, seed=0)
    todo = samples(2)
    with locked(folder):
        store = Store.create_or_resume(folder, described(chosen, todo))
        driver.run(store, todo, chosen, backbone, executor=Serial(recipe.with_backbone(backbone)), progress=False)
        found, damaged = store.edits()
    assert not damaged
    return {(edit.method, edit.sample): edit for edit in found}


def test_what_comes_after_is_as_if_nothing_had_been(tmp_path: Path, backbone: Backbone) -> None:
    calm = edits(tmp_path / "calm", editors(Decoded()), backbone)
    found = edits(tmp_path / "run", editors(Vandal(), Decoded()), Backbone.load(str(TINY)))
    for sample in ("s0", "s1"):
        assert found["vandal", sample].error.startswith("LeftChanged: it left the weights of its unet changed")
        assert found["decoded", sample].image_sha256 == calm["decoded", sample].image_sha256


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError("not even that")


ODD = {
    "surrogate": RuntimeError("caf\udce9"),
    "unprintable": Unprintable(),
    "exit": SystemExit(3),
    "endless": RuntimeError("x" * 3_000_000),
}


@dataclass(frozen=True)
class Odd(_Base):
    """Fails in an odd way."""

    name: ClassVar[str] = "odd"
    how: str = parameter("exit", "the way", "the test")

    def edit(self, sample: Any, source: Any, seed: int) -> Any:
        object.__setattr__(sample, "id", "another")
        raise ODD[self.how]


@pytest.mark.parametrize("how", ODD)
def test_an_odd_exception_is_a_failed_edit(tmp_path: Path, backbone: Backbone, how: str) -> None:
    found = edits(tmp_path / "run", editors(Odd(how), Brighten()), backbone)
    failed = [edit for edit in found.values() if edit.status == "failed"]
    assert len(found) == 4 and {edit.sample for edit in failed} == {"s0", "s1"}
    assert all(edit.method.startswith("odd") and len(edit.error or "") < 3000 for edit in failed)


def test_threads_that_a_run_sets_itself_are_no_change(backbone: Backbone) -> None:
    threads = torch.get_num_threads()
    guard = Guard(backbone, backbone.fingerprint)
    try:
        torch.set_num_threads(threads + 1)  # as an executor does once its worker is made
        guard.begin()
        assert guard.changed() == []
        torch.set_num_threads(threads + 2)
        assert guard.changed() == ["torch's threads"]
        assert torch.get_num_threads() == threads + 1
    finally:
        torch.set_num_threads(threads)
