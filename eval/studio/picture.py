"""Editing one picture: what the command ``edit`` and the studio share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor, TellsMask
from cpam_bench.cpam.source import Source
from cpam_bench.eval.figures.sheet import sheet
from cpam_bench.eval.methods import registry
from cpam_bench.eval.run.worker import edit_seed
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import MadeMask
from cpam_bench.imba.masking.segmenters import for_words
from cpam_bench.imba.pictures import overlay
from cpam_bench.imba.sample import Kind, Sample

ID = "picture"


@dataclass(frozen=True)
class Edited:
    """One method's result.

    Attributes:
        image: RGB at the backbone's resolution.
        seed: that the editor was given.
        seconds: wall time of the edit, without the inversion.
        target_mask: the last M_t, bool (resolution, resolution), of methods that tell.
    """

    image: Image.Image
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

    Raises:
        UserError: there is no prompt.
    """
    if not prompt.strip():
        raise UserError("give a prompt: what the edited picture shows")
    chosen: Kind = kind or ("pose" if retain else "replace")
    return Sample(
        id=ID,
        image=image,
        region=~mask if mask is not None and chosen == "background" else mask,
        target_prompt=prompt,
        object_prompt=object_prompt,
        altered="background" if chosen == "background" else "foreground",
        retain_object=retain,
        kind=chosen,
        source_prompt=source_prompt,
    )


def edit(
    sample: Sample,
    backbone: Backbone,
    editors: Mapping[str, Editor],
    steps: int = 50,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> tuple[Source, dict[str, Edited]]:
    """Edit one picture with some methods, which share its inversion.

    Args:
        sample: what to do.
        backbone: the model.
        editors: canonical label -> editor.
        steps, seed: as of a run; each method's seed is derived as there.
        progress: told what is under way and about how much of all is done, in [0, 1].

    Returns:
        the picture as the editors saw it, and label -> result.

    Raises:
        UserError: a method cannot edit this sample, or does not run on this backbone.
    """
    for label, editor in editors.items():
        if reason := registry.refusal(editor, backbone.family):
            raise UserError(f"{label} does not run on {backbone.name}: {reason}")
    source = Source(sample, backbone, steps)
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
        results[label] = Edited(image, own, time.perf_counter() - started, mask)
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
    sample: Sample, source: Source, results: Mapping[str, Edited], target_masks: bool = False
) -> Image.Image:
    """A sheet: source, what is to alter drawn over it, each result, and on request the M_t of each that tells."""
    titles, pictures = ["source"], [source.image]
    if source.mask is not None:
        titles.append("to alter")
        pictures.append(overlay(source.image, source.mask))
    for label, result in results.items():
        titles.append(label)
        pictures.append(result.image)
        if target_masks and result.target_mask is not None:
            titles.append(f"{label}: M_t")
            pictures.append(overlay(result.image, result.target_mask))
    return sheet(titles, [(pictures, f"{sample.kind}: {sample.target_prompt}")])
