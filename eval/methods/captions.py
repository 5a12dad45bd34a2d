"""Captions of sources, for methods that need one where the data set has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cpam_bench.cpam.editing import Editor
from cpam_bench.eval.store.samples import prepare, write_task
from cpam_bench.eval.store.store import Store
from cpam_bench.imba.common import hub
from cpam_bench.imba.common.names import recorded
from cpam_bench.imba.errors import Damaged, UserError
from cpam_bench.imba.sample import Sample

WORDS = 40
"""Tokens of a caption at most."""

CAPTIONER = "Salesforce/blip-image-captioning-base"
"""The captioner that diffusers' documentation of Pix2Pix-Zero uses; the method's repository has LAVIS' BLIP."""


@dataclass
class Captioner:
    """A captioning model of transformers; call it with a picture.

    Attributes:
        name: hub id or folder, as it was asked for.
    """

    name: str
    model: Any
    processor: Any

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> str:
        """The caption of an RGB image; greedy, so the same each time, and empty if the model finds no words."""
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        ids = self.model.generate(**inputs, max_new_tokens=WORDS, do_sample=False, num_beams=1)
        return str(self.processor.batch_decode(ids, skip_special_tokens=True)[0]).strip()


def load(name: str, device: str = "cpu") -> Captioner:
    """A captioner by hub id or folder.

    Raises:
        UserError: it cannot be loaded, or is ``none``.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    if name == "none":
        raise UserError("no captioner is wanted (--captioner none)")

    def read(local: bool) -> tuple[Any, Any]:
        model = AutoModelForImageTextToText.from_pretrained(name, local_files_only=local)
        return model, AutoProcessor.from_pretrained(name, local_files_only=local)

    try:
        model, processor = hub.load(name, read)
    except (UserError, OSError, ValueError, KeyError) as error:
        raise UserError(f"the captioner {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    return Captioner(recorded(name), model.to(device).eval(), processor)


def needing(editors: Mapping[str, Editor], samples: Iterable[Sample]) -> tuple[list[str], list[str]]:
    """The methods that need a caption, and the samples that have none; both empty if nothing is to be done."""
    labels = [label for label, editor in editors.items() if getattr(editor, "needs_caption", False)]
    bare = [sample.id for sample in samples if sample.source_prompt is None]
    return (labels, bare) if labels and bare else ([], [])


def recall(folder: Path, samples: Sequence[Sample]) -> list[Sample]:
    """The samples with those captions that a captioner has given them in a run before."""
    if not (folder / "run.json").is_file():
        return list(samples)
    store = Store.open(folder)
    known: list[Sample] = []
    for sample in samples:
        task = None
        if sample.source_prompt is None:
            with suppress(Damaged):
                task = store.read_task(sample.id)
        if task and task.caption_by:
            sample = replace(sample, source_prompt=task.source_prompt, caption_by=task.caption_by)
        known.append(sample)
    return known


def fill(
    store: Store,
    samples: Sequence[Sample],
    captioner: Captioner,
    backbone: Any,
    say: Callable[[str], None] = lambda line: None,
) -> list[Sample]:
    """The samples with captions where they had none, each stored with its task before the next is made.

    A sample whose picture cannot be read or whose caption is empty is said and stays as it is: the edits that need its
    caption will fail, the others will not.

    Args:
        store: held under :func:`cpam_bench.eval.store.lock.locked`.
        samples: what is to be edited.
        captioner: writes the captions.
        backbone: at whose resolution pictures are looked at.
        say: is told of each sample that gets no caption.

    Raises:
        DiskFull: there is no room for a task.
    """
    filled: list[Sample] = []
    for sample in samples:
        if sample.source_prompt is None:
            try:
                prepared = prepare(sample, backbone)
                caption = captioner(prepared.image)
            except Exception as error:  # of a picture, or whatever somebody's captioner raises
                say(f"no caption of sample {sample.id}: {error}")
                filled.append(sample)
                continue
            if caption:
                sample = replace(sample, source_prompt=caption, caption_by=captioner.name)
                written = replace(prepared.sample, source_prompt=caption, caption_by=captioner.name)
                write_task(store, replace(prepared, sample=written))
            else:
                say(f"no caption of sample {sample.id}: the captioner {captioner.name} finds no words for its picture")
        filled.append(sample)
    return filled
