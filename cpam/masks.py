"""Mask-guidance strategies of section 4.4: from the source mask M_s and the kind of edit to the target mask M_t.

Masks are bool arrays (H, W) at the backbone's resolution, True in the region to alter.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.ndimage import binary_dilation

from cpam_bench.imba.masking.operations import convex_hull
from cpam_bench.imba.sample import Kind

Shape = Literal["dilate", "hull", "source"]
"""How the first M_t is made from M_s when an object changes: dilated, the convex hull dilated, or M_s as it is."""


def target_mask(mask_source: np.ndarray, kind: Kind, shape: Shape = "dilate", margin: float = 0.1) -> np.ndarray:
    """The first target mask M_t.

    - ``replace``, ``pose``: M_s extended according to ``shape``; refinement from cross-attention may follow.
    - ``background``: M_t = M_s, which is the mask of the background.
    - ``remove``: M_t = 0, so that only the background's content is taken.
    - ``add``: M_s, slightly expanded.

    Args:
        mask_source: M_s.
        kind: the kind of edit.
        shape: for ``replace`` and ``pose``.
        margin: the dilation's square has an edge of int(margin x sqrt(area of M_s)); 0.1 as the release has it.
    """
    if kind == "remove":
        return np.zeros_like(mask_source)
    if kind == "background" or shape == "source":
        return mask_source.copy()
    if shape == "hull" and kind in ("replace", "pose"):
        return dilate(convex_hull(mask_source), margin)
    return dilate(mask_source, margin)


def dilate(mask: np.ndarray, margin: float) -> np.ndarray:
    """Dilation by a square of edge int(margin x sqrt(area)); the size is kept, for even edges too."""
    edge = int(margin * mask.sum() ** 0.5)
    return mask.copy() if edge < 2 else binary_dilation(mask, np.ones((edge, edge)))
