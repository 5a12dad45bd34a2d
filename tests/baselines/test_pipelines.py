"""Editors that draw at random: what they leave behind and what they refuse; and Imagic, on diffusers' pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from paths import TINY
from PIL import Image
from torch import Tensor

from cpam_bench.baselines import imagic
from cpam_bench.baselines.diffedit import DiffEdit
from cpam_bench.baselines.imagic import Imagic
from cpam_bench.baselines.leditspp import LEditsPP
from cpam_bench.baselines.pipelines import pipeline
from cpam_bench.baselines.pix2pix_zero import Pix2PixZero
from cpam_bench.baselines.sdedit import SDEdit
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor
from cpam_bench.cpam.source import Source
from cpam_bench.eval.methods import registry
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pocket.scenes import Item, Scene, render
from cpam_bench.imba.sample import Sample

STEPS, SEED = 4, 11


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


@pytest.fixture(scope="module")
def half() -> Backbone:
    return Backbone.load(str(TINY), dtype="bfloat16")


@pytest.fixture(scope="module")
def parts() -> StableDiffusionPipeline:
    """The same networks loaded once more, for the pipelines that the tests build."""
    return StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None, requires_safety_checker=False)


@pytest.fixture(scope="module")
def sample() -> Sample:
    scene = render(Scene("beach", 5, (Item("apple", 0.5, 0.85, 60),)))
    return Sample(
        id="apple-orange",
        image=scene.image,
        region=scene.masks[0],
        target_prompt="a photo of an orange on a beach",
        source_prompt="a photo of an apple on a beach",
    )


def edit(editor: Editor, backbone: Backbone, sample: Sample, seed: int = SEED, steps: int = STEPS) -> Image.Image:
    return editor.edit(sample, Source(sample, backbone, steps), seed)


def same(one: Image.Image, other: Image.Image) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def ddim() -> DDIMScheduler:
    """Stable Diffusion's noise levels, written out."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def drawn() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(SEED)


# agreement -----------------------------------------------------------------------------------------------------------


