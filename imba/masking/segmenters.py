"""From clicks, boxes and words to masks, by models of others.

``auto`` takes what is on this machine and downloads nothing: SAM if its weights are there, else OpenCV's GrabCut, which
needs none, and says so in the record.  A hub id given by name is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image
from scipy import ndimage

from cpam_bench.imba.common import hub
from cpam_bench.imba.common.hashes import weights_hash
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking.made import MadeMask, Origin

SAM = "facebook/sam-vit-base"
CLIPSEG = "CIDAS/clipseg-rd64-refined"

T = TypeVar("T")


@dataclass(frozen=True)
class Clicks:
    """What a user points at.

    Attributes:
        positive, negative: points (x, y) on the object, and beside it.
        box: left, top, right, bottom around the object, or None.
    """

    positive: tuple[tuple[float, float], ...] = ()
    negative: tuple[tuple[float, float], ...] = ()
    box: tuple[float, float, float, float] | None = None

    def inside(self, size: tuple[int, int]) -> Clicks:
        """These clicks with the box cut to a picture of that width and height.

        Raises:
            UserError: a point is outside of the picture, the box is, or nothing says where the object is.
        """
        width, height = size
        for x, y in (*self.positive, *self.negative):
            if not (0 <= x < width and 0 <= y < height):
                raise UserError(f"the point {x:g},{y:g} is outside of the picture of {width} x {height} pixels")
        box = self.box
        if box is not None:
            box = (max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3]))
            if box[2] - box[0] < 1 or box[3] - box[1] < 1:
                raise UserError(
                    f"the box {','.join(f'{edge:g}' for edge in self.box or ())} marks nothing of the picture of"
                    f" {width} x {height} pixels; give left, top, right, bottom"
                )
        if not self.positive and box is None:
            raise UserError("say where the object is by a point on it or a box around it")
        return Clicks(self.positive, self.negative, box)

    def described(self) -> dict[str, Any]:
        """For the mask's record."""
        given: dict[str, Any] = {"positive": [[x, y] for x, y in self.positive]} if self.positive else {}
        if self.negative:
            given["negative"] = [[x, y] for x, y in self.negative]
        return given | ({} if self.box is None else {"box": list(self.box)})


class Segmenter(Protocol):
    """What turns clicks into a mask."""

    def segment(self, image: Image.Image, clicks: Clicks) -> MadeMask:
        """The mask of what is pointed at.

        Raises:
            UserError: the clicks do not fit the picture, or nothing is found there.
        """
        ...


