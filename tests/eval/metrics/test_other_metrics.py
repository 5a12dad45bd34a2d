"""What other benchmarks measure, against straight computations on made pictures with tiny networks saved to disk."""

from __future__ import annotations

import hashlib
import importlib.machinery
import sys
import types
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from run_helpers import picture, square, write_clip
from straight_metrics import Straight, pixels
from tiny_networks import write_squeezenet, write_transformers
from torch.nn import functional

from cpam_bench.eval.metrics.filters import FILTERS
from cpam_bench.eval.metrics.identity import crop
from cpam_bench.eval.metrics.metric import METRICS, PROTOCOLS, Batch, choose, describe, facts, measure
from cpam_bench.eval.metrics.networks import Networks
from cpam_bench.eval.metrics.perceptual import fetch_trunk
from cpam_bench.imba.errors import UserError

PROMPTS = ["a dog on grass", "a red car"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_transformers(tmp_path_factory.mktemp("networks"))


@pytest.fixture(scope="module")
def networks(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Networks:
    clip = write_clip(tmp_path_factory.mktemp("clip") / "tiny")
    return Networks(f"local-dir:{clip}", places=places)


def batch(edits: list[Image.Image], masks: list[np.ndarray] | None = None, retained: bool = True) -> Batch:
    count = len(edits)
    mask = np.stack(masks or [square()] * count)
    source = np.stack([np.array(picture(i)) for i in range(count)])
    return Batch(
        source=source,
        edit=np.stack([np.array(edit) for edit in edits]),
        mask=mask,
        masked=np.ones(count, bool),
        prompts=PROMPTS[:count],
        truth=source,
        has_truth=np.zeros(count, bool),
        source_prompts=["a dog", ""][:count],
        retained=mask & retained,
    )


def values(made: Batch, networks: Networks, *labels: str) -> list[list[float]]:
    return list(measure(made, choose(labels), networks).values())


@pytest.fixture(scope="module")
def straight(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Straight]:
    """The straight computations; SqueezeNet's trunk is random, its heads are real."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TORCH_HOME", str(write_squeezenet(tmp_path_factory.mktemp("torch"))))
        yield Straight(places)


@pytest.mark.parametrize("inputs", ["published", "corrected"])
def test_structure_distance(networks: Networks, straight: Straight, inputs: str) -> None:
    edits = [picture(7), picture(8)]
    scale = 255 if inputs == "corrected" else 1
    expected = [straight.structure(picture(i), edit, scale) for i, edit in enumerate(edits)]
    label = "structure_distance" if inputs == "published" else "structure_distance:inputs=corrected"
    assert values(batch(edits), networks, label)[0] == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0


def test_pie_bench_whole(networks: Networks, straight: Straight) -> None:
    """The seven with the frame, in the published order."""
    edits, masks = [picture(7), picture(8)], [square(), np.ones_like(square())]
    found = measure(batch(edits, masks), choose(protocol="pie-bench"), networks)
    assert list(found) == list(PROTOCOLS["pie-bench"])
    for i, (edit, mask, prompt) in enumerate(zip(edits, masks, PROMPTS, strict=True)):
        expected = straight.seven(picture(i), edit, mask, prompt)
        for (label, column), value in zip(found.items(), expected.values(), strict=True):
            assert column[i] == pytest.approx(value, rel=1e-4, abs=1e-4, nan_ok=True), label
        # The second sample is altered everywhere: it has no background.
        assert [label for label in found if np.isnan(found[label][i])] == [
            label for label in found if i and "background" in label
        ]
    # With random weights scores may be cut off at zero; their cosines are not.
    found_cosine = networks.clip("transformers-clip").similarity([edits[0]], PROMPTS[:1]).item()
    assert found_cosine == pytest.approx(straight.cosine(edits[0], PROMPTS[0]), abs=1e-5) != 0


def test_a_background_that_is_only_the_frame_is_none(networks: Networks) -> None:
    inside = np.ones((64, 64), bool)
    inside[0] = False
    label = "mse_background:frame=true"
    made = batch([picture(7)], [inside])
    assert np.isnan(values(made, networks, label)[0][0]) and values(made, networks, "mse_background")[0][0] > 0


def test_seam(networks: Networks) -> None:
    source, edit = np.array(picture(0)).astype(int), np.array(picture(0)).astype(int)
    edit[square()] += 30
    made = batch([Image.fromarray(edit.astype(np.uint8))])

    def step(image: np.ndarray) -> float:
        found = []
        for y in range(64):
            for x in range(64):
                for v, u in ((y + 1, x), (y, x + 1)):
                    if v < 64 and u < 64 and square()[y, x] != square()[v, u]:
                        found.append(np.abs(image[y, x] - image[v, u]).mean() / 255)
        assert len(found) == 4 * 32
        return float(np.mean(found))

    assert values(made, networks, "seam")[0][0] == pytest.approx(step(edit) - step(source), abs=1e-5)
    assert values(batch([picture(0)]), networks, "seam", "seam:width=3") == [[0.0], [0.0]]
    wide = values(made, networks, "seam:width=2")[0][0]
    assert 0 < wide < values(made, networks, "seam")[0][0]  # other pairs, which did not change, are in it
    with pytest.raises(UserError, match="width must be 1 at least"):
        choose(["seam:width=0"])


def test_a_region_that_was_not_edited_is_seen(networks: Networks) -> None:
    edit = np.array(picture(0))
    edit[square()] = 255 - edit[square()]
    untouched, edited = values(batch([picture(0)]), networks, "lpips_region")[0][0], Image.fromarray(edit)
    assert untouched == 0 < values(batch([edited]), networks, "lpips_region")[0][0]


def test_identity_of_a_retained_object(networks: Networks, places: dict[str, str]) -> None:
    labels = ("dino_identity", "clip_identity", "pocket_identity")
    edit = np.array(picture(7))
    other = edit.copy()
    other[~square()] = 255 - other[~square()]
    first = values(batch([Image.fromarray(edit)]), networks, *labels)
    assert first == values(batch([Image.fromarray(other)]), networks, *labels)  # only the object counts
    same = np.array(picture(0))
    same[~square()] = 0
    equal = values(batch([Image.fromarray(same)]), networks, *labels)
    assert [one[0] for one in equal] == pytest.approx([1, 1, 1], abs=1e-5)
    assert np.isnan(values(batch([picture(7)], retained=False), networks, *labels)).all()

    from transformers import ViTModel

    model = ViTModel.from_pretrained(places["dino-identity"], add_pooling_layer=False).eval()
    mean, deviation = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    tokens = []
    for image in (picture(0), Image.fromarray(edit)):
        box = image.crop((16, 16, 48, 48)).resize((64, 64), Image.Resampling.BICUBIC)
        with torch.inference_mode():
            tokens.append(model(((pixels(box) / 255 - mean) / deviation)[None]).last_hidden_state[0, 0])
    assert first[0][0] == pytest.approx(functional.cosine_similarity(*tokens, dim=0).item(), abs=1e-4)


def stand_in(monkeypatch: pytest.MonkeyPatch, fails: Exception | None = None) -> list[str]:
    """A package ``dreamsim`` with its interface and a network of one layer; notes the folders that it is asked for."""
    asked: list[str] = []

    class Embeds(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = torch.nn.Conv2d(3, 8, 56, 56)

        def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            a, b = (self.layer(pixels).flatten(1) for pixels in (one, other))
            return 1 - functional.cosine_similarity(a, b, dim=-1)

    def prepare(picture: Image.Image) -> torch.Tensor:
        return pixels(picture.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))[None] / 255

    def dreamsim(pretrained: bool, device: str, cache_dir: str) -> tuple[torch.nn.Module, object]:
        assert pretrained and device == "cpu"
        asked.append(cache_dir)
        if fails:
            raise fails
        return Embeds().requires_grad_(False), prepare

    package = types.ModuleType("dreamsim")
    package.__spec__ = importlib.machinery.ModuleSpec("dreamsim", None)
    package.dreamsim = dreamsim  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dreamsim", package)
    return asked


def test_dreamsim_of_a_retained_object(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = stand_in(monkeypatch)
    networks = Networks(places={"dreamsim": str(tmp_path / "weights")})
    same = np.array(picture(0))
    same[~square()] = 0
    found = values(batch([Image.fromarray(same), picture(7)]), networks, "dreamsim_identity")[0]
    assert asked == [str(tmp_path / "weights")] and Path(asked[0]).is_dir()
    model = sys.modules["dreamsim"].dreamsim(True, "cpu", "")[0]
    crops = [
        pixels(image.crop((16, 16, 48, 48)).resize((224, 224), Image.Resampling.BICUBIC))[None] / 255
        for image in (picture(1), picture(7))
    ]
    assert found == pytest.approx([0, model(*crops).item()], abs=1e-4) and found[1] > 0.01
    assert np.isnan(values(batch([picture(7)], retained=False), networks, "dreamsim_identity")).all()
    told = describe("dreamsim_identity", choose(["dreamsim_identity"])["dreamsim_identity"], networks)
    assert told["better"] == "lower" and len(told["weights_sha256"]) == 64 and "DreamSim" in told["scorer"]


def test_dreamsim_that_cannot_be_had_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "dreamsim", None)
    with pytest.raises(UserError, match="pip install dreamsim"):
        values(batch([picture(7)]), Networks(), "dreamsim_identity")
    stand_in(monkeypatch, URLError("no such host"))
    with pytest.raises(UserError, match=r"network dreamsim \(.*weights\) cannot be loaded: .*no such host"):
        values(batch([picture(7)]), Networks(places={"dreamsim": str(tmp_path / "weights")}), "dreamsim_identity")


def test_a_source_of_several_edits_is_looked_at_once(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ("structure_distance", "dino_identity")
    edits = [picture(7), picture(8), picture(9), picture(9)]
    alone = [values(batch([picture(5), edit]), networks, *labels) for edit in edits[:3]]  # of the second source
    made = batch([picture(5), *edits[:3]])
    together = replace(
        made,
        source=made.source[[0, 1, 1, 1]],
        prompts=["a dog"] * 4,
        source_prompts=[""] * 4,
        _made={},
    )
    seen: list[int] = []
    dino = networks.dino()
    shown = dino.model.register_forward_pre_hook(
        lambda module, given, named: seen.append(len(named["pixel_values"])), with_kwargs=True
    )
    try:
        found = values(together, networks, *labels)
    finally:
        shown.remove()
    assert seen == [2, 4]  # two sources, four edits; DINO-I has another network
    for label, column in enumerate(found):
        assert column[1:] == pytest.approx([each[label][1] for each in alone], rel=1e-4, abs=1e-7)
    other_object = replace(
        together, retained=together.retained & np.array([True, True, False, True])[:, None, None], _made={}
    )
    again = values(other_object, networks, "dino_identity")[0]
    assert np.isnan(again[2]) and again[3] == pytest.approx(found[1][3], abs=1e-5)


def test_crops_keep_their_shape() -> None:
    kept = np.zeros((64, 64), bool)
    kept[10:20, 5:45] = True
    found = np.array(crop(np.full((64, 64, 3), 200, np.uint8), kept))
    assert found.shape == (40, 40, 3) and (found[15:25] == 200).all() and found[:15].max() == found[25:].max() == 0


def test_directional_similarity(networks: Networks) -> None:
    scorer = networks.clip()
    edits = [picture(7), picture(8)]
    image = scorer.images([edits[0]])[0] - scorer.images([picture(0)])[0]
    text = scorer.texts([PROMPTS[0]])[0] - scorer.texts(["a dog"])[0]
    expected = functional.cosine_similarity(image, text, dim=0).item()
    found = values(batch(edits), networks, "clip_directional")[0]
    assert found[0] == pytest.approx(expected, abs=1e-4) and np.isnan(found[1])  # the second has no caption
    assert np.isnan(values(batch([picture(0)]), networks, "clip_directional")[0][0])  # nothing changed


def test_quality_needs_no_other_picture(networks: Networks) -> None:
    scorer, edits = networks.clip(), [picture(7), picture(9)]
    for label, words in {
        "clip_iqa": ("Good photo.", "Bad photo."),
        "clip_iqa:aspect=sharpness": ("Sharp photo.", "Blurry photo."),
    }.items():
        good, bad = ((scorer.images(edits) * scorer.texts([word])).sum(-1) for word in words)
        expected = torch.sigmoid(100 * (good - bad))
        found = values(batch(edits), networks, label)[0]
        assert found == pytest.approx(expected.numpy(), abs=1e-4)
    with pytest.raises(UserError, match="aspect"):
        choose(["clip_iqa:aspect=beauty"])


def test_filters_and_halves(networks: Networks) -> None:
    made = batch([picture(7)])
    whole, vary = (values(made, networks, label)[0][0] for label in ("clip_score", "clip_score:filter=nearest"))
    assert whole != vary
    half = FILTERS["lanczos"]
    small = [half.picture(one, 32) for one in (picture(0), picture(7))]
    outside = torch.from_numpy(~square(32))
    a, b = (pixels(one)[None] / 255 * outside for one in small)
    expected = networks.lpips().distance(a, b).item()
    label = "lpips_background:filter=lanczos,size=half"
    assert values(made, networks, label)[0][0] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="without size=half"):
        choose(["lpips_background:filter=lanczos"])


def test_what_cannot_be_had_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Networks(places={"dino": str(tmp_path / "no"), "transformers-clip": str(tmp_path / "no")})
    for label, words in {
        "structure_distance": "the network dino .* cannot be loaded",
        "clip_score:via=transformers": "--network transformers-clip=FOLDER",
        "clip_score": "needs a CLIP; name one with --clip",
    }.items():
        with pytest.raises(UserError, match=words):
            describe(label, choose([label])[label], away)
    with pytest.raises(UserError, match="unknown network 'vit'"):
        Networks(places={"vit": "x"})
    with pytest.raises(UserError, match="unknown protocol 'pie'"):
        choose(protocol="pie")
    with pytest.raises(UserError, match="did you mean seam"):
        choose(["seem"])


def test_a_trunk_that_is_fetched_is_what_its_name_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import io

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append((url, timeout))
        return io.BytesIO(b"something else")

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    with pytest.raises(UserError, match="not what its name says"):
        fetch_trunk("vgg")
    assert asked[0][1] == 20 and not list(tmp_path.rglob("*.pth"))
    digest = hashlib.sha256(b"something else").hexdigest()[:8]
    monkeypatch.setattr(
        "cpam_bench.eval.metrics.perceptual.trunk_url", lambda net: f"https://example.org/t-{digest}.pth"
    )
    fetch_trunk("vgg")
    assert (tmp_path / "hub" / "checkpoints" / f"t-{digest}.pth").read_bytes() == b"something else"


def test_every_metric_tells_what_it_is() -> None:
    found, broken = METRICS.load_all()
    assert not broken
    for name, metric in found.items():
        assert (metric.name == name and metric.title and "Example:" in (metric.__doc__ or "")) or name.endswith(
            "spatial"
        )
        assert facts(name).heading[-1] in "↑↓"
    assert facts("lpips_background:net=vgg").title == "LPIPS (background) (net vgg)"
