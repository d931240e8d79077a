"""Stored cells by kind, for a person to reclassify."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from bloodedge.decision.kinds import Kind
from bloodedge_device.slide.kind_review import NAMES, ReviewedKind
from bloodedge_device.store.database import open_for_reading
from bloodedge_device.store.queries import CELL_QUERY, cell_of
from bloodedge_device.store.rows import CellRow
from bloodedge_device.store.statistics import REVIEWED_KINDS, cell_ids, reviewed_kind


def cells_by_kind(state: Path, slide: int) -> dict[str, list[int]]:
    """Ids of a slide's cells with an image by what they are listed as after review, in the differential's order.

    Those that the device was least sure of come first.
    """
    query = (
        "SELECT cells.id, cells.kind, cells.stage, cells.label FROM cells JOIN frames ON frames.id = cells.frame"
        " WHERE frames.slide = ? AND NOT repeated AND crop IS NOT NULL"
        " AND (cells.kind IS NOT NULL OR cells.id IN (SELECT value FROM json_each(?)))"
        " ORDER BY coalesce(kind_probability, 0), cells.id"
    )
    found: dict[str, list[int]] = {}
    with open_for_reading(state) as database:
        rows = database.execute(f"SELECT {REVIEWED_KINDS}", (*cell_ids(database, slide), slide))
        reviewed = {row["id"]: reviewed_kind(row).name_after_review for row in rows}
        for cell, *told in database.execute(query, (slide, json.dumps(list(reviewed)))):
            found.setdefault(reviewed.get(cell) or _name(*told), []).append(cell)
    return {name: found[name] for name in NAMES if name in found}


@lru_cache(maxsize=200)
def _name(kind: str, stage: str | None, label: str) -> str:
    """What a cell without a review is listed as; cached, for a slide has many cells and few answers."""
    return ReviewedKind(Kind(kind), stage, label, None, None).name_after_review


def cells(state: Path, ids: Sequence[int], slide: int | None = None) -> list[CellRow]:
    """The cells with these ids, in their order; slide: only those of it."""
    with open_for_reading(state) as database:
        among = "cells.id IN (SELECT value FROM json_each(?)) AND frames.slide = coalesce(?, slide)"
        query = f"{CELL_QUERY} WHERE {among}"  # own names
        rows = {row["id"]: cell_of(row) for row in database.execute(query, (json.dumps(list(ids)), slide))}
    return [rows[cell] for cell in ids if cell in rows]
