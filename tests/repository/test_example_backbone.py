"""A package of its own adds a backbone: built and installed for real, named by its label, listed, run, and recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from run_helpers import write_clip

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.backbones.stable_diffusion import Pocket, StableDiffusion
from examples import call, install

LABEL = "pocket-skip:skip=2"


def test_the_example_is_edited_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("my-backbone", tmp_path, monkeypatch)

    listed = call("backbones")
    assert "pocket-skip" in listed and "my-backbone 0.1.0" in listed and "sdxl" in listed
    assert "layers of the text encoder left out" in call("backbones", "pocket-skip")

    plain, skipping = Backbone.load(), Backbone.load("pocket-skip:skip=1")
    prompt = "a photo of a dog"
    same = Backbone.load("pocket-skip:skip=0")
    assert torch.equal(same.embed(prompt), plain.embed(prompt))
    assert (skipping.embed(prompt) - plain.embed(prompt)).abs().max() > 0.1
    assert skipping.name == "pocket-skip" and type(Backbone.load(Pocket.place)) is StableDiffusion

    folder, clip = tmp_path / "run", write_clip(tmp_path / "clip")
    arguments = ["--methods", "cpam", "--no-references", "--limit", 1, "--steps", 1, "--device", "cpu", "--workers", 1]
    call("run", "--backbone", LABEL, *arguments, "--clip", f"local-dir:{clip}", "--out", folder)
    assert json.loads((folder / "run.json").read_text())["backbone"]["name"] == LABEL
    assert "0 wrong" in call("verify", folder)
