"""Renderer of the pocket scenes: 3D-style object sprites on drawn backgrounds, 128 px, with exact masks.

A :class:`Scene` is a plain, hashable description; :func:`render` turns it into pixels and per-item masks and uses no
other source of randomness, so the same scene gives the same picture.  Because the scene is known, the picture that an
edit *should* have led to can be rendered too, which no photograph offers.

Sprites: Fluent Emoji 3D by Microsoft (MIT), through the npm package ``@lobehub/fluent-emoji-3d`` 1.1.0; see
``imba/data/sprites/LICENSE``.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SIZE = 128
"""Edge of a scene in pixels."""

Pose = Literal["upright", "jumping", "upside down", "on its side"]
Background = Literal["meadow", "beach", "desert", "snow", "night", "room"]
Hat = Literal["top hat", "crown", "cap"]

POSES: tuple[Pose, ...] = ("upright", "jumping", "upside down", "on its side")
HATS: tuple[Hat, ...] = ("top hat", "crown", "cap")
BACKGROUNDS: dict[Background, str] = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "desert": "in a desert",
    "snow": "in the snow",
    "night": "at night",
    "room": "in a room",
}
"""Background name -> the words that a caption uses for it."""

ANCHORS: dict[str, tuple[float, float, float]] = {
    "dog": (0.22, 0.17, 0.546),
    "cat": (0.24, 0.22, 0.546),
    "pig": (0.30, 0.16, 0.546),
    "penguin": (0.50, 0.09, 0.728),
    "duck": (0.30, 0.06, 0.546),
    "car": (0.55, 0.06, 0.598),
    "bus": (0.50, 0.05, 0.598),
    "apple": (0.50, 0.20, 0.728),
    "orange": (0.50, 0.22, 0.728),
    "teddy bear": (0.50, 0.07, 0.598),
    "mushroom": (0.50, 0.06, 0.676),
    "cake": (0.50, 0.12, 0.65),
}
"""Object -> where a hat sits on its upright sprite.

