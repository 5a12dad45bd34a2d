"""What a run will cost, before it begins: lanes of the denoiser, and from a timed probe of one step the hours.

A lane is one latent that the denoiser is shown once.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from cpam_bench.cpam.backbone import Backbone
from cpam_bench.cpam.editing import Editor, LaneCount, TellsLanes
from cpam_bench.eval.run.costs import clock, peak, reset_peak

ELSEWHERE: Mapping[str, float] = {"an A100": 2 * 31.2, "an H100": 2 * 31.2 * 989 / 312}
"""Lanes of Stable Diffusion 1.5 at 512 px in float16 that a card does a second.  A100 (80 GB SXM): 31.2 steps of two
lanes, diffusers on torch 2.1, by github.com/fal-ai/stable-diffusion-benchmarks.  H100 (SXM): the same times the ratio
of the dense float16 peaks in NVIDIA's data sheets, 989 to 312 TFLOPS; small batches gain less than that."""

GRADIENT, TRAINED = 2.0, 6.0
"""Plain lanes that a lane with a gradient costs where it has not been timed: back through the denoiser to its input
takes as much again as forward, to its weights as much once more, and float32 runs at half the rate of float16."""

REPEATS, BUDGET = 5, 10.0
"""How often a thing is timed after it has warmed up, and seconds after which it is not timed once more.  The median
counts: a hiccup is none of the run's, and what else the machine does all the time will be there then too."""

MARGIN = 1.5
"""Memory that training needs, over that of weights, gradients and moments: for what passes through the layers."""


@dataclass(frozen=True)
class Pace:
    """Seconds that things take on this machine.

    Attributes:
        plain, gradient: a lane, as :class:`cpam_bench.cpam.editing.LaneCount` has them.
        trained: likewise; None where there is no memory for it.
        picture: a picture encoded and decoded once, and a prompt encoded.
        peak_mib: highest memory meanwhile, or None where it cannot be told.
    """

    plain: float
    gradient: float
    trained: float | None
    picture: float
    peak_mib: float | None


@dataclass(frozen=True)
class Cost:
    """What a method costs on all samples, but for the inversion that all share.

    Attributes:
        lanes: of one edit; None where the editor does not tell.
        hours: of all edits on this machine; None where that is not known.
    """

    lanes: LaneCount | None
    hours: float | None


@dataclass(frozen=True)
class Costs:
    """What a run costs.

    Attributes:
        methods: label -> what it costs.
        inversion: of a sample, once for all methods that stand on it; no lanes where none does.
    """

    methods: Mapping[str, Cost]
    inversion: Cost

    @property
    def hours(self) -> float:
        """All hours that are known."""
        return sum(cost.hours or 0.0 for cost in (*self.methods.values(), self.inversion))


def probe(backbone: Backbone, trains: bool = False, clock: Callable[[Backbone], float] = clock) -> Pace:
    """Time one step, the median of :data:`REPEATS` after one that warms up; that is some dozen evaluations.

    Args:
        backbone: to time.
        trains: also a step that trains a float32 copy of the denoiser.
        clock: tells seconds; by default of the wall.
    """
    latents = torch.zeros(3, backbone.unet.config.in_channels, *backbone.grid)
    text = backbone.text("a photo")
    grey = Image.new("RGB", (backbone.resolution,) * 2, "grey")

    def once(work: Callable[[], object]) -> float:
        started = clock(backbone)
        work()
        return clock(backbone) - started

    def timed(work: Callable[[], object]) -> float:
        spent = once(work)  # the first warms up
        found: list[float] = []
        while not found or (len(found) < REPEATS and spent < BUDGET):
            found.append(once(work))
            spent += found[-1]
        return statistics.median(found)

    def around() -> None:
        backbone.text("a photo")
        backbone.decode(backbone.encode(grey))

    reset_peak(backbone)
    picture = timed(around)
    plain = timed(lambda: backbone.predict(latents, 500, text.expand(3))) / 3
    gradient = timed(lambda: _gradient(latents[:1], lambda at: backbone.predict_with_gradient(at, 500, text)))
    highest = peak(backbone)
    trained = None
    if trains and training_bytes(backbone) < free_bytes(backbone):
        trained = timed(_training(backbone, latents[:1].to(backbone.device), text.hidden.float().clone()))
    return Pace(plain, gradient, trained, picture, highest)


def _gradient(latents: Tensor, predict: Callable[[Tensor], Tensor]) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        at = latents.clone().requires_grad_()
        (found,) = torch.autograd.grad(predict(at).sum(), at)
    return found


