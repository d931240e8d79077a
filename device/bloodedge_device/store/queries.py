"""Stored slides, cells and reviews for the page, programs and the fleet's report."""

import hashlib
import json
import sqlite3
from functools import partial
from heapq import nsmallest
from pathlib import Path

import numpy as np

from bloodedge.bundle.json_records import parse_record
from bloodedge.bundle.manifest import Manifest
from bloodedge.decision.reference_people import ASPECTS, Aspect, Floats, aspects_of
from bloodedge_device.slide.drift import Drift, drift_of_aspects
from bloodedge_device.slide.review import ReviewedCell, Sampling
from bloodedge_device.store.crops import for_people
from bloodedge_device.store.database import CROPS, DATABASE, open_for_reading
from bloodedge_device.store.galleries import GALLERY
from bloodedge_device.store.rows import CellRow, SlideRow
from bloodedge_device.store.slide_counts import read_counts
from bloodedge_device.store.statistics import cell_ids, read_people_scores, read_rates

MOST_COMPARED = 20_000
"""About so many cells of a slide are compared with the reference people's: of more, chance adds less than 0.01 to a
distance (``bloodedge.decision.reference_people.CHANCE`` over the root of their number)."""
MOST_DRAWN = 5000
"""Cells drawn for a review."""
PART = 5000
"""Rows read at once: a slide may have a million cells, and a board little memory."""

_OF_SLIDE = "FROM cells JOIN frames ON frames.id = cells.frame WHERE frames.slide = ?"


def slides(state: Path, before: int, limit: int) -> list[SlideRow]:
    """Slides with ids below ``before``, newest first."""
    with open_for_reading(state) as database:
        query = "SELECT id, label, started, finished FROM slides WHERE id < ? ORDER BY id DESC LIMIT ?"
        rows = database.execute(query, (before, limit)).fetchall()
        return [_slide(database, row) for row in rows]


def find_slide(state: Path, slide: int) -> SlideRow | None:
    """One slide."""
    found = slides(state, slide + 1, 1)
    return found[0] if found and found[0].id == slide else None


def _slide(database: sqlite3.Connection, row: sqlite3.Row) -> SlideRow:
    slide = int(row["id"])
    counts = read_counts(database, slide).statistics
    share, verdict = counts.share(read_rates(database, slide)), counts.verdict(read_people_scores(database, slide))
    return SlideRow(
        **row,
        cells=counts.cells_total,
        blasts=counts.cells["blast"],
        normals=counts.cells["normal"],
        reviewed=database.execute(f"SELECT count(DISTINCT cell) {_REVIEWS}", _ids_and(database, slide)).fetchone()[0],
        **SlideRow.values(share, verdict),
    )


_REVIEWS = (
    "FROM reviews CROSS JOIN cells ON cells.id = reviews.cell CROSS JOIN frames ON frames.id = cells.frame"
    " WHERE reviews.cell BETWEEN ? AND ? AND frames.slide = ?"
)
"""Reviews of a slide's cells, by way of the reviews: they are few and the slide's cells many; see ``_ids_and``."""


def _ids_and(database: sqlite3.Connection, slide: int) -> tuple[int, int, int]:
    return (*cell_ids(database, slide), slide)


CELL_QUERY = (
    "SELECT cells.id, frames.slide, frames.number AS frame, source, captured_at, x, y, cells.width, cells.height,"
    " cells.label, blast_probability, cells.reason, area_um2, repeated, crop IS NOT NULL AS has_crop,"
    " cells.kind, kind_probability, cells.stage, latest.label AS review, latest.kind AS review_kind,"
    " latest.stage AS review_stage FROM cells CROSS JOIN frames ON frames.id = cells.frame LEFT JOIN reviews AS latest"
    " ON latest.id = (SELECT max(id) FROM reviews WHERE reviews.cell = cells.id)"
)


def cells(state: Path, slide: int, after: int, limit: int) -> list[CellRow]:
    """Cells of a slide with ids above ``after``, oldest first."""
    query = f"{CELL_QUERY} WHERE cells.id BETWEEN ? AND ? AND frames.slide = ? ORDER BY cells.id LIMIT ?"
    with open_for_reading(state) as database:
        first, last = cell_ids(database, slide)
        return [cell_of(row) for row in database.execute(query, (max(first, after + 1), last, slide, limit))]


def find_cell(state: Path, cell: int) -> tuple[int, CellRow] | None:
    """A cell with its slide's id."""
    with open_for_reading(state) as database:
        row = database.execute(f"{CELL_QUERY} WHERE cells.id = ?", (cell,)).fetchone()
        return None if row is None else (row["slide"], cell_of(row))


def cell_of(row: sqlite3.Row) -> CellRow:
    """A row of CELL_QUERY."""
    return CellRow.model_validate({**row, "box": (row["x"], row["y"], row["width"], row["height"])})


def crop(state: Path, cell: int) -> bytes | None:
    """A cell's image as JPEG for people; None when there is none, or it was deleted."""
    with open_for_reading(state) as database:
        row = database.execute("SELECT crop FROM cells WHERE id = ?", (cell,)).fetchone()
    if row is None or row["crop"] is None:
        return None
    root = (state / CROPS).resolve()
    path: Path = (root / row["crop"]).resolve()
    if not path.is_relative_to(root):
        return None
    try:
        return for_people(path.read_bytes()) or None
    except OSError:
        return None


