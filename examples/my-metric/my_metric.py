"""The smallest metric that measures something: how far colours have moved outside the region.

After ``pip install examples/my-metric``, ``cpam-bench score RUN --metrics colour_shift,colour_shift:region=inside``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from cpam_bench.eval.metrics.metric import Batch, Need
from cpam_bench.eval.metrics.networks import Networks
from cpam_bench.imba.common.labels import parameter


@dataclass(frozen=True)
class ColourShift:
    """Distance of the mean colours of source and edit, of 255. 0 for equal colours, lower is better."""

    name: ClassVar[str] = "colour_shift"
    title: ClassVar[str] = "colour shift"
    unit: ClassVar[str] = "levels"
    digits: ClassVar[int] = 1
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, 442)
    needs: ClassVar[tuple[Need, ...]] = ("region", "background")

    region: Literal["outside", "inside"] = parameter("outside", "where colours are compared", "an example")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        return {"protocol": f"Euclidean distance of the mean colours {self.region} of the alteration mask, of 255"}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        where = batch.region if self.region == "inside" else ~batch.region
        source, edit = (
            (pixels * where).sum((2, 3)) / where.sum((2, 3))
            for pixels in (batch.pixels("source"), batch.pixels("edit"))
        )
        return 255 * (edit - source).norm(dim=1)
