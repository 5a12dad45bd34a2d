import json
import math

import numpy as np
import pytest
import torch
from paths import DATA
from PIL import Image
from run_helpers import picture, square, write_clip
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from cpam_bench.eval.metrics.background import PSNRBackground, mse, ssim
from cpam_bench.eval.metrics.clip import load_clip
from cpam_bench.eval.metrics.metric import DEFAULT, Batch, choose, describe, measure
from cpam_bench.eval.metrics.networks import Networks
from cpam_bench.eval.metrics.perceptual import load_lpips, lpips_whole, within
from cpam_bench.imba.errors import UserError

LPIPS = DATA / "lpips"


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def models(clip_folder):
    return Networks(f"local-dir:{clip_folder}")


def _batch(edit, mask=None, source=None, truth=None, prompt="a dog"):
    source = np.array(source or picture(0))
    return Batch(
        source=source[None],
        edit=np.array(edit)[None],
        mask=(square() if mask is None else mask)[None],
        masked=np.array([True]),
        prompts=[prompt],
        truth=(source if truth is None else np.array(truth))[None],
        has_truth=np.array([truth is not None]),
        source_prompts=[""],
        retained=np.zeros((1, *source.shape[:2]), bool),
    )


def _one(batch, models, names=DEFAULT):
    return {name: values[0] for name, values in measure(batch, choose(names), models).items()}


def test_lpips_of_its_authors_examples():
    model = load_lpips()
    reference, p0, p1 = (
        torch.from_numpy(np.array(Image.open(LPIPS / f"ex_{name}.png").convert("RGB"))).permute(2, 0, 1)[None] / 255
        for name in ("ref", "p0", "p1")
    )
    assert lpips_whole(model, reference, p0).item() == pytest.approx(0.7219, abs=5e-4)
    assert lpips_whole(model, reference, p1).item() == pytest.approx(0.1376, abs=5e-4)
    spatial = load_lpips(spatial=True)
    everywhere = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    # The map is enlarged bilinearly, so its mean is close to the distance without being it.
    assert within(spatial(reference * 2 - 1, p0 * 2 - 1), everywhere).item() == pytest.approx(0.7219, abs=0.03)


def test_an_edit_that_changes_nothing(models):
    values = _one(_batch(picture(0), truth=picture(0)), models)
    for name in ("lpips_background", "lpips_background_spatial", "mse_background", "lpips_truth", "lpips_truth_region"):
        assert values[name] == 0, name
    assert values["psnr_background"] == 100
    assert values["ssim_background"] == 1
    assert math.isfinite(values["clip_score"])


def test_what_happens_inside_the_mask_is_no_matter_of_the_background(models):
    edit = np.array(picture(0))
    edit[square()] = 255 - edit[square()]
    values = _one(_batch(edit), models)
    assert values["lpips_background"] == 0
    assert values["mse_background"] == 0
    assert values["ssim_background"] == 1
    # The network sees across the mask's edge: the spatial convention charges some of the change to the background.
    assert values["lpips_background_spatial"] > 0


def test_background_errors_by_hand(models):
    edit = np.array(picture(0)).astype(int)
    edit[~square()] += 20
    values = _one(_batch(edit.astype(np.uint8)), models)
    # Three quarters of the picture are background, and the black rest counts as equal.
    expected = 0.75 * (20 / 255) ** 2
    assert values["mse_background"] == pytest.approx(expected, rel=1e-5)
    assert values["psnr_background"] == pytest.approx(-10 * math.log10(expected), rel=1e-5)
    assert values["lpips_background"] > 0.001
    assert values["ssim_background"] < 0.99


def test_psnr_is_torchmetrics(models):
    edit = picture(3)
    a, b = (torch.from_numpy(np.array(one)).permute(2, 0, 1)[None] / 255 for one in (picture(0), edit))
    outside = torch.from_numpy(~square())
    expected = peak_signal_noise_ratio(b * outside, a * outside, data_range=1.0).item()
    assert _one(_batch(edit), models, ["psnr_background"])["psnr_background"] == pytest.approx(expected, rel=1e-5)
    equal = _one(_batch(picture(0)), models, ["psnr_background:cap=none"])
    assert equal == {"psnr_background:cap=none": math.inf}
    assert PSNRBackground(cap=20.0).measure(_batch(picture(0)), models).item() == 20
    assert mse(a, a).tolist() == [0]


def test_ssim_is_torchmetrics_in_double_precision():
    a, b = (torch.from_numpy(np.array([picture(i), picture(i + 3)])).permute(0, 3, 1, 2) / 255 for i in (0, 1))
    a[1, :, :40], b[1, :, :40] = 0, 0  # as outside a mask
    expected = structural_similarity_index_measure(a.double(), b.double(), data_range=1.0, reduction="none")
    assert ssim(a, b).tolist() == pytest.approx(expected.tolist(), abs=1e-12)
    assert ssim(a, a).tolist() == [1, 1] and 0 < expected.min() < expected.max() < 1


