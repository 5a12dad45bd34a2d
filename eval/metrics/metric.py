"""What is measured of an edit, and by which protocol.

The background is the complement of the alteration mask M_s at the pictures' resolution.  PIE-Bench's convention is
followed (Ju et al., ICLR 2024; ``evaluation/matrics_calculator.py`` and ``evaluate.py`` of
github.com/cure-lab/PnPInversion): pictures in [0, 1] are multiplied by the background's mask, so that the rest is black
in both, and compared as a whole, black part included.  Two things differ there: PIE-Bench takes LPIPS with SqueezeNet
(here AlexNet, which the authors of LPIPS advise for comparing pictures), and it counts a frame of one pixel as altered.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from cpam_bench.eval.metrics.clip import ClipScorer
from cpam_bench.eval.metrics.perceptual import load_lpips
from cpam_bench.imba.common.hashes import weights_hash

PSNR_CAP = 100.0
"""PSNR in dB of pictures that are equal, where the formula has no finite value; higher values are cut to it."""


@dataclass(frozen=True)
class Metric:
    """A metric as tables and protocols describe it.

    Attributes:
        name: in ``scores.csv`` and on the command line.
        title: in tables.
        direction: whether higher or lower is better.
        unit: of the value, empty if it has none.
        protocol: how it is computed, in words.
        uses: the model behind it.
    """

    name: str
    title: str
    direction: Literal["higher", "lower"]
    unit: str
    protocol: str
    uses: Literal["clip", "lpips", ""] = ""


_MASKED = "pictures in [0, 1] multiplied by the background mask (the rest black in both), compared as a whole"

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "clip_score",
            "CLIPScore",
            "higher",
            "",
            "100 max(cos(edit, target prompt), 0) (Hessel et al. 2021 without the factor 2.5, as torchmetrics)",
            "clip",
        ),
        Metric(
            "lpips_background",
            "LPIPS (background)",
            "lower",
            "",
            f"LPIPS v0.1 between source and edit, masked: {_MASKED}, then mapped to [-1, 1]",
            "lpips",
        ),
        Metric(
            "lpips_background_spatial",
            "LPIPS (background, spatial)",
            "lower",
            "",
            "LPIPS v0.1 between source and edit, spatial: distance map of the whole pictures, averaged over background",
            "lpips",
        ),
        Metric("psnr_background", "PSNR (background)", "higher", "dB", f"{_MASKED}; at most {PSNR_CAP:g} dB"),
        Metric("mse_background", "MSE (background)", "lower", "", _MASKED),
        Metric(
            "ssim_background", "SSIM (background)", "higher", "", f"{_MASKED}; Gaussian window of 11 pixels, sigma 1.5"
        ),
        Metric(
            "clip_score_region",
            "CLIPScore (altered region)",
            "higher",
            "",
            "CLIPScore of the edit with everything outside the alteration mask black, against the target prompt",
            "clip",
        ),
        Metric(
            "lpips_truth",
            "LPIPS (truth)",
            "lower",
            "",
            "LPIPS v0.1 between the edit and the picture that it should have led to, whole; only of rendered data sets",
            "lpips",
        ),
        Metric(
            "lpips_truth_region",
            "LPIPS (truth, altered region)",
            "lower",
            "",
            "as LPIPS (truth), spatial: distance map averaged over the alteration mask",
            "lpips",
        ),
        Metric(
            "lpips_truth_gain",
            "LPIPS to source less LPIPS to truth (altered region)",
            "higher",
            "",
            "spatial LPIPS v0.1 of edit and source less that of edit and truth, both averaged over the alteration mask;"
            " above 0 the edit is closer to the truth than to the source",
            "lpips",
        ),
    )
}
"""Every metric of a picture; what an edit costs (seconds, memory) is in its record."""


@dataclass(frozen=True)
class Batch:
    """Edits to be measured together; all pictures uint8 arrays (B, H, W, 3), edge at least 31 pixels.

    Attributes:
        source, edit: the pictures.
        mask: M_s, bool (B, H, W); a sample without a mask has none of the metrics that need one, see ``masked``.
        masked: bool (B,), whether the sample has a mask at all.
        prompts: the target prompts.
        truth: what the edits should have led to, and for which of them it is known: bool (B,).
    """

    source: np.ndarray
    edit: np.ndarray
    mask: np.ndarray
    masked: np.ndarray
    prompts: Sequence[str]
    truth: np.ndarray
    has_truth: np.ndarray


class Models:
    """The networks behind the metrics, loaded when first needed."""

    def __init__(self, clip: ClipScorer | None, device: str = "cpu"):
        self.clip, self.device = clip, torch.device(device)

    @cached_property
    def lpips(self) -> Any:
        return self._lpips(spatial=False)

    @cached_property
    def lpips_spatial(self) -> Any:
        return self._lpips(spatial=True)

    def _lpips(self, spatial: bool) -> Any:
        with warnings.catch_warnings():
            # lpips builds its trunk in a way that torchvision calls deprecated.
            warnings.filterwarnings("ignore", module="torchvision")
            return load_lpips("alex", spatial=spatial).to(self.device)

    def describe(self, metric: Metric) -> dict[str, Any]:
        """The protocol of a metric with the model behind it."""
        protocol: dict[str, Any] = {"protocol": metric.protocol}
        if metric.uses == "clip" and self.clip:
            protocol |= self.clip.describe()
        elif metric.uses == "lpips":
            protocol |= {"scorer": "LPIPS AlexNet v0.1", "weights_sha256": self._lpips_hash}
        return protocol

    @cached_property
    def _lpips_hash(self) -> str:
        return weights_hash(self.lpips)


@torch.inference_mode()
def measure(batch: Batch, names: Sequence[str], models: Models) -> dict[str, list[float]]:
    """Measure a batch: metric name -> one value an edit, NaN where it is not defined.

    Background metrics are not defined where everything is altered, those of the altered region where nothing is, and
    those of the truth where it is not known.
    """
    source, edit = (_pixels(array, models.device) for array in (batch.source, batch.edit))
    region = torch.from_numpy(batch.mask)[:, None].to(models.device)
    masked = torch.from_numpy(batch.masked).to(models.device)
    has_background = masked & (~region).flatten(1).any(1)
    has_region = masked & region.flatten(1).any(1)
    has_truth = torch.from_numpy(batch.has_truth).to(models.device)
    background = (~region).float()
    a, b = source * background, edit * background

    values: dict[str, Tensor] = {}
    for name in names:
        if name == "clip_score":
            values[name] = clip_score(_clip(models), batch.edit, batch.prompts)
        elif name == "clip_score_region":
            black = batch.edit * batch.mask[..., None].astype(np.uint8)
            values[name] = _where(has_region, clip_score(_clip(models), black, batch.prompts))
        elif name == "lpips_background":
            values[name] = _where(has_background, lpips_whole(models.lpips, a, b))
        elif name == "lpips_background_spatial":
            values[name] = _where(has_background, lpips_within(models.lpips_spatial, source, edit, ~region))
        elif name == "psnr_background":
            values[name] = _where(has_background, psnr(a, b))
        elif name == "mse_background":
            values[name] = _where(has_background, mse(a, b))
        elif name == "ssim_background":
            values[name] = _where(has_background, ssim(a, b))
        elif name in ("lpips_truth", "lpips_truth_region", "lpips_truth_gain"):
            if not bool(has_truth.any()):
                values[name] = torch.full((len(edit),), float("nan"))
                continue
            truth = _pixels(batch.truth, models.device)
            if name == "lpips_truth":
                values[name] = _where(has_truth, lpips_whole(models.lpips, truth, edit))
            else:
                within = lpips_within(models.lpips_spatial, truth, edit, region)
                if name == "lpips_truth_gain":
                    within = lpips_within(models.lpips_spatial, source, edit, region) - within
                values[name] = _where(has_truth & has_region, within)
        else:
            raise KeyError(name)
    return {name: tensor.tolist() for name, tensor in values.items()}


def clip_score(scorer: ClipScorer, images: np.ndarray, prompts: Sequence[str]) -> Tensor:
    """CLIPScore = 100 max(cos, 0), (B,) in [0, 100]; images are uint8 (B, H, W, 3)."""
    return 100 * scorer.similarity([Image.fromarray(image) for image in images], prompts).clamp(min=0)


def lpips_whole(model: Any, a: Tensor, b: Tensor) -> Tensor:
    """LPIPS of two batches (B, 3, H, W) in [0, 1]: (B,), 0 for equal pictures."""
    distance: Tensor = model(a * 2 - 1, b * 2 - 1)
    return distance.flatten()


def lpips_within(model: Any, a: Tensor, b: Tensor, region: Tensor) -> Tensor:
    """Mean of a spatial LPIPS model's distance map over a region, bool (B, 1, H, W): (B,), NaN for an empty region."""
    distances = model(a * 2 - 1, b * 2 - 1)
    inside: Tensor = (distances * region).flatten(1).sum(1) / region.flatten(1).sum(1)
    return inside


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of two batches (B, 3, H, W): (B,)."""
    return (a - b).square().flatten(1).mean(1)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of two batches (B, 3, H, W) in [0, 1]: 10 log10(1 / MSE), at most the cap."""
    return (-10 * mse(a, b).log10()).clamp(max=PSNR_CAP)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of two batches (B, 3, H, W) in [0, 1]: (B,).

    Equal pictures have 1 but for about 1e-4: torchmetrics takes variances as differences, which float32 rounds.
    """
    values: Tensor = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    return values.reshape(len(a))


def _pixels(array: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).to(device).float() / 255


def _where(defined: Tensor, values: Tensor) -> Tensor:
    return torch.where(defined.cpu(), values.float().cpu(), torch.nan)


def _clip(models: Models) -> ClipScorer:
    if models.clip is None:
        raise ValueError("CLIPScore needs a scorer")
    return models.clip
