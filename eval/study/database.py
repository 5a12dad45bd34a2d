"""The file that a study lives in: SQLite, write-ahead log, every commit synced to disk before it is acknowledged.

The rules of rating are kept here and not in the web page, each in one transaction: a rater answers the first picture
that is still open, all questions of it at once; the same answer sent again changes nothing; another answer to a
rated picture is refused until the picture is taken back; and only the picture rated last can be taken back.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpam_bench.imba.common.files import write_atomic
from cpam_bench.imba.errors import DiskFull, UserError

NAME = "study.db"
LINKS = "links.csv"

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE method (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE sample (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, prompt TEXT NOT NULL,
    source TEXT NOT NULL, outline TEXT
) STRICT;
CREATE TABLE picture (
    id INTEGER PRIMARY KEY, sample INTEGER NOT NULL REFERENCES sample, method INTEGER REFERENCES method,
    control TEXT CHECK (control IN ('same', 'other')), file TEXT NOT NULL,
    CHECK ((method IS NULL) <> (control IS NULL))
) STRICT;
CREATE TABLE rater (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE, token_sha256 TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE task (
    id INTEGER PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater ON DELETE CASCADE, position INTEGER NOT NULL,
    picture INTEGER NOT NULL REFERENCES picture, role TEXT NOT NULL CHECK (role IN ('edit', 'repeat', 'control')),
    public TEXT NOT NULL UNIQUE, answered_at REAL, seconds REAL,
    UNIQUE (rater, position)
) STRICT;
CREATE TABLE question (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE rating (
    task INTEGER NOT NULL REFERENCES task ON DELETE CASCADE, question INTEGER NOT NULL REFERENCES question,
    value REAL NOT NULL, PRIMARY KEY (task, question)
) STRICT, WITHOUT ROWID;
CREATE TABLE withdrawn (
    task INTEGER NOT NULL REFERENCES task ON DELETE CASCADE, question INTEGER NOT NULL REFERENCES question,
    value REAL NOT NULL, withdrawn_at REAL NOT NULL
) STRICT;
"""


class Refused(Exception):
    """A rater's request that breaks the rules of rating; nothing was changed.

    Attributes:
        status: the HTTP status that says so: 404 not this rater's, 409 not now, 422 not an answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Task:
    """One picture that a rater is to rate, as the server needs it; never sent to a browser whole."""

    id: int
    public: str
    prompt: str
    source: str
    outline: str | None
    file: str


def digest(token: str) -> str:
    """What the database keeps of a personal link: its SHA-256, so that a copy of the file opens nobody's tasks."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True)
class Cause:
    """Why a study's file cannot be used.

    Attributes:
        status: the HTTP status that says so.
        what: for raters.
        mend: for whoever runs the study.
    """

    status: int
    what: str
    mend: str


_CAUSES = {
    sqlite3.SQLITE_FULL: Cause(507, "the disk is full", "make room and try again"),
    sqlite3.SQLITE_READONLY: Cause(503, "the study is read-only", "make its folder writable, or copy it to another"),
    sqlite3.SQLITE_BUSY: Cause(
        503, "another program holds the study's file", "end that program, or wait until it is done"
    ),
    sqlite3.SQLITE_IOERR: Cause(503, "the disk fails", "look at the disk"),
    sqlite3.SQLITE_CORRUPT: Cause(500, "the study is damaged", "put back a copy of it"),
    sqlite3.SQLITE_NOTADB: Cause(500, "this is not a study", "give the folder that `cpam-bench study init` made"),
}
_CAUSES[sqlite3.SQLITE_LOCKED] = _CAUSES[sqlite3.SQLITE_PROTOCOL] = _CAUSES[sqlite3.SQLITE_BUSY]
_CAUSES[sqlite3.SQLITE_ERROR] = _CAUSES[sqlite3.SQLITE_NOTADB]  # it has not our tables
_ROOM = 1 << 16  # bytes that SQLite needs beside the file before it can begin