def test_clip_score_by_hand(models, clip_folder):
    scorer = models.clip()
    image, prompt = picture(4), "a dog in the snow"
    # CLIP's cosine again, from the bare network: resize, normalise, encode, normalise, multiply.
    small = image.resize((32, 32), Image.Resampling.BICUBIC)
    pixels = (torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    with torch.inference_mode():
        a = scorer.model.encode_image(pixels)[0]
        b = scorer.model.encode_text(scorer.tokenizer([prompt]))[0]
    cosine = float(a @ b / a.norm() / b.norm())
    assert scorer.similarity([image], [prompt]).item() == pytest.approx(cosine, abs=1e-5)
    values = _one(_batch(image, prompt=prompt), models, ["clip_score"])
    assert values["clip_score"] == pytest.approx(100 * max(cosine, 0), abs=1e-3)


def test_clip_score_is_never_below_zero(models):
    prompts = [f"thing {i}" for i in range(30)]
    images = [picture(i) for i in range(30)]
    cosines = models.clip().similarity(images, prompts)
    assert cosines.min() < 0 < cosines.max(), "the random network should have both signs among thirty pairs"
    scores = [
        _one(_batch(image, prompt=prompt), models, ["clip_score"])["clip_score"]
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert scores == pytest.approx((100 * cosines.clamp(min=0)).tolist(), abs=1e-3)


def test_region_score_sees_only_the_region(models):
    edit = np.array(picture(1))
    other = edit.copy()
    other[~square()] = 255 - other[~square()]
    name = "clip_score_region"
    assert _one(_batch(edit), models, [name]) == _one(_batch(other), models, [name])
    # The bare similarity, for with random weights a score may be cut off at zero.
    whole = models.clip().similarity([Image.fromarray(edit), Image.fromarray(other)], ["a dog"] * 2)
    assert abs(whole[0] - whole[1]) > 1e-4


def test_no_background_is_nan_and_no_error(models):
    values = _one(_batch(picture(1), mask=np.ones((64, 64), bool), truth=picture(2)), models)
    undefined = {name for name, value in values.items() if math.isnan(value)}
    assert undefined == {name for name in DEFAULT if "background" in name}


def test_no_region_and_no_truth_are_nan(models):
    values = _one(_batch(picture(1), mask=np.zeros((64, 64), bool)), models)
    undefined = {name for name, value in values.items() if math.isnan(value)}
    assert undefined == {"clip_score_region", "lpips_truth", "lpips_truth_region", "lpips_truth_gain"}


def test_a_batch_measures_as_its_members_alone(models):
    edits = [picture(1), picture(2), picture(3)]
    masks = [square(), np.ones((64, 64), bool), np.zeros((64, 64), bool)]
    alone = [_batch(edit, mask, truth=picture(5)) for edit, mask in zip(edits, masks, strict=True)]
    fields = ("source", "edit", "mask", "masked", "truth", "has_truth", "retained")
    together = Batch(
        **{field: np.concatenate([getattr(batch, field) for batch in alone]) for field in fields},
        prompts=["a dog"] * 3,
        source_prompts=[""] * 3,
    )
    measured = measure(together, choose(), models)
    for i, batch in enumerate(alone):
        for name, value in _one(batch, models).items():
            assert measured[name][i] == pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True), name


def test_scorer_tells_what_it_is(models, clip_folder):
    described = describe("clip_score", choose()["clip_score"], models)
    assert described["scorer"] == f"local-dir:{clip_folder}"
    assert len(described["weights_sha256"]) == 64
    assert any("Normalize" in line for line in described["preprocess"])
    assert describe("lpips_background", choose()["lpips_background"], models)["scorer"] == "LPIPS AlexNet v0.1"


def test_scorer_says_where_a_prompt_is_cut(models):
    assert models.clip().truncated("a dog in the snow") is None
    # "dog" is one token, and of the 16 two are for start and end.
    assert models.clip().truncated(" ".join(["dog"] * 14)) is None
    assert models.clip().truncated(" ".join(["dog"] * 14 + ["cat"] * 286)) == " ".join(["cat"] * 286)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-L-14", "is not MODEL/PRETRAINED"),
        ("ViT-nothing/openai", "no model 'ViT-nothing'"),
        ("ViT-B-32/no-such-tag", "cannot be loaded"),
        ("local-dir:/no/such/folder", "cannot be loaded"),
    ],
)
def test_unknown_scorers(name, message):
    with pytest.raises(UserError, match=message):
        load_clip(name)


def test_a_scorer_whose_weights_are_missing(clip_folder, tmp_path):
    config = json.loads((clip_folder / "open_clip_config.json").read_text())
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_clip(str(tmp_path))


def test_openai_weights_get_the_activation_they_were_trained_with(monkeypatch):
    import open_clip

    asked = {}

    def create(model, pretrained, **options):
        asked.update(model=model, pretrained=pretrained, **options)
        raise RuntimeError("no network")

    monkeypatch.setattr(open_clip, "create_model_from_pretrained", create)
    for name, quick in (("ViT-L-14/openai", True), ("ViT-L-14/laion2b_s32b_b82k", False)):
        with pytest.raises(UserError, match="no network"):
            load_clip(name)
        assert asked["force_quick_gelu"] is quick, name
