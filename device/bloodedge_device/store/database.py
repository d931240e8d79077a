"""Opening the database for writing and for reading, and setting a damaged one aside."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import time_ns

from bloodedge.errors import BloodedgeError, UsageError, quoted
from bloodedge.files import SQLITE_ENDINGS, file_bytes, file_mode
from bloodedge_device.store.crops import free_bytes
from bloodedge_device.store.schema import (
    ADDED,
    ADDED_TABLES,
    APPLICATION_ID,
    MIGRATIONS,
    OUTBOX_SINCE,
    READABLE_SINCE,
    SCHEMA_VERSION,
)

DATABASE = "device.sqlite"
CROPS = "crops"

FILES = (DATABASE, *(f"{DATABASE}{ending}" for ending in SQLITE_ENDINGS))
"""The database's files: SQLite's own are beside it while it is in use."""

SET_ASIDE, WHEN = "damaged-", "%Y%m%dT%H%M%S"
"""Names of folders for damaged databases: the time in UTC."""

MEGABYTE = 1_000_000

DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
"""SQLite's codes for a damaged file."""


def open_for_writing(state: Path) -> sqlite3.Connection:
    """The database of a state folder, made or migrated as needed; sqlite3.Error when it cannot be."""
    database = sqlite3.connect(state / DATABASE, isolation_level=None, check_same_thread=False)
    try:
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        version = check_version(database, state)
        if version < SCHEMA_VERSION:
            steps = "\n".join(MIGRATIONS[version:])
            database.executescript(
                f"BEGIN; {steps} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION};"
                f" {_first_message() if version < OUTBOX_SINCE else ''} COMMIT;"
            )
    except BaseException:
        database.close()
        raise
    return database


def _first_message() -> str:
    """Messages are numbered on from the milliseconds since 1970, so that a new database's follow an older one's."""
    return f"INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', {time_ns() // 1_000_000});"  # noqa: S608  # a number


def is_damaged(state: Path) -> bool:
    """Whether the state folder has a database that fails SQLite's quick check."""
    path = state / DATABASE
    if not file_bytes(path):
        return False
    try:
        with closing(sqlite3.connect(path)) as database:
            return str(database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok"
    except sqlite3.Error as error:
        return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in DAMAGE


def sets_aside(state: Path) -> dict[Path, datetime]:
    """Folders of damaged databases, and when each was set aside."""
    found: dict[Path, datetime] = {}
    for folder in state.glob(f"{SET_ASIDE}*"):
        with suppress(ValueError):  # not one of ours
            stamp = folder.name.removeprefix(SET_ASIDE).partition("_")[0]
            found[folder] = datetime.strptime(stamp, WHEN).replace(tzinfo=UTC)
    return found


def set_aside(state: Path) -> Path:
    """Move a damaged database and its images into a folder of their own; returns it."""
    folder = set_aside_database(state)
    if (state / CROPS).exists():
        (state / CROPS).rename(folder / CROPS)
    return folder


def set_aside_database(state: Path) -> Path:
    """Move a database into a folder of its own, without its images; returns it."""
    folder = _dated_now(state)
    folder.mkdir()
    for name in FILES:
        if (state / name).exists():
            (state / name).rename(folder / name)
    return folder


def date_set_aside(folder: Path) -> None:
    """Rename a folder that was set aside after the current time."""
    folder.rename(_dated_now(folder.parent))


def _dated_now(state: Path) -> Path:
    """A new folder's path, named after the current time."""
    folder = state / f"{SET_ASIDE}{datetime.now(UTC):{WHEN}}"
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{folder.name.partition('_')[0]}_{number}")
    return folder


def is_read_only(folder: Path) -> bool:
    """Whether a folder's disk cannot be written: Linux makes it so after a fault (ext4(5), errors=remount-ro).

    Only an attempt to write shows it: newer kernels do not call such a disk read-only in statvfs(3).
    """
    return _error_of_writing(folder) == errno.EROFS


def is_full(folder: Path) -> bool:
    """Whether nothing more can be written in a folder: its disk is full, or the quota of who writes is used up.

    A disk's free space says nothing of quotas; SQLite calls them a failed disk.
    """
    return free_bytes(folder) < MEGABYTE or _error_of_writing(folder) in {errno.ENOSPC, errno.EDQUOT}


def _error_of_writing(folder: Path) -> int | None:
    """What becomes of an attempt to write a page into a file without a name; None when it succeeds."""
    try:
        handle = os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600)
        try:
            os.write(handle, bytes(4096))
            os.fsync(handle)  # a network drive tells of its quota only now
        finally:
            os.close(handle)
    except OSError as error:
        return error.errno
    return None


