"""Pix2Pix-Zero against a straight-line computation of the authors' formulas and against diffusers' pipeline."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from editor_helpers import make_sample
from paths import TINY
from straight import ALPHAS, distance, moved, straight
from torch import Tensor
from torch.nn.functional import avg_pool2d

from cpam_bench.baselines.pix2pix_zero import TEMPLATES, Pix2PixZero, auto_correlation, objects
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.source import Source
from cpam_bench.cpam.text import Text
from cpam_bench.eval.methods import registry
from cpam_bench.imba.errors import UserError

CAPTION, PROMPT = "a photo of an apple on a beach", "a photo of an orange on a beach"
STEPS = 4
AMOUNT = 200.0
"""Of the attention's guidance; 0.1, the default, hardly moves latents on this random denoiser."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


@pytest.fixture(scope="module")
def latents(backbone: Backbone) -> Tensor:
    return Source(make_sample(), backbone, STEPS).latents.clone()


@pytest.fixture(scope="module")
def direction(backbone: Backbone) -> Text:
    return Pix2PixZero().direction(backbone, CAPTION, PROMPT).each(Tensor.clone)


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(11)


# inversion -----------------------------------------------------------------------------------------------------------


def regularised(noise: Tensor, random: torch.Generator, rounds: int, rolls: int, least: int = 1) -> Tensor:
    for _ in range(rounds):
        for _ in range(rolls):
            at = noise.clone().requires_grad_()
            total = torch.zeros(())
            for channel in range(4):
                values, edge = at[:, channel : channel + 1], 16
                while edge >= 8:
                    roll = torch.randint(least, edge // 2, (1,), generator=random).item()
                    for axis in (2, 3):
                        total = total + torch.mean(values * torch.roll(values, roll, axis)) ** 2
                    values, edge = avg_pool2d(values, 2), edge // 2
            total.backward()
            noise = noise - 20 * at.grad / rolls  # type: ignore[operator]
        # d/dx of var + mean^2 - 1 - log(var + 1e-7)
        count, variance = noise.numel(), noise.var()
        centred = noise - noise.mean()
        gradient = 2 * centred / (count - 1) * (1 - 1 / (variance + 1e-7)) + 2 * noise.mean() / count
        noise = noise - 20 * gradient
    return noise


def test_inversion_is_the_straight_line_computation(backbone: Backbone, latents: Tensor) -> None:
    made, random = straight(), drawn()
    described, z = made.embed(CAPTION), latents
    for t in (251, 501):  # of 1, 251, 501, 751
        with torch.no_grad():
            noise = made.predict(z, t, described)
        z = moved(z, regularised(noise, random, 2, 3), ALPHAS[t - 1], ALPHAS[t + 249])
    editor = Pix2PixZero(rounds=2, rolls=3)
    path = editor.invert(backbone, latents, CAPTION, STEPS, drawn())
    assert len(path) == 3 and path[0] is latents and distance(path[-1], z) < 1e-5
    plain = Pix2PixZero(rounds=0).invert(backbone, latents, CAPTION, STEPS, drawn())[-1]
    assert distance(plain, z) > 1e-2


def test_of_fifty_steps_the_inversion_takes_those_between(backbone: Backbone, latents: Tensor) -> None:
    asked: list[int] = []

    def note(module: object, arguments: tuple[Tensor, int], more: object) -> None:
        asked.append(int(arguments[1]))

    hook = backbone.unet.register_forward_pre_hook(note, with_kwargs=True)
    Pix2PixZero(rounds=0).invert(backbone, latents, CAPTION, 50, drawn())
    hook.remove()
    assert asked == list(range(21, 962, 20))


def test_a_roll_is_never_none() -> None:
    dot = torch.zeros(1, 1, 8, 8)
    dot[..., 3, 5] = 8
    assert all(auto_correlation(dot, torch.Generator().manual_seed(seed)) == 0 for seed in range(40))
    assert auto_correlation(torch.ones(1, 2, 16, 16), drawn()) == 2 * 2 * 2  # channels, scales, axes


def test_too_few_steps_are_told(backbone: Backbone) -> None:
    sample = make_sample(source_prompt=CAPTION)
    with pytest.raises(UserError, match="take more --steps than 2"):
        Pix2PixZero().edit(sample, Source(sample, backbone, 2), 0)


# editing -------------------------------------------------------------------------------------------------------------


def test_the_direction_is_the_difference_of_the_banks_means(direction: Text) -> None:
    before, after = (
        straight().embed(*(text.format(thing) for text in TEMPLATES)) for thing in ("an apple", "an orange")
    )
    assert distance(direction.hidden, (after.mean(0) - before.mean(0))[None]) < 1e-5


def edited(
    path: list[Tensor], direction: Text, times: list[int], guidance: float, *, back: bool = False, shift: bool = False
) -> Tensor:
    """In two passes as the authors': all the source's maps first, in both lanes, and then the edit.

    Args:
        path: z_0 ... z_T of the inversion, or z_T alone.
        back: put the source back onto the path after each step.
        shift: move the target by what has put the source back.
    """
    made, stride = straight(), 1000 // len(times)
    described = made.embed(CAPTION).expand(2, -1, -1)
    wanted = torch.cat([described[:1], described[:1] + direction.hidden])
    kept: dict[int, dict[str, Tensor]] = {}
    strayed: list[Tensor] = []
    z = path[-1]
    for i, t in enumerate(times):
        with torch.no_grad():
            away, towards = made.predict(torch.cat([z, z]), t, described).chunk(2)
        kept[t] = made.cross()
        z = moved(z, away + guidance * (towards - away), ALPHAS[t], ALPHAS[max(t - stride, 0)])
        strayed.append(path[-2 - i] - z if back else torch.zeros_like(z))
        z = z + strayed[-1]
    z = path[-1]
    for i, t in enumerate(times):
        lanes = torch.cat([z, z]).requires_grad_()
        made.predict(lanes, t, wanted)
        pairs = [(maps, kept[t][name]) for name, maps in made.cross().items()]
        squares = [((maps - reference) ** 2).flatten(0, 1).sum((1, 2)).mean(0) for maps, reference in pairs]
        torch.stack(squares).sum().backward()
        with torch.no_grad():
            lanes = lanes - AMOUNT * lanes.grad  # type: ignore[operator]
            away, towards = made.predict(lanes, t, wanted).chunk(2)
        z = moved(lanes[:1], away + guidance * (towards - away), ALPHAS[t], ALPHAS[max(t - stride, 0)])
        z = z + strayed[i] if shift else z
    return z


def test_editing_is_the_straight_line_computation(backbone: Backbone, direction: Text) -> None:
    noise = torch.randn(1, 4, 16, 16, generator=drawn())
    z = edited([noise], direction, [501, 1], 5)
    ours = Pix2PixZero(amount=AMOUNT).denoise(backbone, [noise], CAPTION, direction, 2)
    assert distance(ours, z) < 1e-5
    assert distance(Pix2PixZero(amount=0).denoise(backbone, [noise], CAPTION, direction, 2), z) > 1e-3


# the rows of PIE-Bench -----------------------------------------------------------------------------------------------

PIE_BENCH = {"guidance": 7.5, "between": "prompts", "all_steps": True, "least_roll": 0, "shift": True}


def test_both_rows_of_pie_bench_are_the_straight_line_computation(backbone: Backbone, latents: Tensor) -> None:
    """Inverted in all steps under the caption, edited along the difference of the prompts at a guidance of 7.5.

    By direct inversion the source is put back onto its path after each step, and the target is moved by as much.
    """
    made, random, times = straight(), drawn(), [1, 501]
    described, path = made.embed(CAPTION), [latents]
    for t in times:
        with torch.no_grad():
            noise = made.predict(path[-1], t, described)
        end = min(t + 499, 999)  # of the last step, the last level of training
        path.append(moved(path[-1], regularised(noise, random, 1, 2, least=0), ALPHAS[t - 1], ALPHAS[end]))
    direction = Text(made.embed(PROMPT) - described)
    results = []
    for trajectory in (False, True):
        label = f"pix2pix-zero:preset=pie-bench,amount={AMOUNT},rounds=1,rolls=2,trajectory={trajectory}"
        editor = registry.make(label)[1]
        assert {name: getattr(editor, name) for name in PIE_BENCH} == PIE_BENCH
        found = editor.invert(backbone, latents, CAPTION, 2, drawn())
        assert len(found) == 3 and max(distance(*pair) for pair in zip(found, path, strict=True)) < 1e-5
        assert distance(editor.direction(backbone, CAPTION, PROMPT).hidden, direction.hidden) < 1e-5
        ours = editor.denoise(backbone, found, CAPTION, direction, 2)
        assert distance(ours, edited(path, direction, times[::-1], 7.5, back=trajectory, shift=trajectory)) < 1e-4
        results.append(ours)
    assert distance(*results) > 1e-2
    # The target may also keep its own latents, as in the other editors; then only the source's maps are others.
    kept = replace(editor, shift=False).denoise(backbone, found, CAPTION, direction, 2)
    assert distance(kept, edited(path, direction, times[::-1], 7.5, back=True)) < 1e-4
    assert min(distance(kept, one) for one in results) > 1e-3


def test_direct_inversion_needs_every_step() -> None:
    with pytest.raises(UserError, match="trajectory=true needs all_steps=true"):
        registry.make("pix2pix-zero:trajectory=true")
    with pytest.raises(UserError, match="between=prompts reads no bank"):
        registry.make("pix2pix-zero:preset=pie-bench,bank=/no/such")
    with pytest.raises(UserError, match="least_roll is 0 or 1"):
        registry.make("pix2pix-zero:least_roll=2")


# diffusers' pipeline -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not hasattr(diffusers, "StableDiffusionPix2PixZeroPipeline"), reason="diffusers has removed its pipeline"
)
def test_editing_is_that_of_diffusers(backbone: Backbone) -> None:
    parts = diffusers.StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None).components
    scheduler = backbone.scheduler()
    made = diffusers.StableDiffusionPix2PixZeroPipeline(
        **{name: parts[name] for name in ("vae", "text_encoder", "tokenizer", "unet", "feature_extractor")},
        scheduler=scheduler,
        safety_checker=None,
        inverse_scheduler=None,
        caption_generator=None,
        caption_processor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 16, 16, generator=drawn())
    editor = Pix2PixZero(guidance=4.0, amount=AMOUNT)
    source, target = (straight().embed(text.format(thing)) for text, thing in (("a {}", "cup"), ("the {}", "red cake")))
    theirs = made(
        CAPTION,
        source,
        target,
        num_inference_steps=3,
        guidance_scale=4.0,
        cross_attention_guidance_amount=AMOUNT,
        negative_prompt=CAPTION,
        latents=noise,
        output_type="latent",
    ).images
    ours = editor.denoise(backbone, [noise], CAPTION, Text(target - source), 3)
    assert distance(ours, theirs) < 1e-5


