"""Images past their time, by when their frames were taken: files may have been copied since."""

import sqlite3
from datetime import datetime
from pathlib import Path

from bloodedge_device.store.crops import remove_before
from bloodedge_device.store.database import CROPS, sets_aside


def remove_expired(database: sqlite3.Connection, crops: Path, before: datetime, most: int) -> list[str]:
    """Remove images taken ``before`` then (UTC), oldest first, at most ``most``; names, below ``crops``, of those gone.

    Looks into the frames of no slide but those that were begun before then and have images.
    """
    removed: list[str] = []
    newest = database.execute("SELECT max(id) FROM slides").fetchone()[0]
    for slide, folder in _by_slide(crops).items():
        row = database.execute("SELECT started FROM slides WHERE id = ?", (slide,)).fetchone()
        if row is None or row["started"] >= before.isoformat():
            continue
        query = "SELECT min(number) FROM frames WHERE slide = ? AND captured_at >= ?"
        kept = database.execute(query, (slide, before.isoformat())).fetchone()[0]
        gone = remove_before(folder, kept, most - len(removed), in_use=slide == newest)
        removed += [path.relative_to(crops).as_posix() for path in gone]
        if len(removed) == most:
            break
    return removed


def remove_set_aside(state: Path, before: datetime, most: int) -> int:
    """Remove images beside damaged databases that were set aside ``before`` then, at most ``most``; gives how many."""
    removed = 0
    for folder, when in sets_aside(state).items():
        if when < before:
            for slide in _by_slide(folder / CROPS).values():
                removed += len(remove_before(slide, None, most - removed, in_use=False))
    return removed


def _by_slide(crops: Path) -> dict[int, Path]:
    """Slides' folders of images, in the order of the slides."""
    found = {int(path.name): path for path in crops.iterdir() if path.name.isdecimal()} if crops.is_dir() else {}
    return dict(sorted(found.items()))
