"""Stable Diffusion 2.1 and SDXL: editing on them against straight-line computations with dense attention."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import tiny_sd21, tiny_sdxl
from editor_helpers import make_sample
from run_helpers import write_clip
from straight import ALPHAS, distance, moved
from torch import Tensor
from torch.nn.functional import interpolate
from typer.testing import CliRunner

from cpam_bench.cpam.attention import layers
from cpam_bench.cpam.backbone import Backbone, family_of
from cpam_bench.cpam.editing import Editor
from cpam_bench.cpam.masks import target_mask
from cpam_bench.cpam.sampling import reconstruct, sample_together
from cpam_bench.cpam.source import Source
from cpam_bench.eval.commands.main import app
from cpam_bench.eval.methods import registry
from cpam_bench.imba.errors import UserError

STEPS, TIMES, STRIDE, SEED, SCALE = 3, (667, 334, 1), 333, 5, 7.5
PROMPT, CAPTION = "a photo of an orange on a beach", "a photo of an apple on a beach"
FAMILIES = ("sd2", "sdxl")

KEEPING = {
    ("sd2", "masactrl"): r"up_blocks\.[23]\.",
    ("sd2", "cpam"): r"up_blocks\.(1\.attentions\.[12]|[23])\.",
    ("sd2", "cpam-release"): r"up_blocks\.[123]\.",
    ("sdxl", "masactrl"): r"up_blocks\.(0\.attentions\.[12]|1)\.",
    ("sdxl", "cpam"): r"up_blocks\.(0\.attentions\.([12]|0\.transformer_blocks\.[1-9])|1)\.",
    ("sdxl", "cpam-release"): r"up_blocks\.(0\.attentions\.2|1)\.",
}
"""Self-attention layers that take the source's content, by their diffusers names."""


@functools.cache
def backbone(family: str) -> Backbone:
    return Backbone.from_pipeline({"sd2": tiny_sd21, "sdxl": tiny_sdxl}[family](), family)


def region() -> np.ndarray:
    """At no layer does it, or what is around it, vanish."""
    mask = np.zeros((128, 128), bool)
    mask[32:96, 32:96] = True
    return mask


@functools.cache
def source(family: str) -> Source:
    return Source(make_sample(region=region(), target_prompt=PROMPT), backbone(family), STEPS)


def made(label: str) -> Editor:
    return registry.make(label)[1]


def latents_of(editor: Any, family: str) -> Tensor:
    sample = make_sample(region=region(), target_prompt=PROMPT, retain_object=True, source_prompt=CAPTION)
    return sample_together(backbone(family), editor.branches([sample], [source(family)], [SEED]))[0]


# straight ------------------------------------------------------------------------------------------------------------

Act = Callable[[str, Tensor, Tensor, Tensor], Tensor]
"""Name of an attention layer, queries, keys, values (lanes, heads, tokens, D) -> output of it."""


def plain(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return masked(q, k, v, torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool))