def test_imagic_is_three_straight_lines(
    backbone: Backbone, parts: StableDiffusionPipeline, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fit the embedding, fit the denoiser, denoise with a mixture: written out without the editor's code."""
    settings = {"embedding_steps": 3, "model_steps": 4, "embedding_rate": 1e-2, "model_rate": 1e-3}
    editor = Imagic(**settings, alpha=0.7)  # type: ignore[arg-type]
    random = drawn()
    unet = StableDiffusionPipeline.from_pretrained(TINY, safety_checker=None).unet.requires_grad_(False).eval()
    alphas = ddim().alphas_cumprod

    def embedding(text: str) -> Tensor:
        ids = parts.tokenizer(text, padding="max_length", max_length=parts.tokenizer.model_max_length).input_ids
        with torch.no_grad():
            return parts.text_encoder(torch.tensor([ids]))[0]

    with torch.no_grad():
        pixels = torch.from_numpy(np.array(backbone.fit(sample.read_image()))).permute(2, 0, 1)[None] / 127.5 - 1
        clean = parts.vae.encode(pixels).latent_dist.mean * parts.vae.config.scaling_factor
    prompt, null = embedding(sample.target_prompt), embedding("")
    fitted = prompt.clone().requires_grad_(True)
    for learning, steps, rate in (([fitted], 3, 1e-2), (list(unet.parameters()), 4, 1e-3)):
        if steps == 4:
            fitted = fitted.detach()
            unet.requires_grad_(True)
        adam = torch.optim.Adam(learning, lr=rate)
        for _ in range(steps):
            noise = torch.randn(clean.shape, generator=random)
            level = torch.randint(1000, (1,), generator=random)
            noisy = alphas[level] ** 0.5 * clean + (1 - alphas[level]) ** 0.5 * noise
            ((unet(noisy, level, fitted).sample - noise) ** 2).mean().backward()
            adam.step()
            adam.zero_grad()
    with torch.no_grad():
        texts = torch.cat([null, 0.7 * prompt + 0.3 * fitted])
        latents = torch.randn(clean.shape, generator=random)
        stride = 1000 // STEPS
        for step in reversed(range(STEPS)):
            now, then = step * stride + 1, max(step * stride + 1 - stride, 0)
            without, toward = unet(torch.cat([latents, latents]), now, texts).sample.chunk(2)
            noise = without + 7.5 * (toward - without)
            predicted = (latents - (1 - alphas[now]) ** 0.5 * noise) / alphas[now] ** 0.5
            latents = alphas[then] ** 0.5 * predicted + (1 - alphas[then]) ** 0.5 * noise
        decoded = parts.vae.decode(latents / parts.vae.config.scaling_factor).sample[0].clamp(-1, 1)
    wanted = ((decoded + 1) * 127.5).permute(1, 2, 0).numpy()
    difference = np.asarray(edit(editor, backbone, sample)).astype(float) - wanted
    assert np.abs(difference).max() <= 1  # rounding


def test_imagic_has_the_numbers_of_its_paper_and_of_its_pipeline_under_a_name() -> None:
    paper = registry.make("imagic:preset=paper")[1]
    assert paper == Imagic(embedding_steps=1000, embedding_rate=2e-3, model_steps=1500, model_rate=5e-7, alpha=0.7)
    assert registry.make("imagic:preset=pipeline") == ("imagic", Imagic())


# the backbone --------------------------------------------------------------------------------------------------------

QUICK = [
    SDEdit(),
    DiffEdit(),
    DiffEdit(masked=True),
    LEditsPP(),
    Pix2PixZero(rounds=1, rolls=1),
    Imagic(embedding_steps=2, model_steps=2, model_rate=1e-2),
]


@pytest.mark.parametrize("editor", QUICK, ids=lambda editor: f"{editor.name}")
@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
def test_seeded_and_silent_and_the_backbone_as_before(
    editor: Editor,
    fails: bool,
    backbone: Backbone,
    sample: Sample,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    unet = backbone.unet
    weights = backbone.fingerprint
    processors, scheduler = dict(unet.attn_processors), backbone.pipeline.scheduler
    config = dict(scheduler.config)
    if fails:

        def stop(*arguments: object, **more: object) -> None:
            raise RuntimeError("stop")

        # All of them decode last, so that everything else has happened.
        monkeypatch.setattr(backbone.pipeline.vae, "decode", stop)
        with pytest.raises(RuntimeError, match="stop"):
            edit(editor, backbone, sample, steps=3)
        monkeypatch.undo()
    else:
        first = edit(editor, backbone, sample, steps=3)
        torch.manual_seed(5)
        assert same(edit(editor, backbone, sample, steps=3), first)
        if not getattr(editor, "masked", False):  # DiffEdit draws for its own mask alone
            assert not same(edit(editor, backbone, sample, seed=SEED + 1, steps=3), first)
        assert first.mode == "RGB" and first.size == (backbone.resolution,) * 2
        assert "".join(capfd.readouterr()) == ""  # no bars, no warnings
    assert backbone.fingerprint == weights
    assert dict(unet.attn_processors) == processors
    assert backbone.pipeline.scheduler is scheduler and dict(scheduler.config) == config
    assert not unet.training and not unet._forward_pre_hooks
    assert all(not p.requires_grad and p.grad is None for p in unet.parameters())


@pytest.mark.parametrize("editor", QUICK, ids=lambda editor: editor.name)
def test_half_precision(editor: Editor, half: Backbone, sample: Sample) -> None:
    weights = half.fingerprint
    edited = np.asarray(edit(editor, half, sample, steps=3))
    assert edited.std() > 1 and half.fingerprint == weights
    assert half.unet.dtype == torch.bfloat16


def test_evaluations_are_counted(backbone: Backbone, sample: Sample) -> None:
    before = backbone.evaluations
    edit(SDEdit(strength=0.5), backbone, sample, steps=4)
    assert backbone.evaluations - before == 2 * 2
    edit(Imagic(embedding_steps=3, model_steps=2), backbone, sample, steps=4)
    assert backbone.evaluations - before == 2 * 2 + 3 + 2 + 2 * 4


def test_imagic_trains_a_backbone_that_predicts_velocity(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(1, 4, 16, 16, generator=drawn())

    class Denoiser(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, noisy: Tensor, level: Tensor, embedding: Tensor) -> object:
            return type("Output", (), {"sample": self.weight * noisy})

    def fitted(kind: str) -> float:
        monkeypatch.setattr(
            backbone.pipeline, "scheduler", DDIMScheduler.from_config(ddim().config, prediction_type=kind)
        )
        denoiser = Denoiser()
        imagic.fit(backbone, denoiser, latents, torch.zeros(1), [denoiser.weight], 100, 0.05, drawn())
        return denoiser.weight.item()

    # The best multiple of the noisy latents is positive for the noise, and for the velocity near none: alpha sigma's
    # and sigma alpha's parts cancel where latents have unit variance.
    assert fitted("epsilon") > 0.3
    assert abs(fitted("v_prediction")) < 0.2
    with pytest.raises(UserError, match="predicts 'sample'"):
        fitted("sample")


# what an editor refuses -----------------------------------------------------------------------------------------------


def test_too_few_steps_are_told(backbone: Backbone, sample: Sample) -> None:
    for editor in (SDEdit(strength=0.3), DiffEdit(strength=0.3), DiffEdit(encode_strength=0.3)):
        with pytest.raises(UserError, match=r"0.3 of 3 steps is no step; take more --steps"):
            edit(editor, backbone, sample, steps=3)


def test_masks_that_vanish_are_told(backbone: Backbone, sample: Sample) -> None:
    mask = np.zeros((128, 128), bool)
    mask[1:3, 1:3] = True
    dot = Sample("dot", sample.image, mask, "an orange")
    for editor in (DiffEdit(masked=True), LEditsPP(masked=True)):
        with pytest.raises(UserError, match="sample dot: nothing is left of its mask at 16 x 16"):
            edit(editor, backbone, dot)
    bare = Sample("bare", sample.image, None, "an orange")
    with pytest.raises(UserError, match="sample bare: no mask"):
        edit(DiffEdit(masked=True), backbone, bare)
    edit(DiffEdit(), backbone, bare)  # which finds its own


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (SDEdit, {"strength": 0.0}),
        (SDEdit, {"strength": 1.2}),
        (DiffEdit, {"maps": 0}),
        (DiffEdit, {"encode_strength": 2.0}),
        (LEditsPP, {"threshold": 1.0}),
        (Imagic, {"model_steps": -1}),
    ],
)
def test_bad_parameters(kind: type, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        kind(**settings)


def test_backbones_that_predict_something_else_are_refused(
    backbone: Backbone, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        backbone.pipeline, "scheduler", DDIMScheduler.from_config(ddim().config, prediction_type="sample")
    )
    for editor in QUICK:
        with pytest.raises(UserError, match="predicts 'sample'; epsilon and v_prediction are supported"):
            edit(editor, backbone, sample, steps=3)


def test_an_edit_that_diverges_is_no_black_picture(
    backbone: Backbone, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = backbone.pipeline.vae.decode
    monkeypatch.setattr(backbone.pipeline.vae, "decode", lambda latents, **more: decode(latents * torch.nan, **more))
    with pytest.raises(ValueError, match="diverged"):
        edit(Imagic(embedding_steps=1, model_steps=1), backbone, sample, steps=2)


def test_a_pipeline_leaves_the_networks_on_an_exception(backbone: Backbone) -> None:
    with pytest.raises(RuntimeError), pipeline(StableDiffusionPipeline, backbone):
        backbone.unet.requires_grad_(True)
        raise RuntimeError
    assert all(not p.requires_grad for p in backbone.unet.parameters())
