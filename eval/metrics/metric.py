"""What a metric is: the seam between what is measured of an edit and the harness.

Nothing here loads torch before something is measured, so that tables and lists can read a metric's facts at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, cast, get_args

import numpy as np

from cpam_bench.imba.common.labels import parameters
from cpam_bench.imba.common.plugins import OWN, Group
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from cpam_bench.eval.metrics.filters import Filter
    from cpam_bench.eval.metrics.networks import Networks

T = TypeVar("T")

Need = Literal["prompt", "mask", "region", "background", "truth", "source_prompt", "retained"]
"""What a sample must have so that a metric is defined: a target prompt, a mask, something inside it, something outside
it, the picture that the edit should have led to, a caption of the source, an object whose identity is to be kept."""


@dataclass(frozen=True)
class Batch:
    """Edits to be measured together; all pictures uint8 arrays (B, H, W, 3), edge at least 31 pixels.

    Attributes:
        source, edit: the pictures.
        mask: M_s, bool (B, H, W), False where a sample has no mask.
        masked: bool (B,), whether the sample has a mask at all.
        prompts: the target prompts.
        truth: what the edits should have led to, and for which of them it is known: bool (B,).
        source_prompts: captions of the sources, "" where there is none.
        retained: bool (B, H, W), the object whose identity is to be kept; False all over where there is none.
        device: that :meth:`pixels` and :attr:`region` are on.
    """

    source: np.ndarray
    edit: np.ndarray
    mask: np.ndarray
    masked: np.ndarray
    prompts: Sequence[str]
    truth: np.ndarray
    has_truth: np.ndarray
    source_prompts: Sequence[str]
    retained: np.ndarray
    device: str = "cpu"
    _made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.edit)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What several metrics need of this batch, made by the first that asks."""
        if key not in self._made:
            self._made[key] = make()
        return cast("T", self._made[key])

    def of_source(self, make: Callable[[np.ndarray], Tensor]) -> Tensor:
        """What depends on the source alone, made once where several edits are of one source: (B, ...).

        Args:
            make: from the indices of some edits of the batch, no two of one source, to a row each.
        """
        parts = (self.source, self.mask, self.retained)
        keys = [tuple(part[index].tobytes() for part in parts) for index in range(len(self))]
        firsts = {key: index for index, key in reversed(list(enumerate(keys)))}
        order = sorted(firsts.values())
        return make(np.array(order))[[order.index(firsts[key]) for key in keys]]

    def pixels(self, which: Literal["source", "edit", "truth"]) -> Tensor:
        """A batch of pictures as float32 (B, 3, H, W) in [0, 1]."""

        def make() -> Tensor:
            import torch

            array: np.ndarray = getattr(self, which)
            return torch.from_numpy(array).permute(0, 3, 1, 2).to(self.device).float() / 255

        return self.once(which, make)

    @property
    def region(self) -> Tensor:
        """M_s as bool (B, 1, H, W)."""

        def make() -> Tensor:
            import torch

            return torch.from_numpy(self.mask)[:, None].to(self.device)

        return self.once("region", make)

    def background(self) -> tuple[Tensor, Tensor]:
        """Source and edit as :meth:`pixels` has them, black inside M_s (PIE-Bench's convention)."""

        def make() -> tuple[Tensor, Tensor]:
            outside = (~self.region).float()
            return self.pixels("source") * outside, self.pixels("edit") * outside

        return self.once("background", make)

    def meets(self, need: Need) -> np.ndarray:
        """Which samples have something that a metric needs: bool (B,)."""
        inside, outside = self.mask.any((1, 2)), (~self.mask).any((1, 2))
        found: dict[Need, np.ndarray] = {
            "prompt": np.array([bool(prompt) for prompt in self.prompts]),
            "mask": self.masked,
            "region": self.masked & inside,
            "background": self.masked & outside,
            "truth": self.has_truth,
            "source_prompt": np.array([bool(prompt) for prompt in self.source_prompts]),
            "retained": np.asarray(self.retained.any((1, 2))),
        }
        return found[need]

    def take(self, chosen: np.ndarray) -> Batch:
        """The same of some samples, bool (B,); the batch itself if that is all of them."""
        if chosen.all():
            return self

        def make() -> Batch:
            parts: dict[str, Any] = {"_made": {}}
            for name in ("source", "edit", "mask", "masked", "truth", "has_truth", "retained"):
                parts[name] = getattr(self, name)[chosen]
            for name in ("prompts", "source_prompts"):
                parts[name] = [text for text, taken in zip(getattr(self, name), chosen, strict=True) if taken]
            return replace(self, **parts)

        return self.once(("take", chosen.tobytes()), make)

    def framed(self) -> Batch:
        """The same with the outermost rows and columns of each mask counted as altered, as PIE-Bench has it."""

        def make() -> Batch:
            mask = self.mask.copy()
            mask[:, [0, -1], :] = mask[:, :, [0, -1]] = True
            return replace(self, mask=mask, _made={})

        return self.once("framed", make)

    def resized(self, chosen: Filter, edge: int) -> Batch:
        """Source and edit resized to an edge in pixels by a filter; masks to the nearest pixel."""

        def make() -> Batch:
            from cpam_bench.eval.metrics.filters import NEAREST

            source, edit, mask = (
                np.stack([kind.array(one, edge) for one in array])
                for kind, array in ((chosen, self.source), (chosen, self.edit), (NEAREST, self.mask))
            )
            return replace(self, source=source, edit=edit, mask=mask, _made={})

        return self.once(("resized", chosen, edge), make)


