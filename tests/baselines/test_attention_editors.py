"""PnP, FPE and P2P with null-text inversion against their equations, computed again in straight lines.

The computations here use the networks and nothing of the package's loop, attention or inversion: dense attention maps
with an explicit softmax, layers named as diffusers names them, and DDIM written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from editor_helpers import make_sample
from paths import TINY
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, silu

from cpam_bench.baselines.alignment import align, positions, refinement, replacement
from cpam_bench.baselines.fpe import SelfAttentionControl
from cpam_bench.baselines.maps import tokens_at
from cpam_bench.baselines.null_text import invert_null_text
from cpam_bench.baselines.p2p import P2P
from cpam_bench.baselines.pnp import InjectingControl, PnP
from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import BesideSource
from cpam_bench.cpam.inversion import Trajectory, invert
from cpam_bench.cpam.sampling import sample, sample_together
from cpam_bench.eval.methods import registry
from cpam_bench.imba.errors import UserError

STEPS = 5
GUIDANCE = 7.5
SOURCE, REPLACED, REFINED = "a photo of a dog", "a photo of a cat", "a photo of a red dog on a beach"

Edit = Callable[[str, Tensor], Tensor]
"""Name of a layer and its maps (lanes, heads, tokens, words) -> its maps."""


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(str(TINY))


@pytest.fixture(scope="module")
def latents() -> Tensor:
    return 0.8 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))


def distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


class Known:
    """A source of known latents."""

    trajectory: Trajectory

    def __init__(self, backbone: Backbone, latents: Tensor):
        self.backbone, self.latents, self.steps = backbone, latents, STEPS


def edited_latents(editor: BesideSource, sample: Any, source: Any) -> Tensor:
    return sample_together(source.backbone, editor.branches([sample], [source], [0]))[0]


# straight lines ------------------------------------------------------------------------------------------------------

TIMESTEPS = [801, 601, 401, 201, 1]


def alphas(backbone: Backbone, step: int) -> tuple[float, float]:
    products = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    return products[TIMESTEPS[step]].item(), products[max(TIMESTEPS[step] - 200, 0)].item()


def moved(x: Tensor, noise: Tensor, a: float, b: float) -> Tensor:
    return b**0.5 * (x - (1 - a) ** 0.5 * noise) / a**0.5 + (1 - b) ** 0.5 * noise


@torch.no_grad()
def inverted(backbone: Backbone, x: Tensor, prompt: str) -> list[Tensor]:
    """z_T ... z_0."""
    path = [x]
    for step in reversed(range(STEPS)):
        high, low = alphas(backbone, step)
        noise = backbone.unet(x, TIMESTEPS[step], encoder_hidden_states=embedded(backbone, prompt)).sample
        x = moved(x, noise, low, high)
        path.append(x)
    return path[::-1]


@torch.no_grad()
def embedded(backbone: Backbone, prompt: str) -> Tensor:
    tokens = backbone.pipeline.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
    return backbone.pipeline.text_encoder(tokens.input_ids)[0]


class Dense:
    def __init__(self, name: str, edit: Edit):
        self.name, self.edit = name, edit

    def __call__(self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        words = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (attn.head_to_batch_dim(y) for y in (attn.to_q(x), attn.to_k(words), attn.to_v(words)))
        maps = torch.softmax(torch.einsum("bid,bjd->bij", q, k) * attn.scale, -1)
        maps = self.edit(self.name, maps.unflatten(0, (len(x), -1))).flatten(0, 1)
        return attn.to_out[0](attn.batch_to_head_dim(torch.einsum("bij,bjd->bid", maps, v)))


@contextmanager
def edited(backbone: Backbone, edit: Edit) -> Iterator[None]:
    before = backbone.unet.attn_processors
    backbone.unet.set_attn_processor({name: Dense(name, edit) for name in before})
    yield
    backbone.unet.set_attn_processor(before)


# PnP and FPE ---------------------------------------------------------------------------------------------------------

# The reference's res_dict: decoder blocks 4 to 11.
PNP_LAYERS = tuple(
    f"up_blocks.{stage}.attentions.{block}.transformer_blocks.0.attn1."
    for stage, blocks in {1: (1, 2), 2: (0, 1, 2), 3: (0, 1, 2)}.items()
    for block in blocks
)


@pytest.mark.parametrize(("attention_steps", "feature_steps"), [(2, 4), (3, 0), (0, 5)])
@torch.no_grad()
def test_pnp(
    attention_steps: int, feature_steps: int, backbone: Backbone, latents: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = InjectingControl(backbone.unet, attention_steps, feature_steps)
    trajectory = invert(backbone, latents, STEPS)
    ours = sample(backbone, trajectory, REFINED, guidance=GUIDANCE, control=control, negative="ugly")

    step = 0
    block = backbone.unet.up_blocks[1].resnets[1]

    def inject(name: str, maps: Tensor) -> Tensor:
        if name.startswith(PNP_LAYERS) and step < attention_steps:
            return torch.stack([maps[0], maps[0], maps[0]])
        return maps

    def forward(x: Tensor, time: Tensor) -> Tensor:
        h = block.conv1(silu(block.norm1(x))) + block.time_emb_proj(silu(time))[:, :, None, None]
        h = block.conv2(silu(block.norm2(h)))
        if step < feature_steps:
            h = torch.stack([h[0], h[0], h[0]])
        return block.conv_shortcut(x) + h

    path = inverted(backbone, latents, "")
    monkeypatch.setattr(block, "forward", forward)
    conditions = torch.cat([embedded(backbone, prompt) for prompt in ("", "ugly", REFINED)])
    x = path[0]
    with edited(backbone, inject):
        for step in range(STEPS):
            batch = torch.cat([path[step], x, x])
            _, null, text = backbone.unet(batch, TIMESTEPS[step], encoder_hidden_states=conditions).sample.split(1)
            x = moved(x, null + GUIDANCE * (text - null), *alphas(backbone, step))
    assert distance(ours, x) < 1e-4


@torch.no_grad()
def finely_inverted(backbone: Backbone, x: Tensor) -> list[Tensor]:
    """z at t = 801, 601 ... 1 of an inversion at t = 1, 41 ... 961, and z_0."""
    products = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0).tolist()
    null, picked = embedded(backbone, ""), [x]
    for t in range(1, 1000, 40):
        noise = backbone.unet(x, t, encoder_hidden_states=null).sample
        x = moved(x, noise, products[max(t - 40, 0)], products[t])
        if t in TIMESTEPS:
            picked.append(x)
    return picked[::-1]


@pytest.mark.parametrize(
    "settings",
    [
        {"inversion_steps": 25},
        {"inversion_steps": 25, "trajectory": False},
        {"inversion_steps": 0, "caption": True, "trajectory": False},
        {"inversion_steps": 5},
    ],
    ids=str,
)
@torch.no_grad()
def test_pnp_inverts_on_its_own(settings: dict[str, Any], backbone: Backbone, latents: Tensor) -> None:
    editor = PnP(**settings)
    source = Known(backbone, latents)
    source.trajectory = invert(backbone, latents, STEPS)
    prompt = SOURCE if editor.caption else ""
    fine = editor.inversion_steps == 25
    path = finely_inverted(backbone, latents) if fine else inverted(backbone, latents, prompt)
    ours = editor.inverted([source], [prompt])[0].latents[::-1]  # type: ignore[list-item]
    assert all(distance(one, other) < 1e-4 for one, other in zip(ours, path, strict=True))
    if not editor.trajectory:  # its source is where z_T leads back to
        embedding, path = embedded(backbone, prompt), path[:1]
        for step in range(STEPS):
            noise = backbone.unet(path[-1], TIMESTEPS[step], encoder_hidden_states=embedding).sample
            path.append(moved(path[-1], noise, *alphas(backbone, step)))
    control = InjectingControl(backbone.unet, 2, 4)
    straight = sample(
        backbone,
        Trajectory(path[::-1], backbone.schedule(STEPS)),
        REFINED,
        control=control,
        negative=editor.negative_prompt,
    )
    task = make_sample(source_prompt=SOURCE, target_prompt=REFINED)
    assert distance(edited_latents(editor, task, source), straight) < 1e-4


def test_pnp_by_default_passes_every_level(backbone: Backbone) -> None:
    assert backbone.schedule(PnP().inversion_steps).timesteps == list(range(999, 0, -1))


def test_pnp_refuses_an_inversion_that_passes_over_a_level(backbone: Backbone, latents: Tensor) -> None:
    source = Known(backbone, latents)
    with pytest.raises(UserError, match="passes over level 201"):
        PnP(inversion_steps=3).inverted([source], [""])  # type: ignore[list-item]


@pytest.mark.parametrize("until", [4, 0])
@torch.no_grad()
def test_fpe(until: int, backbone: Backbone, latents: Tensor) -> None:
    control = SelfAttentionControl(until, tokens_at(latents, 2))
    ours = sample(backbone, invert(backbone, latents, STEPS), REFINED, guidance=GUIDANCE, control=control)

    step = 0

    def replace(name: str, maps: Tensor) -> Tensor:
        # Batch of the reference: source and target unconditional, then both conditional; 8x8 of 16x16 tokens and less.
        if ".attn1." in name and maps.shape[2] <= 8 * 8 and step < until:
            return torch.stack([maps[0], maps[1], maps[2], maps[2]])
        return maps

    path = inverted(backbone, latents, "")
    conditions = torch.cat([embedded(backbone, prompt) for prompt in ("", "", "", REFINED)])
    x = path[0]
    with edited(backbone, replace):
        for step in range(STEPS):
            batch = torch.cat([path[step], x, path[step], x])
            _, null, _, text = backbone.unet(batch, TIMESTEPS[step], encoder_hidden_states=conditions).sample.split(1)
            x = moved(x, null + GUIDANCE * (text - null), *alphas(backbone, step))
    assert distance(ours, x) < 1e-4


# P2P and null-text inversion -----------------------------------------------------------------------------------------


def null_texts(backbone: Backbone, path: list[Tensor], inner_steps: int, epsilon: float) -> tuple[list[Tensor], Tensor]:
    """Embeddings of the steps and z_0; Adam (Kingma and Ba, Algorithm 1) written out."""
    conditions, null, x = embedded(backbone, SOURCE), embedded(backbone, ""), path[0]
    found = []
    for step in range(STEPS):
        # 50 steps of the notebook: 1e-2 (1 - i / 100) and epsilon + i 2e-5, of 5 steps 10 at a time.
        rate, enough = 1e-2 * (1 - 10 * step / 100), epsilon + 10 * step * 2e-5
        first, second = torch.zeros_like(null), torch.zeros_like(null)
        text = backbone.unet(x, TIMESTEPS[step], encoder_hidden_states=conditions).sample
        for inner in range(1, inner_steps + 1):
            null = null.detach().requires_grad_()
            empty = backbone.unet(x, TIMESTEPS[step], encoder_hidden_states=null).sample
            reached = moved(x, empty + GUIDANCE * (text - empty), *alphas(backbone, step))
            loss = (reached - path[step + 1]).square().mean()
            (gradient,) = torch.autograd.grad(loss, null)
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient**2
            null = null - rate * (first / (1 - 0.9**inner)) / ((second / (1 - 0.999**inner)).sqrt() + 1e-8)
            if loss < enough:
                break
        with torch.no_grad():
            null = null.detach()
            empty = backbone.unet(x, TIMESTEPS[step], encoder_hidden_states=null).sample
            x = moved(x, empty + GUIDANCE * (text - empty), *alphas(backbone, step))
        found.append(null)
    return found, x


# The second stops after 1, 1, 2, 3, 3 updates; without the term that rises with the step, after 1, 1, 3, 3, 3.
@pytest.mark.parametrize(("epsilon", "evaluations"), [(0.0, 25), (0.7723, 20)])
def test_null_text_inversion(epsilon: float, evaluations: int, backbone: Backbone, latents: Tensor) -> None:
    pivot = invert(backbone, latents, STEPS, SOURCE)
    start = backbone.evaluations
    ours = invert_null_text(backbone, [pivot], [SOURCE], guidance=GUIDANCE, inner_steps=3, epsilon=epsilon)[0]
    assert backbone.evaluations - start == evaluations
    embeddings, end = null_texts(backbone, inverted(backbone, latents, SOURCE), 3, epsilon)
    for one, other in zip(ours.embeddings, embeddings, strict=True):
        assert distance(one, other) < 1e-4 and not one.requires_grad
    assert distance(ours.trajectory.latents[0], end) < 1e-4
    assert torch.equal(ours.trajectory.latents[-1], pivot.latents[-1])


def test_null_text_leads_guided_sampling_back(backbone: Backbone, latents: Tensor) -> None:
    pivot = invert(backbone, latents, STEPS, SOURCE)
    missed = []
    for inner_steps in (0, 5):
        null = invert_null_text(backbone, [pivot], [SOURCE], guidance=GUIDANCE, inner_steps=inner_steps)[0]
        missed.append((null.trajectory.latents[0] - latents).norm())
    assert missed[1] < 0.9 * missed[0]


def test_null_text_inversion_under_inference_mode(backbone: Backbone, latents: Tensor) -> None:
    def end() -> Tensor:
        pivot = invert(backbone, latents, STEPS, SOURCE)
        return invert_null_text(backbone, [pivot], [SOURCE], inner_steps=2)[0].trajectory.latents[0]

    with torch.inference_mode():
        inside = end()
    assert torch.equal(inside, end())


def mapping(backbone: Backbone, prompt: str, words: str) -> tuple[Tensor, Tensor, list[int], list[int]]:
    """Of each of the target's words the source's, whether it takes its attention, and where the prompts differ."""
    places, taken = torch.arange(77), torch.ones(77)
    if prompt == REPLACED:  # dog -> cat
        taken[5] = words != "refine"
        return places, taken, [5], [5]
    # start a photo of a (red) dog (on a beach) end: "red" after the fourth word, "on a beach" after "dog"
    ids = backbone.pipeline.tokenizer(REFINED).input_ids
    red, end = 5, len(ids) - 1
    places[red + 1], places[end] = 5, 6
    inserted = [red, *range(red + 2, end)]
    taken[inserted] = 0
    return places, taken, [], inserted


def straight_p2p(
    backbone: Backbone,
    editor: P2P,
    path: list[Tensor],
    prompt: str,
    nulls: list[Tensor],
    words: tuple[list[int], list[int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """z_0 of source and target, in four lanes as in the reference: both unconditional, then both conditional.

    Args:
        path: z_T ... z_0 of the inversion; with ``editor.trajectory`` the source is put back onto it at every step.
        nulls: what the unconditional lanes have at each step.
        words: positions by which to blend and reweight, if not those that differ.
    """
    places, taken, theirs, ours = mapping(backbone, prompt, editor.words)
    theirs, ours = words or (theirs, ours)
    weights = torch.ones(77)
    weights[ours] = editor.reweight
    step = 0
    store = torch.zeros(2, 4 * 4)
    largest = {"half": 8 * 8, "quarter": 4 * 4}[editor.self_edge]  # 32x32 or 16x16 of 64x64 tokens
    until = int(editor.self_replace * STEPS), int(editor.cross_replace * (STEPS + 1))

    def edit(name: str, maps: Tensor) -> Tensor:
        source, target = maps[2], maps[3]
        if ".attn1." in name and step < until[0] and maps.shape[2] <= largest:
            target = source
        if ".attn2." in name and step < until[1]:
            target = (source[..., places] * taken + target * (1 - taken)) * weights
        if ".attn2." in name and maps.shape[2] == 4 * 4 and "mid" not in name:
            store[0] += source[..., theirs].sum(-1).mean(0)
            store[1] += target[..., ours].sum(-1).mean(0)
        return torch.stack([maps[0], maps[1], source, target])

    source = target = path[0].clone()
    texts = [embedded(backbone, SOURCE), embedded(backbone, prompt)]
    with edited(backbone, edit):
        for step in range(STEPS):
            batch = torch.cat([source, target, source, target])
            conditions = torch.cat([nulls[step], nulls[step], *texts])
            noise = backbone.unet(batch, TIMESTEPS[step], encoder_hidden_states=conditions).sample
            guided = noise[:2] + GUIDANCE * (noise[2:] - noise[:2])
            source, target = moved(torch.cat([source, target]), guided, *alphas(backbone, step)).split(1)
            if editor.trajectory:
                source = path[step + 1]
            if editor.blend and step >= 1:
                maps = interpolate(max_pool2d(store.reshape(2, 1, 4, 4), (3, 3), (1, 1), padding=(1, 1)), size=(16, 16))
                maps = maps / maps.max(2, keepdims=True)[0].max(3, keepdims=True)[0]
                mask = maps.gt(editor.blend_threshold).any(0).float()
                assert mask.mean() > 0
                target = source + mask * (target - source)
    return source, target


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        (REPLACED, {}),
        (REPLACED, {"reweight": 2.0, "blend": False}),
        (REFINED, {"self_edge": "quarter"}),
        (REFINED, {"reweight": 3.0, "blend": False}),
        (REPLACED, {"trajectory": True}),
    ],
    ids=str,
)
@torch.no_grad()
def test_p2p(prompt: str, settings: dict[str, Any], backbone: Backbone, latents: Tensor) -> None:
    editor = P2P(inner_steps=2, **settings)
    task = make_sample(source_prompt=SOURCE, target_prompt=prompt)
    ours = edited_latents(editor, task, Known(backbone, latents))
    pivot = invert(backbone, latents, STEPS, SOURCE)
    null = invert_null_text(backbone, [pivot], [SOURCE], guidance=GUIDANCE, inner_steps=2)[0]
    source, target = straight_p2p(backbone, editor, pivot.latents[::-1], prompt, null.embeddings)
    assert distance(ours, target) < 1e-4
    assert distance(target, source) > 1e-3


@pytest.mark.parametrize("prompt", [REPLACED, REFINED])
@torch.no_grad()
def test_the_edge_up_to_which_p2p_takes_self_attention_matters(
    prompt: str, backbone: Backbone, latents: Tensor
) -> None:
    pivot = invert(backbone, latents, STEPS, SOURCE)
    half, quarter = (
        sample(
            backbone,
            pivot,
            prompt,
            control=P2P(blend=False, self_edge=edge).control(backbone, latents, SOURCE, prompt, STEPS),  # type: ignore[arg-type]
            source_prompt=SOURCE,
        )
        for edge in ("half", "quarter")
    )
    assert distance(half, quarter) > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"inversion": "ddim"},
        {"inversion": "negative-prompt"},
        {"inversion": "ddim", "trajectory": True},
        {"inversion": "negative-prompt", "trajectory": True},
    ],
    ids=str,
)
@torch.no_grad()
def test_p2p_on_other_inversions(settings: dict[str, Any], backbone: Backbone, latents: Tensor) -> None:
    """DDIM, negative-prompt (Miyake et al.) and direct inversion (Ju et al.), with the source's lane guided as well."""
    editor = P2P(**settings)
    task = make_sample(source_prompt=SOURCE, target_prompt=REPLACED)
    ours = edited_latents(editor, task, Known(backbone, latents))
    null = embedded(backbone, SOURCE if editor.inversion == "negative-prompt" else "")
    path = inverted(backbone, latents, SOURCE)
    source, target = straight_p2p(backbone, editor, path, REPLACED, [null] * STEPS)
    assert distance(ours, target) < 1e-4
    assert (distance(source, latents) < 1e-6) == editor.trajectory


