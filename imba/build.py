"""Building IMBA from a TEdBench download, by copy: what the authors published are the annotations, not the pictures."""

from __future__ import annotations

import hashlib
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cpam_bench.imba.common import remote
from cpam_bench.imba.common.files import sweep, write_atomic
from cpam_bench.imba.common.hashes import digest, records_hash
from cpam_bench.imba.common.names import shown
from cpam_bench.imba.common.places import get
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.layouts.layout import unsafe
from cpam_bench.imba.layouts.release import MASKS, WHOSE, mask_name, read_records
from cpam_bench.imba.layouts.table import CONFIG
from cpam_bench.imba.pictures import DAMAGE, SUFFIXES, is_regular

RENAMED = {"two_birds": "bird-g83440b9c4_1920"}
"""Stem of an image in IMBA -> its stem in TEdBench, where the two differ."""


PUBLISHED = Path(__file__).parent / "data" / "published.json"
"""Where TEdBench's originals and the authors' annotations are published, and by which size and sha256 they are known.
Photographs are known by their bytes, annotations by their records, whose spacing says nothing."""


@dataclass(frozen=True)
class Report:
    """What a build did and could not do.

    Attributes:
        out: the folder that was built.
        images, masks: how many were copied or were already there.
        missing_images: names that no file of the download matches.
        missing_masks: names that no file of the masks' folder matches.
        renamed: name in IMBA -> file of the download, where the names differ.
        only_annotated: (image, prompt) pairs of the annotations that TEdBench does not list.
        only_tedbench: (image, prompt) pairs of TEdBench that the annotations do not list.
    """

    out: Path
    images: int
    masks: int
    missing_images: list[str]
    missing_masks: list[str]
    renamed: dict[str, str]
    only_annotated: list[tuple[str, str]]
    only_tedbench: list[tuple[str, str]]


def fetch_published(
    say: Callable[[str], None] = lambda line: None, listed: Path = PUBLISHED, into: Path | None = None
) -> tuple[Path, Path]:
    """Fetch TEdBench's originals and the authors' annotations from where they are published.

    A file that is here is not fetched again, and one that broke off is gone on with.  One that is gone from its place
    costs no others: what is missing is missing from the build.

    Args:
        say: is told what is under way.
        listed: addresses, sizes and hashes.
        into: a folder of its own; None is one of the user's cache.

    Returns:
        the folder of TEdBench, and the annotations.

    Raises:
        UserError: there is no network, or a server does not send what was published.
    """
    sources = json.loads(listed.read_text(encoding="utf-8"))
    root = into or remote.cache() / "published" / hashlib.sha256(listed.read_bytes()).hexdigest()[:16]
    for part, source in sources.items():
        for number, (name, known) in enumerate(source["files"].items(), 1):
            path = root / part / name
            if not path.is_file():
                say(f"{part} {number} of {len(source['files'])}: {name}")
            url = f"{source['url']}{urllib.parse.quote(name)}"
            try:
                remote.download(url, path, known.get("size"), known.get("sha256"))
            except remote.NotThere as error:
                if "sha256" not in known:  # the lists; without them there is nothing to build
                    raise UserError(_elsewhere(str(error))) from error
                say(f"{error}; it will be missing")
            except UserError as error:
                raise UserError(_elsewhere(str(error))) from error
            if "records_sha256" in known and records_hash(read_records(path, path)) != known["records_sha256"]:
                path.unlink()
                raise UserError(_elsewhere(f"{url} holds other records than were published"))
    return root / "tedbench", root / "annotations" / "data.json"


def published_annotations() -> str:
    """sha256 over the authors' records, as :func:`cpam_bench.imba.common.hashes.records_hash` has it."""
    listed = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    return str(listed["annotations"]["files"]["data.json"]["records_sha256"])


def _elsewhere(trouble: str) -> str:
    return (
        f"{trouble.rstrip('.')}. Without a network bring TEdBench's folder and the authors' data.json from another"
        " machine, and give --tedbench DIR --annotations FILE."
    )


