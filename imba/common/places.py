"""Where a run is: a local folder, or any place that fsspec reaches by a URL (``s3://``, ``gs://``, ``memory://`` ...).

A local folder is a :class:`pathlib.Path`; another place is a ``UPath``, which has the same methods.  What differs is
here: a local file is written beside and moved into place, an object is put whole by one request; a local folder is held
by a lock of the operating system, another place by an object that its holder keeps renewing.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from cpam_bench.imba.errors import UserError

log = logging.getLogger(__name__)

HEARTBEAT = 10.0
"""Seconds between two renewals of a remote lock; one that is not renewed three times over belongs to a dead process."""


def place(where: str | Path) -> Path:
    """A folder from its name on the command line.

    Raises:
        UserError: no file system is known for the URL, or it cannot be reached.
    """
    if not isinstance(where, str) or "://" not in where:
        return Path(where) if isinstance(where, str) else where
    if where.startswith("file://"):
        return Path(where.removeprefix("file://"))
    from upath import UPath

    try:
        # Listings are not kept: other processes write into a run too.
        found = UPath(where, use_listings_cache=False)
        found.exists()
    except Exception as error:  # every file system has errors of its own
        raise UserError(f"{where} cannot be reached: {error}") from error
    return cast(Path, found)


def is_remote(path: Path) -> bool:
    return not isinstance(path, Path)


def put(path: Path, data: bytes) -> None:
    """Write an object whole or not at all."""
    remote: Any = path
    remote.fs.pipe_file(remote.path, data)


def get(path: Path) -> bytes:
    """A file's content; an object's by one request, since opening it asks twice and fails if it is replaced in between.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read, or is a pipe or device, which would be waited for, or read, without end.
    """
    if not is_remote(path):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return path.read_bytes()
    remote: Any = path
    content: bytes = remote.fs.cat_file(remote.path)
    return content


def modified(path: Path) -> float:
    """When a file was written, seconds since the epoch.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not is_remote(path):
        return path.stat().st_mtime
    remote: Any = path
    return float(remote.fs.modified(remote.path).timestamp())


@contextlib.contextmanager
def held(lock: Path, note: dict[str, Any]) -> Iterator[None]:
    """Hold a remote place by an object in it.

    The object is made by a request that fails if it exists, and renewed every :data:`HEARTBEAT` seconds.  Whoever finds
    one watches whether it is renewed, which needs no clocks that agree: if it is, the place is held; if not, its holder
    is dead, and the object is replaced.  Two that replace it at the same moment is the case that object stores cannot
    rule out: the one that finds the other's mark when it renews its own stops the run, as Ctrl-C does.

    Args:
        lock: the object.
        note: what it says of the holder.

    Raises:
        BlockingIOError: another process holds the place.
    """
    mark = secrets.token_hex(8)

    def text() -> bytes:
        return json.dumps(note | {"mark": mark, "seen": time.time()}).encode()

    if not _create(lock, text()):
        before = _read(lock)
        deadline = time.monotonic() + 3 * HEARTBEAT
        while time.monotonic() < deadline:
            time.sleep(HEARTBEAT / 10)
            if (now := _read(lock)) != before:
                if now is None:
                    break  # it has ended in the meantime
                raise BlockingIOError
        lock.unlink(missing_ok=True)
        if not _create(lock, text()):
            raise BlockingIOError
    ended = threading.Event()
    thread = threading.Thread(target=_renew, args=(lock, mark, text, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if _mark(lock) == mark:
            lock.unlink(missing_ok=True)


def _renew(lock: Path, mark: str, text: Any, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        try:
            if _mark(lock) not in (mark, None):
                log.error("another process has taken over %s; this one stops", lock.parent)
                os.kill(os.getpid(), signal.SIGINT)
                return
            put(lock, text())
        except OSError as error:  # the network may come back
            log.warning("the lock %s could not be renewed: %s", lock, error)


def _create(path: Path, data: bytes) -> bool:
    """Write an object that must not be there yet; False if it is."""
    remote: Any = path
    try:
        remote.fs.pipe_file(remote.path, data, mode="create")
    except FileExistsError:
        return False
    except OSError:
        # S3 answers with a failed precondition, which is no error of its own in Python.
        if path.exists():
            return False
        raise
    return True


def _read(lock: Path) -> bytes | None:
    try:
        return get(lock)
    except FileNotFoundError:
        return None


def _mark(lock: Path) -> str | None:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return str(json.loads(_read(lock) or b"null")["mark"])
    return None