def masked(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Attention of each query to the keys that it sees, bool (queries, keys)."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


@dataclass
class Dense:
    act: Act
    name: str

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            part.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        return attn.to_out[0](self.act(self.name, q, k, v).transpose(1, 2).flatten(-2))


@dataclass
class Straight:
    """A pipeline of diffusers, told prompts by its own code."""

    family: str
    pipeline: Any = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = backbone(self.family).pipeline

    @torch.no_grad()
    def noise(self, latents: Tensor, t: int, prompts: list[str | None], act: Act = plain) -> Tensor:
        """Predicted noise of some lanes, each under a prompt, or None for the empty one as guidance has it."""
        unet, told = self.pipeline.unet, [self.told(prompt) for prompt in prompts]
        added = {}
        if self.family == "sdxl":
            sizes = torch.tensor([[128.0, 128, 0, 0, 128, 128]]).expand(len(prompts), -1)
            added = {"added_cond_kwargs": {"text_embeds": torch.cat([pooled for _, pooled in told]), "time_ids": sizes}}
        before = dict(unet.attn_processors)
        unet.set_attn_processor({name: Dense(act, name) for name in before})
        try:
            hidden = torch.cat([hidden for hidden, _ in told])
            output = unet(latents, t, encoder_hidden_states=hidden, **added).sample
        finally:
            unet.set_attn_processor(before)
        return output if self.family == "sdxl" else ALPHAS[t] ** 0.5 * output + (1 - ALPHAS[t]) ** 0.5 * latents

    def told(self, prompt: str | None) -> tuple[Tensor, Tensor]:
        """Hidden states and the pooled embedding; of None, the negative ones that diffusers makes by itself."""
        hidden, negative, *pooled = self.pipeline.encode_prompt(
            prompt if prompt is not None else "any",
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
        )
        pooled = pooled or [hidden.new_zeros(1), hidden.new_zeros(1)]
        return (negative, pooled[1]) if prompt is None else (hidden, pooled[0])

    def inverted(self, latents: Tensor, prompt: str | None = None, ahead: bool = False) -> list[Tensor]:
        path = [latents]
        for t in reversed(TIMES):
            below, above = (t, min(t + STRIDE, 999)) if ahead else (max(t - STRIDE, 0), t)
            path.append(moved(path[-1], self.noise(path[-1], t, [prompt]), ALPHAS[below], ALPHAS[above]))
        return path

    def edited(self, path: list[Tensor], act: Callable[[int], Act]) -> Tensor:
        """The target's z_0, with the source's lane taken from the path."""
        target = path[-1]
        for step, t in enumerate(TIMES):
            lanes = torch.cat([path[STEPS - step], target, target])
            _, null, text = self.noise(lanes, t, [None, None, PROMPT], act(step)).split(1)
            target = moved(target, null + SCALE * (text - null), ALPHAS[t], ALPHAS[max(t - STRIDE, 0)])
        return target


def grid_of(mask: np.ndarray, tokens: int) -> Tensor:
    edge = int(tokens**0.5)
    return interpolate(torch.from_numpy(mask)[None, None].float(), (edge, edge))[0, 0].bool().flatten()


def masactrl_acts(family: str, start_step: int) -> Callable[[int], Act]:
    def at(step: int) -> Act:
        def act(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if ".attn1." in name and step >= start_step and re.match(KEEPING[family, "masactrl"], name):
                k, v = k[:1].expand_as(k), v[:1].expand_as(v)
            return plain(name, q, k, v)

        return act

    return at


def cpam_acts(family: str, label: str, start_step: int) -> Callable[[int], Act]:
    release = label == "cpam-release"
    wide = target_mask(region(), "replace")

    def at(step: int) -> Act:
        def act(name: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            inside = grid_of(wide, q.shape[2])
            output = plain(name, q, k, v)
            if ".attn2." in name:
                if not (release and family == "sdxl"):
                    output[2, :, ~inside] = plain(name, q[2:], k[1:2], v[1:2])[0][:, ~inside]
                return output
            behind = ~grid_of(wide if release else region(), q.shape[2])
            keeps = step >= start_step and re.match(KEEPING[family, label], name) is not None
            for lane in (1, 2):
                background = masked(q[lane], k[0], v[0], behind.expand(len(inside), -1))
                content = masked(q[lane], k[0], v[0], inside.expand(len(inside), -1)) if keeps else output[lane]
                output[lane] = torch.where(inside[:, None], content, background)
            return output

        return act

    return at


# against it ----------------------------------------------------------------------------------------------------------


def test_the_layers_are_those_of_the_published_models() -> None:
    assert [backbone(family).self_layers for family in FAMILIES] == [16, 70]
    assert [backbone(family).cross_layers for family in FAMILIES] == [16, 70]
    names = layers(backbone("sdxl").unet, "attn1")
    assert names[54].startswith("up_blocks.0.attentions.2.transformer_blocks.0.")
    assert names[backbone("sdxl").layer(10)].startswith("up_blocks.0.attentions.1.transformer_blocks.0.")
    heads = {module.heads for name, module in backbone("sd2").unet.named_modules() if name.endswith(".attn1")}
    assert heads == {1, 2, 4}


@pytest.mark.parametrize("family", FAMILIES)
def test_inversion_and_reconstruction(family: str) -> None:
    straight, mine = Straight(family), source(family)
    path = straight.inverted(mine.latents)
    assert distance(torch.cat(mine.trajectory.latents), torch.cat(path)) < 1e-4
    z = path[-1]
    for t in TIMES:
        z = moved(z, straight.noise(z, t, [None]), ALPHAS[t], ALPHAS[max(t - STRIDE, 0)])
    assert distance(reconstruct(backbone(family), mine.trajectory), z) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("label", ["ddim", "masactrl:step=1", "cpam:start_step=1,normal_layers=0"])
def test_editing(label: str, family: str) -> None:
    straight, name = Straight(family), label.partition(":")[0]
    acts = {
        "ddim": lambda step: plain,
        "masactrl": masactrl_acts(family, 1),
        "cpam": cpam_acts(family, "cpam", 1),
    }
    expected = straight.edited(straight.inverted(source(family).latents), acts[name])
    assert distance(latents_of(made(label), family), expected) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_editing_as_the_release(family: str) -> None:
    """Level of inversion, source lane, sample of the posterior, encoded empty prompt, layer, keys, localization."""
    straight = Straight(family)
    pixels = torch.from_numpy(np.array(source(family).image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    vae = straight.pipeline.vae
    with torch.no_grad():
        drawn = vae.encode(pixels).latent_dist.sample(torch.Generator().manual_seed(SEED)) * vae.config.scaling_factor
    path = straight.inverted(drawn, prompt="", ahead=family == "sd2")
    expected = straight.edited(path, cpam_acts(family, "cpam-release", 1))
    editor = made("cpam-release:start_step=1,refine=false")
    assert distance(latents_of(editor, family), expected) < 1e-4
    assert distance(latents_of(made("cpam:start_step=1,normal_layers=0"), family), expected) > 1e-3


def test_refinement_as_the_release() -> None:
    sample = make_sample(region=region(), target_prompt=PROMPT)
    words = backbone("sd2").word_positions(PROMPT)
    for family, counted in (("sd2", [*words, words[-1] + 1]), ("sdxl", words)):
        for name, grid, of in (("cpam-release", (64, 64), counted), ("cpam:refine=true", (16, 16), words)):
            editor: Any = made(name)
            refinement = editor.control(sample, source(family)).refinement
            assert (refinement.grid, list(refinement.words)) == (grid, of)
    assert latents_of(made("cpam-release"), "sd2").isfinite().all()


# every method --------------------------------------------------------------------------------------------------------

SETTINGS = {
    "imagic": "embedding_steps=1,model_steps=1",
    "p2p-nti": "inner_steps=1",
    "pnp": "inversion_steps=0",
    "pix2pix-zero": "rounds=1,rolls=1",
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name, editor in registry.load_all()[0].items() if name != "identity"])
def test_every_method_runs_or_says_why_not(name: str, family: str) -> None:
    editor = made(f"{name}:{SETTINGS[name]}" if name in SETTINGS else name)
    if reason := registry.refusal(editor, family):
        assert (name, family) == ("imagic", "sdxl") and "SDXL" in reason
        return
    sample = make_sample(region=region(), target_prompt=PROMPT, source_prompt=CAPTION)
    shared = Source(sample, backbone(family), 2 if name != "pix2pix-zero" else 3)
    picture = editor.edit(sample, shared, SEED)
    assert picture.size == (128, 128) and np.asarray(picture).std() > 1


def test_a_method_that_does_not_run_is_left_out_or_refused() -> None:
    editors = {"imagic": made("imagic"), "cpam": made("cpam")}
    (told,) = registry.leave_out_refused(editors, "sdxl", "sdxl")
    assert list(editors) == ["cpam"] and "imagic does not run on sdxl: it fits one text embedding" in told
    with pytest.raises(UserError, match="no method is left"):
        registry.leave_out_refused({"imagic": made("imagic")}, "sdxl", "sdxl")


# precision -----------------------------------------------------------------------------------------------------------


HALF = {"noise": 0.03, "edit": 0.25}
"""Relative distance in bfloat16 from float32: of one evaluation, and of latents after an edit in three steps.  A random
network under guidance of 7.5 makes much of rounding: 0.16 on Stable Diffusion 2.1, 0.12 on SDXL."""


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision(family: str) -> None:
    pipeline = copy.deepcopy(backbone(family).pipeline)
    for part in ("unet", "text_encoder", *(["text_encoder_2"] if family == "sdxl" else ["vae"])):
        getattr(pipeline, part).bfloat16()
    half = Backbone.from_pipeline(pipeline, family)
    assert half.dtype == torch.bfloat16
    assert half.pipeline.vae.dtype == (torch.float32 if family == "sdxl" else torch.bfloat16)
    sample = make_sample(region=region(), target_prompt=PROMPT)
    editor: Any = made("cpam:normal_layers=0")
    (found,) = sample_together(half, editor.branches([sample], [Source(sample, half, STEPS)], [SEED]))
    (exact,) = sample_together(backbone(family), editor.branches([sample], [source(family)], [SEED]))
    assert 0 < distance(found, exact) < HALF["edit"]
    noises = [
        model.predict(source(family).trajectory.latents[-1], 667, model.text(PROMPT))
        for model in (half, backbone(family))
    ]
    assert 0 < distance(*noises) < HALF["noise"]


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_together_are_as_alone(family: str) -> None:
    samples = [make_sample(region=region(), target_prompt=prompt) for prompt in (PROMPT, CAPTION)]
    editor: Any = made("cpam-release")
    sources = [source(family)] * 2
    both = sample_together(backbone(family), editor.branches(samples, sources, [1, 2]))
    for sample, seed, found in zip(samples, (1, 2), both, strict=True):
        (alone,) = sample_together(backbone(family), editor.branches([sample], sources[:1], [seed]))
        assert distance(found, alone) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_is_opened_as_what_it_holds(family: str, tmp_path: Path) -> None:
    backbone(family).pipeline.save_pretrained(tmp_path)
    opened = Backbone.load(str(tmp_path))
    assert opened.family == family_of(str(tmp_path)) == family
    assert opened.fingerprint == backbone(family).fingerprint and type(opened) is type(backbone(family))
    assert len(opened.fingerprint) == len(type(opened).parts)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_resumes_and_verifies(family: str, tmp_path: Path) -> None:
    backbone(family).pipeline.save_pretrained(tmp_path / "model")
    arguments = ["run", "--backbone", str(tmp_path / "model"), "--methods", "cpam,cpam-release", "--no-references"]
    arguments += ["--limit", "2", "--batch", "2", "--steps", "1", "--device", "cpu", "--executor", "serial"]
    arguments += ["--clip", f"local-dir:{write_clip(tmp_path / 'clip')}", "--out", str(tmp_path / "run")]
    edits = tmp_path / "run" / "edits"
    assert CliRunner().invoke(app, [*arguments, "--no-score"]).exit_code == 0
    first = {path: path.read_bytes() for path in edits.rglob("*.png")}
    assert len(first) == 4
    min(first).unlink()
    kept = {path: path.stat().st_mtime_ns for path in first if path.exists()}
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert {path: path.read_bytes() for path in edits.rglob("*.png")} == first
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # what was there was not made again
    checked = CliRunner().invoke(app, ["verify", str(tmp_path / "run")])
    assert checked.exit_code == 0 and " 0 wrong" in checked.output
    again = CliRunner().invoke(app, ["rerun", str(tmp_path / "run"), "--check", "2"])
    assert again.exit_code == 0 and "2 of 2 edits are as they were" in again.output
    max(first).write_bytes(max(first).read_bytes()[:-9])
    damaged = CliRunner().invoke(app, ["verify", str(tmp_path / "run")])
    assert damaged.exit_code == 1 and max(first).name in damaged.output


def test_methods_are_listed_by_backbone() -> None:
    listed = " ".join(CliRunner().invoke(app, ["methods", "--backbone", "sdxl"]).output.split())
    assert "masactrl" in listed and "imagic does not run on sdxl: it fits one text embedding" in listed
    assert "does not run" not in CliRunner().invoke(app, ["methods", "--backbone", "sd21"]).output


def test_sdxl_is_told_more_than_hidden_states() -> None:
    tiny = backbone("sdxl")
    with pytest.raises(UserError, match="takes more than hidden states"):
        tiny.predict(torch.zeros(1, 4, 16, 16), 1, tiny.embed("a dog"))
    zeros, encoded = tiny.text(""), tiny.text("", zeros=False)
    assert not zeros.hidden.any() and encoded.hidden.any()
    assert zeros.pooled is not None and not zeros.pooled.any()
