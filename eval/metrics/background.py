"""How much of the background, the complement of M_s, an edit has left as it was.

PIE-Bench's convention is followed (Ju et al., ICLR 2024; ``evaluation/matrics_calculator.py`` and ``evaluate.py`` of
github.com/cure-lab/PnPInversion): pictures in [0, 1] are multiplied by the background's mask, so that the rest is black
in both, and compared as a whole, black part included.  Two things differ by default: PIE-Bench takes LPIPS with
SqueezeNet (here AlexNet, which the authors of LPIPS advise for comparing pictures), and it counts a frame of one pixel
as altered; ``net=squeeze`` and ``frame=true`` are its choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cpam_bench.eval.metrics.filters import FILTERS, Name
from cpam_bench.eval.metrics.metric import Need
from cpam_bench.imba.common.labels import parameter
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from cpam_bench.eval.metrics.metric import Batch
    from cpam_bench.eval.metrics.networks import Networks

SMALLEST = 32
"""Edge in pixels below which the trunks of LPIPS have nothing left to compare."""

_MASKED = "pictures in [0, 1] multiplied by the background mask (the rest black in both), compared as a whole"


def _framed(words: str, frame: bool) -> str:
    return f"{words}; the outermost rows and columns count as altered" if frame else words


@dataclass(frozen=True)
class LPIPSBackground:
    """LPIPS v0.1 between source and edit over the background (Zhang et al., CVPR 2018).

    ``masked``: both pictures black inside M_s, then LPIPS as a whole. ``spatial``: the map of the whole pictures,
    averaged over the background, which charges some of the change inside M_s to the background beside it.

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). Range [0, inf), 0 for an equal background, lower is
    better; an edit that a reader calls unchanged has some 0.05. Not defined where everything is altered.

    Example: ``cpam-bench score RUN --metrics lpips_background:net=vgg,convention=spatial``
    """

    name: ClassVar[str] = "lpips_background"
    title: ClassVar[str] = "LPIPS (background)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    needs: ClassVar[tuple[Need, ...]] = ("background",)

    net: Literal["alex", "vgg", "squeeze"] = parameter("alex", "trunk of LPIPS", "LPIPS' authors; PIE-Bench: squeeze")
    convention: Literal["masked", "spatial"] = parameter("masked", "what is compared", "PIE-Bench")
    frame: bool = parameter(False, "count the outermost rows and columns as altered", "PIE-Bench")
    size: Literal["whole", "half"] = parameter("whole", "of the pictures when compared", "this project")
    filter: Name = parameter("bicubic", "resizes the pictures for size=half", "this project")

    def __post_init__(self) -> None:
        if self.size == "whole" and self.filter != "bicubic":
            raise ValueError("filter resizes nothing without size=half")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        masked = f"masked: {_MASKED}, then mapped to [-1, 1]"
        spatial = "spatial: distance map of the whole pictures, averaged over background"
        words = f"LPIPS v0.1 between source and edit, {masked if self.convention == 'masked' else spatial}"
        if self.size == "half":
            words += f"; pictures at half the size by {FILTERS[self.filter].words}, masks to the nearest pixel"
        return {"protocol": _framed(words, self.frame), **networks.lpips(self.net).describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        from cpam_bench.eval.metrics.perceptual import within

        seen = batch
        if self.size == "half":
            edge = batch.source.shape[1] // 2
            if edge < SMALLEST:
                raise UserError(f"LPIPS at half the size: {edge} pixels are too few, {SMALLEST} are needed")
            seen = batch.resized(FILTERS[self.filter], edge)
        outside = ~seen.region
        if self.convention == "spatial":
            return within(networks.lpips_map(seen, self.net, "source"), outside)
        found = networks.lpips(self.net).distance(*seen.background())
        return found.masked_fill(~outside.flatten(1).any(1), float("nan"))  # a small background may be lost at half


@dataclass(frozen=True)
class LPIPSBackgroundSpatial(LPIPSBackground):
    """:class:`LPIPSBackground` by its spatial convention, under a name of its own."""

    name: ClassVar[str] = "lpips_background_spatial"
    title: ClassVar[str] = "LPIPS (background, spatial)"

    convention: Literal["masked", "spatial"] = parameter("spatial", "what is compared", "Zhang et al. 2018")


@dataclass(frozen=True)
class PSNRBackground:
    r"""Peak signal-to-noise ratio of the background, PIE-Bench's convention.

    .. math:: 10 \log_{10}(1 / \mathrm{MSE})

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). In dB, higher is better. Equal pictures have no finite
    value; they have ``cap``. Not defined where everything is altered.

    Example: ``cpam-bench score RUN --metrics psnr_background:cap=none,frame=true``
    """

    name: ClassVar[str] = "psnr_background"
    title: ClassVar[str] = "PSNR (background)"
    unit: ClassVar[str] = "dB"
    digits: ClassVar[int] = 2
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    needs: ClassVar[tuple[Need, ...]] = ("background",)

    cap: float | None = parameter(100.0, "highest value in dB; none: equal pictures have infinity", "this project")
    frame: bool = parameter(False, "count the outermost rows and columns as altered", "PIE-Bench")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = f"{_MASKED}; not bounded" if self.cap is None else f"{_MASKED}; at most {self.cap:g} dB"
        return {"protocol": _framed(words, self.frame)}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        return (-10 * mse(*batch.background()).log10()).clamp(max=math.inf if self.cap is None else self.cap)


@dataclass(frozen=True)
class MSEBackground:
    """Mean squared error of the background, PIE-Bench's convention: pictures in [0, 1], the black part counts as equal.

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). Range [0, 1], lower is better. Not defined where
    everything is altered.

    Example: ``cpam-bench score RUN --metrics mse_background:frame=true``
    """

    name: ClassVar[str] = "mse_background"
    title: ClassVar[str] = "MSE (background)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 5
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, 1)
    needs: ClassVar[tuple[Need, ...]] = ("background",)

    frame: bool = parameter(False, "count the outermost rows and columns as altered", "PIE-Bench")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        return {"protocol": _framed(_MASKED, self.frame)}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        return mse(*batch.background())


@dataclass(frozen=True)
class SSIMBackground:
    """Structural similarity of the background (Wang et al. 2004), PIE-Bench's convention and torchmetrics' defaults.

    Gaussian window of 11 pixels with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1. It is computed in double precision:
    variances are differences, and in single precision equal pictures would not have 1.

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). Range [-1, 1], 1 for equal pictures, higher is better.
    Not defined where everything is altered.

    Example: ``cpam-bench score RUN --metrics ssim_background:frame=true``
    """

    name: ClassVar[str] = "ssim_background"
    title: ClassVar[str] = "SSIM (background)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (-1, 1)
    needs: ClassVar[tuple[Need, ...]] = ("background",)

    frame: bool = parameter(False, "count the outermost rows and columns as altered", "PIE-Bench")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = f"{_MASKED}; Gaussian window of 11 pixels, sigma 1.5, in double precision"
        return {"protocol": _framed(words, self.frame)}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        return ssim(*batch.background())


def mse(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error of two batches (B, 3, H, W): (B,)."""
    return (a - b).square().flatten(1).mean(1)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of two batches (B, 3, H, W) in [0, 1]: (B,), float64.

    As torchmetrics has it: the mean over all pixels, the pictures mirrored at their edges.  Its filter of two
    dimensions takes some thirty times as long in double precision as the same filter in two passes.
    """
    from torch.nn.functional import pad

    a, b = (pad(pixels.double(), (5, 5, 5, 5), mode="reflect") for pixels in (a, b))
    mean_a, mean_b = _smooth(a), _smooth(b)
    squares, product = mean_a.square() + mean_b.square(), mean_a * mean_b
    # Variances are differences of what is nearly equal, and must not be negative.
    variances = sum((_smooth(x.square()) - mean.square()).clamp(min=0) for x, mean in ((a, mean_a), (b, mean_b)))
    covariance = _smooth(a * b) - product
    one, two = 0.01**2, 0.03**2
    values = (2 * product + one) * (2 * covariance + two) / ((squares + one) * (variances + two))
    return values.flatten(1).mean(1)


def _smooth(pixels: Tensor) -> Tensor:
    """Weighted by a Gaussian window of 11 x 11 pixels with sigma 1.5: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    weights = [math.exp(-((offset / 1.5) ** 2) / 2) for offset in range(-5, 6)]
    for dimension in (2, 3):
        length = pixels.shape[dimension] - 10
        total = pixels.narrow(dimension, 0, length) * (weights[0] / sum(weights))
        for i, weight in enumerate(weights[1:], start=1):
            total.add_(pixels.narrow(dimension, i, length), alpha=weight / sum(weights))
        pixels = total
    return pixels
