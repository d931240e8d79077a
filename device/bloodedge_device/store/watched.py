"""Files of watched folders whose frames are stored, so that each is taken once."""

import os
import sqlite3
from pathlib import Path

from bloodedge.errors import BloodedgeError
from bloodedge_device.frames import SourceFile
from bloodedge_device.store.database import open_for_reading


def put_watched(database: sqlite3.Connection, file: SourceFile) -> None:
    """Store the file of a frame, inside the caller's transaction."""
    database.execute(
        "INSERT OR REPLACE INTO watched (path, size, modified_ns, sha256) VALUES (?, ?, ?, ?)",
        (os.fsencode(file.path), file.size, file.modified_ns, file.sha256),
    )


def read_watched(state: Path, folder: Path) -> dict[str, SourceFile]:
    """The stored files below ``folder`` by their paths; none where the state folder cannot be read."""
    below = os.fsencode(folder.resolve()) + b"/"
    try:
        with open_for_reading(state) as database:
            if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'watched'").fetchone():
                return {}
            rows = database.execute("SELECT * FROM watched WHERE substr(path, 1, ?) = ?", (len(below), below))
            files = [SourceFile(os.fsdecode(row["path"]), *row[1:]) for row in rows]
    except BloodedgeError:  # nothing was stored yet; other errors come again when the store is opened
        return {}
    return {file.path: file for file in files}
