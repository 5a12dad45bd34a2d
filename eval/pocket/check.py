"""What the pocket parts can do on held-out scenes, measured: the figures that a weak backbone would fail."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.diffusion import ddim
from cpam_bench.cpam.inversion import invert
from cpam_bench.cpam.sampling import reconstruct
from cpam_bench.cpam.text import Text
from cpam_bench.eval.metrics.classifier import Classifier, Guess
from cpam_bench.eval.metrics.clip import ClipScorer
from cpam_bench.eval.pocket.training import held_out
from cpam_bench.eval.pocket.vae import reconstruction_psnr
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, HATS, POSES, Scene, render
from cpam_bench.imba.pocket.world import OBJECTS, caption


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what it is.
        value: as measured.
        floor: the least that it should be, or the most if ``higher`` is False; NaN: it is said, and held to nothing.
        unit: of both.
        higher: whether higher is better.
        best: what the judge says of the real thing; NaN where that is not asked.
    """

    name: str
    value: float
    floor: float
    unit: str
    higher: bool = True
    best: float = math.nan

    @property
    def good(self) -> bool:
        """Whether the floor is kept; a figure that could not be measured does not keep it."""
        if math.isnan(self.floor):
            return True
        return self.value >= self.floor if self.higher else self.value <= self.floor


@torch.inference_mode()
def generate(
    backbone: Backbone, prompts: Sequence[str], steps: int = 50, guidance: float = 7.5, seed: int = 0, batch: int = 16
) -> list[Image.Image]:
    """Pictures from prompts by guided DDIM; each picture's noise is seeded by its place in the list."""
    schedule = backbone.schedule(steps)
    null = backbone.text("")
    pictures: list[Image.Image] = []
    for start in tqdm(range(0, len(prompts), batch), desc="generating", mininterval=5):
        part = prompts[start : start + batch]
        latents = torch.cat(
            [
                torch.randn(1, 4, *backbone.grid, generator=torch.Generator().manual_seed(seed + start + i))
                for i in range(len(part))
            ]
        ).to(backbone.device)
        told = Text.together([null.expand(len(part)), *(backbone.text(prompt) for prompt in part)])
        levels = zip(schedule.timesteps, schedule.alphas, schedule.previous_alphas, strict=True)
        for timestep, alpha, previous_alpha in levels:
            plain, guided = backbone.predict(torch.cat([latents, latents]), timestep, told).chunk(2)
            latents = ddim(latents, plain + guidance * (guided - plain), alpha, previous_alpha)
        pictures += [backbone.decode(one[None]) for one in latents]
    return pictures


def vae_psnr(backbone: Backbone, count: int = 256) -> Figure:
    """Autoencoder: mean PSNR of held-out scenes."""
    pictures = [render(scene).image for scene in held_out(count)]
    return Figure("autoencoder, mean PSNR", reconstruction_psnr(backbone.pipeline.vae, pictures), 30.0, "dB")


def inversion_psnr(backbone: Backbone, count: int = 16, steps: int = 50) -> Figure:
    """Null-prompt inversion and sampling back, against the autoencoder's own reconstruction."""
    values = []
    for scene in held_out(count):
        latents = backbone.encode(render(scene).image)
        back = backbone.decode(reconstruct(backbone, invert(backbone, latents, steps)))
        values.append(_psnr(back, backbone.decode(latents)))
    return Figure("null-prompt inversion and back, mean PSNR", float(np.mean(values)), 35.0, "dB")


def clip_retrieval(scorer: ClipScorer, groups: int = 16, of: int = 64) -> list[Figure]:
    """Pocket CLIP: how often a scene's own caption comes first among 64 different ones, and the other way round."""
    text_right, image_right = [], []
    pool = iter(held_out(groups * of * 3, 0))
    for _ in range(groups):
        group: dict[str, Scene] = {}
        while len(group) < of:
            one = next(pool)
            group.setdefault(caption(one), one)
        images = _images(scorer, [render(scene).image for scene in group.values()])
        texts = _texts(scorer, list(group))
        similarity = images @ texts.T
        own = torch.arange(of)
        text_right.append((similarity.argmax(1) == own).float().mean().item())
        image_right.append((similarity.argmax(0) == own).float().mean().item())
    return [
        Figure("pocket CLIP, right caption of 64", 100 * float(np.mean(text_right)), 90.0, "%"),
        Figure("pocket CLIP, right scene of 64", 100 * float(np.mean(image_right)), 90.0, "%"),
    ]


