"""What happened inside M_s and along its edge, whatever the prompt asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cpam_bench.eval.metrics.metric import Need
from cpam_bench.imba.common.labels import parameter

if TYPE_CHECKING:
    from torch import Tensor

    from cpam_bench.eval.metrics.metric import Batch
    from cpam_bench.eval.metrics.networks import Networks


@dataclass(frozen=True)
class LPIPSRegion:
    """Whether the region was edited at all: the map of LPIPS v0.1 between edit and source, averaged over M_s.

    It does not say that the edit is right. A method that changes nothing has 0 here, and cannot hide behind a perfect
    background.

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). Range [0, inf), 0 for an untouched region; higher is
    more of an edit. Not defined where nothing is to be altered.

    Example: ``cpam-bench score RUN --metrics lpips_region``
    """

    name: ClassVar[str] = "lpips_region"
    title: ClassVar[str] = "LPIPS to source (altered region)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    needs: ClassVar[tuple[Need, ...]] = ("region",)

    net: Literal["alex", "vgg", "squeeze"] = parameter("alex", "trunk of LPIPS", "LPIPS' authors")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = "spatial LPIPS v0.1 of edit and source, averaged over the alteration mask"
        return {"protocol": words, **networks.lpips(self.net).describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        from cpam_bench.eval.metrics.perceptual import within

        return within(networks.lpips_map(batch, self.net, "source"), batch.region)


@dataclass(frozen=True)
class Seam:
    r"""The step across the edge of M_s that the source did not have: what pasting leaves.

    .. math:: \operatorname{mean}_{(p, q)} |\text{edit}_p - \text{edit}_q|
              - \operatorname{mean}_{(p, q)} |\text{source}_p - \text{source}_q|

    over channels and over the pairs of neighbours (p, q) of which M_s has one; with ``width`` also over those across
    the edges of M_s grown and shrunk by up to ``width`` - 1 pixels.

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). Range [-1, 1], 0 where the edge is as strong as the
    source's, below 0 where it is weaker; lower is better. A new object with a sharp outline has a positive value too:
    it says more of methods than of single edits. Not defined where M_s has no edge.

    Example: ``cpam-bench score RUN --metrics seam:width=3``
    """

    name: ClassVar[str] = "seam"
    title: ClassVar[str] = "seam along the mask"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (-1, 1)
    needs: ClassVar[tuple[Need, ...]] = ("region", "background")

    width: int = parameter(1, "how many pixels to both sides the edge may be", "this project")

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("width must be 1 at least")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = (
            "mean absolute difference of neighbours across the alteration mask's edge, of the edit less that of the"
            f" source; pictures in [0, 1], edge of {2 * self.width - 1} pixels"
        )
        return {"protocol": words}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        down, right = _across(batch.region, self.width)
        return _step(batch.pixels("edit"), down, right) - _step(batch.pixels("source"), down, right)


def _across(region: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Which pairs of neighbours lie across an edge: bool (B, 1, H - 1, W) downwards, (B, 1, H, W - 1) to the right."""
    from torch.nn.functional import max_pool2d

    grown = [region]
    inner, outer = region.float(), region.float()
    for _ in range(width - 1):
        outer = max_pool2d(outer, 3, stride=1, padding=1)
        inner = 1 - max_pool2d(1 - inner, 3, stride=1, padding=1)
        grown += [outer > 0, inner > 0]
    down, right = grown[0][:, :, :1] & False, grown[0][..., :1] & False
    for one in grown:
        down = down | (one[:, :, 1:] ^ one[:, :, :-1])
        right = right | (one[..., 1:] ^ one[..., :-1])
    return down, right


def _step(pixels: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Mean absolute difference of neighbours over chosen pairs: (B,)."""
    below, beside = (pixels[:, :, 1:] - pixels[:, :, :-1]).abs(), (pixels[..., 1:] - pixels[..., :-1]).abs()
    total = (below * down).flatten(1).sum(1) + (beside * right).flatten(1).sum(1)
    return total / (pixels.shape[1] * (down.flatten(1).sum(1) + right.flatten(1).sum(1)))