@pytest.mark.parametrize(
    ("prompt", "settings", "words"),
    [
        (REPLACED, {"blend_by": "annotation", "reweight": 2.0, "words": "refine"}, ([3], [2])),  # "of", "photo"
        (REFINED, {"blend_by": "object", "blend_threshold": 0.9}, ([5], [6])),  # "dog", which stays
    ],
)
@torch.no_grad()
def test_p2p_blends_by_chosen_words(
    prompt: str, settings: dict[str, Any], words: tuple[list[int], list[int]], backbone: Backbone, latents: Tensor
) -> None:
    editor = P2P(inversion="ddim", trajectory=True, **settings)
    task = make_sample(
        source_prompt=SOURCE, target_prompt=prompt, object_prompt="a red dog", edited_words=("of", "photo")
    )
    ours = edited_latents(editor, task, Known(backbone, latents))
    path, null = inverted(backbone, latents, SOURCE), embedded(backbone, "")
    _, target = straight_p2p(backbone, editor, path, prompt, [null] * STEPS, words)
    assert distance(ours, target) < 1e-4
    otherwise = edited_latents(replace(editor, blend_by="difference"), task, Known(backbone, latents))
    assert distance(ours, otherwise) > 1e-3


# alignment -----------------------------------------------------------------------------------------------------------


