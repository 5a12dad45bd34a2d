"""Data sets by URL: fetched once into a folder of this machine, and again only what has changed."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from cpam_bench.imba.common.files import finish, is_full, is_temporary, no_room, write_atomic, writing
from cpam_bench.imba.common.hashes import digest
from cpam_bench.imba.errors import UserError


def cache() -> Path:
    """Where what was fetched is kept, which may be deleted at any time: ``data/`` sets, ``published/`` single files.

    Raises:
        UserError: the user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpam-bench"
    except RuntimeError as error:  # no HOME, and a user that the system does not know, as in many containers
        raise UserError("there is no home to keep downloads in; set HOME or XDG_CACHE_HOME to a folder") from error


CONNECT = 8.0
"""Seconds that a server may be silent."""

SLOWEST = 4096
"""Bytes a second that a server must send on the whole, after :data:`CONNECT` seconds."""

TRIES = 3
"""How often a download is begun or gone on with."""


class NotThere(UserError):
    """A server does not have a file."""


def fetch(url: str) -> Path:
    """A local folder with the files of a remote one (``s3://bucket/imba``, ``hf://datasets/name/imba`` ...).

    A file is fetched again if the file system's key for it (S3: its ETag) is another than when it was fetched.

    Raises:
        UserError: the place cannot be reached, or there is no such folder.
    """
    import fsspec

    try:
        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        found = fs.find(root, detail=True)
    except (ImportError, ValueError, OSError) as error:
        raise UserError(f"the data set {url} cannot be reached: {error}") from error
    if not found:
        raise UserError(f"there is no data set {url}: nothing is there.")
    root = root.rstrip("/")
    folder: Path = cache() / "data" / hashlib.sha256(url.encode()).hexdigest()[:16] / root.rpartition("/")[2]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    kept = folder.parent / "keys.json"
    keys = _keys(kept)
    now: dict[str, str] = {}
    for path, facts in sorted(found.items()):
        name = path.removeprefix(root).lstrip("/")
        local = folder / name
        if not local.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"the data set {url} has a file {name!r} that climbs out of it. Rename it.")
        now[name] = _key(facts)
        if local.is_file() and keys.get(name) == now[name]:
            continue
        try:
            data = fs.cat_file(path)
        except OSError as error:
            raise UserError(f"{url}: {name} cannot be fetched: {error}") from error
        write_atomic(local, data)
    for local in folder.rglob("*"):  # what is no longer there must not be found here
        # Another process may be writing one of them at this moment.
        if local.is_file() and local.relative_to(folder).as_posix() not in now and not is_temporary(local):
            local.unlink(missing_ok=True)
    write_atomic(kept, json.dumps(now).encode())
    return folder


def _keys(kept: Path) -> dict[str, str]:
    """File -> key when it was fetched; nothing where that was lost, so that all is fetched again."""
    try:
        found = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _key(facts: dict[str, Any]) -> str:
    """What changes with a file's content, of all that the file system tells of it."""
    for name in ("ETag", "etag", "blob_id", "sha256", "md5Hash"):
        if facts.get(name):
            return str(facts[name])
    return json.dumps({key: str(facts.get(key)) for key in ("size", "created", "mtime", "LastModified")})


def download(url: str, path: Path, size: int | None = None, sha256: str | None = None) -> None:
    """Fetch one file by HTTP, if it is not there yet, and go on with what broke off before.

    What is half there lies beside it under the name ``<name>.half``, and never under its own.

    Args:
        url: of the file.
        path: where it is to be.
        size: in bytes, where it is known.
        sha256: of its contents, where it is known.

    Raises:
        NotThere: the server does not have it.
        UserError: the server cannot be reached, breaks off again and again, is too slow, or sends something else.
    """
    if path.is_file() and sha256 in (None, digest(path)):
        return
    half = path.with_name(f"{path.name}.half")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    trouble = ""
    for _ in range(TRIES):
        try:
            _go_on(url, half, size)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise NotThere(f"{url} is not there any more (HTTP {error.code})") from error
            trouble = f"HTTP {error.code}"
            if error.code == 416:  # what is here is longer than what is there
                half.unlink(missing_ok=True)
            continue
        except (urllib.error.URLError, TimeoutError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(error, OSError) and is_full(error):
                raise no_room(half) from error
            trouble = str(reason) or type(reason).__name__
            if half.exists() and half.stat().st_size:
                continue  # it had begun
            break
        if size is not None and half.stat().st_size < size:
            trouble = f"it breaks off at {half.stat().st_size} of {size} bytes"
            continue
        found = digest(half)
        if sha256 in (None, found):
            finish(half, path)
            return
        trouble = f"it sends other bytes than were published (sha256 {found}, not {sha256})"
        half.unlink()
    raise UserError(f"{url} cannot be fetched: {trouble}. Try again later; what is here is gone on with.")


def _go_on(url: str, half: Path, size: int | None) -> None:
    """Fetch a file, from where an earlier try broke off if the server can."""
    start = half.stat().st_size if half.exists() else 0
    if size is not None and start == size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    began = time.monotonic()
    with urllib.request.urlopen(request, timeout=CONNECT) as answer:
        goes_on = answer.status == 206
        with half.open("ab" if goes_on else "wb") as file:
            got = 0
            while block := answer.read(1 << 14):
                file.write(block)
                got += len(block)
                seconds = time.monotonic() - began
                if seconds > CONNECT and got < SLOWEST * (seconds - CONNECT):
                    raise TimeoutError(f"too slow: {got} bytes in {seconds:.0f} s")
                if size is not None and file.tell() > size:
                    raise TimeoutError(f"it sends more than {size} bytes")
