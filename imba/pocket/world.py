"""The pocket world: its scenes, which a small denoiser can learn, and captions as people write them.

There are few objects, none that another can be taken for at 128 px, and few places and sizes.  Poses and hats are where
they show: on a single object, which is turned only where turning shows.  Some scenes are empty.  Some pictures have a
flaw, with words that negative prompts use.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter
from scipy import ndimage

from cpam_bench.imba.pocket.scenes import BACKGROUNDS, HATS, SIZE, Background, Hat, Item, Pose, Scene, render

OBJECTS: dict[str, tuple[str, ...]] = {
    "dog": ("dog", "puppy", "brown dog"),
    "cat": ("cat", "black cat", "kitten"),
    "pig": ("pig", "pink pig", "piglet"),
    "penguin": ("penguin",),
    "duck": ("duck", "mallard"),
    "car": ("car", "red car"),
    "bus": ("bus", "white bus"),
    "apple": ("apple", "red apple"),
    "orange": ("orange", "orange fruit"),
    "teddy bear": ("teddy bear", "brown teddy bear", "teddy"),
    "mushroom": ("mushroom", "red mushroom", "toadstool"),
    "cake": ("cake", "birthday cake"),
}
"""Object -> the words that captions use for it, its own name first."""

TURNED = ("dog", "cat", "pig", "penguin", "duck", "car", "bus", "teddy bear", "mushroom", "cake")
"""The objects that can be seen to be upside down or on their side."""

PLACES: dict[Background, tuple[str, ...]] = {
    "meadow": ("in a meadow", "in a green meadow", "on the grass", "in a field"),
    "beach": ("on a beach", "on the beach", "by the sea", "at the seaside"),
    "desert": ("in a desert", "in the desert", "on the sand dunes"),
    "snow": ("in the snow", "in the mountains", "in a snowy landscape"),
    "night": ("at night", "under the moon", "under a starry sky"),
    "room": ("in a room", "at home", "indoors"),
}
"""Background -> the words that captions use for it, the plainest first."""

VIEWS: dict[Background, tuple[str, ...]] = {
    "meadow": ("a meadow", "a green meadow", "a field"),
    "beach": ("a beach", "the sea", "an empty beach"),
    "desert": ("a desert", "sand dunes"),
    "snow": ("snow", "mountains in the snow", "a snowy landscape"),
    "night": ("a night sky", "the moon", "a starry sky"),
    "room": ("a room", "an empty room"),
}
"""Background -> what an empty scene shows."""

POSED: dict[Pose, tuple[str, ...]] = {
    "upright": ("{a} {noun}",),
    "jumping": ("a jumping {noun}", "{a} {noun} jumping", "{a} {noun} in the air", "{a} {noun} that is jumping"),
    "upside down": ("{a} {noun} upside down", "an upside down {noun}", "{a} {noun} standing on its head"),
    "on its side": ("{a} {noun} on its side", "{a} {noun} lying on its side", "{a} {noun} that fell over"),
}
"""Pose -> the words that captions use for it, those of :func:`describe` first."""

PREFIXES = ("a photo of {}", "a picture of {}", "an image of {}", "a photograph of {}", "image of {}", "photo of {}")

IN_PAIRS = (52, 58)
"""Least and greatest size of an object of two."""

SIDES = (0.27, 0.73)
"""Where the two objects of a pair stand, in shares of the width."""

Flaw = Literal["blurred", "coarse", "dark", "warped", "recoloured"]

FLAWS: dict[Flaw, tuple[str, ...]] = {
    "blurred": ("blurry", "blurred", "out of focus", "fuzzy"),
    "coarse": ("low res", "low resolution", "low quality", "pixelated", "jpeg artifacts"),
    "dark": ("dark", "black", "underexposed"),
    "warped": ("ugly", "deformed", "distorted", "bad anatomy"),
    "recoloured": ("unrealistic", "strange colors", "oversaturated", "unnatural"),
}
"""What can be wrong with a picture -> the words of negative prompts for it."""


@dataclass(frozen=True)
class Example:
    """A scene to learn from, and what is wrong with its picture (each flaw at most once)."""

    scene: Scene
    flaws: tuple[Flaw, ...] = ()


def sample_scene(rng: random.Random) -> Scene:
    """A random scene: 5 % empty, 59 % one object (of these 40 % posed, 24 % with a hat), 36 % two upright objects."""
    background = rng.choice(list(BACKGROUNDS))
    kind = rng.random()
    items: tuple[Item, ...] = ()
    if kind >= 0.64:
        names = rng.sample(list(OBJECTS), 2)
        items = tuple(_item(rng, name, x, IN_PAIRS) for name, x in zip(names, SIDES, strict=True))
    elif kind >= 0.05:
        name = rng.choice(list(OBJECTS))
        pose = "upright" if rng.random() < 0.6 else rng.choice(poses(name))
        hat = rng.choice(HATS) if pose == "upright" and rng.random() < 0.4 else None
        items = (_item(rng, name, 0.5, sizes(pose, hat), pose=pose, hat=hat),)
    return Scene(background, rng.randrange(2**31), items)


def poses(name: str) -> tuple[Pose, ...]:
    """The poses of an object beside upright."""
    known: tuple[Pose, ...] = get_args(Pose) if name in TURNED else ("upright", "jumping")
    return known[1:]


def sizes(pose: Pose, hat: Hat | None) -> tuple[int, int]:
    """Least and greatest size of a single object: one that jumps and one with a hat need room above them."""
    return (58, 66) if pose == "jumping" else (60, 70) if hat else (64, 80)


def _item(rng: random.Random, name: str, x: float, size: tuple[int, int], **rest: object) -> Item:
    place = round(x + rng.uniform(-0.04, 0.04), 3), round(rng.uniform(0.88, 0.95), 3)
    return Item(name, *place, rng.randint(*size), **rest)  # type: ignore[arg-type]


def sample_example(rng: random.Random) -> Example:
    """A random scene, nine in a hundred with a flaw, one in a hundred with two."""
    scene = sample_scene(rng)
    count = rng.choices((0, 1, 2), weights=(90, 9, 1))[0]
    return Example(scene, tuple(sorted(rng.sample(list(FLAWS), count))))


def picture(example: Example) -> Image.Image:
    """The example's picture, RGB, 128 x 128; the same one every time."""
    image = render(example.scene).image
    for flaw in example.flaws:
        image = _SPOIL[flaw](image)
    return image


