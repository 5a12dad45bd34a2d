"""LEDITS++ against a straight-line computation of the authors' formulas, and its inversion's claim to be perfect."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from editor_helpers import make_sample
from paths import TINY
from straight import ALPHAS, distance, straight
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from cpam_bench.baselines.leditspp import LEditsPP, WordsControl, invert, solve, spread
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import ddim
from cpam_bench.cpam.source import Source
from cpam_bench.imba.errors import UserError

PROMPT = "a photo of an orange on a beach"


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


@pytest.fixture(scope="module")
def latents(backbone: Backbone) -> Tensor:
    return Source(make_sample(), backbone, 4).latents.clone()


def drawn() -> torch.Generator:
    return torch.Generator().manual_seed(11)


SNR = [math.log(alpha**0.5) - math.log((1 - alpha) ** 0.5) for alpha in ALPHAS]


def step(x: Tensor, t: int, then: int, clean: list[Tensor], times: list[int]) -> tuple[Tensor, float]:
    """SDE-DPM-Solver++ from level t to another: mean and deviation."""
    a, s, s_now = ALPHAS[then] ** 0.5, (1 - ALPHAS[then]) ** 0.5, (1 - ALPHAS[t]) ** 0.5
    h = SNR[then] - SNR[t]
    mean = s / s_now * math.exp(-h) * x + a * (1 - math.exp(-2 * h)) * clean[-1]
    if len(clean) > 1:
        r = (SNR[t] - SNR[times[times.index(t) - 1]]) / h
        mean = mean + 0.5 * a * (1 - math.exp(-2 * h)) * (clean[-1] - clean[-2]) / r
    return mean, s * math.sqrt(1 - math.exp(-2 * h))


@torch.no_grad()
def by_hand(z0: Tensor, times: list[int], region: Tensor | None, intersect: bool) -> Tensor:
    """LEDITS++ from z_0 to the edited z_0, with guidance 10 and threshold 0.75."""
    made, random = straight(), drawn()
    null, concept = made.embed(""), made.embed(PROMPT)
    count = len(made.pipeline.tokenizer(PROMPT, add_special_tokens=False).input_ids)
    after = dict(zip(times, [*times[1:], 0], strict=True))

    noisy = {0: z0}
    for t in reversed(times):
        noisy[t] = ALPHAS[t] ** 0.5 * z0 + (1 - ALPHAS[t]) ** 0.5 * torch.randn(z0.shape, generator=random)
    noises, clean = {}, []
    for t in times:
        clean.append((noisy[t] - (1 - ALPHAS[t]) ** 0.5 * made.predict(noisy[t], t, null)) / ALPHAS[t] ** 0.5)
        mean, deviation = step(noisy[t], t, after[t], clean, times)
        noises[t] = (noisy[after[t]] - mean) / deviation

    kernel = torch.tensor([[math.exp(-(x**2) - y**2) for x in (-1, 0, 1)] for y in (-1, 0, 1)])[None, None]
    x, clean = noisy[times[0]], []
    for t in times:
        without, towards = made.predict(torch.cat([x, x]), t, torch.cat([null, concept])).chunk(2)
        guidance = 10 * (towards - without)
        if region is not None:
            guidance = guidance * region
        size = guidance.abs().sum(1, keepdim=True)
        mask = (size >= torch.quantile(size, 0.75)).float()
        if intersect:
            places = ("down_blocks.2.", "up_blocks.1.")  # 4x4 of 16x16 latents
            maps = torch.cat([own[1] for name, own in made.cross().items() if name.startswith(places)])
            assert maps.shape[1] == 16
            words = maps[:, :, 1 : 1 + count].sum(2).mean(0).reshape(1, 1, 4, 4)
            words = conv2d(pad(words, (1, 1, 1, 1), mode="reflect"), kernel / kernel.sum())
            mask = mask * interpolate((words >= torch.quantile(words, 0.75)).float(), (16, 16))
        noise = without + guidance * mask
        clean.append((x - (1 - ALPHAS[t]) ** 0.5 * noise) / ALPHAS[t] ** 0.5)
        mean, deviation = step(x, t, after[t], clean, times)
        x = mean + deviation * noises[t]
    return x


@pytest.mark.parametrize(("masked", "intersect"), [(False, True), (True, True), (False, False)])
def test_it_is_the_straight_line_computation(
    backbone: Backbone, latents: Tensor, masked: bool, intersect: bool
) -> None:
    region = torch.zeros(1, 1, 16, 16)
    region[..., 4:12, 3:14] = 1
    within = region if masked else None
    wanted = by_hand(latents, [899, 674, 450, 225, 1], within, intersect)
    schedule = spread(backbone, 5, 0.1)
    inversion = invert(backbone, latents, schedule, drawn())
    edited = LEditsPP(intersect=intersect).denoise(backbone, inversion, schedule, PROMPT, within)
    assert distance(edited, wanted) < 2e-5
    plain = LEditsPP(guidance=0).denoise(backbone, inversion, schedule, PROMPT)
    assert distance(plain, wanted) > 1e-2


def test_steps_are_spread_as_the_authors_spread_them(backbone: Backbone) -> None:
    schedule = spread(backbone, 50, 0.1)
    assert schedule.timesteps == np.linspace(899, 1, 50).astype(np.int64).tolist()
    assert schedule.timesteps[:3] == [899, 880, 862] and schedule.timesteps[-1] == 1
    assert schedule.alphas == pytest.approx([ALPHAS[t] for t in schedule.timesteps])
    assert schedule.previous_alphas == pytest.approx([ALPHAS[t] for t in [*schedule.timesteps[1:], 0]])
    assert spread(backbone, 50, 0.25).timesteps[0] == 749
    for steps, skip in ((950, 0.1), (2, 0.999)):
        with pytest.raises(UserError, match="do not fit"):
            spread(backbone, steps, skip)


@pytest.mark.parametrize("steps", [3, 8])
def test_the_inversion_is_perfect(backbone: Backbone, latents: Tensor, steps: int) -> None:
    """Also of few steps: the authors' solver falls back to order 1 at the last of fewer than 15, and then it is not."""
    schedule = spread(backbone, steps, 0.1)
    inversion = invert(backbone, latents, schedule, drawn())
    found, before = inversion.latents, None
    for number, (timestep, alpha, _) in enumerate(schedule.levels()):
        clean = ddim(found, backbone.predict(found, timestep, backbone.embed("")), alpha, 1.0)
        mean, deviation = solve(schedule, number, found, clean, before)
        found, before = mean + deviation * inversion.noises[number], clean
    assert distance(found, latents) < 1e-6
    assert distance(inversion.latents, latents) > 0.1
    other = invert(backbone, latents, schedule, torch.Generator().manual_seed(12))
    assert distance(other.latents, inversion.latents) > 0.1


