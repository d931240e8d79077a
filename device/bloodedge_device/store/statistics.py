"""A stored slide's statistics, error rates and latencies."""

import json
import sqlite3
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache

from bloodedge.decision.error_rates import Rates
from bloodedge.decision.kind_shares import KindRates
from bloodedge.decision.kinds import OTHER, Kind
from bloodedge.decision.slide_verdict import BINS, EDGES, PeopleScores, ScoreCounts
from bloodedge.decision.thresholds import LABELS, Reason
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.slide.differential import TARGET
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.kind_review import ReviewedKind
from bloodedge_device.slide.review import Review
from bloodedge_device.slide.statistics import SlideStatistics


def read_statistics(database: sqlite3.Connection, slide: int) -> SlideStatistics:
    """A slide's statistics, finished or not."""
    processed, dropped = database.execute(
        "SELECT count(*), coalesce(sum(dropped_before), 0) FROM frames WHERE slide = ?", (slide,)
    ).fetchone()
    frames = _counts(database, "SELECT reason, count(*) FROM frames WHERE slide = ? AND reason IS NOT NULL", slide)
    sighted = "FROM cells JOIN frames ON frames.id = cells.frame WHERE frames.slide = ?"
    of_slide = f"{sighted} AND NOT cells.repeated"
    (repeated,) = database.execute(f"SELECT count(*) {sighted} AND cells.repeated", (slide,)).fetchone()
    calls = "sum(cells.label = 'blast') AS blasts, sum(cells.label IN ('blast', 'normal')) AS called"
    of_frames = f"FROM (SELECT {calls} {of_slide} GROUP BY cells.frame)"
    by_frame = database.execute(f"SELECT blasts, called, count(*) {of_frames} GROUP BY 1, 2", (slide,)).fetchall()
    by_kind = database.execute(
        f"SELECT cells.kind, cells.stage, cells.label, count(*) {of_slide} AND cells.kind IS NOT NULL GROUP BY 1, 2, 3",
        (slide,),
    ).fetchall()
    cells = _counts(database, f"SELECT cells.label, count(*) {of_slide}", slide)
    without_cells = frames.pop(Reason.NO_CELL, 0)
    return SlideStatistics(
        frames_processed=processed,
        frames_dropped=dropped,
        frames_without_cells=without_cells,
        frames_rejected=frames,
        cells={label: cells.get(label, 0) for label in (*LABELS, "uncertain", OTHER)},
        uncertain=_counts(database, f"SELECT cells.reason, count(*) {of_slide} AND cells.label = 'uncertain'", slide),
        not_cells=_counts(
            database,
            "SELECT rejected.reason, sum(objects) FROM rejected JOIN frames ON frames.id = rejected.frame"
            " WHERE frames.slide = ?",
            slide,
        ),
        repeated=repeated,
        clustered=ClusteredShare.of_frames(Counter({(blasts, called): frames for blasts, called, frames in by_frame})),
        scores=read_scores(database, slide, slide).get(slide, ScoreCounts()),
        drawn=read_drawn(database, slide, slide)[slide],
        kinds={(Kind(kind), stage, label): cells for kind, stage, label, cells in by_kind},
    )


def read_scores(database: sqlite3.Connection, first: int, last: int) -> dict[int, ScoreCounts]:
    """Called cells and those in the abstain band by blast probability, by slide; slides without cells are missing."""
    low, high = EDGES
    query = (
        "SELECT frames.slide, sum(blast_probability < ?), sum(blast_probability >= ? AND blast_probability < ?),"
        " sum(blast_probability >= ?) FROM cells JOIN frames ON frames.id = cells.frame"
        " WHERE frames.slide BETWEEN ? AND ? AND NOT repeated AND blast_probability IS NOT NULL"
        " AND (cells.label != 'uncertain' OR cells.reason = ?) GROUP BY frames.slide"
    )
    rows = database.execute(query, (low, low, high, high, first, last, Reason.ABSTAIN_BAND))
    return {slide: ScoreCounts(**dict(zip(BINS, counts, strict=True))) for slide, *counts in rows}


def read_drawn(database: sqlite3.Connection, first: int, last: int) -> dict[int, tuple[int, int] | None]:
    """Drawn blasts and normal cells in the processed frames, by slide; None of real cameras."""
    found: dict[int, tuple[int, int] | None] = dict.fromkeys(range(first, last + 1))
    if any(column["name"] == "drawn_blasts" for column in database.execute("PRAGMA table_info(frames)")):
        query = (
            "SELECT slide, sum(drawn_blasts), sum(drawn_normals) FROM frames WHERE slide BETWEEN ? AND ?"
            " AND drawn_blasts IS NOT NULL AND (reason IS NULL OR reason = ?) GROUP BY slide"
        )
        found |= {row[0]: (row[1], row[2]) for row in database.execute(query, (first, last, Reason.NO_CELL))}
    return found


