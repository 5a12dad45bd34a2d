"""Latents that are no numbers end an edit, instead of becoming a black picture that counts."""

from __future__ import annotations

import torch
from torch import Tensor


class NotFinite(ArithmeticError):
    """Latents or pixels are NaN or infinite."""


class Watch:
    """Whether latents stay finite over some steps.

    A step leaves a flag on the device and waits for nothing; :meth:`check` looks at all of them once.

    Args:
        what: that is watched, for the message: ``sampling``.
    """

    def __init__(self, what: str):
        self._what = what
        self._flags: list[Tensor] = []

    def see(self, latents: Tensor) -> None:
        """Note the latents of the next step."""
        self._flags.append(latents.isfinite().all())

    def check(self) -> None:
        """Look.

        Raises:
            NotFinite: the latents were NaN or infinite; the message names the first such step, counted from 1.
        """
        if not self._flags:
            return
        finite = torch.stack(self._flags).tolist()
        if not all(finite):
            raise NotFinite(
                f"{self._what}: NaN or infinite latents from step {finite.index(False) + 1} of {len(finite)} on;"
                " in half precision try --dtype float32, else the backbone's weights may be damaged"
            )
