"""The cells of a slide that its report shows, first those that a person should look at first."""

import json
import sqlite3
from collections.abc import Sequence
from typing import Literal, get_args

from bloodedge.decision.thresholds import Reason

GALLERY = 12
"""Cells shown in each row of the gallery."""
MOST_KEPT = 8 * GALLERY
"""Ids kept of each row, so that some have images when those of others were deleted."""

Gallery = Literal["most_blast_like", "most_uncertain", "refused"]
GALLERIES: tuple[Gallery, ...] = get_args(Gallery)
"""Called cells by blast probability; cells inside the domain by its distance from the threshold; the latest cells
outside the domain."""

JUDGED = (
    "FROM cells JOIN frames ON frames.id = cells.frame"
    " WHERE frames.slide = ? AND blast_probability IS NOT NULL AND NOT repeated"
)
"""A slide's cells with a blast probability, each once."""
INSIDE = f"cells.reason IS NOT '{Reason.OUT_OF_DOMAIN}'"


def first_cells(database: sqlite3.Connection, slide: int) -> dict[Gallery, list[int]]:
    """Ids of the first MOST_KEPT cells of each gallery, with an image or without."""
    return {
        name: [row[0] for row in database.execute(f"SELECT cells.id {JUDGED} {which} LIMIT {MOST_KEPT}", (slide,))]
        for name, which in _which(database, slide).items()
    }


def read_gallery(
    database: sqlite3.Connection, slide: int, name: Gallery, first: Sequence[int] | None
) -> list[sqlite3.Row]:
    """The first GALLERY cells whose images were not deleted: all columns of ``cells``, the frame's number and source.

    first: what ``first_cells`` gave; None: the whole slide is looked through.
    """
    columns = "SELECT cells.*, frames.number AS frame_number, frames.source"
    if first is not None:
        query = f"{columns} FROM cells JOIN frames ON frames.id = cells.frame WHERE cells.id IN ({_IDS})"
        kept = {row["id"]: row for row in database.execute(query, (json.dumps(list(first)),)) if row["crop"]}
        shown = [kept[cell] for cell in first if cell in kept][:GALLERY]
        if len(shown) == GALLERY or len(first) < MOST_KEPT:
            return shown
    which = _which(database, slide)[name]
    return database.execute(f"{columns} {JUDGED} AND crop IS NOT NULL {which} LIMIT {GALLERY}", (slide,)).fetchall()


_IDS = "SELECT value FROM json_each(?)"


def _which(database: sqlite3.Connection, slide: int) -> dict[Gallery, str]:
    """Condition and order of each gallery; every order ends with the id, so that it is always the same."""
    run = "SELECT manifest FROM runs JOIN slides ON slides.run = runs.id WHERE slides.id = ?"
    threshold = json.loads(database.execute(run, (slide,)).fetchone()[0])["thresholds"]["blast"]
    return {
        "most_blast_like": f"AND {INSIDE} AND label != 'uncertain' ORDER BY blast_probability DESC, cells.id",
        "most_uncertain": f"AND {INSIDE} ORDER BY abs(blast_probability - {threshold:f}), cells.id",
        "refused": f"AND NOT ({INSIDE}) ORDER BY frames.number DESC, cells.id",
    }