@dataclass(frozen=True)
class Question:
    """Something that a caption names and a picture should show.

    Attributes:
        name: in words.
        floor: of the share of pictures that show it, in percent.
        fits: whether it is asked of a scene.
        others: a scene -> the scene and what else it could be, the right answers first.
        right: how many of those are right.
        seen: whether a classifier's guess of picture i shows it.
    """

    name: str
    floor: float
    fits: Callable[[Scene], bool]
    others: Callable[[Scene], list[Scene]]
    right: int
    seen: Callable[[Scene, Guess, int], bool]


def generation(backbone: Backbone, scorer: ClipScorer, classifier: Classifier, count: int = 1000) -> list[Figure]:
    """Pictures generated from the captions of held-out scenes: is there what was named (:data:`QUESTIONS`)?

    Asked twice: of the pocket CLIP zero-shot, and of a classifier that was trained apart from it and has seen neither
    captions nor generated pictures.  A judge's own best is the same share of the scenes themselves.

    The distance of distributions is Frechet's (Heusel et al. 2017) between the classifier's features of the generated
    pictures and of the scenes themselves; beside it that of the scenes' reconstructions by the autoencoder.
    """
    asked = held_out(count, 100_000)
    truth = [render(scene).image for scene in asked]
    pictures = generate(backbone, [caption(scene) for scene in asked])
    features, guesses = (
        [_images(scorer, p) for p in (pictures, truth)],
        [classifier.guess(p) for p in (pictures, truth)],
    )
    figures = []
    for question in QUESTIONS:
        by_clip, by_classifier = [], []
        for i, scene in enumerate(asked):
            if question.fits(scene):
                texts = _texts(scorer, [caption(other) for other in question.others(scene)])
                by_clip.append([int((texts @ one[i]).argmax()) < question.right for one in features])
                by_classifier.append([question.seen(scene, guess, i) for guess in guesses])
        for judge, verdicts in (("pocket CLIP", by_clip), ("classifier", by_classifier)):
            if verdicts:
                share, best = 100 * np.mean(verdicts, axis=0)
                title = f"{question.name} ({judge}, n = {len(verdicts)})"
                figures.append(Figure(title, float(share), question.floor, "%", best=float(best)))
    restored = classifier.guess([backbone.decode(backbone.encode(picture)) for picture in truth])
    distance, floor = (frechet(one.features, guesses[1].features) for one in (guesses[0], restored))
    title = f"Frechet distance to the scenes (n = {count}; best: through the autoencoder)"
    return [*figures, Figure(title, distance, math.nan, "", False, best=floor)]


def _one(scene: Scene) -> bool:
    return len(scene.items) == 1


def _sees_objects(scene: Scene, guess: Guess, i: int) -> bool:
    """Whether the likeliest objects are those of the scene."""
    named = {list(OBJECTS).index(item.name) for item in scene.items}
    return set(guess.objects[i].topk(len(named)).indices.tolist()) == named


def _sees_place(scene: Scene, guess: Guess, i: int) -> bool:
    return list(BACKGROUNDS)[int(guess.places[i])] == scene.background


def _sees_hat(scene: Scene, guess: Guess, i: int) -> bool:
    return (None, *HATS)[int(guess.hats[i])] == scene.items[0].hat


def _sees_pose(scene: Scene, guess: Guess, i: int) -> bool:
    return POSES[int(guess.poses[i])] == scene.items[0].pose


def _other_objects(scene: Scene) -> list[Scene]:
    """The scene, and the same with any other object in the place of its only one."""
    others = [name for name in OBJECTS if name != scene.items[0].name]
    return [scene, *(_changed(scene, name=name) for name in others)]


def _other_places(scene: Scene) -> list[Scene]:
    return [scene, *(replace(scene, background=name) for name in BACKGROUNDS if name != scene.background)]


def _other_pairs(scene: Scene) -> list[Scene]:
    """The scene, the same with its objects exchanged, and with any other two."""
    one, other = (item.name for item in scene.items)
    names = [(one, other), (other, one)]
    names += [pair for pair in permutations(OBJECTS, 2) if pair not in names]
    return [
        replace(scene, items=tuple(replace(item, name=name) for item, name in zip(scene.items, pair, strict=True)))
        for pair in names
    ]


