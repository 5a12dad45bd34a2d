"""The pocket parts: their training continues exactly, and what is shipped loads, fits its size and does its work."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.backbones.stable_diffusion import Pocket
from cpam_bench.eval.metrics.classifier import POCKET_CLASSIFIER, load_classifier
from cpam_bench.eval.metrics.clip import POCKET_CLIP, load_clip
from cpam_bench.eval.pocket import check, classifier, stages, tokenizer, training, unet, vae
from cpam_bench.eval.pocket.training import HELD_OUT, Run, cosine, example, held_out, pixels, trapezoid
from cpam_bench.eval.pocket.vae import altered
from cpam_bench.imba.common.hashes import are_pocket
from cpam_bench.imba.dataset import load
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pocket import world
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, HATS, POSES, render
from cpam_bench.imba.pocket.world import OBJECTS, caption

WEIGHTS = [Path(Pocket.place), POCKET_CLIP, POCKET_CLASSIFIER, Path(POCKET_CLIP).parent / "lpips_alex.safetensors"]


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


def test_level_learning_rate_falls_in_the_last_quarter() -> None:
    rates = [trapezoid(step, 1000, warmup=100) for step in range(1000)]
    assert rates[0] == 0.01 and rates[99:750] == [1.0] * 651
    assert rates[750:] == sorted(rates[750:], reverse=True) and 0 < rates[-1] < 0.01


TOGETHER = """
import sys
from pathlib import Path
import torch
from torch import nn
from cpam_bench.eval.pocket.training import Run, mean_over_team, team

rank, processes = team()
torch.manual_seed(0)
model = nn.Linear(3, 2)
run = Run(Path(sys.argv[1]), 2, 0, {"model": model})
for step, rng in run:
    batch = torch.from_numpy(rng.normal(size=(4, 3))).float()[rank::processes]
    loss = model(batch).square().mean()
    model.zero_grad()
    loss.backward()
    run.log(loss=mean_over_team(model.parameters(), loss), gradient=model.weight.grad.square().sum().item())
