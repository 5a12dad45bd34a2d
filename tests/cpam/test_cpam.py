"""CPAM's parts against their equations, and the editors on a small random backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from editor_helpers import TINY, make_sample
from PIL import Image
from torch import Tensor

from cpam_bench.baselines.masactrl import MasaCtrl
from cpam_bench.baselines.reference import DDIM, Identity, Reconstruction
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor
from cpam_bench.cpam.editor import CPAM, CPAMPipeline, CPAMRelease
from cpam_bench.cpam.localization import localize
from cpam_bench.cpam.masks import target_mask
from cpam_bench.cpam.preservation import preserve, regions
from cpam_bench.cpam.removal import Hole, continued, draw, touched
from cpam_bench.cpam.source import Source
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.sample import Kind

STEPS = 6


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


def edit(editor: Editor, backbone: Backbone, seed: int = 0, **changes: object) -> np.ndarray:
    sample = make_sample(**changes)
    return np.asarray(editor.edit(sample, Source(sample, backbone, STEPS), seed))


# the equations -------------------------------------------------------------------------------------------------------


def masked(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    """Att(Q, K, V; mask) as the paper writes it: scores of masked keys are -inf."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return scores.masked_fill(~keys, -torch.inf).softmax(-1) @ v


@pytest.fixture
def attention() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, 64, 8, generator=generator) for _ in range(3))
    source = torch.zeros(16, 16, dtype=torch.bool)
    source[4:10, 4:12] = True
    target = torch.zeros_like(source)
    target[2:12, 2:14] = True
    return q, k, v, source, target


@pytest.mark.parametrize("retain", [True, False])
def test_preservation_is_equations_1_to_3(attention: tuple[Tensor, ...], retain: bool) -> None:
    q, k, v, source, target = attention
    small_source, small_target = source[::2, ::2].flatten(), target[::2, ::2].flatten()
    ours = preserve(q, k, v, regions(source, target, [64])[64], retain)
    everything = torch.ones(64, dtype=torch.bool)
    assert torch.allclose(ours[0], masked(q[0], k[0], v[0], everything), atol=1e-5)
    for lane in (1, 2):
        background = masked(q[lane], k[0], v[0], ~small_source)
        content = masked(q[lane], k[0], v[0], small_target) if retain else masked(q[lane], k[lane], v[lane], everything)
        expected = torch.where(small_target[:, None], content, background)
        assert torch.allclose(ours[lane], expected, atol=1e-5)


@pytest.mark.parametrize("retain", [True, False])
@pytest.mark.parametrize("whole", [True, False])
def test_masks_that_leave_no_key_use_all(attention: tuple[Tensor, ...], retain: bool, whole: bool) -> None:
    q, k, v, source, _ = attention
    full = torch.full_like(source, whole)
    assert preserve(q, k, v, regions(full, full, [64])[64], retain).isfinite().all()


def test_masks_that_leave_no_key_may_be_attended_to_uniformly(attention: tuple[Tensor, ...]) -> None:
    """Where M_s fills a layer and M_t does not: plain attention, or a softmax over equally masked scores."""
    q, k, v, source, target = attention
    filled = regions(torch.ones_like(source), target, [64])[64]
    assert not len(filled.background_keys) and len(filled.outside)
    plain, uniform = (preserve(q, k, v, filled, False, uniform) for uniform in (False, True))
    scores = q @ k[:1].mT * q.shape[-1] ** -0.5
    masked_alike = (scores + torch.finfo(scores.dtype).min).softmax(-1) @ v[:1]
    for lane in (1, 2):
        outside = filled.outside
        assert torch.allclose(plain[lane][:, outside], (scores.softmax(-1) @ v[:1])[lane][:, outside], atol=1e-5)
        assert torch.allclose(uniform[lane][:, outside], masked_alike[lane][:, outside], atol=1e-5)
        assert torch.equal(plain[lane][:, filled.inside], uniform[lane][:, filled.inside])


@pytest.mark.parametrize(
    ("editor", "refined", "retained"),
    [
        (CPAM(), set(), {"replace", "pose", "remove", "add"}),
        (CPAM(refine=True), {"replace", "pose"}, {"replace", "pose", "remove", "add"}),
        (CPAMRelease(), {"replace", "pose", "background", "add"}, set(get_args(Kind))),
        (CPAMRelease(refine=False), set(), set(get_args(Kind))),
    ],
    ids=["cpam", "cpam refined", "cpam-release", "cpam-release fixed"],  # sets have no order, and names must have
)
def test_which_kinds_are_refined_and_which_retain(
    editor: CPAM, refined: set[str], retained: set[str], backbone: Backbone
) -> None:
    controls = {}
    for kind in get_args(Kind):
        sample = make_sample(kind=kind, retain_object=True)
        controls[kind] = editor.control(sample, Source(sample, backbone, 2))
    assert {kind for kind, control in controls.items() if control.refinement} == refined
    assert {kind for kind, control in controls.items() if control.retain} == retained
    assert {control.uniform for control in controls.values()} == {isinstance(editor, CPAMRelease)}
    thresholds = {(c.refinement.start_step, c.refinement.threshold) for c in controls.values() if c.refinement}
    assert thresholds <= {(1, 0.45)}