def test_the_solver_is_that_of_diffusers(backbone: Backbone) -> None:
    schedule, random = spread(backbone, 6, 0.1), drawn()
    solver = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_order=2, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    solver.set_timesteps(6)
    solver.timesteps = torch.tensor(schedule.timesteps)
    levels = torch.tensor([*schedule.alphas, schedule.previous_alphas[-1]])
    solver.sigmas = ((1 - levels) / levels) ** 0.5
    ours, before = torch.randn(1, 4, 8, 8, generator=random), None
    theirs = ours
    for number, (timestep, alpha, _) in enumerate(schedule.levels()):
        predicted, added = torch.randn(2, 1, 4, 8, 8, generator=random)
        clean = ddim(ours, predicted, alpha, 1.0)
        mean, deviation = solve(schedule, number, ours, clean, before)
        ours, before = mean + deviation * added, clean
        theirs = solver.step(predicted, timestep, theirs, variance_noise=added).prev_sample
        assert distance(ours, theirs) < 1e-5


def test_words_are_counted_without_padding(backbone: Backbone) -> None:
    count = len(backbone.pipeline.tokenizer(PROMPT, add_special_tokens=False).input_ids)
    control = WordsControl(backbone.unet, backbone.word_positions(PROMPT))
    assert control.words == list(range(1, 1 + count)) and count < 20
    q, k = torch.randn(2, 2, 16, 8, generator=drawn()), torch.randn(2, 2, 77, 8, generator=drawn())
    control.cross_attention(q, k, k, min(control.layers))
    maps = torch.softmax(q[1] @ k[1].transpose(-1, -2) * 8**-0.5, -1)
    assert torch.allclose(control.maps[0], maps[..., 1 : 1 + count].sum(-1), atol=1e-6)


def test_warmup_is_without_guidance(backbone: Backbone, latents: Tensor) -> None:
    schedule = spread(backbone, 3, 0.1)
    inversion = invert(backbone, latents, schedule, drawn())

    def edited(**settings: float) -> Tensor:
        return LEditsPP(**settings).denoise(backbone, inversion, schedule, PROMPT)  # type: ignore[arg-type]

    assert torch.equal(edited(warmup=3), edited(guidance=0.0))
    assert not torch.equal(edited(warmup=2), edited(guidance=0.0))
    assert not torch.equal(edited(warmup=2), edited())