class Metric(Protocol):
    """Something that is measured of an edit: a frozen dataclass whose fields are its parameters.

    Class attributes:
        name: in ``scores.csv`` and on the command line.
        title: in tables.
        unit: of the value, empty if it has none.
        digits: after the decimal point, in tables.
        better: whether ``higher`` or ``lower`` is better.
        range: lowest and highest value, None where there is no bound.
        needs: what a sample must have so that the metric is defined; elsewhere it is NaN.

    A metric with a parameter ``frame`` that is True is given batches whose masks have PIE-Bench's frame.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    unit: ClassVar[str]
    digits: ClassVar[int]
    better: ClassVar[Literal["higher", "lower"]]
    range: ClassVar[tuple[float | None, float | None]]
    needs: ClassVar[tuple[Need, ...]]

    def protocol(self, networks: Networks) -> dict[str, Any]:
        """How it is computed: ``protocol`` in words, and whatever else decides its values, as JSON has it.

        A metric with a network says ``scorer`` and ``weights_sha256`` (``Networks`` gives them).

        Raises:
            UserError: its network cannot be had.
        """
        ...

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        """The values of a batch whose samples all have what it needs: float (B,), NaN where it is not defined."""
        ...


def _facts_hold(metric: type[Metric]) -> str:
    if metric.better not in ("higher", "lower"):
        return f"its better must be higher or lower, and is {metric.better!r:.80}"
    if unknown := [need for need in metric.needs if need not in get_args(Need)]:
        return f"it needs {unknown[0]!r:.80}; a metric can need {', '.join(get_args(Need))}"
    return ""


METRICS: Group[Metric] = Group(
    "cpam_bench.metrics",
    "metric",
    facts={"name": str, "title": str, "unit": str, "digits": int, "better": str, "range": tuple, "needs": tuple},
    methods=("protocol", "measure"),
    check=_facts_hold,
)
"""Everything that can be measured of a picture; what an edit costs (seconds, memory) is in its record."""

DEFAULT = (
    "clip_score",
    "lpips_background",
    "lpips_background_spatial",
    "psnr_background",
    "mse_background",
    "ssim_background",
    "clip_score_region",
    "lpips_truth",
    "lpips_truth_region",
    "lpips_truth_gain",
)
"""What every run is scored with."""

PROTOCOLS: dict[str, tuple[str, ...]] = {
    "pie-bench": (
        "structure_distance",
        "psnr_background:cap=none,frame=true",
        "lpips_background:frame=true,net=squeeze",
        "mse_background:frame=true",
        "ssim_background:frame=true",
        "clip_score:via=transformers",
        "clip_score_region:frame=true,via=transformers",
    ),
}
"""The metrics of other benchmarks, to the letter: name -> labels."""


def choose(labels: Sequence[str] | None = None, protocol: str | None = None) -> dict[str, Metric]:
    """Canonical label -> metric: of labels, then of a named protocol; the default ones if neither is given.

    Raises:
        UserError: unknown metric, parameter or protocol, or a value that does not fit.
    """
    if protocol is not None and protocol not in PROTOCOLS:
        raise UserError(f"unknown protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    wanted = [*(labels or ()), *(PROTOCOLS[protocol] if protocol else ())]
    found = dict(METRICS.make(label) for label in wanted or DEFAULT)
    return {label: found[label] for label in in_order(found)}


def in_order(labels: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Labels as ``scores.csv`` has them: the default ones in their own order, then the others in theirs."""
    return [*(label for label in DEFAULT if label in labels), *(label for label in labels if label not in DEFAULT)]


