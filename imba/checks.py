"""What is wrong with a sample: its words, and what only its pixels tell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pictures import MaskFile, is_regular, orientation, read_picture, stored_values, taken
from cpam_bench.imba.problems import Problem, Severity
from cpam_bench.imba.sample import Sample

EXTREME_ASPECT = 4.0
"""Above this ratio of its edges an image draws a warning, because editors see it squashed to a square."""

LATENT = 8
"""Pixels of a latent's edge, in all backbones of Stable Diffusion."""

NOISE = 0.1
"""Share of the picture by which two readings of a mask may differ before it must be said which one is meant."""

SAID = 0.001
"""Share of the picture by which they may differ before it is said."""

_MIDDLE = 127

Say = Callable[[Severity, str, str], Problem]


def words(sample: Sample) -> Iterator[Problem]:
    """Problems of a sample's prompts and flags."""

    def warn(what: str, mend: str) -> Problem:
        return Problem("warning", what, mend, sample.id)

    target = sample.target_prompt
    if not target.strip():
        yield Problem("error", "the target prompt is blank", "Say what the edited picture shows", sample.id)
        return
    if "[" in target and "]" in target:
        yield warn(
            "the target prompt has square brackets, as PIE-Bench's have",
            "Take them out, or read the data set as PIE-Bench; a text encoder reads them as signs",
        )
    # Of a removed object the target prompt says nothing.
    named = sample.object_prompt.strip()
    if named and sample.kind != "remove" and _plain(named) not in _plain(target):
        yield warn("the object prompt is not in the target prompt", "Give the words of the target prompt for it")
    if sample.source_prompt and _plain(sample.source_prompt) == _plain(target):
        yield warn("source and target caption are equal", "Nothing is to be edited, then; mend one of them")
    letters = [letter for letter in target if letter.isalpha()]
    foreign = [letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN")]
    if 2 * len(foreign) > len(letters):
        yield warn(
            "the target prompt is in another script than Latin", "Scorer and backbone read English; translate it"
        )


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" .!?").split())


