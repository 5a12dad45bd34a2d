"""The networks behind the metrics, loaded when first needed and shared by all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from cpam_bench.imba.common.names import recorded
from cpam_bench.imba.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from cpam_bench.eval.metrics.classifier import Classifier
    from cpam_bench.eval.metrics.clip import ClipScorer
    from cpam_bench.eval.metrics.dino import Dino
    from cpam_bench.eval.metrics.dreamsim import DreamSim
    from cpam_bench.eval.metrics.metric import Batch
    from cpam_bench.eval.metrics.perceptual import Lpips, Trunk

T = TypeVar("T")

ROLES = {
    "clip": "the CLIP of CLIPScore, as --clip takes it",
    "transformers-clip": "the CLIP of PIE-Bench, loaded by transformers",
    "dino": "the DINO of the structure distance, loaded by transformers",
    "dino-identity": "the DINO of DINO-I, loaded by transformers",
    "dreamsim": "a folder of DreamSim's weights, as its package keeps them",
}
"""What a network is there for, and so what ``--network ROLE=PLACE`` can set."""

PLACES = {
    "transformers-clip": "openai/clip-vit-large-patch14",
    "dino": "facebook/dino-vitb8",
    "dino-identity": "facebook/dino-vits16",
}
"""Where the networks of most roles are, if nothing else is said."""


class Networks:
    """The networks behind the metrics.

    Args:
        clip: the scorer of the role ``clip``, or its name; None if no metric needs it.
        device: a torch device.
        places: role -> folder or name, where they are not the usual ones.

    Raises:
        UserError: an unknown role.
    """

    def __init__(
        self, clip: ClipScorer | str | None = None, device: str = "cpu", places: Mapping[str, str] | None = None
    ):
        if unknown := [role for role in places or {} if role not in ROLES]:
            raise UserError(f"unknown network {unknown[0]!r}; there are: {', '.join(ROLES)}")
        self.device = device
        given = {role: recorded(place) for role, place in (places or {}).items()}
        self.places: dict[str, Any] = {**PLACES, "clip": clip, **given}
        self._loaded: dict[Any, Any] = {}

    def once(self, key: Any, load: Callable[[], T]) -> T:
        """A network that is loaded by the first who asks."""
        if key not in self._loaded:
            self._loaded[key] = load()
        return cast("T", self._loaded[key])

    def clip(self, role: str = "clip") -> ClipScorer:
        """The CLIP of a role.

        Raises:
            UserError: it cannot be loaded.
        """

        def load() -> ClipScorer:
            from cpam_bench.eval.metrics.clip import ClipScorer, load_clip, load_transformers

            place = self.places[role]
            if place is None:
                raise UserError("this metric needs a CLIP; name one with --clip")
            if isinstance(place, ClipScorer):
                return place.to(self.device)
            return (load_transformers if role == "transformers-clip" else load_clip)(place, self.device)

        return self.once(role, load)

    def lpips(self, net: Trunk = "alex") -> Lpips:
        """LPIPS with a trunk.

        Raises:
            UserError: its weights cannot be had.
        """

        def load() -> Lpips:
            from cpam_bench.eval.metrics.perceptual import Lpips

            return Lpips.load(net, self.device)

        return self.once(("lpips", net), load)

    def lpips_map(self, batch: Batch, net: Trunk, other: str) -> Tensor:
        """LPIPS of the edits to their ``source`` or ``truth`` at each place, (B, 1, H, W); made once a batch."""
        model = self.lpips(net)
        return batch.once(
            ("lpips map", net, other),
            lambda: model.map(batch.pixels("truth" if other == "truth" else "source"), batch.pixels("edit")),
        )

    def dino(self, role: str = "dino") -> Dino:
        """The DINO of a role.

        Raises:
            UserError: it cannot be loaded.
        """

        def load() -> Dino:
            from cpam_bench.eval.metrics.dino import load_dino

            return load_dino(self.places[role], role, self.device)

        return self.once(role, load)

    def dreamsim(self) -> DreamSim:
        """DreamSim.

        Raises:
            UserError: its package is not installed, or its weights cannot be had.
        """

        def load() -> DreamSim:
            from cpam_bench.eval.metrics.dreamsim import load_dreamsim

            return load_dreamsim(self.places.get("dreamsim"), self.device)

        return self.once("dreamsim", load)

    def classifier(self) -> Classifier:
        """The small classifier of the pocket scenes."""

        def load() -> Classifier:
            from cpam_bench.eval.metrics.classifier import load_classifier

            return load_classifier().to(self.device)

        return self.once("classifier", load)

    def scorers(self) -> list[ClipScorer]:
        """The CLIPs that were loaded."""
        return [self._loaded[role] for role in ("clip", "transformers-clip") if role in self._loaded]
