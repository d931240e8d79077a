"""A database whose file is deleted, moved or replaced while it is open."""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from bloodedge.errors import disk_errors
from bloodedge.files import SQLITE_ENDINGS, make_private, make_private_folder, put_in_place, temporary_beside
from bloodedge_device.store.database import DATABASE, set_aside_database

FileId = tuple[int, int] | None
"""Device and inode; None: there is no file."""


def file_id(state: Path) -> FileId:
    """What stands where a state folder's database belongs."""
    try:
        found = (state / DATABASE).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def write_again(database: sqlite3.Connection, state: Path) -> None:
    """Write what an open connection still holds to the state folder, and close it.

    Another database that stands there is set aside. Raises DiskError or sqlite3.Error, the connection still open, when
    it cannot be written.
    """
    path = state / DATABASE
    with disk_errors("the database"), temporary_beside(path) as temporary:
        make_private_folder(state)
        make_private(temporary)
        with closing(sqlite3.connect(temporary)) as copy:
            database.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        database.close()  # SQLite deletes its files by their names: before there is another database
        if path.exists():
            set_aside_database(state)
        for ending in SQLITE_ENDINGS:
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).unlink()
        put_in_place(temporary, path)
