"""Adding to a data set: new samples, and masks that are missing.

Files are written whole or not at all and never over others; ``data.json`` is replaced in one step, under a lock, so
that several processes may add to one data set.  What a record says besides is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from cpam_bench.imba.common.files import write_atomic, write_new
from cpam_bench.imba.common.hashes import digest
from cpam_bench.imba.dataset import load
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import slug, unsafe
from cpam_bench.imba.layouts.release import Record, Release, mask_name, read_records
from cpam_bench.imba.masking.made import MadeMask
from cpam_bench.imba.sample import Altered, Kind, Sample


def add_sample(
    root: Path,
    image: Image.Image,
    made: MadeMask,
    *,
    target_prompt: str,
    kind: Kind,
    object_prompt: str = "",
    retain_object: bool = False,
    source_prompt: str | None = None,
) -> str:
    """Append a sample to a data set, which is made if it is not there yet.

    Args:
        root: the data set's folder: new, empty, or with a ``data.json``.
        image: the picture; stored as PNG.
        made: the object's mask and how it was made (for ``background``, the object that stays).
        target_prompt, kind, object_prompt, retain_object, source_prompt: of :class:`cpam_bench.imba.sample.Sample`.

    Returns:
        the sample's id, unlike all others in the data set.

    Raises:
        UserError: there is no prompt, a value is of the wrong type, the mask does not fit, or the folder cannot be
            written or holds something else.
    """
    altered: Altered = "background" if kind == "background" else "foreground"
    record: dict[str, Any] = {
        "img_name": "picture.png",
        "target_text": target_prompt,
        "object": altered,
        "alter_mask": None,
        "retain_object": retain_object,
        "object_prompt": object_prompt,
        "id": "picture",
        "kind": kind,
        "mask_origin": made.origin.model_dump(exclude_none=True),
    }
    if source_prompt:
        record["source_prompt"] = source_prompt
    _require_record(record)
    if not target_prompt.strip():
        raise UserError("a sample needs a target prompt: what the edited picture shows")
    _check(made, image.size)
    with _locked(root):
        records = _records(root)
        id = _free(root, records, f"{slug(object_prompt or kind, 30)}-{slug(target_prompt, 60)}")
        _write_new(root / "images" / f"{id}.png", _png(image.convert("RGB")))
        _write_new(root / "masks" / f"{id}.png", _png(_stored(made.mask)))
        _write_records(root, [*records, record | {"img_name": f"{id}.png", "id": id}])
    return id


def add_mask(root: Path, id: str, made: MadeMask, *, own: bool = False, seen: str | None = None) -> list[str]:
    """Store the mask that a sample lacks, or another one in the place of a mask of its own.

    Args:
        root: the data set's folder.
        id: the sample's.
        made: the object's mask and how it was made.
        own: give the sample a mask of its own (``alter_mask`` is set) where others would share its file, as
            those of the same image do.
        seen: :func:`mask_version` when the sample was looked at; the mask is stored only if it still is.

    Returns:
        ids of all samples that have this mask now.

    Raises:
        UserError: there is no such sample, it has another mask by now, or the mask does not fit its image.
    """
    with _locked(root):
        data, records = load(root, Release.name), _records(root)
        indices = dict(zip((sample.id for sample in data), data.indices, strict=True))
        if id not in indices:
            raise UserError(f"{root} has no sample {id}")
        _check(made, data[id].read_image().size)
        names = {s: mask_name(records[i]["img_name"], records[i]["alter_mask"]) for s, i in indices.items()}
        now = mask_version(data[id])
        if now != seen:
            raise UserError(
                f"{id}: its mask {root / 'masks' / names[id]} is there already and is left as it is; it was drawn in"
                " another tab meanwhile, or before. Open the sample again"
                if now
                else f"{id}: the mask that was open is gone meanwhile. Open the sample again"
            )
        served = [other for other in names if names[other] == names[id]]
        replaces = now is not None and served == [id]
        stem, number = id, 1
        while own and (f"{stem}.png" in names.values() or (root / "masks" / f"{stem}.png").exists()):
            number += 1  # an image, and with it the mask of all its samples, may be named like the sample
            stem = f"{id}-{number}"
        name = f"{stem}.png" if own and not replaces else names[id]
        if reason := unsafe(root, "masks", name):
            raise UserError(f"{root}: the mask of {id} is refused: {reason}")
        if now is not None and not replaces and not own:
            raise UserError(
                f"{id}: its mask {root / 'masks' / name} also serves {', '.join(s for s in served if s != id)}, and is"
                " left as it is; give the sample a mask of its own"
            )
        if own:
            served = [id]
        if replaces:
            write_atomic(root / "masks" / name, _png(_stored(made.mask)))
        else:
            _write_new(root / "masks" / name, _png(_stored(made.mask)))
        for other in served:
            records[indices[other]]["mask_origin"] = made.origin.model_dump(exclude_none=True)
        if own and not replaces:
            # Its id must not hang on the mask's name, which it can where records are alike.
            records[indices[id]] |= {"alter_mask": stem, "id": id}
        _write_records(root, records)
    return served


def mask_version(sample: Sample) -> str | None:
    """What tells a sample's mask from any other it may get: the sha256 of its file, None without one."""
    return digest(sample.region_file) if sample.region_file else None


def without_mask(root: Path) -> list[str]:
    """Ids of the samples whose mask is missing and whose image is there, in the data set's order."""
    data = load(root, Release.name)
    return [sample.id for sample in data if sample.region is None and Path(str(sample.image)).is_file()]


def _require_record(record: dict[str, Any]) -> None:
    try:
        Record.model_validate(record)
    except ValidationError as error:
        fault = error.errors()[0]
        raise UserError(
            f"{fault['loc'][0]} of the sample is wrong: {fault['msg']}, not {fault['input']!a:.60}"
        ) from None


def _check(made: MadeMask, size: tuple[int, int]) -> None:
    if made.mask.shape[::-1] != size:
        height, width = made.mask.shape
        raise UserError(f"the mask is {width} x {height} pixels, its image {size[0]} x {size[1]}")
    if not made.mask.any():
        raise UserError("the mask marks nothing; draw it first")


def _records(root: Path) -> list[Any]:
    if (root / "data.json").is_file():
        return read_records(root / "data.json", root)
    others = [path.name for path in root.iterdir() if path.name not in (".lock", "images", "masks")]
    if others:
        raise UserError(f"{root} is not empty and no data set ({others[0]}); give a new folder")
    return []


def _free(root: Path, records: list[Any], stem: str) -> str:
    """An id that neither a record nor a file has."""
    ids = {sample.id.lower() for sample in load(root, Release.name)} if records else set()
    number, id = 1, stem
    while id.lower() in ids or any((root / folder / f"{id}.png").exists() for folder in ("images", "masks")):
        number += 1
        id = f"{stem}-{number}"
    return id


def _stored(mask: np.ndarray) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write_records(root: Path, records: list[Any]) -> None:
    write_atomic(root / "data.json", (json.dumps(records, indent=1, ensure_ascii=False) + "\n").encode())


def _write_new(path: Path, content: bytes) -> None:
    """Write a file whole, and not over another one."""
    try:
        write_new(path, content)
    except FileExistsError:
        raise UserError(f"{path} is there already and is left as it is; delete it first to make it anew") from None


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Held while a data set is added to; other processes wait."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"{error.filename or root} cannot be written ({error.strerror}). Give a folder that can."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