def read_rates(database: sqlite3.Connection, slide: int) -> Rates | None:
    """Error rates of the artifact that called a slide's cells; None where its bundle does not say."""
    row = database.execute(
        "SELECT manifest, engine, precision FROM runs JOIN slides ON slides.run = runs.id WHERE slides.id = ?", (slide,)
    ).fetchone()
    return _rates(row["manifest"], row["engine"], row["precision"])


@dataclass(frozen=True)
class DifferentialTerms:
    """What a slide's differential count is made by."""

    kind_rates: KindRates | None
    """How often the kind network erred; None where that is not known."""
    target: int
    """Leucocytes to be counted."""


def read_terms(database: sqlite3.Connection, slide: int) -> DifferentialTerms:
    """Of the run in which a slide's kinds were told."""
    query = "SELECT kind_rates, differential_cells FROM runs JOIN slides ON slides.run = runs.id WHERE slides.id = ?"
    rates, target = database.execute(query, (slide,)).fetchone()
    return DifferentialTerms(None if rates is None else KindRates.model_validate_json(rates), target or TARGET)


REVIEWED_KINDS = (
    "cells.kind, cells.stage, cells.label, reviews.label AS person_label, reviews.kind AS person_kind,"
    " reviews.stage AS person_stage, sampling FROM cells JOIN frames ON frames.id = cells.frame"
    " LEFT JOIN reviews ON reviews.id = (SELECT max(id) FROM reviews WHERE reviews.cell = cells.id)"
    " WHERE frames.slide = ? AND NOT cells.repeated AND (cells.kind IS NOT NULL OR reviews.kind IS NOT NULL)"
)
"""Columns and rows of a slide's cells with a kind, told or reviewed."""


def read_reviewed_kinds(database: sqlite3.Connection, slide: int) -> list[ReviewedKind]:
    """How many cells of a slide with a kind, told or reviewed, have which answer of the device and of a person."""
    query = f"SELECT count(*) AS cells, {REVIEWED_KINDS} GROUP BY 2, 3, 4, 5, 6, 7, 8"  # own names
    return [replace(reviewed_kind(row), cells=row["cells"]) for row in database.execute(query, (slide,))]


def reviewed_kind(row: sqlite3.Row) -> ReviewedKind:
    """A row of REVIEWED_KINDS."""
    said = row["person_label"], row["person_kind"], row["person_stage"]
    person = None if row["sampling"] is None else Review.of(*said)
    return ReviewedKind(Kind(row["kind"] or Kind.UNKNOWN), row["stage"], row["label"], person, row["sampling"])


def read_people_scores(database: sqlite3.Connection, slide: int) -> PeopleScores | None:
    """Held-out people's scores of the bundle that called a slide's cells; None where it has none."""
    query = "SELECT manifest FROM runs JOIN slides ON slides.run = runs.id WHERE slides.id = ?"
    return _people_scores(database.execute(query, (slide,)).fetchone()["manifest"])


@lru_cache(maxsize=16)
def _people_scores(manifest: str) -> PeopleScores | None:
    scores = json.loads(manifest).get("people_scores")
    return None if scores is None else PeopleScores.model_validate(scores)


@lru_cache(maxsize=16)
def _rates(manifest: str, engine: str, precision: str) -> Rates | None:
    for artifact in json.loads(manifest)["artifacts"]:
        if (artifact["engine"], artifact["precision"]) == (engine, precision):
            return None if artifact.get("rates") is None else Rates.model_validate(artifact["rates"])
    return None


def _counts(database: sqlite3.Connection, query: str, slide: int) -> dict[str, int]:
    rows = database.execute(f"{query} GROUP BY 1 ORDER BY 2 DESC, 1", (slide,)).fetchall()
    return {row[0]: row[1] for row in rows}


def read_latency(database: sqlite3.Connection, slide: int) -> dict[str, LatencyHistogram]:
    """A slide's stored histograms by stage."""
    rows = database.execute("SELECT stage, histogram FROM latency WHERE slide = ?", (slide,))
    return {row["stage"]: LatencyHistogram.from_json(row["histogram"]) for row in rows}
