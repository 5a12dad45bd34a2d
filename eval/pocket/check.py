"""What the pocket parts can do on held-out scenes, measured: the figures that a weak backbone would fail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from cpam_bench.cpam.backbone import Backbone, ddim
from cpam_bench.cpam.inversion import invert
from cpam_bench.cpam.sampling import reconstruct
from cpam_bench.eval.metrics.clip import ClipScorer
from cpam_bench.eval.pocket.classifier import POCKET_CLASSIFIER, load_classifier
from cpam_bench.eval.pocket.training import held_out
from cpam_bench.eval.pocket.vae import reconstruction_psnr
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, OBJECTS, Scene, caption, render


@dataclass(frozen=True)
class Figure:
    """One measured figure and the least it should be."""

    name: str
    value: float
    least: float
    unit: str

    @property
    def good(self) -> bool:
        return self.value >= self.least


@torch.inference_mode()
def generate(
    backbone: Backbone, prompts: Sequence[str], steps: int = 50, guidance: float = 7.5, seed: int = 0, batch: int = 16
) -> list[Image.Image]:
    """Pictures from prompts by guided DDIM; each picture's noise is seeded by its place in the list."""
    schedule = backbone.schedule(steps)
    size = backbone.unet.config.sample_size
    null = backbone.embed("")
    pictures: list[Image.Image] = []
    for start in tqdm(range(0, len(prompts), batch), desc="generating", mininterval=5):
        part = prompts[start : start + batch]
        latents = torch.cat(
            [
                torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(seed + start + i))
                for i in range(len(part))
            ]
        ).to(backbone.device)
        embeddings = torch.cat([null.expand(len(part), -1, -1), *(backbone.embed(prompt) for prompt in part)])
        levels = zip(schedule.timesteps, schedule.alphas, schedule.previous_alphas, strict=True)
        for timestep, alpha, previous_alpha in levels:
            plain, guided = backbone.predict(torch.cat([latents, latents]), timestep, embeddings).chunk(2)
            latents = ddim(latents, plain + guidance * (guided - plain), alpha, previous_alpha)
        pictures += [backbone.decode(one[None]) for one in latents]
    return pictures


def vae_psnr(backbone: Backbone, count: int = 256) -> Figure:
    """Autoencoder: mean PSNR of held-out scenes."""
    return Figure("VAE reconstruction, mean PSNR", reconstruction_psnr(backbone.pipeline.vae, count), 26.0, "dB")


def inversion_psnr(backbone: Backbone, count: int = 16, steps: int = 50) -> Figure:
    """Null-prompt inversion and sampling back, against the autoencoder's own reconstruction."""
    values = []
    for scene in held_out(count):
        latents = backbone.encode(render(scene).image)
        back = backbone.decode(reconstruct(backbone, invert(backbone, latents, steps)))
        values.append(_psnr(back, backbone.decode(latents)))
    return Figure("inversion and back, mean PSNR", float(np.mean(values)), 30.0, "dB")


def clip_retrieval(scorer: ClipScorer, groups: int = 16, of: int = 64) -> list[Figure]:
    """Pocket CLIP: how often a scene's own caption comes first among 64 different ones, and the other way round."""
    text_right, image_right = [], []
    pool = iter(held_out(groups * of * 3))
    for _ in range(groups):
        scenes: dict[str, Scene] = {}
        while len(scenes) < of:
            one = next(pool)
            scenes.setdefault(caption(one), one)
        images = _images(scorer, [render(scene).image for scene in scenes.values()])
        texts = _texts(scorer, list(scenes))
        similarity = images @ texts.T
        own = torch.arange(of)
        text_right.append((similarity.argmax(1) == own).float().mean().item())
        image_right.append((similarity.argmax(0) == own).float().mean().item())
    return [
        Figure("pocket CLIP, right caption of 64", 100 * float(np.mean(text_right)), 90.0, "%"),
        Figure("pocket CLIP, right scene of 64", 100 * float(np.mean(image_right)), 90.0, "%"),
    ]


def generation(backbone: Backbone, scorer: ClipScorer, count: int = 256) -> tuple[list[Figure], list[Image.Image]]:
    """Generation from held-out captions of one object: is it there, and on the named background?

    Asked twice: of the pocket CLIP zero-shot, and of a classifier that was trained apart from it and has seen neither
    captions nor generated pictures.
    """
    scenes = [scene for scene in held_out(4 * count, offset=100_000) if len(scene.items) == 1][:count]
    pictures = generate(backbone, [caption(scene) for scene in scenes])
    objects, places = list(OBJECTS), list(BACKGROUNDS)
    true_objects = torch.tensor([objects.index(scene.items[0].name) for scene in scenes])
    true_places = torch.tensor([places.index(scene.background) for scene in scenes])

    def share(guess: Tensor, truth: Tensor) -> float:
        return 100 * (guess == truth).float().mean().item()

    features = _images(scorer, pictures)
    by_clip_object = (features @ _texts(scorer, [_a(name) for name in objects]).T).argmax(1)
    by_clip_place = (
        features @ _texts(scorer, [f"a photo of a dog {words}" for words in BACKGROUNDS.values()]).T
    ).argmax(1)
    classifier = load_classifier(POCKET_CLASSIFIER)
    by_net_object, by_net_place = classifier.guess(pictures)
    return [
        Figure("named object generated (pocket CLIP)", share(by_clip_object, true_objects), 80.0, "%"),
        Figure("named object generated (classifier)", share(by_net_object, true_objects), 80.0, "%"),
        Figure("named background generated (pocket CLIP)", share(by_clip_place, true_places), 95.0, "%"),
        Figure("named background generated (classifier)", share(by_net_place, true_places), 95.0, "%"),
    ], pictures


def load_time(name: str = "pocket") -> Figure:
    """Seconds to load the backbone, as a figure of speed: loads in five seconds."""
    started = time.monotonic()
    Backbone.load(name)
    return Figure("backbone loads in 5 s (5 / seconds)", 5 / (time.monotonic() - started), 1.0, "x")


def contact_sheet(backbone: Backbone, target: Path, columns: int = 8) -> None:
    """Two rows of scenes with their reconstructions, two of generated pictures with their captions."""
    scenes = held_out(columns, offset=200_000)
    originals = [render(scene).image for scene in scenes]
    restored = [backbone.decode(backbone.encode(image)) for image in originals]
    prompts = [caption(scene) for scene in held_out(3 * columns, offset=300_000)]
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


def _a(name: str) -> str:
    return f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}"


def _psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.square(np.asarray(a, float) - np.asarray(b, float)).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))
