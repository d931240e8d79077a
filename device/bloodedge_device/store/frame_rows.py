"""The rows of frames and cells, written inside the caller's transaction."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from bloodedge.decision.thresholds import Reason
from bloodedge.redact import redacted
from bloodedge_device.frames import CellResult, FrameResult
from bloodedge_device.slide.domain_check import REMEMBERED
from bloodedge_device.store.watched import put_watched

FRAMES_A_FOLDER = 1000

ROWS_KNOWN = 4000
"""Recognised cells of which a better view may still come."""


def insert(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    """Insert a row; returns its id."""
    marks = ", ".join(f":{column}" for column in row)
    cursor = database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)  # noqa: S608  # own names
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def put_frame(
    database: sqlite3.Connection, slide: int, result: FrameResult, with_crops: bool, rows: dict[int, int]
) -> None:
    """Write a frame's rows; rows: by the number of each recognised cell the row that counts for it, kept up to date."""
    width, height = result.size or (None, None)
    drawn_blasts, drawn_normals = result.capture.truth or (None, None)
    row = {
        "slide": slide,
        "number": result.capture.index,
        "captured_at": result.capture.captured_at.isoformat(),
        "source": redacted(result.capture.source),
        "dropped_before": result.capture.dropped_before,
        "width": width,
        "height": height,
        "um_per_px": result.um_per_px,
        "reason": result.reason,
        "detail": None if result.problem is None else redacted(result.problem),
        "focus": result.focus,
        "brightness": result.brightness,
        "drawn_blasts": drawn_blasts,
        "drawn_normals": drawn_normals,
    }
    frame = insert(database, "frames", row)
    if result.capture.file is not None:
        put_watched(database, result.capture.file)
    for number, cell in enumerate(result.cells):
        put_cell(database, frame, cell, crop_name(slide, result, number) if with_crops else None, rows)
    database.executemany(
        "INSERT INTO rejected (frame, reason, objects) VALUES (?, ?, ?)",
        [(frame, reason, objects) for reason, objects in result.rejected.items()],
    )


def put_cell(
    database: sqlite3.Connection, frame: int, cell: CellResult, crop: str | None, rows: dict[int, int]
) -> None:
    """Write a cell's row; see ``put_frame``."""
    figures = None if cell.figures is None else np.asarray(cell.figures, np.float32).tobytes()
    own = ("label", "blast_probability", "reason", "area_um2", "number", "repeated")
    values = dict(zip(("x", "y", "width", "height"), cell.box, strict=True)) | {key: getattr(cell, key) for key in own}
    if (kind := cell.kind) is not None:
        values |= {"kind": kind.kind, "kind_probability": kind.probability, "stage": kind.stage}
    if cell.light is not None:
        values["light"] = ",".join(map(str, cell.light))
    row = insert(database, "cells", {"frame": frame, **values, "crop": crop, "figures": figures})
    if cell.number is None or cell.repeated:
        return
    if (before := rows.get(cell.number)) is not None:  # this view of the cell is better
        database.execute("UPDATE cells SET repeated = 1 WHERE id = ?", (before,))
    rows[cell.number] = row
    if len(rows) > ROWS_KNOWN:
        del rows[next(iter(rows))]


def recall(database: sqlite3.Connection, slide: int) -> None:
    """Make a slide's latest cells uncertain; see FrameResult.recalls."""
    latest = (
        "SELECT cells.id FROM cells JOIN frames ON frames.id = cells.frame"
        " WHERE frames.slide = ? AND blast_probability IS NOT NULL ORDER BY cells.id DESC LIMIT ?"
    )
    database.execute(
        f"UPDATE cells SET label = 'uncertain', reason = ? WHERE label != 'uncertain' AND id IN ({latest})",  # noqa: S608
        (Reason.OUT_OF_DOMAIN, slide, REMEMBERED),
    )


def forget_crops(database: sqlite3.Connection, crops: Sequence[str]) -> None:
    """Remove the names of deleted images from the rows, which are found by slide and frame, as the names say."""
    of_slides: defaultdict[int, list[str]] = defaultdict(list)
    for crop in crops:
        of_slides[int(crop.partition("/")[0])].append(crop)
    for slide, names in of_slides.items():
        frames = [int(name.rpartition("/")[2].partition("-")[0]) for name in names]
        database.execute(
            "UPDATE cells SET crop = NULL WHERE frame IN"
            " (SELECT id FROM frames WHERE slide = ? AND number BETWEEN ? AND ?)"
            " AND crop IN (SELECT value FROM json_each(?))",
            (slide, min(frames), max(frames), json.dumps(names)),
        )


def crop_name(slide: int, result: FrameResult, number: int) -> str:
    """An image's path below the folder of images, FRAMES_A_FOLDER frames to a subfolder."""
    frame = result.capture.index
    return f"{slide}/{frame // FRAMES_A_FOLDER:04d}/{frame:07d}-{number:03d}.png"
