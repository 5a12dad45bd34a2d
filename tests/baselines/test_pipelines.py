"""The editors around diffusers' pipelines give, to the pixel, what those pipelines give by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    LEditsPPPipelineStableDiffusion,
    StableDiffusionDiffEditPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    StableDiffusionPix2PixZeroPipeline,
)
from paths import TINY
from PIL import Image
from torch import Tensor

from cpam_bench.baselines import imagic
from cpam_bench.baselines.diffedit import DiffEdit
from cpam_bench.baselines.imagic import Imagic
from cpam_bench.baselines.leditspp import LEditsPP
from cpam_bench.baselines.pipelines import pipeline
from cpam_bench.baselines.pix2pix_zero import TEMPLATES, Pix2PixZero, objects
from cpam_bench.baselines.sdedit import SDEdit
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor
from cpam_bench.cpam.source import Source
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
        mask=scene.masks[0],
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


def by_hand(kind: type, parts: StableDiffusionPipeline, scheduler: object = None, **more: object) -> object:
    made = kind(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=scheduler or ddim(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )
    made.set_progress_bar_config(disable=True)
    return made


def drawn() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(SEED)


# agreement -----------------------------------------------------------------------------------------------------------


def test_sdedit(backbone: Backbone, parts: StableDiffusionPipeline, sample: Sample) -> None:
    wanted = by_hand(StableDiffusionImg2ImgPipeline, parts)(  # type: ignore[operator]
        prompt=sample.target_prompt,
        image=backbone.fit(sample.read_image()),
        strength=0.75,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        generator=drawn(),
    ).images[0]
    assert same(edit(SDEdit(), backbone, sample), wanted)
    assert not same(edit(SDEdit(strength=0.5), backbone, sample), wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_diffedit(backbone: Backbone, parts: StableDiffusionPipeline, sample: Sample, masked: bool) -> None:
    made = by_hand(
        StableDiffusionDiffEditPipeline, parts, inverse_scheduler=DDIMInverseScheduler.from_config(ddim().config)
    )
    image, random = backbone.fit(sample.read_image()), drawn()
    if masked:
        small = backbone.fit_mask(sample.read_mask())[::8, ::8]  # nearest neighbour by a factor of 8
        mask = Image.fromarray(small.astype(np.uint8) * 255)
    else:
        mask = made.generate_mask(  # type: ignore[attr-defined]
            image=image,
            source_prompt="",
            target_prompt=sample.target_prompt,
            num_maps_per_mask=10,
            mask_encode_strength=0.5,
            mask_thresholding_ratio=2.0,  # above the mean: a random denoiser's map has no peaks
            num_inference_steps=STEPS,
            generator=random,
        )
        assert 0 < mask.mean() < 1
    latents = made.invert(  # type: ignore[attr-defined]
        image=image, prompt="", inpaint_strength=0.8, num_inference_steps=STEPS, guidance_scale=1, generator=random
    ).latents
    wanted = made(  # type: ignore[operator]
        prompt=sample.target_prompt,
        mask_image=mask,
        image_latents=latents,
        inpaint_strength=0.8,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
    ).images[0]
    assert same(edit(DiffEdit(masked=masked, threshold_ratio=2.0), backbone, sample), wanted)
    assert not same(edit(DiffEdit(masked=not masked, threshold_ratio=2.0), backbone, sample), wanted)


@pytest.mark.parametrize("masked", [False, True])
def test_leditspp(backbone: Backbone, parts: StableDiffusionPipeline, sample: Sample, masked: bool) -> None:
    solver = DPMSolverMultistepScheduler.from_config(ddim().config, algorithm_type="sde-dpmsolver++", solver_order=2)
    made = by_hand(LEditsPPPipelineStableDiffusion, parts, solver)
    before = dict(parts.unet.attn_processors)
    mask = torch.from_numpy(backbone.fit_mask(sample.read_mask())[::8, ::8]).float()[None, None] if masked else None
    made.invert(  # type: ignore[attr-defined]
        image=backbone.fit(sample.read_image()), num_inversion_steps=STEPS, skip=0.1, generator=drawn()
    )
    wanted = made(  # type: ignore[operator]
        editing_prompt=[sample.target_prompt], edit_guidance_scale=10.0, edit_threshold=0.75, user_mask=mask
    ).images[0]
    parts.unet.set_attn_processor(before)
    assert same(edit(LEditsPP(masked=masked), backbone, sample), wanted)
    for other in (LEditsPP(masked=not masked), LEditsPP(masked=masked, intersect=False)):
        assert not same(edit(other, backbone, sample), wanted)


def test_pix2pix_zero(backbone: Backbone, parts: StableDiffusionPipeline, sample: Sample) -> None:
    made = by_hand(
        StableDiffusionPix2PixZeroPipeline,
        parts,
        inverse_scheduler=DDIMInverseScheduler.from_config(ddim().config),
        caption_generator=None,
        caption_processor=None,
    )
    before, random = dict(parts.unet.attn_processors), drawn()
    noise = made.invert(  # type: ignore[attr-defined]
        prompt=sample.source_prompt,
        image=backbone.fit(sample.read_image()),
        num_inference_steps=STEPS,
        lambda_auto_corr=20.0,
        lambda_kl=20.0,
        num_reg_steps=5,
        num_auto_corr_rolls=5,
        generator=random,
    ).latents
    wanted = made(  # type: ignore[operator]
        prompt=sample.source_prompt,
        source_embeds=made.get_embeds([text.format("an apple") for text in TEMPLATES]),  # type: ignore[attr-defined]
        target_embeds=made.get_embeds([text.format("an orange") for text in TEMPLATES]),  # type: ignore[attr-defined]
        num_inference_steps=STEPS,
        guidance_scale=5.0,
        negative_prompt=sample.source_prompt,
        cross_attention_guidance_amount=0.1,
        latents=noise,
        generator=random,
    ).images[0]
    parts.unet.set_attn_processor(before)
    parts.unet.requires_grad_(False)
    assert same(edit(Pix2PixZero(), backbone, sample), wanted)


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
            edit(editor, backbone, sample, steps=2)
        monkeypatch.undo()
    else:
        first = edit(editor, backbone, sample, steps=2)
        torch.manual_seed(5)
        assert same(edit(editor, backbone, sample, steps=2), first)
        assert not same(edit(editor, backbone, sample, seed=SEED + 1, steps=2), first)
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
    edited = np.asarray(edit(editor, half, sample, steps=2))
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


def test_pix2pix_zero_needs_a_caption(backbone: Backbone, sample: Sample) -> None:
    bare = Sample("bare", sample.image, None, "an orange")
    with pytest.raises(UserError, match="sample bare: no source_prompt"):
        edit(Pix2PixZero(), backbone, bare)


def test_pix2pix_zero_banks(backbone: Backbone, sample: Sample, tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_text(json.dumps({"source": [*TEMPLATES], "target": [text.format("an orange") for text in TEMPLATES]}))
    plain = edit(Pix2PixZero(rounds=0), backbone, sample, steps=2)
    editor = Pix2PixZero(rounds=0, bank=str(path))
    assert same(edit(editor, backbone, sample, steps=2), plain)
    hashed = editor.inputs(sample)
    path.write_text(json.dumps({"source": ["a dog"], "target": ["a {}", "a cat"]}))
    assert not same(edit(editor, backbone, sample, steps=2), plain)
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


def test_backbones_that_predict_something_else_are_refused(
    backbone: Backbone, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        backbone.pipeline, "scheduler", DDIMScheduler.from_config(ddim().config, prediction_type="sample")
    )
    for editor in QUICK:
        with pytest.raises(UserError, match="predicts 'sample'; epsilon and v_prediction are supported"):
            edit(editor, backbone, sample, steps=2)


def test_an_edit_that_diverges_is_no_black_picture(
    backbone: Backbone, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = backbone.pipeline.vae.decode
    monkeypatch.setattr(backbone.pipeline.vae, "decode", lambda latents, **more: decode(latents * torch.nan, **more))
    with pytest.raises(ValueError, match="diverged"):
        edit(SDEdit(), backbone, sample, steps=2)


def test_a_pipeline_leaves_the_networks_on_an_exception(backbone: Backbone) -> None:
    with pytest.raises(RuntimeError), pipeline(StableDiffusionPipeline, backbone):
        backbone.unet.requires_grad_(True)
        raise RuntimeError
    assert all(not p.requires_grad for p in backbone.unet.parameters())