class Look:
    """Looks into the files of samples, each picture once.

    Args:
        root: the data set's folder, for the names in problems.
        resolution: of the backbone, where it is known.
    """

    def __init__(self, root: Path, resolution: int | None = None):
        self.root, self.resolution = root, resolution
        self._images: dict[object, _Facts | UserError] = {}

    def at(self, sample: Sample) -> list[Problem]:
        """Everything that is wrong with the sample's pixels."""
        stored = replace(sample, fit="squash")
        found = [*self._image(sample), *self._truth(stored), *self._mask(stored)]
        if not any(problem.severity == "error" for problem in found):
            found += self._frame(sample)
        return found

    def _frame(self, sample: Sample) -> Iterator[Problem]:
        if sample.fit == "squash" or sample.region is None:
            return
        try:
            sample.find_frame()
        except UserError:  # the files are whole, and mask and image of one size
            what = "a square crop would lose a part of what is marked"
            yield Problem("error", what, "Take --fit pad or squash, or --incomplete skip", sample.id)

    def _problem(self, sample: Sample, severity: Severity, file: object, what: str, mend: str) -> Problem:
        inside = isinstance(file, Path) and file.is_relative_to(self.root)
        name = file.relative_to(self.root).as_posix() if inside and isinstance(file, Path) else None
        return Problem(severity, what, mend, sample.id, file=name)

    def _unreadable(self, sample: Sample, severity: Severity, file: object, what: str, error: UserError) -> Problem:
        """The error of a file, without what the problem says anyway."""
        # The sample in it is the first one with this file.
        text = re.sub(r"^sample [\w.-]+: \w+ ", "", str(error)).removeprefix(f"{file} ")
        wrong, _, mend = text.rstrip(".").rpartition(". ")
        return self._problem(sample, severity, file, f"{what} {wrong or text}", mend or "Fetch the file again")

    def facts(self, sample: Sample) -> _Facts | UserError | None:
        """Size and rotation of a sample's image, why it cannot be read, or None if it is not there."""
        key: object = sample.image if isinstance(sample.image, Path) else id(sample.image)
        if isinstance(sample.image, Path) and not is_regular(sample.image):
            return None  # reading the records has told of it
        if key not in self._images:
            try:
                self._images[key] = _Facts(sample.open_image())
            except UserError as error:
                self._images[key] = error
        return self._images[key]

    def _size(self, sample: Sample) -> tuple[int, int] | None:
        facts = self.facts(sample)
        return facts.size if isinstance(facts, _Facts) else None

    def _image(self, sample: Sample) -> Iterator[Problem]:
        facts = self.facts(sample)
        if isinstance(facts, UserError):
            yield self._unreadable(sample, "error", sample.image, "the image", facts)
        if not isinstance(facts, _Facts):
            return

        def warn(what: str, mend: str) -> Problem:
            return self._problem(sample, "warning", sample.image, what, mend)

        width, height = facts.size
        if sample.fit == "squash" and max(facts.size) > EXTREME_ASPECT * min(facts.size):
            what = f"the image is {width} x {height} pixels and will be squashed to a square"
            yield warn(what, "Take --fit crop or pad if that matters")
        if facts.rotation != 1:
            what = "the image carries a rotation (EXIF), which is not applied"
            yield warn(what, "Save it upright if it shows lying, and its mask with it")
        if facts.taken:
            yield warn(f"the image {facts.taken}", "Save it as PNG in 8-bit RGB if that is not what you want")

    def _truth(self, sample: Sample) -> Iterator[Problem]:
        if sample.truth is None:
            return
        try:
            truth = sample.read_truth()
        except UserError as error:
            yield self._unreadable(sample, "warning", sample.truth, "the truth", error)
            return
        if truth is not None and self._size(sample) not in (None, truth.size):
            what = "the truth has another size than the image"
            yield self._problem(sample, "warning", sample.truth, what, "Render it again")

    def _mask(self, sample: Sample) -> Iterator[Problem]:
        if sample.region is None:
            return
        file = sample.region_file

        def say(severity: Severity, what: str, mend: str) -> Problem:
            return self._problem(sample, severity, file, what, mend)

        try:
            region = sample.read_mask()
        except UserError as error:
            yield self._unreadable(sample, "error", file, "the mask", error)
            return
        height, width = region.shape
        size = self._size(sample)
        if size not in (None, (width, height)):
            facts = self.facts(sample)
            if size == (height, width) and isinstance(facts, _Facts) and facts.rotation >= 5:
                what = f"the mask is {width} x {height} pixels, as its image is when it is turned upright (EXIF)"
                yield say("error", what, "Save both upright, without the rotation; do not resize the mask")
            elif size == (height, width):
                what = f"the mask is {width} x {height} pixels, and its image the other way round"
                yield say("error", what, "Turn the one that lies on its side; do not resize the mask")
            else:
                what = f"the mask is {width} x {height} pixels, its image is not"
                yield say("error", what, "Resize the mask to the image's size, with nearest neighbour")
        white = "Make it white on what is marked and black elsewhere"
        if not region.any() or region.all():
            advice = _in_alpha(file, sample) or white
            if region.any():
                yield say("warning", "the whole picture is to change: there is no background to score", advice)
            else:
                yield say("error", "the mask leaves nothing to alter", advice)
            return
        if isinstance(sample.region, MaskFile) and (found := _noise(say, sample.region, sample)):
            yield found
            if found.severity == "error":
                return
        if sample.altered != "background" and _is_mostly_background(region):
            share = f"{region.mean():.0%}"
            what = f"the region is {share} of the picture and touches three of its borders or more"
            yield say("warning", what, "See whether the mask is inverted")
        if self.resolution and (gone := vanishes(region, self.resolution)):
            what = f"nothing of the region is left at the model's resolution ({gone})"
            yield say("error", what, "Grow the mask, or take a backbone of a higher resolution")


