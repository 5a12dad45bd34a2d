"""The one writer: every file is there whole or not at all, also after a crash or a power cut."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from cpam_bench.imba.common.places import is_remote, put
from cpam_bench.imba.errors import DiskFull, UserError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_PREFIX, _SUFFIX = ".cpam-bench-", ".part"


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, and onto the disk before it has its name.

    The bytes go into a new file beside it, under a name that nothing else has; that is synced, and then renamed.

    Raises:
        DiskFull: there is no room; nothing of the file is left.
        UserError: the file cannot be written for another reason.
    """
    if is_remote(path):
        with writing(path):
            put(path, data)
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        try:
            # As open() would make it, by the user's umask; "x" so that no file of another is ever taken.
            with open(part, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                part.unlink(missing_ok=True)
            raise
        sync(path.parent)


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk; file systems that cannot are left to themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path) -> None:
    """Delete what a killed process has left half written below a local folder; nothing else has such names."""
    for part in () if is_remote(folder) else folder.rglob(f"{_PREFIX}*{_SUFFIX}"):
        part.unlink()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell errors of writing a path as the user can mend them.

    Raises:
        DiskFull: there is no room.
        UserError: the path cannot be written for another reason.
    """
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NO_SPACE:
            raise DiskFull(
                f"the disk is full: {path} could not be written. What was finished before is safe;"
                " make room and give the same command again to continue."
            ) from error
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a record, one line a key."""
    write_atomic(path, (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())


def encode_png(image: Image.Image) -> bytes:
    """The PNG file of a picture."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_png(path: Path, image: Image.Image | bytes) -> str:
    """Write a picture, or the bytes of its PNG file; returns the sha256 of the file."""
    data = image if isinstance(image, bytes) else encode_png(image)
    write_atomic(path, data)
    return hashlib.sha256(data).hexdigest()


def write_rows(path: Path, columns: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV; numbers as Python's shortest text that reads back to the same value, NaN as nothing."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([("" if isinstance(cell, float) and cell != cell else cell) for cell in row] for row in rows)
    write_atomic(path, buffer.getvalue().encode())
