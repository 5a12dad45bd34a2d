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

_PREFIX, _SUFFIX = ".cpam-bench-", ".part"


def write_atomic(path: Path, data: bytes, private: bool = False) -> None:
    """Write a file whole or not at all, and onto the disk before it has its name.

    Args:
        path: here, or wherever fsspec reaches.
        data: its bytes.
        private: nobody else may read it, at no moment.

    Raises:
        DiskFull: there is no room; nothing of the file is left.
        UserError: the file cannot be written for another reason.
    """
    if is_remote(path):
        with writing(path):
            put(path, data)
        return
    with making(path, private) as part:
        part.write_bytes(data)


def write_new(path: Path, data: bytes) -> None:
    """Write a local file whole or not at all, if there is none yet.

    Raises:
        FileExistsError: there is one, and it stays as it is.
        DiskFull, UserError: as :func:`write_atomic`.
    """
    with _temporary(path) as part:
        with writing(path):
            part.write_bytes(data)
            _sync_file(part)
        try:
            os.link(part, path)  # unlike a rename, it fails where something is already
        except FileExistsError:
            raise
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        sync(path.parent)


@contextlib.contextmanager
def making(path: Path, private: bool = False) -> Iterator[Path]:
    """A new, empty local file that becomes ``path`` when the block ends well, and is gone if it does not.

    It is beside ``path`` under a name that nothing else has, and is synced before it is renamed.  For what is too large
    to be held as bytes; :func:`write_atomic` does the rest.

    Raises:
        DiskFull: there is no room; nothing of the file is left.
        UserError: the file cannot be written for another reason.
    """
    with writing(path), _temporary(path, private) as part:
        yield part
        _sync_file(part)
        os.replace(part, path)
        sync(path.parent)


@contextlib.contextmanager
def _temporary(path: Path, private: bool = False) -> Iterator[Path]:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
        # As open() would make it, by the user's umask; "x" so that no file of another is ever taken.
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)):
            pass
    try:
        yield part
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            part.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def finish(part: Path, path: Path) -> None:
    """Give a file that was filled over several tries its name, once it is whole.

    Raises:
        DiskFull, UserError: as :func:`write_atomic`.
    """
    with writing(path):
        _sync_file(part)
        os.replace(part, path)
        sync(path.parent)


def sync(folder: Path) -> None:
    """Have the names in a folder on the disk; file systems that cannot are left to themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Whether a file is one of ours that is being written, or was when its process was killed."""
    return path.name.startswith(_PREFIX) and path.name.endswith(_SUFFIX)


def sweep(folder: Path) -> None:
    """Delete what a killed process has left half written below a local folder; nothing else has such names."""
    for part in () if is_remote(folder) else folder.rglob(f"{_PREFIX}*{_SUFFIX}"):
        if not part.is_dir():  # a folder is none of ours
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
        if is_full(error):
            raise no_room(path) from error
        if path.is_dir() and isinstance(error, IsADirectoryError):
            raise UserError(f"{path} cannot be written: it is a folder. Move it away, or delete it.") from error
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def is_full(error: OSError) -> bool:
    """Whether there was no room, or none left for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def no_room(path: Path) -> DiskFull:
    """What is said where there is no room for a path."""
    return DiskFull(
        f"the disk is full: {path} could not be written. What was finished before is safe;"
        " make room and give the same command again to continue."
    )


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


def write_rows(path: Path, columns: list[str], rows: Iterable[Iterable[Any]], shared: bool = False) -> None:
    """Write a CSV; numbers as Python's shortest text that reads back to the same value, NaN as nothing.

    Args:
        path: of the file.
        columns: its first line.
        rows: a cell a column.
        shared: for others to open in a spreadsheet: texts that it would take for formulas are escaped.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    cells = ([("" if isinstance(cell, float) and cell != cell else cell) for cell in row] for row in rows)
    writer.writerows([no_formula(cell) for cell in row] if shared else row for row in cells)
    write_atomic(path, buffer.getvalue().encode())


def no_formula(cell: Any) -> Any:
    """A cell that no spreadsheet computes: a text that begins like a formula gets an apostrophe before it (OWASP)."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