The middle of the hat's brim as a fraction of the sprite's cropped box (x from the left, y from the top), and the hat's
width as a fraction of the box's longer edge.
"""

_SPRITES = Path(__file__).parents[1] / "data" / "sprites"
_RAISED = 0.42  # how far a jumping object is off the ground, as a fraction of its size


@dataclass(frozen=True)
class Item:
    """One object of a scene.

    Attributes:
        name: a key of :data:`ANCHORS`.
        x: centre, as a fraction of the image's width.
        y: the ground that it stands on, as a fraction of the image's height.
        size: longer edge of the upright sprite in pixels.
        pose: one of :data:`POSES`.
        hat: one of :data:`HATS`, or None; only upright and jumping objects wear hats.
    """

    name: str
    x: float = 0.5
    y: float = 0.85
    size: int = 64
    pose: Pose = "upright"
    hat: Hat | None = None

    def __post_init__(self) -> None:
        if self.name not in ANCHORS:
            raise ValueError(f"unknown object {self.name!r}; known: {', '.join(ANCHORS)}")
        if self.hat and self.pose not in ("upright", "jumping"):
            raise ValueError(f"a {self.name} that is {self.pose} cannot wear a hat")


@dataclass(frozen=True)
class Scene:
    """A background (its kind and the seed of its details) and the items on it, drawn in order of their ground."""

    background: Background
    background_seed: int = 0
    items: tuple[Item, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Rendered:
    """A rendered scene.

    Attributes:
        image: RGB, 128 x 128.
        masks: one bool array (128, 128) an item, in the scene's order: the pixels of the item that are seen.
    """

    image: Image.Image
    masks: tuple[np.ndarray, ...]


def render(scene: Scene) -> Rendered:
    """Draw a scene; shadows belong to the background and not to a mask."""
    image = _background(scene.background, scene.background_seed).copy()
    layers = [_layer(item) for item in scene.items]
    order = sorted(range(len(layers)), key=lambda i: scene.items[i].y)
    shadow = _shadows(scene.items)
    if shadow is not None:
        image.paste((20, 20, 40), (0, 0), shadow)
    alphas: dict[int, np.ndarray] = {}
    for i in order:
        sprite, left, top = layers[i]
        image.paste(sprite, (left, top), sprite)
        alpha = Image.new("L", (SIZE, SIZE))
        alpha.paste(sprite.getchannel("A"), (left, top))
        hit = np.asarray(alpha) > 127
        for j in alphas:
            alphas[j] &= ~hit
        alphas[i] = hit
    return Rendered(image, tuple(alphas[i] for i in range(len(layers))))


# --------------------------------------------------------------------------------------------------------------------
# sprites


@functools.cache
def _sprite(name: str) -> Image.Image:
    """A sprite cropped to what is visible, premultiplied so that resizing leaves no fringe."""
    with Image.open(_SPRITES / f"{name.replace(' ', '_')}.webp") as file:
        image = file.convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 * (a > 16)).getbbox()
    return image.crop(box).convert("RGBa")


def _layer(item: Item) -> tuple[Image.Image, int, int]:
    """The item (with its hat) as an RGBA picture, and where its upper left corner goes."""
    sprite = _sprite(item.name)
    scale = item.size / max(sprite.size)
    width, height = (max(1, round(edge * scale)) for edge in sprite.size)
    # One canvas with room for the hat on all sides keeps the anchor arithmetic the same for every pose.
    pad = item.size // 2
    canvas = Image.new("RGBA", (width + 2 * pad, height + 2 * pad))
    canvas.paste(sprite.resize((width, height), Image.Resampling.LANCZOS).convert("RGBA"), (pad, pad))
    if item.hat:
        ax, ay, share = ANCHORS[item.name]
        hat = _sprite(item.hat)
        hat_width = max(1, round(share * item.size))
        hat_height = max(1, round(hat_width * hat.height / hat.width))
        small = hat.resize((hat_width, hat_height), Image.Resampling.LANCZOS).convert("RGBA")
        corner = (round(pad + ax * width - hat_width / 2), round(pad + ay * height - hat_height * 0.85))
        canvas.alpha_composite(small, (max(0, corner[0]), max(0, corner[1])))
    if item.pose == "upside down":
        canvas = canvas.transpose(Image.Transpose.ROTATE_180)
    elif item.pose == "on its side":
        canvas = canvas.transpose(Image.Transpose.ROTATE_270)
        width, height = height, width
    bottom = item.y * SIZE - (_RAISED * item.size if item.pose == "jumping" else 0)
    return canvas, round(item.x * SIZE - width / 2) - pad, round(bottom - height) - pad


def _shadows(items: tuple[Item, ...]) -> Image.Image | None:
    if not items:
        return None
    shadow = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(shadow)
    for item in items:
        half = item.size * (0.32 if item.pose == "jumping" else 0.42)
        x, y = item.x * SIZE, item.y * SIZE - 1
        draw.ellipse((x - half, y - half * 0.16, x + half, y + half * 0.16), fill=110)
    return shadow.filter(ImageFilter.GaussianBlur(2))


# --------------------------------------------------------------------------------------------------------------------
# backgrounds: drawn at twice the size and reduced, which smooths every edge


_SCALE = 2
_EDGE = SIZE * _SCALE


def _background(name: Background, seed: int) -> Image.Image:
    painters: dict[Background, Callable[[random.Random], Image.Image]] = {
        "meadow": _meadow,
        "beach": _beach,
        "desert": _desert,
        "snow": _snow,
        "night": _night,
        "room": _room,
    }
    if name not in painters:
        raise ValueError(f"unknown background {name!r}; known: {', '.join(painters)}")
    rng = random.Random(seed)
    return painters[name](rng).reduce(_SCALE)


def _jitter(rng: random.Random, colour: tuple[int, int, int], by: int = 14) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, c + rng.randint(-by, by))) for c in colour)
    return red, green, blue


def _gradient(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Image.Image:
    ramp = np.linspace(0, 1, _EDGE)[:, None]
    column = np.asarray(top) * (1 - ramp) + np.asarray(bottom) * ramp
    return Image.fromarray(np.repeat(column[:, None, :], _EDGE, 1).round().astype(np.uint8))


def _ridge(
    draw: ImageDraw.ImageDraw, rng: random.Random, level: float, sway: float, fill: tuple[int, int, int]
) -> None:
    """A rolling line of hills at a height (fraction of the image), filled down to the lower edge."""
    waves = [(rng.uniform(0.5, 1.6), rng.uniform(0, 2 * math.pi), rng.uniform(0.4, 1.0)) for _ in range(2)]
    points = [
        (x, _EDGE * (level + sway * sum(a * math.sin(2 * math.pi * f * x / _EDGE + p) for f, p, a in waves) / 2))
        for x in range(0, _EDGE + 8, 8)
    ]
    draw.polygon([*points, (_EDGE, _EDGE), (0, _EDGE)], fill=fill)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: tuple[int, int, int]) -> None:
    x, y, radius = x * _EDGE, y * _EDGE, radius * _EDGE
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _cloud(draw: ImageDraw.ImageDraw, rng: random.Random, fill: tuple[int, int, int]) -> None:
    x, y = rng.uniform(0.05, 0.95), rng.uniform(0.06, 0.26)
    for dx, radius in ((-0.07, 0.035), (0.0, 0.055), (0.07, 0.04)):
        _disc(draw, x + dx, y, radius, fill)


def _meadow(rng: random.Random) -> Image.Image:
    image = _gradient(_jitter(rng, (110, 180, 240)), _jitter(rng, (205, 232, 250)))
    draw = ImageDraw.Draw(image)
    _disc(draw, rng.uniform(0.1, 0.9), rng.uniform(0.08, 0.22), 0.07, (255, 226, 110))
    for _ in range(rng.randint(1, 2)):
        _cloud(draw, rng, (248, 250, 252))
    level = rng.uniform(0.46, 0.58)
    _ridge(draw, rng, level - 0.06, 0.07, _jitter(rng, (120, 186, 110)))
    _ridge(draw, rng, level + 0.06, 0.05, _jitter(rng, (92, 164, 76)))
    return image


def _beach(rng: random.Random) -> Image.Image:
    image = _gradient(_jitter(rng, (120, 205, 245)), _jitter(rng, (225, 243, 250)))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 2)):
        _cloud(draw, rng, (250, 252, 253))
    horizon = rng.uniform(0.36, 0.46)
    shore = rng.uniform(0.58, 0.68)
    draw.rectangle((0, horizon * _EDGE, _EDGE, _EDGE), fill=_jitter(rng, (30, 130, 185)))
    _ridge(draw, rng, shore - 0.03, 0.03, (236, 246, 246))
    _ridge(draw, rng, shore, 0.03, _jitter(rng, (238, 214, 160)))
    return image


def _desert(rng: random.Random) -> Image.Image:
    image = _gradient(_jitter(rng, (250, 165, 95)), _jitter(rng, (255, 222, 165)))
    draw = ImageDraw.Draw(image)
    _disc(draw, rng.uniform(0.1, 0.9), rng.uniform(0.12, 0.32), 0.085, (255, 242, 205))
    level = rng.uniform(0.48, 0.58)
    _ridge(draw, rng, level - 0.06, 0.09, _jitter(rng, (214, 134, 72)))
    _ridge(draw, rng, level + 0.07, 0.06, _jitter(rng, (190, 106, 52)))
    return image


def _snow(rng: random.Random) -> Image.Image:
    image = _gradient(_jitter(rng, (150, 170, 195)), _jitter(rng, (205, 215, 228)))
    draw = ImageDraw.Draw(image)
    level = rng.uniform(0.50, 0.60)
    for _ in range(rng.randint(2, 3)):  # mountains with white tops
        x, width, height = rng.uniform(0, 1), rng.uniform(0.22, 0.34), rng.uniform(0.25, 0.40)
        left, right, peak = (x - width) * _EDGE, (x + width) * _EDGE, (level - height) * _EDGE
        foot = (level + 0.05) * _EDGE
        draw.polygon([(left, foot), (x * _EDGE, peak), (right, foot)], fill=_jitter(rng, (112, 128, 158)))
        cut = 0.35
        draw.polygon(
            [
                (x * _EDGE - cut * width * _EDGE, peak + cut * (foot - peak)),
                (x * _EDGE, peak),
                (x * _EDGE + cut * width * _EDGE, peak + cut * (foot - peak)),
            ],
            fill=(244, 247, 252),
        )
    _ridge(draw, rng, level, 0.04, _jitter(rng, (226, 234, 244), 8))
    _ridge(draw, rng, level + 0.14, 0.04, _jitter(rng, (242, 246, 251), 4))
    return image


def _night(rng: random.Random) -> Image.Image:
    image = _gradient(_jitter(rng, (14, 18, 52), 8), _jitter(rng, (58, 52, 110)))
    draw = ImageDraw.Draw(image)
    _disc(draw, rng.uniform(0.1, 0.9), rng.uniform(0.10, 0.26), 0.075, (246, 240, 214))
    for _ in range(rng.randint(4, 6)):
        _disc(draw, rng.uniform(0, 1), rng.uniform(0, 0.45), 0.018, (236, 236, 250))
    level = rng.uniform(0.50, 0.60)
    _ridge(draw, rng, level - 0.04, 0.07, _jitter(rng, (38, 50, 92), 8))
    _ridge(draw, rng, level + 0.08, 0.05, _jitter(rng, (26, 38, 66), 8))
    return image


def _room(rng: random.Random) -> Image.Image:
    wall = _jitter(rng, rng.choice([(226, 200, 178), (190, 206, 190), (222, 190, 200)]))
    image = _gradient(wall, _jitter(rng, wall, 6))
    draw = ImageDraw.Draw(image)
    floor = rng.uniform(0.62, 0.70)
    x, y, half = rng.uniform(0.18, 0.82), rng.uniform(0.20, 0.28), rng.uniform(0.11, 0.15)
    frame = [(x - half) * _EDGE, (y - half) * _EDGE, (x + half) * _EDGE, (y + half) * _EDGE]
    draw.rectangle(frame, fill=(250, 248, 244))
    inset = 0.025 * _EDGE
    pane = (frame[0] + inset, frame[1] + inset, frame[2] - inset, frame[3] - inset)
    draw.rectangle(pane, fill=_jitter(rng, (140, 200, 240)))
    draw.rectangle((0, floor * _EDGE, _EDGE, _EDGE), fill=_jitter(rng, (150, 98, 62)))
    draw.rectangle((0, (floor - 0.02) * _EDGE, _EDGE, floor * _EDGE), fill=(244, 238, 230))
    half_rug = rng.uniform(0.28, 0.42)
    centre = rng.uniform(0.4, 0.6)
    draw.ellipse(
        ((centre - half_rug) * _EDGE, 0.80 * _EDGE, (centre + half_rug) * _EDGE, 0.97 * _EDGE),
        fill=_jitter(rng, rng.choice([(178, 60, 60), (62, 96, 150), (90, 130, 96)])),
    )
    return image
