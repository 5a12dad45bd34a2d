"""Trajectories kept on disk, so that another run need not compute them again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from cpam_bench.imba.common.files import is_temporary, making
from cpam_bench.imba.errors import DiskFull, UserError

log = logging.getLogger(__name__)


@dataclass
class TrajectoryCache:
    """A folder of trajectories, bounded in size; several processes may use it at once.

    An entry is named by the hash of everything that decides its bits.  It is written beside and moved into place, so
    that it is whole or not there.  When the folder grows beyond its bound, what has been unused longest goes.

    Attributes:
        folder: made when something is first kept.
        limit: bytes that the entries may take together.
        hits, misses: counted since this object was made.
    """

    folder: Path
    limit: int
    hits: int = 0
    misses: int = 0

    def get(self, facts: Mapping[str, Any], steps: int, device: torch.device) -> tuple[list[Tensor], float] | None:
        """The latents z_0 ... z_T and the seconds that computing them took, or None if they are not there or damaged.

        Args:
            facts: what decides the bits of the entry; JSON.
            steps: T.
            device: to put the latents on.
        """
        path = self._path(facts)
        try:
            with safe_open(path, framework="pt") as file:
                notes = file.metadata()
                latents = file.get_tensor("latents")
            if len(latents) != steps + 1 or _digest(latents) != notes["sha256"]:
                raise ValueError("its content is not what was written")
            seconds = float(notes["seconds"])
            with contextlib.suppress(OSError):  # a cache that may only be read serves too
                os.utime(path)
        except FileNotFoundError:
            self.misses += 1
            return None
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            log.warning("%s is damaged (%s); it is made anew", path, error)
            self.misses += 1
            return None
        self.hits += 1
        return [step[None] for step in latents.to(device)], seconds

    def put(self, facts: Mapping[str, Any], latents: list[Tensor], seconds: float) -> None:
        """Keep the latents, (1, C, h, w) float32 each.  A cache that cannot be written is told, and costs no edit."""
        path = self._path(facts)
        stacked = torch.cat(latents).cpu().contiguous()
        notes = {"sha256": _digest(stacked), "seconds": repr(seconds), "facts": json.dumps(facts, sort_keys=True)}
        try:
            with making(path) as part:
                save_file({"latents": stacked}, part, notes)
            self._evict()
        except (OSError, SafetensorError, UserError, DiskFull) as error:
            log.warning("the trajectory cache %s cannot be written: %s", self.folder, error)

    def _path(self, facts: Mapping[str, Any]) -> Path:
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _evict(self) -> None:
        """Remove what was unused longest until the rest fits."""
        with self._alone():
            entries = []
            for path in self.folder.glob("*/*.safetensors"):
                with contextlib.suppress(FileNotFoundError):
                    facts = path.stat()
                    entries.append((facts.st_mtime, facts.st_size, path))
            for part in self.folder.glob("*/.cpam-bench-*"):
                with contextlib.suppress(FileNotFoundError):
                    # Of a process that was killed while it wrote; a younger one may be being written.
                    if is_temporary(part) and part.stat().st_mtime < time.time() - 3600:
                        part.unlink()
            size = sum(entry[1] for entry in entries)
            for _, bytes_, path in sorted(entries):
                if size <= self.limit:
                    break
                path.unlink(missing_ok=True)
                size -= bytes_

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # Two that evict at once would both count what the other removes, and remove too much.
        with (self.folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _digest(latents: Tensor) -> str:
    return hashlib.sha256(latents.contiguous().numpy().tobytes()).hexdigest()