def test_replacement_shares_a_word_among_tokens() -> None:
    entries = replacement([[1], [2, 3], [4]], [[1], [5, 6, 7], [4]])
    assert entries[0] == (0, 0, 1.0) and entries[-1] == (3, 4, 1.0)
    shares = {(i, j): share for i, j, share in entries[1:-1]}
    assert shares == {(i, j): pytest.approx(1 / 3) for i in (1, 2) for j in (1, 2, 3)}


def test_refinement_is_a_longest_common_subsequence() -> None:
    assert refinement([1, 2, 3, 4], [1, 9, 2, 4, 8]) == [(0, 0, 1.0), (1, 2, 1.0), (3, 3, 1.0)]
    assert refinement([], [1]) == refinement([1], []) == refinement([1], [2]) == []


def test_words_are_replaced_only_in_place(backbone: Backbone) -> None:
    assert align(backbone, SOURCE, REPLACED).taken.all()
    assert not align(backbone, SOURCE, REFINED).taken.all()
    assert not align(backbone, SOURCE, REPLACED, "refine").taken.all()
    with pytest.raises(UserError, match="words=refine"):
        align(backbone, SOURCE, REFINED, "replace")


@pytest.mark.parametrize("words", ["auto", "refine", "replace"])
def test_prompts_longer_than_the_encoder_are_cut(words: Any, backbone: Backbone) -> None:
    long = " ".join(["dog"] * 100)
    alignment = align(backbone, long, " ".join(["dog"] * 99 + ["cat"]), words)
    assert torch.equal(alignment.shares, torch.eye(77)) and not alignment.target
    alignment = align(backbone, SOURCE, long) if words != "replace" else align(backbone, long, long, words)
    assert alignment.shares.sum(0).max() <= 1 and max([0, *alignment.target]) <= 75


