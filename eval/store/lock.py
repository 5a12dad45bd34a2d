"""Who works in a run's folder: one process at a time, and others can tell which."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from cpam_bench.imba.common.files import writing
from cpam_bench.imba.common.places import get, held, is_remote, place
from cpam_bench.imba.errors import UserError


@dataclass(frozen=True)
class Holder:
    """The process that holds a run's folder, and since when (seconds since the epoch)."""

    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold a run's folder alone; the lock goes with the process, however that ends (a remote one's: soon after).

    Raises:
        UserError: another process works in the folder, or it cannot be made.
    """
    folder = place(folder)
    me = Holder(os.getpid(), platform.node(), time.time())
    if is_remote(folder):
        with contextlib.ExitStack() as stack:
            try:
                with writing(folder):
                    stack.enter_context(held(folder / ".lock", asdict(me)))
            except BlockingIOError:
                raise _taken(folder) from None
            yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / ".lock"):
        lock = (folder / ".lock").open("a+", encoding="utf-8")  # a+ keeps the note of whoever holds it
    with lock:
        for patience in (0.05, 0.2, None):  # whoever looks who holds the lock has it for a moment
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if patience is None:
                    raise _taken(folder) from None
                time.sleep(patience)
        with contextlib.suppress(OSError):  # only a note for whoever meets the lock; a full disk is met later
            lock.truncate(0)
            lock.write(json.dumps(asdict(me)))
            lock.flush()
        yield


def _taken(folder: Path) -> UserError:
    return UserError(f"{_note(folder) or 'another process'} is working in {folder}; wait for it to end")


def holder(folder: str | Path) -> Holder | None:
    """Who works in a run's folder at the moment, or None; of a remote one, who has not said that it is done."""
    folder = place(folder)
    if is_remote(folder):
        return _note(folder)
    if not (folder / ".lock").is_file():  # a folder or pipe of that name is none of ours
        return None
    try:
        with (folder / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _note(folder) or Holder(0, "an unknown machine", time.time())
    return None


def _note(folder: Path) -> Holder | None:
    """What the holder of the lock has noted in it."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        noted = json.loads(get(folder / ".lock"))
        return Holder(**{name: noted[name] for name in ("pid", "host", "since")})
    return None