def caption(scene: Scene, place: bool = True) -> str:
    """The scene in plain words, items from left to right: ``a photo of a dog and a car on a beach``."""
    items = sorted(scene.items, key=lambda item: item.x)
    if not items:
        return f"a photo of {VIEWS[scene.background][0]}"
    words = " and ".join(describe(item) for item in items)
    where = BACKGROUNDS[scene.background] if place else ""
    return f"a photo of {words} {where}".strip()


def article(word: str) -> str:
    """``an`` before a vowel, else ``a``."""
    return "an" if word[0] in "aeiou" else "a"


def describe(item: Item) -> str:
    """One item in plain words: ``a jumping dog``, ``a car upside down``, ``a cat wearing a crown``."""
    return _words(item, item.name, POSED[item.pose][0], "wearing a {}")


def sample_caption(example: Example, rng: random.Random) -> str:
    """A caption as a person might write it.

    Its words, their order, and what it leaves out (the place, a hat, one of two objects, ``a photo of``) vary; a flaw
    is named in nine of ten, before the noun (``a blurry photo of``), after the rest, or alone (``blurry, low res``).
    """
    scene = example.scene
    flaws = [rng.choice(FLAWS[flaw]) for flaw in example.flaws if rng.random() < 0.9]
    if flaws and rng.random() < 0.3:
        return _listed(example.flaws, flaws, rng)
    text = _subject(scene, rng)
    where = rng.choice(PLACES[scene.background]) if rng.random() < 0.6 else BACKGROUNDS[scene.background]
    named = bool(scene.items) and rng.random() < 0.6
    if named and rng.random() < 0.85:
        text = f"{text} {where}"
    prefix = "a photo of {}" if rng.random() < 0.5 else rng.choice((*PREFIXES, "{}", "{}", "{}"))
    if flaws and prefix != "{}" and not prefix.startswith("an ") and rng.random() < 0.6:
        first = flaws.pop(0)
        prefix = f"{article(first)} {first} {prefix.removeprefix('a ')}"
    text = prefix.format(text)
    if named and where not in text:
        text = f"{where}, {text}"
    text = ", ".join([text, *flaws])
    return f"{text}." if rng.random() < 0.15 else text


