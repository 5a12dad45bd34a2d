"""The embedded benchmark: 24 rendered editing tasks, four of each kind, in the layout of IMBA.

Because scenes are rendered, every task comes with its truth: the picture that the edit should have led to.  Objects,
sizes, places and the seeds of the backgrounds are chosen by hand.  :func:`random_tasks` draws as many others as a
question needs.

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
from cpam_bench.imba.pocket.scenes import (
    BACKGROUNDS,
    HATS,
    OBJECTS,
    POSES,
    SIZE,
    Background,
    Hat,
    Item,
    Pose,
    Scene,
    caption,
    describe,
    render,
)
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
    return Task(id, "replace", scene, truth, index, describe(truth.items[index], sizes=False))


def posed(scene: Scene, pose: Pose) -> Task:
    """The task of giving the first item of a scene another pose."""
    truth = _with(scene, 0, pose=pose)
    id = _slug(f"pose {scene.items[0].name} {pose}")
    return Task(id, "pose", scene, truth, 0, describe(truth.items[0], sizes=False))


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
    return Task(_slug(f"remove {gone.name}"), "remove", scene, truth, index, describe(gone, sizes=False))


TASKS: tuple[Task, ...] = (
    replaced(Scene("beach", 20_000_001, (Item("apple", 0.50, 0.90, 72),)), "orange"),
    replaced(Scene("snow", 20_000_002, (Item("car", 0.48, 0.90, 80),)), "bus"),
    replaced(Scene("room", 20_000_003, (Item("dog", 0.52, 0.92, 78),)), "cat"),
    replaced(Scene("desert", 20_000_004, (Item("lemon", 0.46, 0.88, 68, flip=True),)), "soccer ball"),
    posed(Scene("meadow", 20_000_041, (Item("teddy bear", 0.50, 0.92, 72),)), "jumping"),
    posed(Scene("beach", 20_000_006, (Item("duck", 0.54, 0.90, 74),)), "upside down"),
    posed(Scene("desert", 20_000_007, (Item("elephant", 0.48, 0.92, 76, flip=True),)), "on its side"),
    posed(Scene("snow", 20_000_008, (Item("penguin", 0.46, 0.92, 70),)), "jumping"),
    moved(Scene("meadow", 20_000_009, (Item("pig", 0.50, 0.90, 80),)), "snow", 20_000_010),
    moved(Scene("desert", 20_000_011, (Item("tractor", 0.50, 0.90, 80),)), "meadow", 20_000_012),
    moved(Scene("room", 20_000_013, (Item("cake", 0.52, 0.92, 72),)), "night", 20_000_014),
    moved(Scene("night", 20_000_015, (Item("cat", 0.46, 0.90, 78, flip=True),)), "beach", 20_000_016),
    added(Scene("meadow", 20_000_017, (Item("dog", 0.52, 0.94, 76),)), "crown"),
    added(Scene("room", 20_000_018, (Item("cat", 0.50, 0.94, 76, flip=True),)), "top hat"),
    added(Scene("snow", 20_000_019, (Item("bus", 0.50, 0.92, 76),)), "cap"),
    added(Scene("night", 20_000_020, (Item("duck", 0.48, 0.92, 74, flip=True),)), "crown"),
    removal(Scene("meadow", 20_000_021, (Item("dog", 0.27, 0.90, 54), Item("car", 0.73, 0.90, 56))), 1),
    removal(Scene("room", 20_000_022, (Item("cake", 0.27, 0.92, 50), Item("cat", 0.73, 0.90, 56))), 0),
    removal(Scene("desert", 20_000_023, (Item("elephant", 0.28, 0.92, 56), Item("mushroom", 0.74, 0.90, 50))), 1),
    removal(Scene("night", 20_000_024, (Item("pig", 0.27, 0.90, 54), Item("soccer ball", 0.73, 0.92, 50))), 0),
    replaced(Scene("beach", 20_000_025, (Item("apple", 0.28, 0.92, 54), Item("lemon", 0.73, 0.90, 52))), "orange", 0),
    replaced(
        Scene("snow", 20_000_026, (Item("teddy bear", 0.27, 0.92, 56), Item("duck", 0.73, 0.92, 54))), "penguin", 1
    ),
    replaced(Scene("desert", 20_000_027, (Item("car", 0.27, 0.92, 56), Item("tractor", 0.74, 0.90, 56))), "bus", 1),
    replaced(Scene("night", 20_000_028, (Item("mushroom", 0.27, 0.92, 54), Item("orange", 0.73, 0.92, 52))), "cake", 0),
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
    pair = kind in ("remove", "several")
    names = rng.sample(list(OBJECTS), 3)
    places = [(0.27, 50, 56), (0.73, 50, 56)] if pair else [(0.5, 66, 80)]
    items = tuple(
        Item(name, x + rng.choice((-0.02, 0.0, 0.02)), rng.choice((0.90, 0.92, 0.94)), rng.randint(low, high), flip)
        for name, (x, low, high), flip in zip(names, places, rng.choices((False, True), k=2), strict=False)
    )
    background, other = rng.sample(list(BACKGROUNDS), 2)
    # Scenes to train on have backgrounds of seeds below 2^31.
    scene = Scene(background, rng.randrange(2**31, 2**32), items)
    index = rng.randrange(len(items))
    if kind == "pose":
        return posed(scene, rng.choice([pose for pose in POSES if pose != "upright"]))
    if kind == "background":
        return moved(scene, other, rng.randrange(2**31, 2**32))
    if kind == "add":
        return added(scene, rng.choice(HATS))
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


def build(out: Path, tasks: Sequence[Task] = TASKS, scenery: bool = True) -> None:
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
    plan: dict[str, Path | bytes] = {} if tasks is TASKS and scenery else {MARK: b""}
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
                "target_text": caption(task.truth, where, sizes=False),
                "object": "background" if task.kind == "background" else "foreground",
                "alter_mask": None,
                "retain_object": task.kind == "pose",
                "object_prompt": task.object_prompt,
                "id": task.id,
                "kind": task.kind,
                "source_prompt": caption(task.source, where, sizes=False),
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