def _training(backbone: Backbone, latents: Tensor, text: Tensor) -> Callable[[], None]:
    """One step that trains a copy of the denoiser."""
    denoiser = copy.deepcopy(backbone.unet).float().requires_grad_(True)

    def step() -> None:
        with torch.enable_grad():
            denoiser(latents, 500, encoder_hidden_states=text).sample.sum().backward()

    return step


def training_bytes(backbone: Backbone) -> int:
    """What training a float32 copy of the denoiser takes: weights, gradients, Adam's two moments, and a margin."""
    return int(MARGIN * 4 * 4 * sum(weights.numel() for weights in backbone.unet.parameters()))


def free_bytes(backbone: Backbone) -> int:
    """Memory that is free where the backbone is; on the CPU what Linux calls available."""
    if backbone.device.type == "cuda":
        return int(torch.cuda.mem_get_info(backbone.device)[0])
    return memory()[0]


def memory() -> tuple[int, int]:
    """Bytes of this machine's memory that are available, and all of it; (0, 0) where that cannot be told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0, 0
    facts = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    return facts.get("MemAvailable", 0), facts.get("MemTotal", 0)


def costs(
    editors: Mapping[str, Editor],
    samples: int,
    steps: int,
    pace: Pace | None,
    workers: int = 1,
    family: str = "sd1",
) -> Costs:
    """What editing so many samples costs.

    Args:
        editors: label -> editor.
        samples, steps: of the run.
        pace: of this machine, or None where the backbone could not be timed.
        workers: that edit at once.
        family: of the backbone.
    """

    def cost(lanes: LaneCount | None, pictures: int) -> Cost:
        if lanes is None or pace is None or (lanes.trained and pace.trained is None):
            return Cost(lanes, None)
        return Cost(lanes, samples * (pictures * pace.picture + seconds_of(lanes, pace)) / workers / 3600)

    told = {label: one.lanes(steps, family) if isinstance(one, TellsLanes) else None for label, one in editors.items()}
    shared = any(lanes is not None and lanes.shared for lanes in told.values())
    return Costs(
        {label: cost(lanes, 1) for label, lanes in told.items()}, cost(LaneCount(plain=steps if shared else 0), 0)
    )


def seconds_of(lanes: LaneCount, pace: Pace) -> float:
    """Seconds of the lanes of one edit; infinite where they cannot be made here."""
    trained = 0.0 if not lanes.trained else lanes.trained * (pace.trained or math.inf)
    return lanes.plain * pace.plain + lanes.gradient * pace.gradient + trained


def hours_elsewhere(found: Costs, samples: int) -> dict[str, float]:
    """Card -> hours that the methods whose lanes are known would take there, by :data:`ELSEWHERE`."""
    known = [cost.lanes for cost in (*found.methods.values(), found.inversion) if cost.lanes is not None]
    lanes = sum(one.plain + GRADIENT * one.gradient + TRAINED * one.trained for one in known)
    return {card: samples * lanes / rate / 3600 for card, rate in ELSEWHERE.items()}


def lines(found: Costs, samples: int, pace: Pace | None, cards: bool = True) -> list[str]:
    """What a plan says of time, for a user.

    Args:
        found, samples, pace: as :func:`costs` has them.
        cards: also say what it would take on :data:`ELSEWHERE`'s.
    """
    text = []
    methods = found.methods
    untold = [label for label, cost in methods.items() if cost.lanes is None]
    if pace is None:
        text.append("time: unknown here before the backbone's weights are")
    else:
        parts = {"inversion": found.inversion, **methods} if found.inversion.hours else methods
        each = ", ".join(f"{label} {shown(cost.hours)}" for label, cost in parts.items() if cost.hours is not None)
        text.append(f"time: {shown(found.hours)} ({each}), at {pace.plain:.3g} s a lane of the denoiser")
        if unfit := [label for label, cost in methods.items() if cost.lanes is not None and cost.hours is None]:
            text.append(f"time: {', '.join(unfit)} cannot be timed: there is not enough free memory to train")
    if cards:
        there = ", ".join(f"{card} {shown(hours)}" for card, hours in hours_elsewhere(found, samples).items())
        text.append(f"time: Stable Diffusion 1.5 at 512 px in float16 would take {there}, by published speeds")
    if untold:
        text.append(f"time: {', '.join(untold)} not counted: their editors do not tell what they cost")
    return text


def shown(hours: float) -> str:
    """A duration in the unit that fits."""
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