def cause(error: sqlite3.Error, path: Path) -> Cause:
    """Why a study's file cannot be used.

    Args:
        error: what SQLite said.
        path: ``study.db``.
    """
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # above are details of the same error
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        # SQLite says no more where it cannot make the files that it needs beside its own.
        if not os.access(path.parent, os.W_OK):
            code = sqlite3.SQLITE_READONLY
        elif shutil.disk_usage(path.parent).free < _ROOM:
            code = sqlite3.SQLITE_FULL
        else:
            code = sqlite3.SQLITE_IOERR
    return _CAUSES.get(code, _CAUSES[sqlite3.SQLITE_CORRUPT])


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell what goes wrong with a study's file as the user can mend it.

    Raises:
        DiskFull: there is no room.
        UserError: the file cannot be read or written for another reason.
    """
    try:
        yield
    except sqlite3.Error as error:
        found = cause(error, path)
        words = f"{path}: {found.what} ({error}); {found.mend}"
        raise (DiskFull(words) if found.status == 507 else UserError(words)) from error


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """As :func:`told`, and what is not as `init` wrote it is damaged.

    Raises:
        DiskFull, UserError: as :func:`told`.
    """
    try:
        with told(path):
            yield
    except (ValueError, KeyError, TypeError) as error:  # a plan's errors and pandas' too
        line = str(error).partition("\n")[0]
        raise UserError(f"{path}: the study is damaged ({line}); put back a copy of it") from error


def file_of(study: Path) -> Path:
    """The file of a study, of which its folder may be given."""
    return study / NAME if study.is_dir() else study


def connect(path: Path, read_only: bool = False, patience: float = 10.0) -> sqlite3.Connection:
    """Open a study's file; autocommit, transactions are explicit.

    Args:
        path: ``study.db`` or the folder that it is in.
        read_only: never write, not even to recover.
        patience: seconds to wait for another program that holds the file.

    Raises:
        DiskFull: there is no room.
        UserError: there is no study, or it cannot be used.
    """
    path = file_of(path)
    if not path.is_file():
        raise UserError(f"no study at {path}: make one with `cpam-bench study init`")
    with told(path):
        if not read_only:
            return _open(path, "mode=rw", patience)
        try:
            return _open(path, "mode=ro", patience)
        except sqlite3.OperationalError as error:
            # Even to read, SQLite makes files beside its own, which a full or read-only disk does not allow.  Where
            # nothing is left in the log it can do without them.
            log = path.with_name(f"{NAME}-wal")
            if cause(error, path) is _CAUSES[sqlite3.SQLITE_BUSY] or _size(log):
                raise
            return _open(path, "mode=ro&immutable=1", patience)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open(path: Path, mode: str, patience: float) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?{mode}"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False, timeout=patience)
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        if mode == "mode=rw":
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
        connection.execute("SELECT 1 FROM rating LIMIT 1").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; holds the write lock from the start, so that what was read is still true when it is written."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # on a full disk SQLite has often rolled back itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def created(path: Path) -> Iterator[sqlite3.Connection]:
    """A new study file, filled by the block in one transaction; nothing is left in its log."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.executescript(SCHEMA)
        with transaction(connection):
            yield connection
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def meta(connection: sqlite3.Connection) -> dict[str, Any]:
    """What `init` noted: plan, seed, runs, counts."""
    return {key: json.loads(value) for key, value in connection.execute("SELECT key, value FROM meta")}


def pictures(connection: sqlite3.Connection) -> list[str]:
    """The names of all files that are shown."""
    query = "SELECT source FROM sample UNION SELECT outline FROM sample UNION SELECT file FROM picture"
    return [str(name) for (name,) in connection.execute(query) if name is not None]


def rater_of(connection: sqlite3.Connection, token: str) -> int | None:
    """The rater whom a personal link belongs to."""
    row = connection.execute("SELECT id FROM rater WHERE token_sha256 = ?", (digest(token),)).fetchone()
    return None if row is None else int(row[0])


_TASK = """SELECT task.id, public, prompt, source, outline, file FROM task
    JOIN picture ON picture.id = task.picture JOIN sample ON sample.id = picture.sample """


def task_of(connection: sqlite3.Connection, rater: int, public: str) -> Task | None:
    """The rater's task of that public id; None if there is none or it is another rater's."""
    row = connection.execute(_TASK + "WHERE task.rater = ? AND public = ?", (rater, public)).fetchone()
    return None if row is None else Task(*row)


def open_tasks(connection: sqlite3.Connection, rater: int, count: int = 2) -> list[Task]:
    """The next pictures to rate, in order."""
    query = _TASK + "WHERE task.rater = ? AND answered_at IS NULL ORDER BY position LIMIT ?"
    return [Task(*row) for row in connection.execute(query, (rater, count))]


def last_rated(connection: sqlite3.Connection, rater: int) -> str | None:
    """Public id of the picture that can be taken back."""
    query = "SELECT public FROM task WHERE rater = ? AND answered_at IS NOT NULL ORDER BY position DESC LIMIT 1"
    row = connection.execute(query, (rater,)).fetchone()
    return None if row is None else str(row[0])


def progress(connection: sqlite3.Connection, rater: int) -> tuple[int, int]:
    """Pictures rated, and pictures in all."""
    done, total = connection.execute(
        "SELECT count(answered_at), count(*) FROM task WHERE rater = ?", (rater,)
    ).fetchone()
    return int(done), int(total)


