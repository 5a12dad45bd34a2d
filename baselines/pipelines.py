"""diffusers' editing pipelines on a backbone's networks, which come out of every edit as they went in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.imba.errors import UserError


@contextmanager
def pipeline(kind: Any, backbone: Backbone, scheduler: Any = None, **parts: Any) -> Iterator[Any]:
    """A pipeline of diffusers around the backbone's networks, silent and without a safety checker.

    It must be used inside the context: some pipelines change attention processors and what requires gradients, and
    that is taken back at the end, also after an exception.

    Args:
        kind: class of the pipeline.
        backbone: whose networks it uses; its own pipeline and scheduler stay as they are.
        scheduler: one of its own; :meth:`cpam_bench.cpam.backbone.Backbone.scheduler` by default.
        parts: components beside the usual ones, or instead of them.

    Raises:
        UserError: the backbone predicts neither noise nor velocity.
    """
    require_prediction(backbone)
    whole = backbone.pipeline
    usual = {name: getattr(whole, name) for name in ("vae", "text_encoder", "tokenizer", "unet")}
    usual |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    components = {**usual, "scheduler": scheduler or backbone.scheduler(), **parts}
    with _untouched(components["unet"]), _counted(components["unet"], backbone), _quiet():
        made = kind(**components)
        made.set_progress_bar_config(disable=True)
        yield made


def picture(output: Any) -> Image.Image:
    """The picture of a pipeline's output, asked for with ``output_type="np"``.

    Raises:
        ValueError: it is not finite, which as a picture would be black and pass for an edit.
    """
    from diffusers.image_processor import VaeImageProcessor

    values = output.images[0]
    if not np.isfinite(values).all():
        raise ValueError("the edit diverged: its picture holds values that are not finite")
    made: Image.Image = VaeImageProcessor.numpy_to_pil(values)[0]
    return made


def require_prediction(backbone: Backbone) -> str:
    """What the backbone predicts, ``epsilon`` or ``v_prediction``.

    Raises:
        UserError: it is something else.
    """
    kind = str(backbone.pipeline.scheduler.config.prediction_type)
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(f"backbone {backbone.name!r} predicts {kind!r}; epsilon and v_prediction are supported")
    return kind


@contextmanager
def _untouched(unet: Any) -> Iterator[None]:
    """Put back what a pipeline changes in a denoiser."""
    processors = dict(unet.attn_processors)
    learns = [parameter.requires_grad for parameter in unet.parameters()]
    try:
        yield
    finally:
        unet.set_attn_processor(processors)
        for parameter, before in zip(unet.parameters(), learns, strict=True):
            parameter.requires_grad_(before)
            parameter.grad = None


@contextmanager
def _counted(unet: Any, backbone: Backbone) -> Iterator[None]:
    """Add what a denoiser evaluates to the backbone's count."""

    def count(module: Any, arguments: tuple[Any, ...]) -> None:
        backbone.evaluations += len(arguments[0])

    hook = unet.register_forward_pre_hook(count)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing but errors from diffusers: it warns of deprecated pipelines and of the safety checker."""
    from diffusers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
