"""How well an edit fits a text: its target prompt, or the words for a good picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from cpam_bench.eval.metrics.filters import FILTERS, Name
from cpam_bench.eval.metrics.metric import Need
from cpam_bench.imba.common.labels import parameter

if TYPE_CHECKING:
    from torch import Tensor

    from cpam_bench.eval.metrics.clip import ClipScorer
    from cpam_bench.eval.metrics.metric import Batch
    from cpam_bench.eval.metrics.networks import Networks

Via = Literal["open_clip", "transformers"]


def _scorer(networks: Networks, via: Via) -> ClipScorer:
    return networks.clip("transformers-clip" if via == "transformers" else "clip")


def _describe(networks: Networks, via: Via) -> dict[str, Any]:
    network = {"network": "transformers-clip"} if via == "transformers" else {}
    return _scorer(networks, via).describe() | network


@dataclass(frozen=True)
class CLIPScore:
    r"""How well the edit fits the target prompt (Hessel et al., EMNLP 2021, without the factor 2.5, as torchmetrics).

    .. math:: 100 \max(\cos(E_I(\text{edit}), E_T(P_t)), 0)

    Shapes: pictures (B, H, W, 3) uint8 and B prompts give (B,). Range [0, 100], higher is better. With ViT-L/14 an edit
    that fits has some 25 to 32, and a random pair some 15.

    Example: ``cpam-bench score RUN --metrics clip_score:filter=nearest``
    """

    name: ClassVar[str] = "clip_score"
    title: ClassVar[str] = "CLIPScore"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 2
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, 100)
    needs: ClassVar[tuple[Need, ...]] = ("prompt",)

    via: Via = parameter(
        "open_clip",
        "what loads the CLIP and resizes for it; transformers: the network transformers-clip, as PIE-Bench has it",
        "this project",
    )
    filter: Literal["own"] | Name = parameter("own", "resizes in the place of the CLIP's own filter", "this project")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = "100 max(cos(edit, target prompt), 0) (Hessel et al. 2021 without the factor 2.5, as torchmetrics)"
        if self.filter != "own":
            words += f"; resized by {FILTERS[self.filter].words}"
        return {"protocol": words, **_describe(networks, self.via)}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        scorer = _scorer(networks, self.via)
        if self.filter == "own":
            images = batch.once(("clip", self.via, "edit"), lambda: scorer.images(_pictures(batch.edit)))
        else:
            images = scorer.images(_pictures(batch.edit), scorer.with_filter(FILTERS[self.filter]))
        return _score(images, scorer.texts(batch.prompts))


@dataclass(frozen=True)
class CLIPScoreRegion:
    """CLIPScore of the edit with everything outside M_s black, against the whole target prompt.

    Shapes: pictures (B, H, W, 3) uint8, masks (B, H, W) and B prompts give (B,). Range [0, 100], higher is better.
    Not defined where there is no mask, or nothing inside it.

    Example: ``cpam-bench score RUN --metrics clip_score_region:frame=true,via=transformers``
    """

    name: ClassVar[str] = "clip_score_region"
    title: ClassVar[str] = "CLIPScore (altered region)"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 2
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, 100)
    needs: ClassVar[tuple[Need, ...]] = ("prompt", "region")

    via: Via = parameter("open_clip", "as of clip_score", "this project")
    frame: bool = parameter(False, "count the outermost rows and columns as altered", "PIE-Bench")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = "CLIPScore of the edit with everything outside the alteration mask black, against the target prompt"
        if self.frame:
            words += "; the outermost rows and columns count as altered"
        return {"protocol": words, **_describe(networks, self.via)}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        scorer = _scorer(networks, self.via)
        black = batch.edit * batch.mask[..., None].astype(np.uint8)
        return _score(scorer.images(_pictures(black)), scorer.texts(batch.prompts))


@dataclass(frozen=True)
class CLIPDirectional:
    r"""Whether the picture changed as the texts do (Gal et al., SIGGRAPH 2022; InstructPix2Pix has it too).

    .. math:: \cos(E_I(\text{edit}) - E_I(\text{source}), E_T(P_t) - E_T(P_s))

    Shapes: pictures (B, H, W, 3) uint8, B target prompts and B captions of the source give (B,). Range [-1, 1], higher
    is better. Not defined where the source has no caption, and where picture or caption do not change at all.

    Example: ``cpam-bench score RUN --metrics clip_directional``
    """

    name: ClassVar[str] = "clip_directional"
    title: ClassVar[str] = "CLIP directional similarity"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 4
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (-1, 1)
    needs: ClassVar[tuple[Need, ...]] = ("prompt", "source_prompt")

    def protocol(self, networks: Networks) -> dict[str, Any]:
        words = "cos(edit - source, target prompt - caption of the source), of CLIP's embeddings of length 1"
        return {"protocol": words, **_describe(networks, "open_clip")}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        scorer = networks.clip()
        edit = batch.once(("clip", "open_clip", "edit"), lambda: scorer.images(_pictures(batch.edit)))
        pictures = edit - scorer.images(_pictures(batch.source))
        texts = scorer.texts(batch.prompts) - scorer.texts(batch.source_prompts)
        lengths = pictures.norm(dim=-1) * texts.norm(dim=-1)  # 0 where nothing changed: 0 / 0 is NaN
        similarity: Tensor = (pictures * texts).sum(-1) / lengths
        return similarity


QUALITIES = {
    "quality": ("Good photo.", "Bad photo."),
    "sharpness": ("Sharp photo.", "Blurry photo."),
    "noisiness": ("Clean photo.", "Noisy photo."),
    "natural": ("Natural photo.", "Synthetic photo."),
}
"""Pairs of opposite words, as torchmetrics has them (Wang et al. 2023 give the first, and others in its kind)."""


@dataclass(frozen=True)
class CLIPIQA:
    r"""How good the whole edit looks, with no picture to compare it with (Wang et al., AAAI 2023).

    .. math:: \sigma(100 (\cos(E_I(\text{edit}), E_T(\text{good})) - \cos(E_I(\text{edit}), E_T(\text{bad}))))

    which is the softmax over both texts.

    The paper takes a ResNet-50 without positional embeddings; here it is the CLIP of the other scores, as torchmetrics
    computes it with one of OpenAI's CLIPs. Values of two CLIPs cannot be compared.

    Shapes: pictures (B, H, W, 3) uint8 give (B,). Range [0, 1], higher is better.

    Example: ``cpam-bench score RUN --metrics clip_iqa:aspect=sharpness``
    """

    name: ClassVar[str] = "clip_iqa"
    title: ClassVar[str] = "CLIP-IQA"
    unit: ClassVar[str] = ""
    digits: ClassVar[int] = 3
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    range: ClassVar[tuple[float | None, float | None]] = (0, 1)
    needs: ClassVar[tuple[Need, ...]] = ()

    aspect: Literal["quality", "sharpness", "noisiness", "natural"] = parameter(
        "quality", "which pair of words", "Wang et al. 2023; torchmetrics"
    )

    def protocol(self, networks: Networks) -> dict[str, Any]:
        good, bad = QUALITIES[self.aspect]
        words = f"softmax of 100 cos(edit, text) over the texts {good!r} and {bad!r}, the share of the first"
        return {"protocol": words, **_describe(networks, "open_clip")}

    def measure(self, batch: Batch, networks: Networks) -> Tensor:
        scorer = networks.clip()
        edit = batch.once(("clip", "open_clip", "edit"), lambda: scorer.images(_pictures(batch.edit)))
        likeness = 100 * edit @ scorer.texts(QUALITIES[self.aspect]).T
        shares: Tensor = likeness.softmax(-1)[:, 0]
        return shares


def _pictures(array: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(one) for one in array]


def _score(images: Tensor, texts: Tensor) -> Tensor:
    return 100 * (images * texts).sum(-1).float().cpu().clamp(min=0)