def test_localization_is_equation_4(attention: tuple[Tensor, ...]) -> None:
    q, _, _, source, target = attention
    k, v = (torch.randn(3, 2, 7, 8, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    ours = localize(q, k, v, regions(source, target, [64])[64])
    words = torch.ones(7, dtype=torch.bool)
    inside = target[::2, ::2].flatten()[:, None]
    for lane in (0, 1):
        assert torch.allclose(ours[lane], masked(q[lane], k[lane], v[lane], words), atol=1e-5)
    expected = torch.where(inside, masked(q[2], k[2], v[2], words), masked(q[2], k[1], v[1], words))
    assert torch.allclose(ours[2], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "grows", "covers"),
    [
        ("replace", True, True),
        ("pose", True, True),
        ("background", False, True),
        ("add", True, True),
        ("remove", False, False),
    ],
)
def test_target_masks_of_section_4_4(kind: Kind, grows: bool, covers: bool) -> None:
    mask = np.zeros((64, 64), bool)
    mask[20:50, 10:40] = True
    target = target_mask(mask, kind)
    assert target.shape == mask.shape
    assert (target.sum() > mask.sum()) == grows
    assert bool((target & mask).sum() == mask.sum()) == covers
    assert target.any() == covers


def test_hull_fills_what_lies_between() -> None:
    mask = np.zeros((64, 64), bool)
    mask[10:50, 10:14] = mask[46:50, 10:50] = True
    hull = target_mask(mask, "replace", shape="hull", margin=0.0)
    assert hull[44, 14] and not mask[44, 14]
    assert not hull[12, 48]


def test_pictures_are_brought_to_the_resolution_by_a_filter(backbone: Backbone) -> None:
    random = np.random.default_rng(0)
    picture = Image.fromarray(random.integers(0, 256, (77, 190, 3), dtype=np.uint8))
    size = (backbone.resolution, backbone.resolution)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float()
    nearest = torch.nn.functional.interpolate(pixels, size)[0].permute(1, 2, 0).numpy()  # as MasaCtrl's load_image
    wanted = {
        "bicubic": np.asarray(picture.resize(size, Image.Resampling.BICUBIC)),
        "lanczos": np.asarray(picture.resize(size, Image.Resampling.LANCZOS)),
        "nearest": nearest,
    }
    for filter, expected in wanted.items():
        assert np.array_equal(replace(backbone, resize=filter).fit(picture), expected)
    assert backbone.resize == "bicubic"


# the editors ---------------------------------------------------------------------------------------------------------

EDITORS: list[Editor] = [
    CPAM(),
    CPAMRelease(),
    CPAM(refine=True),
    MasaCtrl(),
    MasaCtrl(masked=True),
    DDIM(),
    Reconstruction(),
]


@pytest.mark.parametrize("editor", EDITORS, ids=str)
def test_editors_are_deterministic_and_caption_free(editor: Editor, backbone: Backbone) -> None:
    first = edit(editor, backbone, seed=3)
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, edit(editor, backbone, seed=3, source_prompt="a photo of an apple on a beach"))


@pytest.mark.parametrize(
    ("editor", "uses_mask"),
    [(CPAM(), True), (MasaCtrl(masked=True), True), (MasaCtrl(), False), (DDIM(), False)],
    ids=str,
)
def test_mask_control(editor: Editor, uses_mask: bool, backbone: Backbone) -> None:
    other = np.zeros((128, 128), bool)
    other[8:60, 8:60] = True
    assert np.array_equal(edit(editor, backbone), edit(editor, backbone, region=other)) != uses_mask


def test_identity_is_the_source(backbone: Backbone) -> None:
    assert np.array_equal(edit(Identity(), backbone), np.asarray(make_sample().image))


def test_removal_does_not_hear_the_prompt(backbone: Backbone) -> None:
    one = edit(CPAM(), backbone, kind="remove")
    assert np.array_equal(one, edit(CPAM(), backbone, kind="remove", target_prompt="a photo of a cat"))
    assert not np.array_equal(edit(CPAM(), backbone), edit(CPAM(), backbone, target_prompt="a photo of a cat"))


