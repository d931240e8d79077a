"""A copy of all results, taken while the daemon runs."""

import sqlite3
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from bloodedge.errors import UsageError
from bloodedge.files import write_beside
from bloodedge_device.store.database import CROPS, DATABASE, open_for_reading


def back_up(state: Path, target: Path, with_crops: bool, progress: Callable[[int, int], None] | None = None) -> int:
    """Write the database and its cells' images to the zip file ``target``, atomically; returns the number of images.

    The database is one consistent state (SQLite's online backup); images deleted meanwhile are missing. Only this user
    may read the file. Raises UsageError when there is nothing to copy or ``target`` exists.
    """
    if target.exists():
        raise UsageError(f"{target} exists; choose another name for the backup.")
    copied = 0

    def write(temporary: Path) -> None:
        nonlocal copied
        temporary.touch(0o600)
        with tempfile.TemporaryDirectory(dir=temporary.parent, prefix=".backup.") as folder:
            copy = Path(folder) / DATABASE
            with open_for_reading(state) as database, closing(sqlite3.connect(copy)) as destination:
                database.backup(destination)
                destination.execute("PRAGMA journal_mode = DELETE")
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.write(copy, DATABASE)
                copied = _add_crops(archive, state, copy, progress) if with_crops else 0

    write_beside(target, write)
    return copied


def _add_crops(
    archive: zipfile.ZipFile, state: Path, database: Path, progress: Callable[[int, int], None] | None
) -> int:
    with closing(sqlite3.connect(database)) as copy:
        names = [row[0] for row in copy.execute("SELECT crop FROM cells WHERE crop IS NOT NULL ORDER BY id")]
    added = 0
    for number, name in enumerate(names):
        try:
            data = (state / CROPS / name).read_bytes()
        except FileNotFoundError:
            continue
        archive.writestr(f"{CROPS}/{name}", data, zipfile.ZIP_STORED)
        added += 1
        if progress is not None:
            progress(number + 1, len(names))
    return added
