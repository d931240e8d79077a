"""A SQLite database whose file is deleted, moved or replaced while it is open."""

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from bloodedge.errors import disk_errors
from bloodedge.files import SQLITE_ENDINGS, make_private, make_private_folder, put_in_place, temporary_beside

FileId = tuple[int, int] | None
"""Device and inode; None: there is no file."""


def file_id(path: Path) -> FileId:
    """What stands where a database belongs."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_again(database: sqlite3.Connection, path: Path, set_aside: Callable[[], object]) -> None:
    """Write what an open connection still holds to the database's path, and close the connection.

    set_aside: moves another database that stands there out of the way. Raises DiskError or sqlite3.Error, the
    connection still open, when it cannot be written.
    """
    with disk_errors("the database"), temporary_beside(path) as temporary:
        make_private_folder(path.parent)
        make_private(temporary)
        with closing(sqlite3.connect(temporary)) as copy:
            database.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        database.close()  # SQLite deletes its files by their names: before there is another database
        if path.exists():
            set_aside()
        for ending in SQLITE_ENDINGS:
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).unlink()
        put_in_place(temporary, path)