def review_order(state: Path, slide: int, sampling: Sampling) -> list[int]:
    """Ids of the cells to review, each with an image and once, in their order.

    random: MOST_DRAWN cells at most, in an order that depends on the slide alone; cells that are added come between
    them and change it no further. gallery: the most blast-like and the most uncertain in turn.
    """
    shown = f"{_OF_SLIDE} AND repeated = 0 AND crop IS NOT NULL"
    with open_for_reading(state) as database:
        if sampling == "random":
            ids = (row[0] for row in database.execute(f"SELECT cells.id {shown}", (slide,)))
            order = partial(_drawn_order, slide)
            return nsmallest(MOST_DRAWN, ids, order)
        run = "SELECT manifest FROM runs JOIN slides ON slides.run = runs.id WHERE slides.id = ?"
        threshold = json.loads(database.execute(run, (slide,)).fetchone()[0])["thresholds"]["blast"]
        query = f"SELECT cells.id {shown} AND blast_probability IS NOT NULL ORDER BY"
        blasts = [r[0] for r in database.execute(f"{query} blast_probability DESC, cells.id LIMIT {GALLERY}", (slide,))]
        doubtful = database.execute(f"{query} abs(blast_probability - ?), cells.id LIMIT {GALLERY}", (slide, threshold))
        mixed = [cell for pair in zip(blasts, [r[0] for r in doubtful], strict=True) for cell in pair]
        return list(dict.fromkeys(mixed))


def _drawn_order(slide: int, cell: int) -> bytes:
    return hashlib.sha256(f"{slide}:{cell}".encode()).digest()


def answers(state: Path, slide: int, sampling: Sampling) -> dict[int, str]:
    """The latest review of each cell of this sampling: its class, or its kind where only that was said."""
    columns = "SELECT reviews.cell, coalesce(reviews.label, reviews.kind)"
    query = f"{columns} {_REVIEWS} AND sampling = ? ORDER BY reviews.id"
    with open_for_reading(state) as database:
        return {row[0]: row[1] for row in database.execute(query, (*_ids_and(database, slide), sampling))}


def reviewed_cells(state: Path, slide: int) -> list[ReviewedCell]:
    """Every cell of a slide whose class was reviewed; for each sampling the latest review counts."""
    columns = "SELECT reviews.cell, reviews.label AS person, sampling, cells.label, blast_probability, cells.frame"
    query = f"{columns} {_REVIEWS} ORDER BY reviews.id"
    with open_for_reading(state) as database:
        rows = database.execute(query, _ids_and(database, slide))
        latest = {(row["cell"], row["sampling"]): row for row in rows}
    return [
        ReviewedCell(row["label"], row["person"], row["blast_probability"], row["frame"], row["sampling"])
        for row in latest.values()
        if row["person"] is not None
    ]


def agreement(state: Path, bundle: str, serial: int) -> tuple[int, int]:
    """(cells, right among them) that both a bundle and a reviewer called, of those drawn at random on any slide."""
    query = (
        "SELECT count(*), coalesce(sum(reviews.label = cells.label), 0) FROM reviews"
        " JOIN cells ON cells.id = reviews.cell JOIN frames ON frames.id = cells.frame"
        " JOIN slides ON slides.id = frames.slide JOIN runs ON runs.id = slides.run"
        " WHERE reviews.id IN (SELECT max(id) FROM reviews WHERE sampling = 'random' GROUP BY cell)"
        " AND runs.bundle_name = ? AND runs.bundle_serial = ?"
        " AND cells.label IN ('blast', 'normal') AND reviews.label IN ('blast', 'normal')"
    )
    with open_for_reading(state) as database:
        called, right = database.execute(query, (bundle, serial)).fetchone()
    return int(called), int(right)


def drift_of(state: Path, slide: int) -> list[Drift] | None:
    """How far a slide's cells are from the reference people's; None without a slide or a reference in its bundle."""
    run = "SELECT manifest FROM runs JOIN slides ON slides.run = runs.id WHERE slides.id = ?"
    with open_for_reading(state) as database:
        row = database.execute(run, (slide,)).fetchone()
    reference = None if row is None else parse_record(Manifest, row["manifest"], str(state / DATABASE)).reference
    if reference is None:
        return None
    with open_for_reading(state) as database:
        return drift_of_aspects(reference, _aspects(database, slide))


def _aspects(database: sqlite3.Connection, slide: int) -> dict[Aspect, Floats]:
    """Each aspect of a slide's classified cells, (N,), read in parts; of very many, every so many."""
    part = f"{_OF_SLIDE} AND repeated = 0 AND figures IS NOT NULL AND blast_probability IS NOT NULL"
    number = database.execute(f"SELECT count(*) {part}", (slide,)).fetchone()[0]
    query = f"SELECT figures, blast_probability, area_um2 {part} AND cells.id % ? = 0"
    rows = database.execute(query, (slide, max(1, -(-number // MOST_COMPARED))))
    parts = [aspects_of([], [], [])]
    while some := rows.fetchmany(PART):
        figures = [np.frombuffer(row["figures"], np.float32) for row in some]
        parts.append(aspects_of(figures, [row["blast_probability"] for row in some], [row["area_um2"] for row in some]))
    return {aspect: np.concatenate([part[aspect] for part in parts]) for aspect in ASPECTS}
