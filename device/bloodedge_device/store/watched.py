"""Which files of watched folders are stored, so that each is taken once."""

import os
import sqlite3
from pathlib import Path

from bloodedge.errors import BloodedgeError
from bloodedge_device.frames import SourceFile
from bloodedge_device.store.database import open_for_reading


def put_watched(database: sqlite3.Connection, file: SourceFile) -> None:
    """Note, beside the rows of a frame, the file that it was read from."""
    database.execute(
        "INSERT OR REPLACE INTO watched (path, size, modified_ns, sha256) VALUES (?, ?, ?, ?)",
        (os.fsencode(file.path), file.size, file.modified_ns, file.sha256),
    )


def read_watched(state: Path, folder: Path) -> dict[str, SourceFile]:
    """By its path each file below ``folder`` whose frame is stored; none where nothing can be read from the state."""
    below = os.fsencode(folder.resolve()) + b"/"
    try:
        with open_for_reading(state) as database:
            if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'watched'").fetchone():
                return {}
            rows = database.execute("SELECT * FROM watched WHERE substr(path, 1, ?) = ?", (len(below), below))
            files = [SourceFile(os.fsdecode(row["path"]), *row[1:]) for row in rows]
    except BloodedgeError:  # nothing was stored yet, or the store says it when it is opened
        return {}
    return {file.path: file for file in files}
