"""Whether the layout of the whole picture has stayed, as DINO sees it."""

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
class StructureDistance:
    r"""Distance of two pictures' self-similarities (Tumanyan et al., CVPR 2022), as PIE-Bench computes it.

    .. math:: \operatorname{mean}_{i, j} (S_{ij}(\text{edit}) - S_{ij}(\text{source}))^2, \quad
              S_{ij} = \cos(k_i, k_j)

    k are the keys of the last block of DINO ViT-B/8 with the class token, all heads side by side: 785 of 768 numbers at
    224 pixels. Pictures are resized (bilinear, antialiased), less ImageNet's mean and over its deviation. PIE-Bench
    applies these to values 0 to 255 that were never divided, and its published numbers contain that (``published``);
    ``corrected`` divides.

    Shapes: pictures (B, H, W, 3) give (B,). Range [0, 4], lower is better; papers print it times 1000. Needs no mask.

    Example: ``cpam-bench score RUN --metrics structure_distance:inputs=corrected``
    """

    name: ClassVar[str] = "structure_distance"
    title: ClassVar[str] = "structure distance"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 5
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, 4)
    needs: ClassVar[tuple[Need, ...]] = ()

    inputs: Literal["published", "corrected"] = parameter(
        "published", "values 0 to 255 before the normalisation, or in [0, 1]", "PIE-Bench"
    )

    def protocol(self, networks: Networks) -> dict[str, Any]:
        scale = "in [0, 1]" if self.inputs == "corrected" else "0 to 255, which were never divided"
        words = (
            "mean squared difference of the cosine self-similarities of the keys of DINO's last block, class token"
            f" included, heads side by side; pictures resized to {networks.dino().edge} (bilinear, antialiased),"
            f" ImageNet's mean and deviation applied to values {scale}"
        )
        return {"protocol": words, **networks.dino().describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        source = batch.of_source(lambda chosen: self._similarity(batch.pixels("source")[chosen], networks))
        edit = self._similarity(batch.pixels("edit"), networks)
        return (edit - source).square().flatten(1).mean(1)

    def _similarity(self, pixels: Tensor, networks: Networks) -> Tensor:
        from torch.nn.functional import interpolate

        from cpam_bench.eval.metrics.dino import normalised

        dino = networks.dino()
        scaled = pixels if self.inputs == "corrected" else pixels * 255
        small = interpolate(scaled, (dino.edge, dino.edge), mode="bilinear", align_corners=False, antialias=True)
        keys = dino.keys(normalised(small))
        lengths = keys.norm(dim=2, keepdim=True)
        similarity: Tensor = (keys @ keys.mT) / (lengths @ lengths.mT).clamp(min=1e-8)
        return similarity
