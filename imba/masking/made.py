"""A mask and how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cpam_bench.imba.errors import UserError
from cpam_bench.imba.masking import operations


class Origin(BaseModel):
    """How a mask was made, as ``data.json`` keeps it in the field ``mask_origin``.

    Attributes:
        tool: ``file``, ``polygon``, ``strokes``, ``sam``, ``sam2``, ``grabcut``, ``clipseg``, ``cross-attention``, or
            another one's name.
        weights: name or folder of the model behind it, None without one.
        weights_sha256: over the model's parameters and buffers.
        inputs: what the user gave: points, boxes, words, thresholds.
        operations: what was done to the mask afterwards, in order (:mod:`cpam_bench.imba.masking.operations`).
        note: what a reader should know, such as which tool this one stands in for.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    tool: str = Field(min_length=1)
    weights: str | None = None
    weights_sha256: str | None = None
    inputs: dict[str, Any] = Field(default_factory=dict)
    operations: list[str] = Field(default_factory=list)
    note: str | None = None

    @field_validator("operations")
    @classmethod
    def _known(cls, names: list[str]) -> list[str]:
        for name in names:
            try:
                operations.parse(name)
            except UserError as error:
                raise ValueError(str(error)) from error
        return names


@dataclass(frozen=True)
class MadeMask:
    """A mask, bool (H, W) of the picture's size, True on what is marked, and its record."""

    mask: np.ndarray
    origin: Origin

    def then(self, names: Sequence[str]) -> MadeMask:
        """With operations applied to it, which its record then lists too.

        Raises:
            UserError: there is no such operation, or nothing is left of the mask.
        """
        mask = self.mask
        for name in names:
            mask = operations.apply(mask, name)
        if names and not mask.any():
            raise UserError(f"nothing is left of the mask after {', '.join(names)}; shrink it less")
        origin = self.origin.model_copy(update={"operations": [*self.origin.operations, *names]})
        return MadeMask(mask, origin)