class _Facts:
    """What is remembered of an image."""

    def __init__(self, picture: Image.Image):
        self.size: tuple[int, int] = picture.size
        self.rotation = orientation(picture)
        self.taken = taken(picture)


def require_regions(samples: Iterable[Sample], resolution: int) -> None:
    """Make sure that something is left of every region at a model's resolution; called before any editing.

    Raises:
        UserError: of some nothing is.
    """
    lost: list[tuple[Sample, str]] = []
    for sample in samples:
        region = None if sample.region is None else sample.read_mask()
        if region is not None and region.any() and (gone := vanishes(region, resolution)):
            lost.append((sample, gone))
    if lost:
        sample, gone = lost[0]
        more = f" (and {len(lost) - 1} more: {', '.join(s.id for s, _ in lost[1:5])})" if lost[1:] else ""
        raise UserError(
            f"sample {sample.id}: nothing of its region is left at the model's resolution ({gone}){more}. Grow the"
            f" mask, leave the sample out, or take a backbone of a higher resolution; cpam-bench data validate"
            f" --resolution {resolution} lists all."
        )


def vanishes(region: np.ndarray, resolution: int) -> str:
    """Where a region, bool (H, W) and not empty, is lost on its way to the latents: in words, or "" if it is not."""
    fitted = Image.fromarray(region.astype(np.uint8)).resize((resolution, resolution), Image.Resampling.NEAREST)
    if not np.asarray(fitted).any():
        return f"{region.sum()} pixels of {region.shape[1]} x {region.shape[0]}, at {resolution} x {resolution}"
    # Latents are taken from the pixel at the upper left of each, as torch's nearest neighbour does.
    if not np.asarray(fitted)[::LATENT, ::LATENT].any():
        return f"no latent of {LATENT} x {LATENT} pixels begins in it at {resolution} x {resolution}"
    return ""


def _is_mostly_background(region: np.ndarray) -> bool:
    borders = (region[0], region[-1], region[:, 0], region[:, -1])
    return bool(region.mean() > 0.5) and sum(bool(border.mean() > 0.5) for border in borders) >= 3


def _noise(say: Say, mask: MaskFile, sample: Sample) -> Problem | None:
    """What a mask that is not black and white means under its two readings."""
    levels = mask.levels(f"sample {sample.id}: mask")
    between = float(((levels > 0) & (levels <= _MIDDLE)).mean())
    if between == 0 or len(np.unique(levels)) <= 2:
        return None
    any_, middle = float((levels > 0).mean()), float((levels > _MIDDLE).mean())
    readings = f"{any_:.1%} of the picture is not black, {middle:.1%} is above the middle"
    if abs(any_ - middle) > NOISE and mask.threshold is None and mask.usual != _MIDDLE:
        return say(
            "error",
            f"it is not clear what the mask marks: {between:.1%} of it is between black and the middle; {readings}",
            "Say which is meant: --mask-threshold 127 for the middle, 0 for all that is not black",
        )
    if abs(any_ - middle) > SAID:
        taken = mask.usual if mask.threshold is None else mask.threshold
        what = f"{between:.1%} of the mask is between black and the middle; {readings}; what is above {taken} is taken"
        return say("warning", what, "Save masks as PNG, black and white; --mask-threshold N takes another reading")
    return None


def _in_alpha(file: Path | None, sample: Sample) -> str:
    """Advice where a mask says nothing in its colours and something in its alpha channel; else nothing."""
    if file is None:
        return ""
    stored = read_picture(file, f"sample {sample.id}: mask")
    if "A" not in stored.mode:
        return ""
    alpha = stored_values(stored)[..., -1]
    if alpha.min() == alpha.max():
        return ""
    return (
        f"It is drawn in the alpha channel ({(alpha == 0).mean():.0%} transparent, the rest is not): save it in black"
        " and white, white on what is marked, be that the transparent part or the other"
    )
