"""Editing one picture: what the command ``edit`` and the studio share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor, TellsMask
from cpam_bench.cpam.masks import target_mask
from cpam_bench.cpam.source import Source
from cpam_bench.eval.figures.sheet import sheet
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run.worker import edit_seed
from cpam_bench.imba.checks import vanishes
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.kinds import Fit
from cpam_bench.imba.masking.made import MadeMask
from cpam_bench.imba.masking.segmenters import for_words
from cpam_bench.imba.pictures import overlay, to_rgb
from cpam_bench.imba.pocket.world import OBJECTS
from cpam_bench.imba.sample import Kind, Sample

ID = "picture"

DRAWN = 24.6
"""PSNR in dB that the pocket autoencoder reaches on pictures of its world.  The embedded benchmark's 24 pictures have
25.1 at least, IMBA's 40 photographs 24.1 at most and half of them under 19.1."""

NEARLY_ALL = 0.9
"""Share of the picture above which a mask is seldom what was meant."""


@dataclass(frozen=True)
class Edited:
    """One method's result.

    Attributes:
        image: RGB at the backbone's resolution.
        whole: RGB of the picture's own size, with the edit put back into it.
        seed: that the editor was given.
        seconds: wall time of the edit, without the inversion.
        target_mask: the last M_t, bool (resolution, resolution), of methods that tell.
    """

    image: Image.Image
    whole: Image.Image
    seed: int
    seconds: float
    target_mask: np.ndarray | None = None


def make_sample(
    image: Image.Image,
    mask: np.ndarray | None,
    prompt: str,
    *,
    kind: Kind | None = None,
    object_prompt: str = "",
    retain: bool = False,
    source_prompt: str | None = None,
    fit: Fit = "squash",
) -> Sample:
    """The editing task of one picture.

    Args:
        image: any size.
        mask: the object's, bool (H, W); for ``background`` the object that stays.
        prompt: what the edited picture shows (P_t).
        kind: the kind of edit; if left out, ``pose`` where the object is retained, else ``replace``.
        object_prompt: the words of the prompt that name the object.
        retain: keep the object's identity.
        source_prompt: a caption of the picture, for methods that need one.
        fit: how a picture that is not square becomes the square that is edited.

    Raises:
        UserError: there is no prompt, or a crop would lose what is marked.
    """
    if not prompt.strip():
        raise UserError("give a prompt: what the edited picture shows")
    chosen: Kind = kind or ("pose" if retain else "replace")
    sample = Sample(
        id=ID,
        image=image,
        region=~mask if mask is not None and chosen == "background" else mask,
        target_prompt=prompt,
        object_prompt=object_prompt,
        altered="background" if chosen == "background" else "foreground",
        retain_object=retain,
        kind=chosen,
        source_prompt=source_prompt,
        fit=fit,
    )
    sample.find_frame()
    return sample