def build(tedbench: Path, annotations: Path, out: Path, masks: Path | None = None) -> Report:
    """Make the layout ``out/data.json``, ``out/images``, ``out/masks`` from a TEdBench download.

    Files are copied, each written under another name and then renamed, so that none is ever half there; nothing is
    moved or linked, and the annotations are copied as they are.  Running it again completes it or changes nothing.

    Args:
        tedbench: the download: ``input_list.json`` (``img_name``, ``target_text``) and ``originals/``.
        annotations: the authors' ``data.json``.
        out: a new or empty folder, or one that an earlier run of the same build has made.
        masks: a folder of ``<stem>.png``; None takes :data:`MASKS`, for pictures of the size that they were drawn on.

    Raises:
        UserError: an input is missing or unreadable, the annotations name a file outside the layout, or ``out`` holds
            something else.
    """
    records = read_records(annotations, annotations)
    originals = tedbench / "originals"
    if not originals.is_dir():
        raise UserError(
            f"{tedbench} has no folder originals/. Give the folder that holds input_list.json and originals/."
        )
    if masks is not None and not masks.is_dir():
        raise UserError(f"There is no folder of masks {masks}. Give one, or leave --masks out.")
    wanted = [_names(annotations, out, index, record) for index, record in enumerate(records)]
    listed = [_pair(tedbench / "input_list.json", i, r) for i, r in enumerate(_input_list(tedbench))]

    # A link out of the folder is not the download's: it may be any file of this machine.
    inside = originals.resolve()
    files = [
        path for path in sorted(originals.rglob("*")) if is_regular(path) and path.resolve().is_relative_to(inside)
    ]
    plan: dict[str, Path | bytes] = {}
    missing_images, missing_masks, renamed = [], [], {}
    for name in dict.fromkeys(image for image, _, _ in wanted):
        found = _match(name, files)
        if found is None:
            missing_images.append(name)
            continue
        plan[f"images/{name}"] = found
        if found.name != name:
            renamed[name] = found.name
    for mask, image in {mask: image for image, mask, _ in reversed(wanted)}.items():
        source = plan.get(f"images/{image}")
        if masks is not None and (masks / mask).is_file():
            plan[f"masks/{mask}"] = masks / mask
        elif masks is None and isinstance(source, Path) and _drawn_on(source, mask):
            plan[f"masks/{mask}"] = MASKS / mask
        else:
            missing_masks.append(mask)
    images = sum(name.startswith("images/") for name in plan)
    copied_masks = len(plan) - images
    if masks is not None and copied_masks:
        plan[CONFIG] = f"{WHOSE} = {json.dumps(shown(str(masks.absolute())))}\n".encode()
    plan["data.json"] = annotations.read_bytes()  # last: a folder without it is not a data set yet
    publish(out, plan)

    theirs = {_key(image, text) for image, text in listed}
    ours = {_key(image, text) for image, _, text in wanted}
    return Report(
        out,
        images,
        copied_masks,
        missing_images,
        missing_masks,
        renamed,
        [(image, text) for image, _, text in wanted if _key(image, text) not in theirs],
        [(image, text) for image, text in listed if _key(image, text) not in ours],
    )


def _drawn_on(picture: Path, mask: str) -> bool:
    """Whether a mask comes along, and was drawn on a picture of this one's size."""
    record = (MASKS / mask).with_suffix(".json")
    if not record.is_file():
        return False
    try:
        with Image.open(picture) as opened:
            return bool(list(opened.size) == json.loads(record.read_text(encoding="utf-8"))["size"])
    except DAMAGE:  # a damaged picture, which validate names
        return False


def publish(out: Path, plan: Mapping[str, Path | bytes]) -> None:
    """Write a folder of files, each atomically; a folder that holds anything else is refused before the first write.

    Args:
        out: the folder; it may hold some or all of the files already, with the same contents.
        plan: file name relative to ``out`` -> its contents, or the file to copy them from.

    Raises:
        UserError: ``out`` holds another file, or one of these with other contents; or it cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a folder.")
    sweep(out)  # what a killed run has left
    for path in sorted(out.rglob("*")) if out.is_dir() else []:
        name = path.relative_to(out).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name not in plan:
            raise UserError(f"{out} is not empty: {name} is no part of this build. Give a new or empty folder.")
        if path.is_symlink() or not is_regular(path) or path.read_bytes() != _contents(plan[name]):
            raise UserError(f"{out} holds another build: {name} differs. Give a new or empty folder.")
    for name, source in plan.items():
        if not (out / name).exists():
            write_atomic(out / name, _contents(source))


def _contents(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return get(source)
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}). Check its permissions.") from error


def _names(annotations: Path, out: Path, index: int, record: Any) -> tuple[str, str, str]:
    """Image, mask and prompt of a record, after making sure that the names stay inside the layout."""
    image, text = _pair(annotations, index, record)
    alter_mask = record.get("alter_mask")
    if alter_mask is not None and not isinstance(alter_mask, str):
        raise UserError(f"{annotations}, record {index}: alter_mask is neither a text nor null. Mend the record.")
    mask = mask_name(image, alter_mask)
    for folder, name in (("images", image), ("masks", mask)):
        reason = unsafe(out, folder, name)
        if reason:
            raise UserError(f"{annotations}, record {index} is refused: {reason}. Mend the record.")
    return image, mask, text


def _pair(file: Path, index: int, record: Any) -> tuple[str, str]:
    pair = [record.get(field) if isinstance(record, dict) else None for field in ("img_name", "target_text")]
    if not all(isinstance(text, str) and text for text in pair):
        raise UserError(
            f"{file}, record {index} has no img_name or target_text. Mend the record, or fetch the file again."
        )
    return str(pair[0]), str(pair[1])


def _input_list(tedbench: Path) -> list[Any]:
    path = tedbench / "input_list.json"
    if not path.is_file():
        raise UserError(f"{tedbench} has no input_list.json. Give the folder of a TEdBench download.")
    return read_records(path, path)


def _stem(name: str) -> str:
    stem = Path(name).stem.lower()
    return RENAMED.get(stem, stem).lower()


def _match(name: str, files: list[Path]) -> Path | None:
    """The file of that name; else the one of that stem, or several of that stem if their contents are the same.

    Extensions may differ: IMBA's ``bird.png`` is TEdBench's ``bird.jpeg``.
    """
    for path in files:
        if path.name == name:
            return path
    alike = [path for path in files if _stem(path.name) == _stem(name) and path.suffix.lower() in SUFFIXES]
    return alike[0] if len({digest(path) for path in alike}) == 1 else None


def _key(image: str, text: str) -> tuple[str, str]:
    """A pair without what differs between the two files by accident: extension, case, punctuation."""
    return _stem(image), " ".join(re.findall(r"\w+", text.lower()))