def _other_hats(scene: Scene) -> list[Scene]:
    own = scene.items[0].hat
    return [scene, *(_changed(scene, hat=hat) for hat in (None, *HATS) if hat != own)]


def _other_poses(scene: Scene) -> list[Scene]:
    own = scene.items[0].pose
    return [_changed(scene, pose=pose, hat=None) for pose in (own, *(p for p in POSES if p != own))]


def _changed(scene: Scene, **changes: Any) -> Scene:
    return replace(scene, items=(replace(scene.items[0], **changes),))


QUESTIONS = (
    Question("named object", 97.0, _one, _other_objects, 1, _sees_objects),
    Question("named background", 99.0, _one, _other_places, 1, _sees_place),
    Question("both objects of a pair", 85.0, lambda scene: len(scene.items) == 2, _other_pairs, 2, _sees_objects),
    Question("named hat", 85.0, lambda scene: _one(scene) and bool(scene.items[0].hat), _other_hats, 1, _sees_hat),
    Question(
        "named pose", 85.0, lambda scene: _one(scene) and scene.items[0].pose != "upright", _other_poses, 1, _sees_pose
    ),
)
"""A pair counts in any order; hats and poses are asked of single objects that wear one, or are not upright."""


def frechet(one: Tensor, other: Tensor) -> float:
    """Squared Frechet distance of two normal distributions fitted to features (B, D) and (C, D); 0 if they are equal.

    |m - n|^2 + tr(S + T - 2 (S T)^(1/2)); the trace of the root is the sum of the roots of the eigenvalues of S T,
    which are real and not negative for covariances.
    """
    a, b = one.double().numpy(), other.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(s @ t).real.clip(min=0))
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(s) + np.trace(t) - 2 * roots.sum())


def load_time(name: str = "pocket") -> Figure:
    """Seconds to load the backbone, as a figure of speed: loads in five seconds."""
    started = time.monotonic()
    Backbone.load(name)
    return Figure("backbone loads in 5 s (5 / seconds)", 5 / (time.monotonic() - started), 1.0, "x")


def contact_sheet(backbone: Backbone, target: Path, columns: int = 8) -> None:
    """Two rows of scenes with their reconstructions, two of generated pictures with their captions."""
    originals = [render(scene).image for scene in held_out(columns, 200_000)]
    restored = [backbone.decode(backbone.encode(image)) for image in originals]
    prompts = [caption(scene) for scene in held_out(3 * columns, 300_000)]
    rows: list[tuple[str, list[Image.Image], list[str]]] = [
        ("held-out scenes", originals, []),
        ("through the autoencoder", restored, []),
    ]
    pictures = generate(backbone, prompts)
    for start in range(0, len(prompts), columns):
        part = slice(start, start + columns)
        rows.append(("generated from the captions below" if not start else "", pictures[part], prompts[part]))
    edge, gap, line = 128, 6, 12
    width = columns * (edge + gap) + gap
    heights = [16 * bool(title) + edge + gap + (4 * line if words else 0) for title, _, words in rows]
    sheet = Image.new("RGB", (width, sum(heights) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    y = gap
    for (title, images, words), height in zip(rows, heights, strict=True):
        top = y
        if title:
            draw.text((gap, top), title, fill="black")
            top += 16
        for column, image in enumerate(images):
            x = gap + column * (edge + gap)
            sheet.paste(image, (x, top))
            for number, text in enumerate(_wrap(words[column], 21) if words else []):
                draw.text((x, top + edge + 2 + number * line), text, fill="black")
        y += height
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, optimize=True)


@torch.inference_mode()
def _images(scorer: ClipScorer, pictures: Sequence[Image.Image]) -> Tensor:
    """Normalised features (B, D)."""
    pixels = torch.stack([scorer.preprocess(picture) for picture in pictures]).to(scorer.device)
    features: Tensor = torch.cat([scorer.model.encode_image(part, normalize=True) for part in pixels.split(64)])
    return features.cpu()


@torch.inference_mode()
def _texts(scorer: ClipScorer, texts: Sequence[str]) -> Tensor:
    """Normalised features (B, D)."""
    features: Tensor = scorer.model.encode_text(scorer.tokenizer(list(texts)).to(scorer.device), normalize=True)
    return features.cpu()


def _wrap(text: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(text.removeprefix("a photo of "), width)


def _psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.square(np.asarray(a, float) - np.asarray(b, float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))
