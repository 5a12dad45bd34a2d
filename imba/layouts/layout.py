"""How a folder becomes samples: what every layout has, and what they share."""

from __future__ import annotations

import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar, Protocol

from PIL import Image

from cpam_bench.imba.common.plugins import Group
from cpam_bench.imba.errors import UserError
from cpam_bench.imba.pictures import DAMAGE, MAX_PIXELS, files_like, is_regular, too_large, unread_heic
from cpam_bench.imba.problems import Problem, Severity
from cpam_bench.imba.sample import Sample

GROUP = "cpam_bench.datasets"
"""The entry-point group by which layouts are found."""


@dataclass(frozen=True)
class Recognition:
    """What a layout sees in a folder.

    Attributes:
        why: by what it knows the folder: ``data.json is a list of records``.
        lacks: what is missing before it can be read, and the mend; empty if nothing is.
    """

    why: str
    lacks: str = ""


@dataclass(frozen=True)
class Content:
    """A data set as its layout reads it.

    Attributes:
        samples: in the order of the records.
        problems: of the records, and of files that are not there; pixels are not looked at.
        records: what the data set says of its samples, as JSON can write it; it enters the fingerprint.
        count: how many records there are, those that became no sample among them.
        indices: of each sample, the index of its record.
        facts: numbers and words that ``data info`` shows, by name.
    """

    samples: list[Sample]
    problems: list[Problem]
    records: Any
    count: int
    indices: list[int] = field(default_factory=list)
    facts: Mapping[str, str] = field(default_factory=dict)


class Layout(Protocol):
    """A layout of data sets: a frozen dataclass whose fields are its parameters, found by an entry point.

    Attributes:
        name: by which it is chosen; the entry point's.
        title: one line for lists.
        reference: where the layout comes from.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    reference: ClassVar[str]

    def recognises(self, root: Path) -> Recognition | None:
        """Whether a folder (or file) is in this layout; None if nothing of it is there.  It never raises."""
        ...

    def read(self, root: Path) -> Content:
        """The samples and what is wrong with the records and files.

        Raises:
            UserError: the records cannot be read at all.
        """
        ...


LAYOUTS: Group[Layout] = Group(GROUP, "layout", {"name": str, "title": str, "reference": str}, ("recognises", "read"))
"""Every layout that is installed."""


def read_text(path: Path, missing: str) -> str:
    """A text file's content.

    Raises:
        UserError: it is not there (with the words ``missing``), not a regular file, not UTF-8, or cannot be read.
    """
    try:
        if not is_regular(path):
            raise UserError(f"{path} is no regular file. Put a file there." if path.exists() else missing)
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}). Check its name and permissions.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (see byte {error.start}). Save it as UTF-8.") from error


def read_json(path: Path, missing: str) -> Any:
    """A JSON file's content.

    Raises:
        UserError: as :func:`read_text`, or it is not JSON; lines of JSON are told as what they are.
    """
    text = read_text(path, missing)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        if _is_json_lines(text):
            raise UserError(
                f"{path} is JSON lines, an object a line. Name it .jsonl and read it as a table (--layout table), or"
                " put the lines into one list [...] with commas between."
            ) from error
        raise UserError(f"{path} is not JSON ({str(error)[:200]}). Mend it there, or fetch it again.") from error


def _is_json_lines(text: str) -> bool:
    lines = [line for line in text.splitlines()[:3] if line.strip()]
    try:
        return len(lines) > 0 and all(isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def slug(text: str, limit: int) -> str:
    """Lower-case ASCII letters, digits, ``_`` and ``-``; a text that is cut or has no such letters ends in its hash."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    name = re.sub(r"[^a-z0-9_]+", "-", plain).strip("-")
    if name and len(name) <= limit:
        return name
    return f"{name[:limit]}-{short_hash(text)}".strip("-")


def short_hash(text: str) -> str:
    """Six hexadecimal digits that tell texts apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def safe_id(id: str) -> bool:
    """Whether an id can be a file name everywhere."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,119}", id) is not None


def make_id(image: str, text: str, taken: dict[str, tuple[str, str]]) -> str:
    """``<image's stem>-<text>``, with a hash where another record has that; it is entered into ``taken``.

    Raises:
        ValueError: the same record was there before.
    """
    id = f"{slug(Path(image).stem, 40)}-{slug(text, 70)}"
    if taken.get(id, (image, text)) != (image, text):
        id = f"{id}-{short_hash(image + text)}"
    if id in taken:
        raise ValueError("the record repeats an earlier one")
    taken[id] = image, text
    return id


