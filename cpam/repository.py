"""The files of a backbone: a folder in diffusers' layout, here or fetched from the hub, and why one cannot be used."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from cpam_bench.imba.common import hub
from cpam_bench.imba.common.places import get
from cpam_bench.imba.errors import UserError

INDEX = "model_index.json"

CONFIGURATIONS = ["*.json", "*/*.json", "*/*.txt"]
"""Files of a repository that say what it is, tokenizers among them."""

PREDICTIONS = ("epsilon", "v_prediction")
"""What a denoiser may predict."""

LATENT_CHANNELS = 4

_CHANNELS = {
    8: "it is told the source picture beside the latents, as InstructPix2Pix",
    9: "it is told a mask and the masked picture beside the latents, as inpainting models",
}
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
_CONVERSION = "https://huggingface.co/spaces/safetensors/convert"


@dataclass(frozen=True)
class Found:
    """A folder that can be loaded.

    Attributes:
        folder: in diffusers' layout, whole.
        variant: of its files of weights, as diffusers takes it: None, or ``fp16``.
    """

    folder: Path
    variant: str | None


def is_file(place: str) -> bool:
    """Whether a backbone's place is one file."""
    return hub.is_local(place) and Path(place).is_file()


def described(place: str) -> Path:
    """The folder of a backbone's configurations, fetched if it is on the hub and not here.

    Raises:
        UserError: it is not there, or cannot be fetched.
    """
    if hub.is_local(place):
        return Path(place)
    return Path(hub.load(place, lambda local: _snapshot(place, CONFIGURATIONS, local)))


def find(place: str, parts: Collection[str]) -> Found:
    """The folder of a backbone, whole.

    Of what is on the hub and not here only what is needed is fetched, and weights only once the configurations say
    that they can be used.

    Args:
        place: a folder, or a repository's name.
        parts: names of the networks that are loaded.

    Raises:
        UserError: it is not there, cannot be fetched, is damaged, or is no model that can be edited with.
    """
    folder = described(place)
    require_usable(folder, place)
    try:
        here = [path.relative_to(folder).as_posix() for part in parts for path in (folder / part).glob("*")]
        return Found(folder, variant(here, parts, place))
    except UserError:
        if hub.is_local(place):
            raise
        hub.require(place)  # it is not whole on this machine
    listed = HfApi().list_repo_files(place)
    chosen = variant(listed, parts, place)
    wanted = [name for name in listed if _part(name) in parts and _is_weights(name, chosen)]
    return Found(Path(_snapshot(place, wanted, local=False)), chosen)


def _snapshot(repository: str, patterns: list[str], local: bool) -> str:
    return snapshot_download(repository, allow_patterns=patterns, local_files_only=local)


def _part(name: str) -> str:
    return name.partition("/")[0]


def _is_weights(name: str, chosen: str | None) -> bool:
    """Whether a file is of safetensors in a variant; one without a variant also stands in for one that has none."""
    path = PurePosixPath(name)
    marked = path.stem.split(".")[1:]
    return path.name.endswith((".safetensors", ".safetensors.index.json")) and (not marked or chosen in marked)


def variant(files: Collection[str], parts: Iterable[str], name: str) -> str | None:
    """In which variant the weights of every part are there: None where the usual ones are, else ``fp16``.

    Args:
        files: names below the folder.
        parts: that need weights.
        name: of the backbone, for the message.

    Raises:
        UserError: a part has no weights, or pickled ones alone.
    """
    found: set[str | None] = set()
    for part in parts:
        own = [file for file in files if _part(file) == part]
        tensors = [PurePosixPath(file).stem.split(".")[1:] for file in own if file.endswith(".safetensors")]
        if any(not marked for marked in tensors):
            found.add(None)
        elif any("fp16" in marked for marked in tensors):
            found.add("fp16")
        elif old := [file for file in own if file.endswith(PICKLED)]:
            raise pickled(name, old[0])
        else:
            raise UserError(f"backbone {name!r} has no weights of its {part}; there is no {part}/*.safetensors")
    return "fp16" if "fp16" in found else None


def pickled(name: str, file: str) -> UserError:
    """What is said of weights that are pickled and nothing else."""
    return UserError(
        f"backbone {name!r} has pickled weights alone ({file}), which can run code as they are read;"
        f" convert them to safetensors: {_CONVERSION}"
    )


def read_json(path: Path, name: str) -> Mapping[str, Any]:
    """An object out of a configuration.

    Raises:
        UserError: it is missing, empty, damaged, or no object.
    """
    try:
        found = json.loads(get(path))
    except FileNotFoundError as error:
        raise UserError(f"backbone {name!r} has no {path.parent.name}/{path.name}; its folder is not whole") from error
    except (OSError, ValueError) as error:
        raise UserError(f"backbone {name!r}: {path} is empty or damaged ({error}); fetch it anew") from error
    if not isinstance(found, dict):
        raise UserError(f"backbone {name!r}: {path} is damaged: it is no object; fetch it anew")
    return found


def pipeline_class(folder: Path, name: str) -> str:
    """The pipeline that a folder says it is.

    Raises:
        UserError: it says none.
    """
    if not (folder / INDEX).is_file():
        raise UserError(f"backbone folder {folder} has no {INDEX}; it must be in diffusers' layout")
    found = read_json(folder / INDEX, name).get("_class_name")
    if not isinstance(found, str):
        raise UserError(f"backbone {name!r}: {folder / INDEX} names no pipeline (_class_name); fetch it anew")
    return found


def require_usable(folder: Path, name: str) -> None:
    """Make sure by its configurations that a model can be edited with, before its weights are read.

    Raises:
        UserError: it cannot, for a reason that the message has.
    """
    pipeline_class(folder, name)
    require_channels(read_json(folder / "unet" / "config.json", name), name)
    require_prediction(read_json(folder / "scheduler" / "scheduler_config.json", name), name)
    for part in sorted(part for part in read_json(folder / INDEX, name) if part.startswith("tokenizer")):
        if not any((folder / part).glob("*.json")):
            raise UserError(f"backbone {name!r} has no {part}; its folder is not whole: bring {folder / part}")


def require_channels(unet: Mapping[str, Any], name: str) -> None:
    """Make sure that a denoiser is shown latents and nothing else.

    Raises:
        UserError: it wants more.
    """
    channels = unet.get("in_channels", LATENT_CHANNELS)
    if channels != LATENT_CHANNELS:
        why = _CHANNELS.get(channels, "it is told more than the latents")
        raise UserError(
            f"backbone {name!r} cannot be edited with: its unet takes {channels} channels and not {LATENT_CHANNELS}"
            f" ({why}); give a text-to-image model"
        )


def require_prediction(scheduler: Mapping[str, Any], name: str) -> None:
    """Make sure that what a denoiser predicts is known.

    Raises:
        UserError: it is something else.
    """
    kind = scheduler.get("prediction_type", "epsilon")
    if kind not in PREDICTIONS:
        raise UserError(f"backbone {name!r} predicts {kind!r}; {' and '.join(PREDICTIONS)} are supported")