# captions and banks --------------------------------------------------------------------------------------------------


def test_it_needs_a_caption(backbone: Backbone) -> None:
    bare = make_sample(id="bare", source_prompt=None)
    with pytest.raises(UserError, match="sample bare: no source_prompt"):
        Pix2PixZero().edit(bare, Source(bare, backbone, STEPS), 0)


def test_banks(backbone: Backbone, tmp_path: Path) -> None:
    sample = make_sample(source_prompt=CAPTION)

    def picture(editor: Pix2PixZero) -> np.ndarray:
        return np.asarray(editor.edit(sample, Source(sample, backbone, 3), 0))

    path = tmp_path / "bank.json"
    path.write_text(json.dumps({"source": [*TEMPLATES], "target": [text.format("an orange") for text in TEMPLATES]}))
    plain = picture(Pix2PixZero(rounds=0))
    editor = Pix2PixZero(rounds=0, bank=str(path))
    assert np.array_equal(picture(editor), plain)
    hashed = editor.inputs(sample)
    path.write_text(json.dumps({"source": ["a dog"], "target": ["a {}", "a cat"]}))
    assert not np.array_equal(picture(editor), plain)
    assert set(hashed) == {"bank_sha256"} and editor.inputs(sample) != hashed
    for text in (
        "[1]",
        '{"source": ["a"]}',
        '{"source": [], "target": ["a"]}',
        '{"source": "a", "target": ["a"]}',
        "{",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=r"bank .*bank\.json"):
            Pix2PixZero(bank=str(path))
    with pytest.raises(UserError, match="bank /no/such"):
        Pix2PixZero(bank="/no/such")


@pytest.mark.parametrize(
    ("caption", "prompt", "wanted"),
    [
        ("a photo of an apple on a beach", "a photo of an orange on a beach", ("an apple", "an orange")),
        ("a photo of a duck on a beach", "a photo of a duck upside down on a beach", ("a duck", "a duck upside down")),
        ("a photo of a pig in a meadow", "a photo of a pig in the snow", ("a meadow", "the snow")),
        ("A photo of a cake in a room", "a photo of a cake at night.", ("a cake in a room", "a cake at night")),
        ("a photo of a cake and a cat in a room", "a photo of a cat in a room", ("a cake and a cat", "a cat")),
        ("two cats on grass", "a sitting dog", ("two cats on grass", "a sitting dog")),
        ("a photo of a dog", "a photo of a dog", ("a dog", "a dog")),
    ],
)
def test_objects(caption: str, prompt: str, wanted: tuple[str, str]) -> None:
    assert objects(caption, prompt) == wanted
