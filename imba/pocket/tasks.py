"""The embedded benchmark: 24 rendered editing tasks, four of each kind, in the layout of IMBA.

Because scenes are rendered, every task comes with its truth: the picture that the edit should have led to.  Objects,
places and the seeds of the backgrounds are chosen by hand.  Kinds are in the proportions of IMBA's 104 records (40 % of
objects that are retained, 6 % of backgrounds, 18 % of added items, the rest replaced), beside two removals, which the
paper shows and the records lack.  Prompts are as IMBA's: the objects alone, and the place where it changes.
:func:`random_tasks` draws as many other tasks as a question needs.

Masks are what a user would draw for the kind of edit:

- replace: the object's own pixels.  The wanted object may leave them; methods widen the mask themselves.
- pose: the convex hull of everything that the wanted edit changes (the object before and after, its shadow), 2 px
  wider, because a jumping object leaves its place and the background's metric must not hold that against an editor.
- background: the object's own pixels; the alteration mask is their complement.
- add: a rounded box 3 px larger than the item that is to appear.
- remove: the object's pixels widened by 3 px, so that its rim goes with it; its shadow stays in the background.

Flags follow the release: ``retain_object`` for poses alone (its records of added items, ``a hat``, say false).
``object_prompt`` names what P_t shows in the mask; a removal's names the object that is to go, since P_t has none.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

from cpam_bench.imba.build import publish
from cpam_bench.imba.dataset import MARK
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pocket.scenes import BACKGROUNDS, HATS, SIZE, Background, Hat, Item, Pose, Scene, render
from cpam_bench.imba.pocket.world import IN_PAIRS, OBJECTS, SIDES, TURNED, caption, describe, poses, sizes
from cpam_bench.imba.sample import Kind


@dataclass(frozen=True)
class Task:
    """One sample of the benchmark before it is rendered.

    Attributes:
        id: its id and the stem of its files.
        kind: the kind of edit.
        source: the scene to edit.
        truth: the scene that the edit should lead to.
        edited: index of the edited item in ``source.items`` (for backgrounds: the item that stays).
        object_prompt: see the module.
    """

    id: str
    kind: Kind
    source: Scene
    truth: Scene
    edited: int
    object_prompt: str


def _with(scene: Scene, index: int, **changes: Any) -> Scene:
    items = list(scene.items)
    items[index] = dataclasses.replace(items[index], **changes)
    return dataclasses.replace(scene, items=tuple(items))


def _slug(text: str) -> str:
    return text.replace(" ", "-")


def replaced(scene: Scene, name: str, index: int = 0) -> Task:
    """The task of replacing an item of a scene by another object."""
    truth = _with(scene, index, name=name)
    kind = "several" if len(scene.items) > 1 else "replace"
    id = _slug(f"{kind} {scene.items[index].name} to {name}")
    return Task(id, "replace", scene, truth, index, describe(truth.items[index]))


def posed(scene: Scene, pose: Pose) -> Task:
    """The task of giving the first item of a scene another pose."""
    truth = _with(scene, 0, pose=pose)
    id = _slug(f"pose {scene.items[0].name} {pose}")
    return Task(id, "pose", scene, truth, 0, describe(truth.items[0]))


def moved(scene: Scene, background: Background, seed: int) -> Task:
    """The task of putting a scene's items before another background, whose details have a seed."""
    truth = dataclasses.replace(scene, background=background, background_seed=seed)
    place = BACKGROUNDS[background].split(maxsplit=1)[1]  # "on a beach" -> "a beach"
    return Task(_slug(f"background {scene.items[0].name} {background}"), "background", scene, truth, 0, place)


def added(scene: Scene, hat: Hat) -> Task:
    """The task of giving the first item of a scene a hat."""
    return Task(_slug(f"add {scene.items[0].name} {hat}"), "add", scene, _with(scene, 0, hat=hat), 0, f"a {hat}")


def removal(scene: Scene, index: int) -> Task:
    """The task of removing an item of a scene."""
    gone = scene.items[index]
    truth = dataclasses.replace(scene, items=scene.items[:index] + scene.items[index + 1 :])
    return Task(_slug(f"remove {gone.name}"), "remove", scene, truth, index, describe(gone))


def _alone(background: Background, seed: int, name: str, size: int, x: float = 0.50, y: float = 0.92) -> Scene:
    return Scene(background, 20_001_000 + seed, (Item(name, x, y, size),))


def _pair(background: Background, seed: int, left: str, right: str) -> Scene:
    items = (Item(left, SIDES[0], 0.92, 55), Item(right, SIDES[1], 0.91, 55))
    return Scene(background, 20_001_000 + seed, items)


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
    *(posed(_alone(place, 20 + i, name, 66), pose) for i, (place, name, pose) in enumerate(_POSES)),
    moved(_alone("meadow", 30, "pig", 74), "snow", 20_001_040),
    moved(_alone("night", 31, "cat", 74), "beach", 20_001_041),
    *(added(_alone(place, 50 + i, name, 66, y=0.94), hat) for i, (place, name, hat) in enumerate(_ADDED)),
    removal(_pair("desert", 60, "penguin", "mushroom"), 1),
    removal(_pair("snow", 61, "cake", "dog"), 0),
)
"""The tasks, in the order of ``data.json``."""


TASK_KINDS = ("replace", "pose", "background", "add", "remove", "several")
"""The kinds of task; ``several`` replaces one of two objects."""