def unsafe(root: Path, folder: str, name: str) -> str | None:
    """Why ``root/folder/name`` must not be read or written, or None if it lies inside ``root/folder``."""
    # Windows' rules know both separators and drives; "a:b.png" is a plain name elsewhere.
    pure = PureWindowsPath(name)
    if pure.root or ".." in pure.parts or "\0" in name or (pure.drive and PureWindowsPath(name[2:]).root):
        return f"{name!a:.100} climbs out of {folder}/"
    if not Path(name).name:
        return f"{name!a:.100} names no file"
    try:
        if not (root / folder / name).resolve().is_relative_to(root.resolve()):
            return f"{name!a:.100} is a link out of the data set"
        (root / folder / name).stat()
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, a loop of links, no valid characters
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"{name!a:.100} is no usable file name ({why[:200]})"
    return None


def find(root: Path, name: str) -> Path | None:
    """A regular file below a folder by its name, or by the same in another normal form of Unicode; None without one.

    File systems and archives write accented letters in one piece (NFC) or in two (NFD); both mean the same, in a file's
    name and in those of the folders that it is in.
    """
    if is_regular(root / name):
        return root / name
    path = root
    for part in Path(name).parts:
        try:
            names = [part] if (path / part).exists() else [child.name for child in path.iterdir()]
        except OSError:
            return None
        wanted = unicodedata.normalize("NFC", part)
        same = [name for name in names if unicodedata.normalize("NFC", name) == wanted]
        if len(same) != 1:
            return None
        path = path / same[0]
    return path if is_regular(path) else None


class Refused(Exception):
    """The record names a file that must not be read."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Files:
    """Finds the files that the records of one data set name, and keeps what is wrong with them.

    Attributes:
        root: the data set's folder.
        listed: the file that holds the records.
        problems: what was found wrong.
    """

    root: Path
    listed: str = "data.json"
    problems: list[Problem] = field(default_factory=list)

    def locate(
        self,
        folder: str,
        name: str,
        what: str,
        mend: str,
        *,
        record: int | str | None,
        sample: str | None,
        severity: Severity = "error",
    ) -> Path | None:
        """The file ``folder/name``, or None with a problem added.

        Args:
            folder: inside the data set; "" for the data set's own.
            name: as the record says.
            what: the file is: ``image``, ``mask``, ``truth``.
            mend: what to do where it is missing.
            record, sample: for the problem.
            severity: of a missing file.

        Raises:
            Refused: the name must not be read.
        """
        if reason := unsafe(self.root, folder, name):
            wrong = f"the {what} is refused: {reason}"
            advice = "Copy the file into the data set and name it there"
            raise Refused(Problem("error", wrong, advice, record=record, listed=self.listed))
        path = self.root / folder / name
        found = find(self.root / folder, name)
        if found is None:
            shown = f"{folder}/{name}" if folder else name
            wrong = f"the {what} is missing"
            if path.exists():
                wrong = f"the {what} is no regular file"
            elif like := next(files_like(path), None):
                near = like.relative_to(self.root).as_posix()
                mend = f"{near} is there: give it the name that is asked for, or name it in the record"
                wrong = f"the {what} is there under another name"
            self.problems.append(Problem(severity, wrong, mend, sample, record, shown, self.listed))
        return found


def field_text(item: Mapping[str, Any], key: str) -> str:
    """A text of a record, "" where it is missing or null.

    Raises:
        ValueError: it is something else, or cannot be encoded.
    """
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is a {type(value).__name__}, not a text")
    value.encode()  # half of a surrogate pair is no text
    return value


def packed_picture(cell: Any) -> tuple[Image.Image, str]:
    """A picture that stands in a table as Hugging Face packs it, ``{"bytes": ..., "path": ...}``, and its sha256.

    Its pixels are decoded when they are asked for.

    Raises:
        ValueError: it is none.
    """
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if not isinstance(data, bytes) or not data:
        raise ValueError("the image is not packed into the table")
    try:
        picture = Image.open(io.BytesIO(data))
    except DAMAGE as error:
        why = unread_heic(data) or f"is damaged or no picture ({error})"
        raise ValueError(f"the image in the table {why}") from error
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"the image in the table {too_large(f'{picture.width} x {picture.height} pixels')}")
    return picture, hashlib.sha256(data).hexdigest()


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file.

    Raises:
        UserError: it cannot be read.
    """
    import pyarrow
    import pyarrow.parquet

    if not is_regular(path):
        raise UserError(f"{path} is no regular file. Put a file there.")
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is no Parquet file that can be read ({str(error)[:200]}). Fetch it again.") from error
    return rows


def parquet_columns(path: Path) -> list[str]:
    """The names of a Parquet file's columns; none where it cannot be read."""
    import pyarrow
    import pyarrow.parquet

    if not is_regular(path):
        return []
    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (OSError, pyarrow.ArrowException):
        return []