def test_normal_layers_are_drawn_by_the_seed(backbone: Backbone) -> None:
    assert not np.array_equal(edit(CPAM(), backbone, seed=1), edit(CPAM(), backbone, seed=2))
    assert np.array_equal(edit(CPAMRelease(), backbone, seed=1), edit(CPAMRelease(), backbone, seed=2))


@pytest.mark.parametrize("editor", [CPAM(), MasaCtrl(masked=True)], ids=str)
def test_a_missing_or_empty_mask_is_named(editor: Editor, backbone: Backbone) -> None:
    with pytest.raises(UserError, match="apple-orange"):
        edit(editor, backbone, region=None)
    with pytest.raises(UserError, match="apple-orange"):
        edit(editor, backbone, region=np.zeros((128, 128), bool))


def test_pipeline_edits_one_picture(backbone: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    sample = make_sample()
    assert isinstance(sample.image, Image.Image) and isinstance(sample.region, np.ndarray)
    pipeline = CPAMPipeline(CPAM(), backbone)
    picture = pipeline(sample.image, sample.region, sample.target_prompt, steps=STEPS)
    assert np.array_equal(np.asarray(picture), edit(CPAM(), backbone))
    assert capsys.readouterr().out == ""


def test_the_pipeline_means_what_the_command_means(backbone: Backbone) -> None:
    """Of a background the mask is of the object that stays; what is no word or value of it is refused."""
    sample = make_sample()
    assert isinstance(sample.image, Image.Image) and isinstance(sample.region, np.ndarray)
    pipeline = CPAMPipeline(CPAM(), backbone)
    asked = {"kind": "background", "steps": STEPS}
    picture = pipeline(sample.image, sample.region, sample.target_prompt, **asked)  # type: ignore[arg-type]
    expected = edit(CPAM(), backbone, region=~sample.region, kind="background", altered="background")
    assert np.array_equal(np.asarray(picture), expected)
    for wrong, message in (
        ({"kind": "swap"}, "kind is 'swap', and must be one of replace, pose"),
        ({"fit": "stretch"}, "fit is 'stretch'"),
        ({"steps": 1000}, "steps must be between 1 and 999"),
    ):
        with pytest.raises(UserError, match=message):
            pipeline(sample.image, sample.region, "a cat", **wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="bring it to the image's size"):
        pipeline(sample.image, sample.region[:-1], "a cat")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guidance": "x"}, "CPAM: guidance='x' does not fit; it takes a number"),
        ({"guidance": float("nan")}, "guidance=nan does not fit"),
        ({"refine": 1}, "refine=1 does not fit; it takes true or false"),
        ({"shape": "round"}, "shape='round' does not fit; it takes dilate, hull or source"),
        ({"start_step": 2.5}, "start_step=2.5 does not fit; it takes a whole number"),
        ({"guidence": 5}, "no parameter 'guidence'.*did you mean guidance"),
    ],
)
def test_parameters_in_python_are_refused_as_in_labels(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CPAM.from_pretrained("/no/such/backbone", **given)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(dtype: str) -> None:
    if dtype == "float16" and not torch.cuda.is_available():
        pytest.skip("float16 convolutions on the CPU are too slow to be worth a test")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    picture = edit(CPAM(refine=True), Backbone.load(str(TINY), device, dtype))
    assert picture.std() > 1


# the backbone --------------------------------------------------------------------------------------------------------


def test_backbone_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model_index.json"):
        Backbone.load(str(tmp_path))
    with pytest.raises(UserError, match="pocket, sd14, sd15, sd21, sdxl, a hub id"):
        Backbone.load("no-such/model-at-all")
    with pytest.raises(UserError, match="float32"):
        Backbone.load(str(TINY), dtype="int8")


def test_steps_out_of_range(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="between 1 and 999"):
        backbone.schedule(0)


def test_long_prompts_are_known_to_be_cut(backbone: Backbone) -> None:
    assert backbone.truncated("a photo of a dog") is None
    cut = backbone.truncated(" ".join(["dog"] * 300))
    assert cut is not None and cut.split() == ["dog"] * 225


def test_word_positions(backbone: Backbone) -> None:
    everything = backbone.word_positions("a photo of a sitting dog")
    dog = backbone.word_positions("a photo of a sitting dog", "dog")
    assert everything == list(range(1, 1 + len(everything)))
    assert dog == [everything[-1]]
    assert backbone.word_positions("a photo of a sitting dog", "zebra") == everything


def test_v_prediction_is_turned_into_noise(backbone: Backbone) -> None:
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    plain = backbone.predict(latents, 500, backbone.embed(""))
    config = backbone.pipeline.scheduler.config
    alpha = backbone.pipeline.scheduler.alphas_cumprod[500].item()
    backbone.pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    try:
        turned = backbone.predict(latents, 500, backbone.embed(""))
    finally:
        backbone.pipeline.scheduler.register_to_config(prediction_type=config.prediction_type)
    assert torch.allclose(turned, alpha**0.5 * plain + (1 - alpha) ** 0.5 * latents, atol=1e-5)


# removal -------------------------------------------------------------------------------------------------------------


def test_the_noise_of_a_removed_object_comes_from_around_it() -> None:
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[10:14, 2:7] = True
    drawn = draw(hole, seed=1)
    assert drawn.shape == (20, 2) and not hole[drawn[:, 0], drawn[:, 1]].any()
    assert len({tuple(position) for position in drawn.tolist()}) > 10
    # 15 % of 256 positions: nothing from the other end of the picture.
    assert drawn[:, 0].min() >= 5 and drawn[:, 1].max() <= 12
    assert torch.equal(drawn, draw(hole, seed=1)) and not torch.equal(drawn, draw(hole, seed=2))


def test_the_background_is_continued_smoothly() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(12.0), indexing="ij")
    plane = torch.stack([rows, 2 * columns - rows])[None]  # a plane solves Laplace's equation
    hole = torch.zeros(16, 12, dtype=torch.bool)
    hole[4:9, 3:8] = True
    assert torch.allclose(continued(torch.where(hole, torch.tensor(99.0), plane), hole), plane, atol=1e-4)
    hole[:] = True
    hole[0, 0] = False
    assert torch.allclose(continued(plane, hole), plane[..., :1, :1].expand_as(plane), atol=1e-4)
    with pytest.raises(UserError, match="fills the picture"):
        continued(plane, torch.ones_like(hole))