def random_tasks(count: int, seed: int = 0, kinds: Sequence[str] = TASK_KINDS) -> list[Task]:
    """Tasks like those of the benchmark, drawn by a seed; the first ones do not depend on ``count``.

    Args:
        count: how many; the kinds take turns.
        seed: of the draw.
        kinds: of :data:`TASK_KINDS`.

    Raises:
        UserError: an unknown kind, or none.
    """
    if not kinds or (unknown := [kind for kind in kinds if kind not in TASK_KINDS]):
        raise UserError(f"unknown kinds of task: {', '.join(unknown) if kinds else 'none'}; of {', '.join(TASK_KINDS)}")
    tasks = []
    for number in range(count):
        rng = random.Random(f"pocket/{seed}/{number}")
        drawn = _draw(kinds[number % len(kinds)], rng)
        tasks.append(dataclasses.replace(drawn, id=f"{number:04d}-{drawn.id}"))
    return tasks


def _draw(kind: str, rng: random.Random) -> Task:
    names = rng.sample(list(TURNED if kind == "pose" else OBJECTS), 3)
    pose, hat = rng.choice(poses(names[0])), rng.choice(HATS)
    places: tuple[float, ...] = (0.5,)
    low, high = sizes(pose if kind == "pose" else "upright", hat if kind == "add" else None)
    if kind in ("remove", "several"):
        places, (low, high) = SIDES, IN_PAIRS
    items = tuple(
        Item(name, x + rng.choice((-0.02, 0.0, 0.02)), rng.choice((0.90, 0.92, 0.94)), rng.randint(low, high))
        for name, x in zip(names, places, strict=False)
    )
    background, other = rng.sample(list(BACKGROUNDS), 2)
    # Scenes to train on have backgrounds of seeds below 2^31.
    scene = Scene(background, rng.randrange(2**31, 2**32), items)
    index = rng.randrange(len(items))
    if kind == "pose":
        return posed(scene, pose)
    if kind == "background":
        return moved(scene, other, rng.randrange(2**31, 2**32))
    if kind == "add":
        return added(scene, hat)
    return removal(scene, index) if kind == "remove" else replaced(scene, names[2], index)


def task(id: str) -> Task:
    """The task of that id (KeyError if there is none)."""
    return {task.id: task for task in TASKS}[id]


def source_scene(id: str) -> Scene:
    """The scene that a sample of the benchmark shows."""
    return task(id).source


def truth_scene(id: str) -> Scene:
    """The scene that the edit of a sample should lead to."""
    return task(id).truth


def object_mask(task: Task) -> np.ndarray:
    """The mask that the benchmark stores for a task (see the module): bool (128, 128), True on the object."""
    before, after = render(task.source), render(task.truth)
    own = before.masks[task.edited]
    if task.kind == "remove":
        return _disc_dilate(own, 3)
    levels = np.abs(np.asarray(before.image, np.int16) - np.asarray(after.image, np.int16)).max(-1)
    changed = levels > 12  # of 255: a shadow's faint rim is not worth a wider mask
    if task.kind == "pose":
        return _disc_dilate(_hull(own | changed), 2)
    if task.kind == "add":
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = Image.new("1", (SIZE, SIZE))
        corners = (columns[0] - 3, rows[0] - 3, columns[-1] + 3, rows[-1] + 3)
        ImageDraw.Draw(box).rounded_rectangle(tuple(int(c) for c in corners), radius=6, fill=1)
        return np.asarray(box)
    return own


def build(out: Path, tasks: Sequence[Task] = TASKS, scenery: bool = False) -> None:
    """Write the benchmark: ``data.json``, ``images/``, ``masks/``, ``truth/``; the same bytes every time.

    A folder of other tasks is marked as rendered scenes by an empty file ``.pocket``.

    Args:
        out: a new or empty folder, or one that holds (some of) the same files.
        tasks: what to render.
        scenery: whether prompts say where the objects are.  Without it only those of changed backgrounds do, as in the
            release, of whose 98 other prompts four say it (``on a beach``).

    Raises:
        UserError: ``out`` holds something else.
    """
    plan: dict[str, Path | bytes] = {} if tasks is TASKS and not scenery else {MARK: b""}
    records = []
    for task in tasks:
        name = f"{task.id}.png"
        where = scenery or task.kind == "background"
        plan[f"images/{name}"] = _png(render(task.source).image)
        plan[f"masks/{name}"] = _png(Image.fromarray(object_mask(task).astype(np.uint8) * 255))
        plan[f"truth/{name}"] = _png(render(task.truth).image)
        records.append(
            {
                "img_name": name,
                "target_text": caption(task.truth, where),
                "object": "background" if task.kind == "background" else "foreground",
                "alter_mask": None,
                "retain_object": task.kind == "pose",
                "object_prompt": task.object_prompt,
                "id": task.id,
                "kind": task.kind,
                "source_prompt": caption(task.source, where),
                "several_objects": len(task.source.items) > 1,
                "truth": name,
            }
        )
    plan["data.json"] = (json.dumps(records, indent=1) + "\n").encode()
    publish(out, plan)


def _hull(mask: np.ndarray) -> np.ndarray:
    points = np.argwhere(mask)[:, ::-1]
    corners = points[ConvexHull(points).vertices]
    drawn = Image.new("1", (SIZE, SIZE))
    ImageDraw.Draw(drawn).polygon([(int(x), int(y)) for x, y in corners], fill=1, outline=1)
    hull: np.ndarray = np.asarray(drawn) | mask
    return hull


def _disc_dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    grown: np.ndarray = ndimage.binary_dilation(mask, x * x + y * y <= radius * radius)
    return grown


def _png(image: Image.Image) -> bytes:
    """PNG with every option fixed; the bytes still depend on the zlib that Pillow was built with."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=False, compress_level=9)
    return buffer.getvalue()