"""


def test_processes_learn_together_what_one_learns_alone(tmp_path: Path) -> None:
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    logs = []
    for folder, start in (("alone", [sys.executable, str(script)]), ("both", command)):
        subprocess.run([*start, str(tmp_path / folder)], check=True, timeout=120)
        logs.append((tmp_path / folder / "log.jsonl").read_text().splitlines())
    assert logs[0] == logs[1] and len(logs[0]) == 2


def test_a_team_trains_the_denoiser_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "team", lambda: (1, 2))
    with pytest.raises(UserError, match="clip is trained by one process"):
        stages.train(tmp_path, "clip", {})
    monkeypatch.setattr(unet, "team", lambda: (0, 3))
    with pytest.raises(UserError, match="a batch of 16 has no equal shares for 3 processes"):
        unet.train(tmp_path, vae.build(), tokenizer.build(20))


def test_training_pixels_are_the_examples_pictures(tmp_path: Path) -> None:
    images = pixels(3, tmp_path)
    assert np.array_equal(images[2], np.asarray(world.picture(example(2))))
    assert np.array_equal(pixels(3, tmp_path), images)
    assert held_out(2) == [example(HELD_OUT).scene, example(HELD_OUT + 1).scene]


def test_caches_of_another_world_or_encoder_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet, "SHARD", 4)
    torch.manual_seed(0)
    coder, other = vae.build().eval(), vae.build().eval()
    first = unet.latents(coder, 4, tmp_path, batch=4)
    assert torch.equal(unet.latents(coder, 4, tmp_path, batch=4), first)
    assert not torch.equal(unet.latents(other, 4, tmp_path, batch=4), first)
    images = pixels(2, tmp_path)
    monkeypatch.setattr(training, "picture", lambda one: render(one.scene).image.rotate(90))
    training.world_digest.cache_clear()
    assert not np.array_equal(pixels(2, tmp_path), images)
    monkeypatch.undo()
    training.world_digest.cache_clear()


def test_tokenizer_knows_the_words_and_loses_none() -> None:
    built = tokenizer.build(5000)
    words = [*world.OBJECTS, *world.PLACES, "ugly blurry black low res unrealistic"]
    assert all(len(built.tokenize(word)) == 1 for word in " ".join(words).split())
    assert built.decode(built("a breakdancing zebra").input_ids, skip_special_tokens=True) == "a breakdancing zebra"
    ids = built("a dog", padding="max_length").input_ids
    assert len(ids) == tokenizer.CONTEXT and max(ids) == built.eos_token_id


def test_longest_captions_fit_the_context() -> None:
    built = tokenizer.build(2000)
    captions = [world.sample_caption(example(i), random.Random(i)) for i in range(2000)]
    assert max(len(built(text).input_ids) for text in captions) <= tokenizer.CONTEXT


def test_latents_are_altered_as_their_pictures_are() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(altered(x, 1.0, 1)[0, 0], torch.rot90(x[0, 0]))
    assert altered(torch.ones(2, 3, 16, 16), 0.75, 2).shape == (2, 3, 12, 12)
    assert torch.allclose(altered(torch.ones(1, 1, 8, 8), 0.5, 3), torch.ones(1, 1, 4, 4))


def test_frechet_distance_of_known_normal_distributions() -> None:
    features = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert check.frechet(features, features) == pytest.approx(0, abs=1e-8)
    # Shifted by 2 in each of three directions, and twice as wide: 3 * 4 + 3 * (2 - 1)^2.
    assert check.frechet(features, 2 * features + 2) == pytest.approx(15, rel=0.05)


def test_a_figure_is_held_to_its_floor() -> None:
    assert check.Figure("", 85, 85, "%").good and not check.Figure("", 84, 85, "%").good
    assert check.Figure("", 0.1, 0.2, "", higher=False).good and not check.Figure("", 0.3, 0.2, "", higher=False).good
    assert check.Figure("", 1, float("nan"), "").good and not check.Figure("", float("nan"), 1, "").good


def test_other_scenes_begin_with_the_right_one() -> None:
    for question in check.QUESTIONS:
        fitting = [one for one in held_out(80) if question.fits(one)]
        assert len(fitting) >= 4
        for one in fitting:
            others = question.others(one)
            words = [caption(other) for other in others]
            assert len(set(words)) == len(words)
            names = [sorted(item.name for item in other.items) for other in others[: question.right]]
            assert names == [sorted(item.name for item in one.items)] * question.right


def test_pictures_are_judged_by_what_they_show(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out scenes in the place of generated pictures: a judge finds them as good as the real thing, as they are."""
    drawn = [render(one).image for one in held_out(24, 100_000)]
    monkeypatch.setattr(check, "generate", lambda *_: drawn)
    judges = load_clip(str(POCKET_CLIP)), load_classifier()
    found = check.generation(backbone, *judges, 24)
    assert [one.value for one in found] == pytest.approx([one.best for one in found[:-1]] + [0], abs=1e-3)
    assert found[-1].best > 0.1 and min(one.value for one in found[:4]) >= 75
    monkeypatch.setattr(check, "generate", lambda *_: drawn[1:] + drawn[:1])
    assert all(one.value < one.best for one in check.generation(backbone, *judges, 24)[:4])


def test_classifier_learns_and_loads(tmp_path: Path) -> None:
    target = tmp_path / "classifier.safetensors"
    classifier.train(tmp_path / "run", target, steps=2, batch=4, scenes=64)
    seen = load_classifier(target).guess([world.picture(example(i)) for i in range(3)])
    assert seen.objects.shape == (3, len(OBJECTS)) and seen.hats.shape == seen.poses.shape == (3,)