def test_the_same_prompt_twice_differs_nowhere(backbone: Backbone) -> None:
    alignment = align(backbone, SOURCE, SOURCE)
    assert torch.equal(alignment.shares, torch.eye(77)) and alignment.source == alignment.target == []


def test_positions_of_words(backbone: Backbone) -> None:
    prompt = "a photo of a photographer's dog , a dog"  # the fourth word is several tokens
    tokens = len(backbone.pipeline.tokenizer("photographer's", add_special_tokens=False).input_ids)
    assert tokens > 1
    assert positions(backbone, prompt, {"dog"}) == [5 + tokens, 8 + tokens]
    assert positions(backbone, prompt, {"photographer's"}) == list(range(5, 5 + tokens))
    assert positions(backbone, prompt, {"cat"}) == []
    assert max(positions(backbone, " ".join(["dog"] * 100), {"dog"})) == 75


def test_no_annotation_is_neither_blended_nor_reweighted(backbone: Backbone, latents: Tensor) -> None:
    control = P2P(blend_by="annotation", reweight=2.0).control(backbone, latents, SOURCE, REPLACED, STEPS)
    assert control.blend is None and torch.equal(torch.as_tensor(control.weights), torch.ones(77))


def test_the_settings_of_pie_bench_have_a_name() -> None:
    label, editor = registry.make("p2p-nti:preset=pie-bench,inversion=ddim,trajectory=true")
    assert label == "p2p-nti:inversion=ddim,preset=pie-bench,trajectory=true"
    assert editor == P2P(
        inversion="ddim",
        trajectory=True,
        cross_replace=0.4,
        self_replace=0.6,
        words="refine",
        reweight=2.0,
        blend_by="annotation",
    )