def answer(
    connection: sqlite3.Connection, rater: int, public: str, answers: Mapping[str, float], seconds: float
) -> bool:
    """Store a picture's ratings; they are on disk when this returns.

    Args:
        rater: from :func:`rater_of`.
        public: the task's public id.
        answers: question -> rating; every question of the study and no other, each a value of its scale.
        seconds: how long the rater looked.

    Returns:
        True if stored, False if the very same answer was there already.

    Raises:
        Refused: see the module's rules.
    """
    questions = {name: int(id) for id, name in connection.execute("SELECT id, name FROM question")}
    if set(answers) != set(questions):
        raise Refused(422, "an answer to every question is needed, and to no other")
    scale = json.loads(connection.execute("SELECT value FROM meta WHERE key = 'plan'").fetchone()[0])["scale"]["values"]
    if any(value not in scale for value in answers.values()):
        raise Refused(422, "a rating is not on the scale")
    with transaction(connection):
        task = task_of(connection, rater, public)
        if task is None:
            raise Refused(404, "no such picture")
        stored = dict(
            connection.execute(
                "SELECT name, value FROM rating JOIN question ON question.id = question WHERE task = ?", (task.id,)
            )
        )
        if stored:
            if stored == dict(answers):
                return False
            raise Refused(409, "this picture is rated already")
        if open_tasks(connection, rater, 1)[0].id != task.id:
            raise Refused(409, "another picture comes first")
        connection.executemany(
            "INSERT INTO rating (task, question, value) VALUES (?, ?, ?)",
            [(task.id, questions[name], float(value)) for name, value in answers.items()],
        )
        connection.execute("UPDATE task SET answered_at = ?, seconds = ? WHERE id = ?", (time.time(), seconds, task.id))
    return True


def undo(connection: sqlite3.Connection, rater: int, public: str) -> bool:
    """Take the rating of the last picture back; what it was is kept among the withdrawn ones.

    Returns:
        True if taken back, False if the picture is the open one already (the request came twice).

    Raises:
        Refused: the picture is not the rater's, or not the last one.
    """
    with transaction(connection):
        task = task_of(connection, rater, public)
        if task is None:
            raise Refused(404, "no such picture")
        if last_rated(connection, rater) != public:
            upcoming = open_tasks(connection, rater, 1)
            if upcoming and upcoming[0].id == task.id:
                return False
            raise Refused(409, "only the last picture can be taken back")
        connection.execute(
            "INSERT INTO withdrawn SELECT task, question, value, ? FROM rating WHERE task = ?", (time.time(), task.id)
        )
        connection.execute("DELETE FROM rating WHERE task = ?", (task.id,))
        connection.execute("UPDATE task SET answered_at = NULL, seconds = NULL WHERE id = ?", (task.id,))
    return True


def erase(folder: Path, label: str) -> int:
    """Remove a rater and all that is known of them from the study's files; the number of ratings that went.

    The pages that held the data are overwritten, the file rebuilt, the write-ahead log emptied, and the personal link
    taken out of ``links.csv``.  That a rater was erased is kept, as a count.

    Raises:
        DiskFull: there is no room; the same command tries again.
        UserError: no such rater, or the file cannot be written.
    """
    path = file_of(folder)
    connection = connect(path)
    try:
        with told(path):
            count = _erase(connection, folder, label)
        try:
            connection.execute("VACUUM")
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            held = "while the server is busy" if busy else ""
        except sqlite3.Error as error:
            held = f"since {cause(error, path).what}"
        if held:
            raise UserError(
                f"{label} is erased, but {NAME}-wal may hold old pages {held}: stop the server once, with room on the"
                " disk, which empties the file"
            )
    finally:
        connection.close()
    return count


def _erase(connection: sqlite3.Connection, folder: Path, label: str) -> int:
    row = connection.execute("SELECT id FROM rater WHERE label = ?", (label,)).fetchone()
    if row is None:
        known = ", ".join(name for (name,) in connection.execute("SELECT label FROM rater ORDER BY id"))
        raise UserError(f"no rater {label!r} in {folder}: its raters are {known or 'all erased'}")
    # The link first: if the rest fails, the same command does it again.
    links = file_of(folder).with_name(LINKS)
    if links.is_file():
        lines = links.read_bytes().splitlines(keepends=True)
        write_atomic(links, b"".join(line for line in lines if not line.startswith(f"{label},".encode())), private=True)
    with transaction(connection):
        query = "SELECT count(*) FROM rating JOIN task ON task.id = rating.task WHERE rater = ?"
        count = int(connection.execute(query, row).fetchone()[0])
        connection.execute("DELETE FROM rater WHERE id = ?", row)
        connection.execute(
            "INSERT INTO meta VALUES ('erased', '1') ON CONFLICT (key) DO UPDATE SET value = CAST(value + 1 AS TEXT)"
        )
    return count