def test_unfinished_denoiser_is_put_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="vae-trained is missing"):
        stages.train(tmp_path, "unet", {})
    with pytest.raises(UserError, match="no checkpoint"):
        stages.put_together(tmp_path)
    monkeypatch.setattr(unet, "SHARD", 32)
    vae.build().save_pretrained(tmp_path / "vae-trained")
    stages.train(tmp_path, "unet", {"steps": 2, "batch": 2, "scenes": 32})
    assert stages.is_done(tmp_path, "unet") and not stages.is_done(tmp_path, "decoder")
    small = Backbone.load(str(tmp_path / "pocket"))
    names = list(small.unet.attn_processors)
    assert [sum(f".{kind}." in name for name in names) for kind in ("attn1", "attn2")] == [16, 16]


def test_denoiser_begins_from_a_trained_one_and_finds_its_words_by_their_spelling(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "SHARD", 32)
    vae.build().save_pretrained(tmp_path / "vae-trained")
    tokenizer.build(300).save_pretrained(tmp_path / "tokenizer")
    stages.train(tmp_path, "unet", {"steps": 1, "batch": 2, "scenes": 32}, start="pocket")
    begun = Backbone.load(str(tmp_path / "pocket"))
    known, words = backbone.pipeline.tokenizer.get_vocab(), begun.pipeline.tokenizer.get_vocab()
    assert sum(known[token] != words[token] for token in words.keys() & known.keys()) > 20
    before, after = (one.pipeline.text_encoder.get_input_embeddings().weight for one in (backbone, begun))
    for token in words.keys() & known.keys():
        assert torch.allclose(after[words[token]], before[known[token]], atol=1e-3), token
    for name, weight in backbone.unet.state_dict().items():
        assert torch.allclose(begun.unet.state_dict()[name], weight, atol=1e-2), name


def test_decoder_is_finished_and_the_latents_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    begun = vae.build()
    before = {name: tensor.clone() for name, tensor in begun.state_dict().items()}
    after = vae.finish(tmp_path / "decoder", begun, steps=2, batch=2, scenes=4).state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"decoder", "post_quant_conv"}


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


def test_pocket_parts_are_known_by_their_hashes_wherever_they_lie(backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "mine").symlink_to(WEIGHTS[0])
    half = Backbone.load(str(tmp_path / "mine"), dtype="float16")
    assert half.name != "pocket" and half.is_pocket
    # Each alone: a new one of them has to be added to the list.
    digests = [*backbone.fingerprint.values(), *half.fingerprint.values(), load_clip("pocket").weights_sha256]
    assert all(are_pocket([digest]) for digest in [*digests, load("pocket").fingerprint])
    assert not are_pocket(["a" * 64, None])


def test_autoencoder_on_held_out_scenes(backbone: Backbone) -> None:
    assert check.vae_psnr(backbone, count=16).value >= 26


def test_clip_finds_captions(backbone: Backbone) -> None:
    assert all(figure.value >= 85 for figure in check.clip_retrieval(load_clip(str(POCKET_CLIP)), groups=2))


def test_classifier_knows_what_scenes_show() -> None:
    single = [one for one in held_out(160) if len(one.items) == 1][:64]
    seen = load_classifier().guess([render(one).image for one in single])
    said = (
        ([list(OBJECTS)[i] for i in seen.objects.argmax(1)], [one.items[0].name for one in single]),
        ([list(BACKGROUNDS)[i] for i in seen.places], [one.background for one in single]),
        ([(None, *HATS)[i] for i in seen.hats], [one.items[0].hat for one in single]),
        ([POSES[i] for i in seen.poses], [one.items[0].pose for one in single]),
    )
    for guessed, shown in said:
        assert np.mean([a == b for a, b in zip(guessed, shown, strict=True)]) > 0.9, guessed


def test_generated_pictures_follow_their_seed(backbone: Backbone) -> None:
    prompts = [caption(one) for one in held_out(2)]
    first = check.generate(backbone, prompts, steps=3)
    again = check.generate(backbone, prompts, steps=3, batch=1)
    assert np.abs(np.asarray(first[1]).astype(int) - np.asarray(again[1]).astype(int)).max() <= 2