class DiskFullError(BloodedgeError):
    """Nothing more can be stored until space is free; what was stored is intact."""


class StarvedError(DiskFullError):
    """Nothing can be stored until a file can be opened; what was stored is intact."""


class LockedError(DiskFullError):
    """Nothing can be stored while another program keeps the database locked; what was stored is intact."""


class ReadOnlyDiskError(DiskFullError):
    """Nothing can be stored until the disk can be written again; what was stored is intact."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"Results cannot be stored in {path}: the disk has become read-only, as after a fault; restart the machine,"
            " which checks it. What was stored is intact."
        )


class DamagedDatabaseError(BloodedgeError):
    """The database is damaged; the writer sets it aside and begins a new one."""


@contextmanager
def database_errors(state: Path, doing: str = "stored in") -> Iterator[None]:
    """Turn SQLite's failures into a sentence; results could not be ``doing`` the state folder's database."""
    try:
        yield
    except sqlite3.Error as error:
        path = state / DATABASE
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        reasons = {
            sqlite3.SQLITE_IOERR: "the disk failed; check it and start again, what was stored is intact",
            sqlite3.SQLITE_READONLY: "it is read-only; change its permissions or choose another folder with --state",
            sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the folder's permissions or choose another folder",
            sqlite3.SQLITE_CORRUPT: "it is damaged; the daemon sets it aside at its next start",
            sqlite3.SQLITE_BUSY: "another program keeps it locked; close that program and try again",
            sqlite3.SQLITE_NOTADB: "it is not a bloodedge database; rename it and start again",
        }
        reason = reasons.get(code, f"SQLite says {error}; check the disk and start again")
        kind = BloodedgeError
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and is_full(state)):
            kind = DiskFullError
            reason = "the disk is full or the quota used up; free some space, what was stored is intact"
        elif code in DAMAGE:
            kind = DamagedDatabaseError
        elif code == sqlite3.SQLITE_BUSY:
            kind = LockedError
        elif is_read_only(state):
            raise ReadOnlyDiskError(path) from error
        raise kind(f"Results cannot be {doing} {path}: {reason}.") from error


def check_version(database: sqlite3.Connection, state: Path) -> int:
    """A database's schema version, 0 for a new one; BloodedgeError when it is another program's or too new."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise BloodedgeError(f"{state / DATABASE} was written by a newer bloodedge; upgrade this one to read it.")
    application: int = database.execute("PRAGMA application_id").fetchone()[0]
    tables: int = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise BloodedgeError(f"{state / DATABASE} is not a bloodedge database; rename it and start again.")
    return version


@contextmanager
def open_for_reading(state: Path) -> Iterator[sqlite3.Connection]:
    """The database of a state folder, rows as mappings; a daemon may use it at the same time.

    Raises UsageError when there is none, and BloodedgeError when it is damaged, too new, or so old that the daemon must
    upgrade it first.
    """
    path = state / DATABASE
    if not file_mode(path):
        raise UsageError(f"{state} holds no results yet; make some with: bloodedge device run --state {quoted(state)}")
    uri = f"{path.resolve().as_uri()}?mode=ro"
    with database_errors(state, "read from"), closing(sqlite3.connect(uri, uri=True)) as database:
        database.row_factory = sqlite3.Row
        version = check_version(database, state)
        if version < READABLE_SINCE:
            raise BloodedgeError(f"{path} was written by an older bloodedge; start the daemon once, which upgrades it.")
        _show_what_was_added(database, version)
        yield database


def _show_what_was_added(database: sqlite3.Connection, version: int) -> None:
    """Have this connection see newer columns as NULL and newer tables as empty, in its own memory.

    The file stays as it is.
    """
    missing: dict[str, tuple[str, ...]] = {}
    for since, tables in ADDED.items():
        if version < since:
            missing |= {table: missing.get(table, ()) + columns for table, columns in tables.items()}
    new = {
        name: columns for since, tables in ADDED_TABLES.items() if version < since for name, columns in tables.items()
    }
    if missing or new:
        database.execute("PRAGMA temp_store = MEMORY")
    for table, columns in missing.items():
        nulls = ", ".join(f"NULL AS {column}" for column in columns)
        database.execute(f"CREATE TEMP VIEW {table} AS SELECT *, {nulls} FROM main.{table}")  # noqa: S608  # own names
    for table, columns in new.items():
        database.execute(f"CREATE TEMP TABLE {table} ({', '.join(columns)})")