def test_a_latent_that_covers_any_of_the_mask_is_touched() -> None:
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[7:9, 30] = True
    assert touched(mask, (16, 16)).nonzero().tolist() == [[0, 3], [1, 3]]


def test_the_hole_is_filled_for_a_share_of_the_steps(backbone: Backbone) -> None:
    sample = make_sample(kind="remove")
    source = Source(sample, backbone, 10)
    assert source.mask is not None
    hole = Hole(source.trajectory, torch.from_numpy(source.mask), seed=1, share=0.3)
    start, inside = hole.start(), hole.inside
    assert torch.equal(start[..., ~inside], source.trajectory.at(0)[..., ~inside])
    assert not torch.equal(start[..., inside], source.trajectory.at(0)[..., inside])
    ones = torch.ones_like(start)
    for step in range(10):
        after = hole.after_step(step, source.trajectory.at(step + 1), ones)
        assert bool((after[..., inside] == 1).all()) == (step + 1 >= 3)
        assert torch.equal(after[..., ~inside], source.trajectory.at(step + 1)[..., ~inside])
    free = Hole(source.trajectory, torch.from_numpy(source.mask), seed=1, fill=False, hold=False)
    assert torch.equal(free.start(), source.trajectory.at(0)) and torch.equal(free.after_step(0, start, ones), ones)


def test_removal_keeps_the_latents_around_the_object(backbone: Backbone) -> None:
    sample = make_sample(kind="remove")
    source = Source(sample, backbone, STEPS)
    hole = touched(torch.from_numpy(source.mask), (16, 16))

    def latents(editor: CPAM) -> Tensor:
        kept: list[Tensor] = []
        decode = backbone.decode
        backbone.decode = lambda z: kept.append(z) or decode(z)  # type: ignore[method-assign, func-returns-value]
        try:
            editor.edit(sample, source, 3)
        finally:
            del backbone.decode
        return kept[0]

    edited = latents(CPAM())
    assert torch.equal(edited[..., ~hole], source.latents[..., ~hole])
    assert not torch.allclose(edited[..., hole], source.latents[..., hole], atol=0.1)
    assert not torch.equal(latents(CPAM(remove_hold=False))[..., ~hole], source.latents[..., ~hole])
    # The release's removal is Algorithm 1 from the inverted noise, as it was.
    plain = latents(CPAM(remove_noise="inverted", remove_hold=False, normal_layers=0.0, start_layer=7))
    assert torch.equal(latents(CPAMRelease()), plain)
    assert not torch.equal(edited, latents(CPAM(remove_noise="inverted")))
