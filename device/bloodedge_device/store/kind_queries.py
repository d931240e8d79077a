"""Stored cells by kind, for a person to reclassify."""

import json
from collections.abc import Sequence
from pathlib import Path

from bloodedge_device.slide.kind_review import NAMES
from bloodedge_device.store.database import open_for_reading
from bloodedge_device.store.queries import CELL_QUERY, cell_of
from bloodedge_device.store.rows import CellRow
from bloodedge_device.store.statistics import REVIEWED_KINDS, reviewed_kind


def cells_by_kind(state: Path, slide: int) -> dict[str, list[int]]:
    """Ids of a slide's cells with an image by what they are listed as after review, in the differential's order.

    Those that the device was least sure of come first.
    """
    query = f"SELECT cells.id, {REVIEWED_KINDS} AND crop IS NOT NULL ORDER BY coalesce(kind_probability, 0), cells.id"
    found: dict[str, list[int]] = {}
    with open_for_reading(state) as database:
        for row in database.execute(query, (slide,)):
            found.setdefault(reviewed_kind(row).name_after_review, []).append(row["id"])
    return {name: found[name] for name in NAMES if name in found}


def cells(state: Path, ids: Sequence[int], slide: int | None = None) -> list[CellRow]:
    """The cells with these ids, in their order; slide: only those of it."""
    with open_for_reading(state) as database:
        among = "cells.id IN (SELECT value FROM json_each(?)) AND frames.slide = coalesce(?, slide)"
        query = f"{CELL_QUERY} WHERE {among}"  # own names
        rows = {row["id"]: cell_of(row) for row in database.execute(query, (json.dumps(list(ids)), slide))}
    return [rows[cell] for cell in ids if cell in rows]
