"""What one tab of the studio holds, and what can be done with it."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import ReadsFiles
from cpam_bench.eval.methods import registry
from cpam_bench.eval.studio.picture import Edited, edit, expectation, make_sample, select_words, side_by_side
from cpam_bench.imba import collect
from cpam_bench.imba.common.labels import canonical, texts
from cpam_bench.imba.dataset import load
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.kinds import Fit
from cpam_bench.imba.layouts.release import object_region
from cpam_bench.imba.masking.made import MadeMask, Origin
from cpam_bench.imba.masking.segmenters import Clicks, Segmenter
from cpam_bench.imba.pictures import overlay, read_picture, to_rgb, upright
from cpam_bench.imba.problems import shown
from cpam_bench.imba.sample import Kind, Sample

VIEW = (512, 768)
"""Least and greatest longest edge in pixels at which a picture is shown; masks are made and kept at its own size."""

Point = tuple[float, float]


PIXELS = 256_000_000
"""Pixels that the pictures of all tabs may have together; each takes three bytes."""

OPEN: weakref.WeakSet[Session] = weakref.WeakSet()
"""The tabs that have one."""

_opening = threading.Lock()


@dataclass(eq=False)
class Session:
    """The state of one tab.

    Attributes:
        picture: at its own size, RGB.
        on, off: points clicked on the object and beside it, in pixels of the picture.
        corners: of the box, none, one or two.
        made: the mask as it stands.
        results: label -> result of the last run, and ``before``, what they are to be set beside.
        raw: whether the last run shows the model's squares, and not the picture with the edits put back into it.
        sheet: of the last run.
        sample: id of the sample of a data set that is worked on.
        seen: version of that sample's mask when it was opened (:func:`cpam_bench.imba.collect.mask_version`).
        expectation: what to know of editing this picture with the backbone at hand, or nothing.
        number: counts the pictures that were opened, so that a result that comes late is known to be of another one.
        pixels: of the picture.
    """

    picture: Image.Image | None = None
    on: list[Point] = field(default_factory=list)
    off: list[Point] = field(default_factory=list)
    corners: list[Point] = field(default_factory=list)
    made: MadeMask | None = None
    results: dict[str, Edited] = field(default_factory=dict)
    before: Image.Image | None = None
    raw: bool = False
    sheet: Image.Image | None = None
    sample: str | None = None
    seen: str | None = None
    expectation: str = ""
    number: int = 0
    pixels: int = 0

    def open(self, picture: Image.Image, made: MadeMask | None = None, sample: str | None = None) -> None:
        """Begin with another picture.

        Raises:
            UserError: other tabs hold so many pixels that there is no room for it.
        """
        with _opening:
            others = sum(other.pixels for other in OPEN if other is not self)
            if others + picture.width * picture.height > PIXELS:
                raise UserError(
                    f"the pictures of other tabs have {others / 1e6:.0f} million pixels, and {PIXELS / 1e6:.0f} million"
                    " are kept at once; open smaller ones there, close tabs (each is kept for an hour), or start again"
                )
            OPEN.add(self)
            self.pixels = picture.width * picture.height
        self.picture, self.made, self.sample, self.seen = picture.convert("RGB"), made, sample, None
        self.on, self.off, self.corners = [], [], []
        self.results, self.before, self.sheet, self.expectation = {}, None, None, ""
        self.number += 1

    def after(self, label: str) -> Image.Image:
        """A result as it is shown."""
        result = self.results[label]
        return result.image if self.raw else result.whole

    def need_picture(self) -> Image.Image:
        """The picture.

        Raises:
            UserError: none is open.
        """
        if self.picture is None:
            raise UserError("open a picture first")
        return self.picture

    @property
    def scale(self) -> float:
        """Pixels of the view per pixel of the picture."""
        longest = max(self.need_picture().size)
        return min(max(longest, VIEW[0]), VIEW[1]) / longest

    def view(self) -> Image.Image:
        """The picture as it is shown."""
        picture = self.need_picture()
        size = (max(1, round(picture.width * self.scale)), max(1, round(picture.height * self.scale)))
        return picture.resize(size, Image.Resampling.LANCZOS)

    def marked(self) -> Image.Image:
        """The view with mask, points and box drawn over it."""
        from PIL import ImageDraw

        shown = self.view()
        if self.made is not None:
            shown = overlay(shown, self.made.mask, 0.5)
        draw, scale = ImageDraw.Draw(shown), self.scale
        radius = max(2, max(shown.size) // 120)
        for points, colour in ((self.on, (40, 220, 90)), (self.off, (30, 60, 230)), (self.corners[:1], (255, 210, 0))):
            for x, y in points:
                middle = (x * scale, y * scale)
                spot = (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius)
                draw.ellipse(spot, fill=colour, outline="white")
        if box := self.box():
            draw.rectangle([edge * scale for edge in box], outline=(255, 210, 0), width=max(1, radius // 2))
        return shown

    def box(self) -> tuple[float, float, float, float] | None:
        """The box between two corners, or None."""
        if len(self.corners) < 2:
            return None
        (x0, y0), (x1, y1) = self.corners
        return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)

    def draw(self, painted: np.ndarray | None) -> None:
        """Take a mask that is painted on the view, bool (h, w); nothing painted takes the mask away."""
        picture = self.need_picture()
        if painted is None or not painted.any():
            self.made = None
            return
        stored = Image.fromarray(painted.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.NEAREST)
        self.on, self.off, self.corners = [], [], []
        inputs = {"painted_at": [painted.shape[1], painted.shape[0]]}
        self.made = MadeMask(np.asarray(stored) > 127, Origin(tool="strokes", inputs=inputs))

    def operate(self, operation: str) -> None:
        """Apply an operation to the mask.

        Raises:
            UserError: there is none, or nothing would be left of it.
        """
        if self.made is None:
            raise UserError("mark something first")
        self.made = self.made.then([operation])

    def need_mask(self) -> MadeMask:
        """The mask.

        Raises:
            UserError: there is none.
        """
        if self.made is None:
            raise UserError("mark what to edit first: click on it, or draw it")
        return self.made


@dataclass
class Studio:
    """What all tabs share: the models, one at a time, and the data set that samples are saved into.

    Attributes:
        backbone: to edit with; None while only masks are made.
        segmenter: turns clicks into masks.
        collect: the data set's folder.
    """

    backbone: Backbone | None
    segmenter: Segmenter
    collect: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def click(self, session: Session, at: Point, mode: str) -> None:
        """Take a click on the view and make the mask anew.

        Args:
            session: the tab's.
            at: pixels of the view.
            mode: ``object``, ``beside`` or ``box``.

        Raises:
            UserError: nothing is found there; the click is not kept.
        """
        picture = session.need_picture()
        scale = session.scale
        point = (min(at[0] / scale, picture.width - 1), min(at[1] / scale, picture.height - 1))
        kept = (list(session.on), list(session.off), list(session.corners))
        if mode == "box":
            session.corners = [point] if len(session.corners) != 1 else [*session.corners, point]
        else:
            (session.on if mode == "object" else session.off).append(point)
        try:
            self.segment(session)
        except UserError:
            session.on, session.off, session.corners = kept
            raise

    def expect(self, session: Session) -> None:
        """Look whether the backbone knows pictures such as the one that was opened."""
        if self.backbone is not None:
            with self.lock:
                session.expectation = expectation(self.backbone, session.need_picture())

    def undo(self, session: Session) -> None:
        """Take back the last point, or the box."""
        for points in (session.off, session.on, session.corners):
            if points:
                points.pop()
                break
        self.segment(session)

    def segment(self, session: Session) -> None:
        """The mask of all clicks; none without a point on the object or a box."""
        if not session.on and session.box() is None:
            session.made = None
            return
        clicks = Clicks(tuple(session.on), tuple(session.off), session.box())
        with self.lock:
            session.made = self.segmenter.segment(session.need_picture(), clicks)

    def find(self, session: Session, words: str) -> None:
        """The mask of what words name.

        Raises:
            UserError: no backbone is loaded, or nothing is found.
        """
        picture = session.need_picture()
        if self.backbone is None:
            raise UserError("words need a backbone; use cpam-bench studio")
        with self.lock:
            made = select_words(self.backbone, picture, words)
        session.on, session.off, session.corners, session.made = [], [], [], made

    def run(
        self,
        session: Session,
        methods: Sequence[str],
        prompt: str,
        *,
        kind: Kind,
        object_prompt: str = "",
        retain: bool = False,
        settings: dict[str, Any] | None = None,
        steps: int = 50,
        seed: int = 0,
        fit: Fit = "squash",
        raw: bool = False,
        spill: bool | None = None,
        progress: Callable[[str, float], None] | None = None,
    ) -> bool:
        """Edit the picture, and put the results into the session.

        Args:
            session: the tab's.
            methods: labels.
            prompt, kind, object_prompt, retain: of the task.
            settings: parameters for those methods that have them and whose label does not set them.
            steps, seed, spill, progress: of :func:`cpam_bench.eval.studio.picture.edit`.
            fit: how a picture that is not square becomes the square that is edited.
            raw: show the model's squares.

        Returns:
            False if meanwhile another picture was opened: then nothing of it changes.

        Raises:
            UserError: there is nothing to do it with or to, or a method cannot.
        """
        if self.backbone is None or not methods:
            raise UserError("choose a method")
        self.backbone.schedule(steps)
        number, picture = session.number, session.need_picture()
        editors: dict[str, Any] = {}
        for wanted in methods:
            label, editor = make_editor(wanted)
            own = {part.partition("=")[0] for part in label.partition(":")[2].split(",")}
            has = {name: value for name, value in (settings or {}).items() if hasattr(editor, name) and name not in own}
            editor = dataclasses.replace(editor, **has)  # type: ignore[type-var]
            editors[canonical(label.partition(":")[0], editor)] = editor
        mask = None if session.made is None else session.made.mask
        sample = make_sample(picture, mask, prompt, kind=kind, object_prompt=object_prompt, retain=retain, fit=fit)
        if mask is None and (needing := [label for label, editor in editors.items() if registry.needs_mask(editor)]):
            raise UserError(
                f"{needing[0]} needs to know what to alter; mark it first: click on it, draw it, or name it"
            )
        with self.lock:
            source, results = edit(sample, self.backbone, editors, steps, seed, progress, spill)
        if session.number != number:
            return False
        session.results, session.before, session.raw = results, source.image if raw else picture, raw
        session.sheet = side_by_side(sample, source, results, target_masks=True, raw=raw)
        return True

    def save(self, session: Session, prompt: str, *, kind: Kind, object_prompt: str = "", retain: bool = False) -> str:
        """Save picture, mask and task as a sample; returns its id.

        Raises:
            UserError: something of it is missing, or the folder cannot be written.
        """
        picture, made = session.need_picture(), session.need_mask()
        return collect.add_sample(
            self.collect,
            picture,
            made,
            target_prompt=prompt,
            kind=kind,
            object_prompt=object_prompt,
            retain_object=retain,
        )

    def samples(self) -> list[str]:
        """Ids of the samples in the data set, none if it is not there yet."""
        return [sample.id for sample in load(self.collect)] if (self.collect / "data.json").is_file() else []

    def reopen(self, session: Session, id: str) -> Sample:
        """Open a sample of the data set again, with its mask if it has one; returns it.

        Raises:
            UserError: it is not there any more, or damaged.
        """
        data = load(self.collect)
        try:
            sample = data[id]
        except KeyError:
            raise UserError(f"{self.collect} has no sample {id} any more") from None
        made = None
        if sample.region is not None:
            stored = object_region(sample, sample.read_mask())
            name = sample.region_file.name if sample.region_file else ""
            made = MadeMask(stored, sample.mask_origin or Origin(tool="file", inputs={"name": name}))
        session.open(sample.read_image(), made, id)
        session.seen = collect.mask_version(sample)
        return sample

    def reopen_first(self, session: Session, ids: Sequence[str]) -> tuple[Sample | None, list[str]]:
        """Open the first of some samples that can be, and say why those before it cannot.

        Returns:
            the sample, None if none can be opened, and a line for each that was passed over.
        """
        passed: list[str] = []
        for id in ids:
            try:
                return self.reopen(session, id), passed
            except UserError as error:
                passed.append(str(error))
        return None, passed


def make_editor(label: str) -> tuple[str, Any]:
    """An editor as :func:`cpam_bench.eval.methods.registry.make` makes it, of a label that comes from a browser.

    Raises:
        UserError: as there, or the label would have files of this machine read.
    """
    if registry.is_imported(label):
        raise UserError(f"{shown(label)}: ready-made pictures join in `cpam-bench run --import`, not in the studio")
    name, _, text = label.strip().partition(":")
    given = {part.partition("=")[0].strip() for part in text.split(",")}
    cls = registry.EDITORS.load(name)
    if paths := sorted(given & texts(cls) if issubclass(cls, ReadsFiles) else ()):
        raise UserError(
            f"{shown(label)}: {paths[0]} may be a path of this machine, and is not taken from a page; give it to"
            " `cpam-bench edit` or `run`"
        )
    return registry.make(label)


def open_file(session: Session, path: str | None) -> None:
    """Open a picture that was uploaded.

    Raises:
        UserError: it is no picture, damaged, or too large to be decoded.
    """
    if not path:
        raise UserError("no file was given")
    session.open(to_rgb(upright(read_picture(Path(path), "picture"))))
