"""The pocket parts: their training continues exactly, and what is shipped loads, fits its size and does its work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cpam_bench.cpam.backbone import NAMES, Backbone
from cpam_bench.eval.metrics.clip import POCKET_CLIP, load_clip
from cpam_bench.eval.pocket import check, tokenizer
from cpam_bench.eval.pocket.classifier import POCKET_CLASSIFIER, load_classifier
from cpam_bench.eval.pocket.training import HELD_OUT, Run, cosine, held_out, pixels, scene
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, OBJECTS, caption, render

WEIGHTS = [Path(NAMES["pocket"]), POCKET_CLIP, POCKET_CLASSIFIER, Path(POCKET_CLIP).parent / "lpips_alex.safetensors"]


def _train(folder: Path, steps: int, stop: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    run = Run(folder, steps, 7, {"model": model, "optimiser": optimiser})
    for step, rng in run:
        x = torch.from_numpy(rng.normal(size=(8, 4))).float() + torch.randn(8, 4)
        optimiser.zero_grad()
        model(x).square().mean().backward()
        optimiser.step()
        if step == stop:
            run.step += 1
            run.save()
            break
    return model.state_dict()


def test_training_continues_as_if_never_stopped(tmp_path: Path) -> None:
    whole = _train(tmp_path / "whole", 20)
    _train(tmp_path / "halves", 20, stop=8)
    halves = _train(tmp_path / "halves", 20)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [cosine(step, 1000, warmup=100) for step in range(1000)]
    assert rates[0] < 0.02 and max(rates) == pytest.approx(1) and rates.index(max(rates)) in (99, 100)
    assert rates[-1] < 0.03 and rates[100:] == sorted(rates[100:], reverse=True)


def test_training_pixels_are_the_seeds_scenes(tmp_path: Path) -> None:
    images = pixels(3, tmp_path)
    assert np.array_equal(images[2], np.asarray(render(scene(2)).image))
    assert np.array_equal(pixels(3, tmp_path), images)
    assert held_out(1)[0] == scene(HELD_OUT)


def test_tokenizer_knows_the_words_and_loses_none() -> None:
    built = tokenizer.build(2000)
    assert all(len(built.tokenize(word)) == 1 for word in " ".join(OBJECTS).split())
    assert built.decode(built("a breakdancing zebra").input_ids, skip_special_tokens=True) == "a breakdancing zebra"
    ids = built("a dog", padding="max_length").input_ids
    assert len(ids) == tokenizer.CONTEXT and max(ids) == built.eos_token_id


def test_weights_are_small_enough() -> None:
    files = [file for place in WEIGHTS for file in ([place] if place.is_file() else place.rglob("*"))]
    assert sum(file.stat().st_size for file in files if file.is_file()) <= 40e6


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load("pocket")


def test_backbone_has_sd15s_layers(backbone: Backbone) -> None:
    names = list(backbone.unet.attn_processors)
    assert [sum(f".{kind}." in name for name in names) for kind in ("attn1", "attn2")] == [16, 16]
    assert backbone.resolution == 128 and backbone.is_pocket


def test_autoencoder_on_held_out_scenes(backbone: Backbone) -> None:
    assert check.vae_psnr(backbone, count=16).good


def test_clip_finds_captions(backbone: Backbone) -> None:
    assert all(figure.value >= 85 for figure in check.clip_retrieval(load_clip(str(POCKET_CLIP)), groups=2))


def test_classifier_knows_objects_and_backgrounds() -> None:
    scenes = [one for one in held_out(120) if len(one.items) == 1][:64]
    objects, places = load_classifier().guess([render(one).image for one in scenes])
    names, backgrounds = list(OBJECTS), list(BACKGROUNDS)
    right = [names[i] == one.items[0].name for i, one in zip(objects.tolist(), scenes, strict=True)]
    there = [backgrounds[i] == one.background for i, one in zip(places.tolist(), scenes, strict=True)]
    assert np.mean(right) > 0.9 and np.mean(there) > 0.95


def test_generated_pictures_follow_their_seed(backbone: Backbone) -> None:
    prompts = [caption(one) for one in held_out(2)]
    first = check.generate(backbone, prompts, steps=3)
    again = check.generate(backbone, prompts, steps=3, batch=1)
    assert np.abs(np.asarray(first[1]).astype(int) - np.asarray(again[1]).astype(int)).max() <= 2
