"""How near an edit comes to the picture that it should have led to; only rendered data sets know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cpam_bench.eval.metrics.metric import Need

if TYPE_CHECKING:
    from torch import Tensor

    from cpam_bench.eval.metrics.metric import Batch
    from cpam_bench.eval.metrics.networks import Networks


@dataclass(frozen=True)
class LPIPSTruth:
    """LPIPS v0.1 (AlexNet) between edit and truth, whole pictures.

    Where most of a picture is to stay, doing nothing comes near the truth as a whole: read :class:`LPIPSTruthGain`
    for what the edit itself is worth.

    Shapes: pictures (B, H, W, 3) give (B,). Range [0, inf), lower is better. Not defined where no truth is known.

    Example: ``cpam-bench score RUN --metrics lpips_truth``
    """

    name: ClassVar[str] = "lpips_truth"
    title: ClassVar[str] = "LPIPS (truth)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    needs: ClassVar[tuple[Need, ...]] = ("truth",)

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = "LPIPS v0.1 between the edit and the picture that it should have led to, whole"
        return {"protocol": f"{words}; only of rendered data sets", **networks.lpips().describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        return networks.lpips().distance(batch.pixels("truth"), batch.pixels("edit"))


@dataclass(frozen=True)
class LPIPSTruthRegion:
    """The map of LPIPS v0.1 (AlexNet) between edit and truth, averaged over M_s.

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). Range [0, inf), lower is better. Not defined where no
    truth is known, or nothing is to be altered.

    Example: ``cpam-bench score RUN --metrics lpips_truth_region``
    """

    name: ClassVar[str] = "lpips_truth_region"
    title: ClassVar[str] = "LPIPS (truth, altered region)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    range: ClassVar[tuple[float | None, float | None]] = (0, None)
    needs: ClassVar[tuple[Need, ...]] = ("truth", "region")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = "as LPIPS (truth), spatial: distance map averaged over the alteration mask"
        return {"protocol": words, **networks.lpips().describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        from cpam_bench.eval.metrics.perceptual import within

        return within(networks.lpips_map(batch, "alex", "truth"), batch.region)


@dataclass(frozen=True)
class LPIPSTruthGain:
    """How much nearer the edit is to the truth than to the source inside M_s: LPIPS to source less LPIPS to truth.

    Shapes: pictures (B, H, W, 3) and masks (B, H, W) give (B,). Any number, above 0 the edit is closer to the truth,
    higher is better. Not defined where no truth is known, or nothing is to be altered.

    Example: ``cpam-bench score RUN --metrics lpips_truth_gain``
    """

    name: ClassVar[str] = "lpips_truth_gain"
    title: ClassVar[str] = "LPIPS gain to truth (region)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (None, None)
    needs: ClassVar[tuple[Need, ...]] = ("truth", "region")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = (
            "spatial LPIPS v0.1 of edit and source less that of edit and truth, both averaged over the alteration mask;"
            " above 0 the edit is closer to the truth than to the source"
        )
        return {"protocol": words, **networks.lpips().describe()}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        from cpam_bench.eval.metrics.perceptual import within

        source, truth = (networks.lpips_map(batch, "alex", other) for other in ("source", "truth"))
        return within(source, batch.region) - within(truth, batch.region)