def describe(label: str, metric: Metric, networks: Networks) -> dict[str, Any]:
    """What ``scores.json`` says of a metric: its protocol, and of one that is not a default one its facts too.

    Raises:
        UserError: its network cannot be had.
    """
    held = metric.protocol(networks)
    if label in DEFAULT:  # whose words say all of it
        return held
    facts = {key: getattr(metric, key) for key in ("title", "unit", "digits", "better")}
    package = METRICS.package_of(metric.name)
    own = {} if package.startswith(f"{OWN} ") else {"package": package}
    return held | {"parameters": parameters(metric)} | facts | own


def measure(batch: Batch, metrics: Mapping[str, Metric], networks: Networks) -> dict[str, list[float]]:
    """Measure a batch: label -> one value an edit, NaN where it is not defined.

    Raises:
        UserError: a network cannot be had, or a metric did not give one number an edit.
    """
    import torch

    values: dict[str, list[float]] = {}
    for label, metric in metrics.items():
        seen = batch.framed() if getattr(metric, "frame", False) else batch
        defined = np.logical_and.reduce([np.ones(len(seen), bool), *(seen.meets(need) for need in metric.needs)])
        column = np.full(len(seen), np.nan, np.float32)
        if defined.any():
            with torch.inference_mode():
                found = metric.measure(seen.take(defined), networks)
            if tuple(found.shape) != (int(defined.sum()),):
                raise UserError(
                    f"metric {label!r} gave an array of shape {tuple(found.shape)} for {int(defined.sum())} edits;"
                    " measure(batch, networks) must give one number an edit"
                )
            column[defined] = found.float().cpu().numpy()
        values[label] = column.tolist()
    return values


@dataclass(frozen=True)
class Facts:
    """What tables and pages need to know of a metric.

    Attributes:
        name: its label, as ``scores.csv`` has it.
        title: in words, with the parameters that are not their defaults.
        unit: of the value, empty if it has none.
        digits: after the decimal point.
        better: ``higher``, ``lower``, or empty where it is not known.
    """

    name: str
    title: str
    unit: str = ""
    digits: int = 4
    better: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow to the better end."""
        return self.title + {"higher": " ↑", "lower": " ↓"}.get(self.better, "")


def facts(label: str, held: Mapping[str, Any] | None = None) -> Facts:
    """The facts of a metric by its label.

    Args:
        label: as ``scores.csv`` has it.
        held: what ``scores.json`` says of it, for a metric whose package is not installed here.
    """
    try:
        metric = METRICS.make(label)[1]
    except UserError:
        said = held or {}
        if "title" not in said:
            return Facts(label, label)
        title, unit, digits, better = (said[key] for key in ("title", "unit", "digits", "better"))
    else:
        title, unit, digits, better = metric.title, metric.unit, metric.digits, metric.better
    words = label.partition(":")[2].replace("=", " ").replace(",", ", ")
    return Facts(label, f"{title} ({words})" if words else title, unit, digits, better)