@dataclass(frozen=True)
class GrabCut:
    """GrabCut (Rother et al. 2004) of OpenCV: colours of object and background, and a cut between them.

    Attributes:
        iterations: of the fit of the colours.
        edge: longest edge of the picture that it works on, in pixels; larger ones are reduced.
        note: for the record.
    """

    iterations: int = 8
    edge: int = 384
    note: str | None = None

    def segment(self, image: Image.Image, clicks: Clicks) -> MadeMask:
        """See :class:`Segmenter`.  What is outside of the box is background, and without one the picture's rim is."""
        import cv2

        clicks = clicks.inside(image.size)
        scale = min(1.0, self.edge / max(image.size))
        small = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        pixels = np.asarray(image.convert("RGB").resize(small, Image.Resampling.BOX))[..., ::-1].copy()
        seeds = np.full(pixels.shape[:2], cv2.GC_BGD, np.uint8)
        rim = max(1, round(0.02 * max(small)))
        left, top, right, bottom = (
            (rim, rim, small[0] - rim, small[1] - rim)
            if clicks.box is None
            else (int(clicks.box[0] * scale), int(clicks.box[1] * scale), *_up(clicks.box[2:], scale))
        )
        seeds[top:bottom, left:right] = cv2.GC_PR_FGD
        for points, value in ((clicks.positive, cv2.GC_FGD), (clicks.negative, cv2.GC_BGD)):
            for x, y in points:
                cv2.circle(seeds, (int(x * scale), int(y * scale)), rim, value, -1)
        if not (seeds == cv2.GC_BGD).any() or not np.isin(seeds, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
            raise UserError("GrabCut needs some background to compare with: draw the box tighter around the object")
        found = cut(pixels, seeds, self.iterations)
        if clicks.positive:  # the parts that are pointed at, and not others of the same colour
            labels, _ = ndimage.label(found, np.ones((3, 3)))
            pointed = {labels[int(y * scale), int(x * scale)] for x, y in clicks.positive} - {0}
            found = np.isin(labels, list(pointed)) if pointed else found
        mask = np.asarray(Image.fromarray(found.astype(np.uint8) * 255).resize(image.size, Image.Resampling.BILINEAR))
        return _found(mask > 127, Origin(tool="grabcut", inputs=clicks.described(), note=self.note))


def cut(pixels: np.ndarray, seeds: np.ndarray, iterations: int) -> np.ndarray:
    """OpenCV's GrabCut, the same at each call.

    Args:
        pixels: uint8 (H, W, 3).
        seeds: uint8 (H, W) of ``cv2.GC_*``: which pixels are surely or probably of the object or of the background.
            Some must be of either.
        iterations: of the fit of the colours.

    Returns:
        bool (H, W), True on the object.
    """
    import cv2

    cv2.setRNGSeed(0)  # its clustering starts at random
    labels, model = seeds.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    cv2.grabCut(pixels, labels, None, *model, iterations, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _up(corner: tuple[float, ...], scale: float) -> tuple[int, int]:
    return int(np.ceil(corner[0] * scale)), int(np.ceil(corner[1] * scale))


class Sam:
    """Segment Anything (Kirillov et al. 2023) or SAM 2 through transformers.

    Args:
        name: a hub id or a folder.
        device: of the model.
        local: do not download.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, name: str = SAM, device: str = "cpu", local: bool = False):
        from transformers import AutoConfig, Sam2Model, Sam2Processor, SamModel, SamProcessor

        self.name, self.device = name, device
        kind = _load(
            "SAM", name, lambda here: AutoConfig.from_pretrained(name, local_files_only=here), local
        ).model_type
        if kind not in ("sam", "sam2", "sam2_video"):
            raise UserError(f"{name} is a {kind} model and neither SAM nor SAM 2; an example is {SAM}")
        self.tool = kind.removesuffix("_video")
        model, processor = (SamModel, SamProcessor) if self.tool == "sam" else (Sam2Model, Sam2Processor)
        self.processor: Any = _load(
            "SAM", name, lambda here: processor.from_pretrained(name, local_files_only=here), local
        )
        loaded: Any = _load("SAM", name, lambda here: model.from_pretrained(name, local_files_only=here), local)
        self.model: Any = loaded.to(device).eval()
        self.weights_sha256 = weights_hash(self.model)
        self._last: tuple[bytes, Any] | None = None

    def segment(self, image: Image.Image, clicks: Clicks) -> MadeMask:
        """See :class:`Segmenter`.

        One point may mean a part or the whole: of the three masks that SAM then offers, the one that it trusts most.
        """
        import torch

        clicks = clicks.inside(image.size)
        points = [[x, y] for x, y in (*clicks.positive, *clicks.negative)]
        prompts: dict[str, Any] = {}
        if points:
            labels = [1] * len(clicks.positive) + [0] * len(clicks.negative)
            prompts |= {"input_points": [[points]], "input_labels": [[labels]]}
        if clicks.box is not None:
            prompts["input_boxes"] = [[list(clicks.box)]]
        inputs = self.processor(image.convert("RGB"), return_tensors="pt", **prompts).to(self.device)
        pixels = inputs.pop("pixel_values")
        sizes = inputs.pop("original_sizes")
        reshaped = inputs.pop("reshaped_input_sizes", None)
        ambiguous = len(points) == 1 and clicks.box is None
        given = {name: inputs[name] for name in ("input_points", "input_labels", "input_boxes") if name in inputs}
        given = {n: t.float() if n != "input_labels" and t.is_floating_point() else t for n, t in given.items()}
        with torch.inference_mode():
            embeddings = self._embeddings(image, pixels)
            output = self.model(image_embeddings=embeddings, multimask_output=ambiguous, **given)
        masks = self.processor.post_process_masks(
            output.pred_masks.cpu(), sizes.cpu(), *(() if reshaped is None else (reshaped.cpu(),))
        )[0]
        scores = output.iou_scores.flatten()
        mask = masks.reshape(-1, *masks.shape[-2:])[int(scores.argmax())].numpy().astype(bool)
        origin = Origin(
            tool=self.tool, weights=self.name, weights_sha256=self.weights_sha256, inputs=clicks.described()
        )
        return _found(mask, origin)

    def _embeddings(self, image: Image.Image, pixels: Any) -> Any:
        # The picture is what costs; the next click on the same one is at once.
        key = image.tobytes()
        if self._last is None or self._last[0] != key:
            self._last = key, self.model.get_image_embeddings(pixels)
        return self._last[1]


class ClipSeg:
    """CLIPSeg (Lüddecke and Ecker 2022) through transformers: a mask from words.

    Args:
        name: a hub id or a folder.
        device: of the model.
        local: do not download.
        threshold: of the probability, in [0, 1].

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, name: str = CLIPSEG, device: str = "cpu", local: bool = False, threshold: float = 0.5):
        from transformers import CLIPSegForImageSegmentation, CLIPSegProcessor

        self.name, self.device, self.threshold = name, device, threshold
        self.processor: Any = _load(
            "CLIPSeg", name, lambda here: CLIPSegProcessor.from_pretrained(name, local_files_only=here), local
        )
        loaded: Any = _load(
            "CLIPSeg",
            name,
            lambda here: CLIPSegForImageSegmentation.from_pretrained(name, local_files_only=here),
            local,
        )
        self.model: Any = loaded.to(device).eval()
        self.weights_sha256 = weights_hash(self.model)

    def select(self, image: Image.Image, words: str) -> MadeMask:
        """The mask of what the words name.

        Raises:
            UserError: nothing in the picture reaches the threshold.
        """
        import torch
        from torch.nn.functional import interpolate

        inputs = self.processor(text=[words], images=[image.convert("RGB")], return_tensors="pt", padding=True)
        with torch.inference_mode():
            logits = self.model(**inputs.to(self.device)).logits
        logits = logits.reshape(1, 1, *logits.shape[-2:]).float().cpu()
        probability = interpolate(logits, (image.height, image.width), mode="bilinear").sigmoid()[0, 0].numpy()
        if probability.max() < self.threshold:
            raise UserError(
                f"CLIPSeg finds no “{words}” in the picture: at most {probability.max():.2f} where {self.threshold:g}"
                " is asked for; lower the threshold, or name it otherwise"
            )
        origin = Origin(
            tool="clipseg",
            weights=self.name,
            weights_sha256=self.weights_sha256,
            inputs={"words": words, "threshold": self.threshold},
        )
        return MadeMask(probability >= self.threshold, origin)


def for_clicks(name: str = "auto", device: str = "cpu") -> Segmenter:
    """What turns clicks into masks: ``auto``, ``grabcut``, or a SAM by hub id or folder.

    Raises:
        UserError: that SAM cannot be loaded.
    """
    if name == "grabcut":
        return GrabCut()
    if name != "auto":
        return Sam(name, device)
    try:
        return Sam(SAM, device, local=True)
    except UserError:
        return GrabCut(note=f"stands in for {SAM}, whose weights are not on this machine")


def for_words(name: str = "auto", device: str = "cpu", threshold: float = 0.5) -> ClipSeg | None:
    """What turns words into masks: a CLIPSeg by hub id or folder, or for ``auto`` the usual one if it is here.

    Returns:
        None where ``auto`` finds none: then a backbone's cross-attention can do it (:mod:`cpam_bench.cpam.words`).

    Raises:
        UserError: that CLIPSeg cannot be loaded.
    """
    if name != "auto":
        return ClipSeg(name, device, threshold=threshold)
    try:
        return ClipSeg(CLIPSEG, device, local=True, threshold=threshold)
    except UserError:
        return None


def _found(mask: np.ndarray, origin: Origin) -> MadeMask:
    if not mask.any():
        raise UserError(f"{origin.tool} finds no object there; point at another place, or draw a box around it")
    return MadeMask(mask, origin)


def _load(what: str, name: str, load: Callable[[bool], T], local: bool) -> T:
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return load(True) if local else hub.load(name, load)
    except (UserError, OSError, ValueError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{what} {name!r} cannot be loaded: {reason}\nGive a hub id that this machine can reach, or a folder that"
            " holds one."
        ) from error
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