def edit(
    sample: Sample,
    backbone: Backbone,
    editors: Mapping[str, Editor],
    steps: int = 50,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
    spill: bool | None = None,
) -> tuple[Source, dict[str, Edited]]:
    """Edit one picture with some methods, which share its inversion.

    Args:
        sample: what to do.
        backbone: the model.
        editors: canonical label -> editor.
        steps, seed: as of a run; each method's seed is derived as there.
        progress: told what is under way and about how much of all is done, in [0, 1].
        spill: put back what is in the last M_t too (that of the kind, Section 4.4, where a method does not tell its
            own), and not only what is in M_s; None does so where an object changes its pose, which may leave M_s.

    Returns:
        the picture as the editors saw it, and label -> result.

    Raises:
        UserError: a method cannot edit this sample, or does not run on this backbone; or nothing of the region is left
            at its resolution, as in a run.
    """
    for label, editor in editors.items():
        if reason := registry.refusal(editor, backbone.family):
            raise UserError(f"{label} does not run on {backbone.name}: {reason}")
    seen = None if sample.region is None else sample.read_mask()
    if seen is not None and seen.any() and (gone := vanishes(seen, backbone.resolution)):
        raise UserError(
            f"nothing of the mask is left at the model's resolution ({gone}); grow it (grow=8), or take a backbone of a"
            " higher resolution"
        )
    source = Source(sample, backbone, steps)
    frame, picture = sample.find_frame(), to_rgb(sample.open_image())
    region = None if sample.region is None else replace(sample, fit="squash").read_mask()
    spills = sample.kind == "pose" if spill is None else spill
    results: dict[str, Edited] = {}
    parts = len(editors) + 1

    def watch(what: str, part: int) -> Any:
        return _watched(backbone, lambda calls: progress and progress(what, (part + min(1, calls / steps)) / parts))

    with watch("inversion", 0):
        _ = source.trajectory
    for part, (label, editor) in enumerate(editors.items(), 1):
        own = edit_seed(seed, label, sample.id)
        started, mask = time.perf_counter(), None
        with watch(label, part):
            if isinstance(editor, TellsMask):
                image, mask = editor.edit_and_mask(sample, source, own)
            else:
                image = editor.edit(sample, source, own)
        seconds, shown = time.perf_counter() - started, region
        if spills and shown is not None and source.mask is not None:
            shown = shown | frame.spread(target_mask(source.mask, sample.kind) if mask is None else mask)
        results[label] = Edited(image, frame.put_back(image, picture, shown), own, seconds, mask)
    return source, results


@contextmanager
def _watched(backbone: Any, tell: Callable[[int], object]) -> Iterator[None]:
    """Tell how often the denoiser has been called."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1
        tell(calls)

    hook = backbone.unet.register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()


def expectation(backbone: Backbone, picture: Image.Image) -> str:
    """What to expect of the pocket backbone where a picture is not of its drawn world; else nothing.

    That is told by its autoencoder, which gives back what it was trained on and little else.
    """
    if not backbone.is_pocket:
        return ""
    square = backbone.fit(picture)
    wrong = np.asarray(square, float) - np.asarray(backbone.decode(backbone.encode(square)), float)
    if 10 * np.log10(255**2 / max(float((wrong**2).mean()), 1e-9)) >= DRAWN:
        return ""
    return (
        f"this picture is none of the pocket backbone's world, which is {len(OBJECTS)} drawn objects and no"
        " photographs: expect smears where it edits. --backbone sd15 edits photographs"
    )


def select_words(
    backbone: Backbone, image: Image.Image, words: str, name: str = "auto", device: str = "cpu"
) -> MadeMask:
    """The mask of what the words name: by CLIPSeg, or where ``auto`` finds none of it by the backbone's attention.

    Raises:
        UserError: the model cannot be loaded, or finds nothing.
    """
    from cpam_bench.cpam.words import select

    model = for_words(name, device)
    return select(backbone, image, words) if model is None else model.select(image, words)


def side_by_side(
    sample: Sample, source: Source, results: Mapping[str, Edited], target_masks: bool = False, raw: bool = False
) -> Image.Image:
    """A sheet: source, what is to alter drawn over it, each result, and on request the M_t of each that tells.

    ``raw`` shows the squares that the model has seen and made, and not the whole pictures.
    """
    frame = sample.find_frame()
    before = source.image if raw else _small(to_rgb(sample.open_image()))
    titles, pictures = ["source"], [before]
    if source.mask is not None:
        titles.append("to alter")
        pictures.append(overlay(before, source.mask if raw else replace(sample, fit="squash").read_mask()))
    for label, result in results.items():
        shown = result.image if raw else _small(result.whole)
        titles.append(label)
        pictures.append(shown)
        if target_masks and result.target_mask is not None:
            titles.append(f"{label}: M_t")
            pictures.append(overlay(shown, result.target_mask if raw else frame.spread(result.target_mask)))
    return sheet(titles, [(pictures, f"{sample.kind}: {sample.target_prompt}")])


def _small(picture: Image.Image) -> Image.Image:
    """A picture as large as a sheet can use: what is drawn over it is drawn at that size."""
    small = picture.copy()
    small.thumbnail((1024, 1024))
    return small
