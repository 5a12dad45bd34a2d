"""Data sets by URL: fetched once into a folder of this machine, and again only what has changed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from cpam_bench.imba.common.files import is_temporary, write_atomic
from cpam_bench.imba.errors import UserError

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cpam-bench" / "data"
"""Where fetched data sets are kept; it may be deleted at any time."""


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
    folder: Path = CACHE / hashlib.sha256(url.encode()).hexdigest()[:16] / root.rpartition("/")[2]
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder.parent / "keys.json"
    keys: dict[str, str] = {}
    if kept.is_file():
        keys = json.loads(kept.read_text(encoding="utf-8"))
    now: dict[str, str] = {}
    for path, facts in sorted(found.items()):
        name = path.removeprefix(root).lstrip("/")
        local = folder / name
        if not local.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"the data set {url} has a file {name!r} that climbs out of it. Rename it.")
        now[name] = _key(facts)
        if local.is_file() and keys.get(name) == now[name]:
            continue
        local.parent.mkdir(parents=True, exist_ok=True)
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


def _key(facts: dict[str, Any]) -> str:
    """What changes with a file's content, of all that the file system tells of it."""
    for name in ("ETag", "etag", "blob_id", "sha256", "md5Hash"):
        if facts.get(name):
            return str(facts[name])
    return json.dumps({key: str(facts.get(key)) for key in ("size", "created", "mtime", "LastModified")})
