"""Folders that are written whole or not at all, such as a report or an export."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cpam_bench.imba.common.files import is_full, no_room, write_atomic, writing
from cpam_bench.imba.errors import DiskFull, UserError

MARKER = ".cpam-bench"
"""The file that tells what made a folder, so that only such a folder is ever replaced."""


@contextmanager
def replacing(folder: Path, kind: str) -> Iterator[Path]:
    """A new folder that takes the place of ``folder`` when the block ends well, and is gone if it does not.

    Args:
        folder: where it is to be: new, empty, or one of the same kind, which is replaced.
        kind: of the folder, ``report`` for instance.

    Raises:
        UserError: ``folder`` holds something else, or cannot be written.
        DiskFull: there is no room.
    """
    folder = folder.resolve()
    require_replaceable(folder, kind)
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = place / "new"
        with writing(made):
            made.mkdir()
        yield made
        write_atomic(made / MARKER, f"{kind}\n".encode())
        with writing(folder):
            if folder.exists():
                folder.rename(place / "old")
            try:
                made.rename(folder)
            except OSError:
                if (place / "old").exists():
                    (place / "old").rename(folder)
                raise
    except DiskFull as error:
        raise no_room(folder) from error  # what lies in the new folder, nobody will find
    except OSError as error:
        if is_full(error):
            raise no_room(folder) from error
        raise
    finally:
        shutil.rmtree(place, ignore_errors=True)


def require_replaceable(folder: Path, kind: str) -> None:
    """Make sure that nothing but a folder of the kind would be replaced.

    Raises:
        UserError: something else is there.
    """
    if folder.is_dir():
        marker = folder / MARKER
        ours = marker.is_file() and marker.read_text(encoding="utf-8", errors="replace").strip() == kind
        if not ours and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and no {kind} of cpam-bench; give a new or empty folder with --out")
    elif folder.exists():
        raise UserError(f"{folder} is a file; give a folder with --out")
