"""The embedded benchmark's tasks on the next world: what the swap puts in the place of ``tasks.TASKS``.

Kinds are in the proportions of IMBA's 104 records (40 % of objects that are retained, 6 % of backgrounds, 18 % of items
added, the rest replaced), and two removals, which the paper shows and the records lack.  Prompts will be IMBA's:
``a photo of`` the object alone, the place only where it changes.
"""

from __future__ import annotations

from cpam_bench.imba.pocket.scenes import Background, Hat, Item, Pose, Scene
from cpam_bench.imba.pocket.tasks import Task, added, moved, posed, removal, replaced


def _alone(background: Background, seed: int, name: str, size: int, x: float = 0.50, y: float = 0.92) -> Scene:
    return Scene(background, 20_001_000 + seed, (Item(name, x, y, size),))


def _pair(background: Background, seed: int, left: str, right: str) -> Scene:
    return Scene(background, 20_001_000 + seed, (Item(left, 0.27, 0.92, 55), Item(right, 0.73, 0.91, 55)))


_POSES: tuple[tuple[Background, str, Pose], ...] = (
    ("meadow", "dog", "jumping"),
    ("snow", "penguin", "jumping"),
    ("room", "teddy bear", "upside down"),
    ("beach", "cat", "jumping"),
    ("desert", "car", "upside down"),
    ("meadow", "pig", "on its side"),
    ("night", "bus", "on its side"),
    ("beach", "duck", "upside down"),
)
_REPLACED: tuple[tuple[Background, str, str], ...] = (
    ("beach", "apple", "orange"),
    ("snow", "car", "bus"),
    ("room", "dog", "cat"),
    ("meadow", "pig", "dog"),
    ("desert", "mushroom", "penguin"),
)
_ONE_OF_TWO: tuple[tuple[Background, str, str, str, int], ...] = (
    ("meadow", "cat", "duck", "penguin", 1),
    ("room", "apple", "cake", "teddy bear", 0),
    ("beach", "dog", "orange", "mushroom", 1),
)
_ADDED: tuple[tuple[Background, str, Hat], ...] = (
    ("meadow", "cat", "top hat"),
    ("room", "teddy bear", "crown"),
    ("snow", "dog", "cap"),
    ("beach", "penguin", "crown"),
)

TASKS: tuple[Task, ...] = (
    *(replaced(_alone(place, i, one, 72), other) for i, (place, one, other) in enumerate(_REPLACED)),
    *(replaced(_pair(p, 10 + i, a, b), other, at) for i, (p, a, b, other, at) in enumerate(_ONE_OF_TWO)),
    *(posed(_alone(place, 20 + i, name, 62), pose) for i, (place, name, pose) in enumerate(_POSES)),
    moved(_alone("meadow", 30, "pig", 74), "snow", 20_001_040),
    moved(_alone("night", 31, "cat", 74), "beach", 20_001_041),
    *(added(_alone(place, 50 + i, name, 66, y=0.94), hat) for i, (place, name, hat) in enumerate(_ADDED)),
    removal(_pair("desert", 60, "penguin", "mushroom"), 1),
    removal(_pair("snow", 61, "cake", "dog"), 0),
)
"""The 24 tasks."""