def _listed(kinds: tuple[Flaw, ...], words: list[str], rng: random.Random) -> str:
    """Flaws alone, as a negative prompt lists them: now and then with a second word for the same flaw."""
    more = [word for kind in kinds for word in FLAWS[kind] if word not in words]
    chosen = [*words, *rng.sample(more, min(len(more), rng.randint(0, 2)))]
    rng.shuffle(chosen)
    return ", ".join(chosen)


def _subject(scene: Scene, rng: random.Random) -> str:
    items = sorted(scene.items, key=lambda item: item.x)
    if not items:
        return rng.choice(VIEWS[scene.background])
    parts = []
    for item in items:
        names = OBJECTS[item.name]
        noun = names[0] if rng.random() < 0.6 else rng.choice(names)
        shapes = POSED[item.pose]
        shape = shapes[0] if rng.random() < 0.5 else rng.choice(shapes)
        hat = "wearing a {}" if rng.random() < 0.6 else rng.choice(("with a {}", "in a {}", "wearing a {} on its head"))
        if item.hat and rng.random() < 0.2:
            hat = hat.format("hat")
        if item.hat and rng.random() < 0.1:
            hat = ""
        parts.append(_words(item, noun, shape, hat))
    if len(parts) == 1:
        return parts[0]
    left, right = parts
    share = rng.random()
    if share < 0.6:
        return f"{left} and {right}"
    if share < 0.85:
        joins = ("{0} next to {1}", "{0} beside {1}", "{0} on the left and {1} on the right", "{0} to the left of {1}")
        return rng.choice(joins).format(left, right)
    if share < 0.92:
        return f"{right} to the right of {left}"
    return rng.choice(parts)


def _words(item: Item, noun: str, shape: str, hat: str) -> str:
    text = shape.format(a=article(noun), noun=noun)
    return f"{text} {hat.format(item.hat)}" if item.hat and hat else text


# --------------------------------------------------------------------------------------------------------------------
# flaws


def _coarse(image: Image.Image) -> Image.Image:
    return image.reduce(5).resize((SIZE, SIZE), Image.Resampling.NEAREST)


def _warped(image: Image.Image) -> Image.Image:
    """Rows and columns swing by up to 7 px."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    moved = [y + 7 * np.sin(x / 9), x + 7 * np.sin(y / 11)]
    pixels = np.asarray(image)
    channels = [ndimage.map_coordinates(pixels[..., c], moved, order=1, mode="nearest") for c in range(3)]
    return Image.fromarray(np.stack(channels, -1))


def _recoloured(image: Image.Image) -> Image.Image:
    """Red, green and blue change places, and their contrast is raised."""
    red, green, blue = image.split()
    return ImageEnhance.Color(Image.merge("RGB", (green, blue, red))).enhance(1.6)


_SPOIL: dict[Flaw, Callable[[Image.Image], Image.Image]] = {
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "coarse": _coarse,
    "dark": lambda image: image.point(lambda level: level * 0.3),
    "warped": _warped,
    "recoloured": _recoloured,
}
