"""A stored slide's statistics, error rates and latencies."""

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from bloodedge.decision.error_rates import Rates
from bloodedge.decision.kind_shares import KindRates
from bloodedge.decision.kinds import OTHER, Kind
from bloodedge.decision.slide_verdict import BINS, EDGES, PeopleScores, ScoreCounts
from bloodedge.decision.thresholds import LABELS, Reason
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.slide.differential import TARGET, KindKey
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.kind_review import ReviewedKind
from bloodedge_device.slide.review import Review
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.store.galleries import INSIDE, JUDGED

PROBABILITY_BINS = 20


def read_statistics(database: sqlite3.Connection, slide: int) -> SlideStatistics:
    """A slide's statistics, finished or not, counted from its cells."""
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
        scores=_scores(database, slide),
        drawn=_drawn(database, slide),
        kinds={(Kind(kind), stage, label): cells for kind, stage, label, cells in by_kind},
    )


def _scores(database: sqlite3.Connection, slide: int) -> ScoreCounts:
    """Called cells and those in the abstain band by blast probability."""
    low, high = EDGES
    query = (
        "SELECT sum(blast_probability < ?), sum(blast_probability >= ? AND blast_probability < ?),"
        f" sum(blast_probability >= ?) {JUDGED} AND (cells.label != 'uncertain' OR cells.reason = ?)"
    )
    counts = database.execute(query, (low, low, high, high, slide, Reason.ABSTAIN_BAND)).fetchone()
    return ScoreCounts(**dict(zip(BINS, (number or 0 for number in counts), strict=True)))


def _drawn(database: sqlite3.Connection, slide: int) -> tuple[int, int] | None:
    """Drawn blasts and normal cells in the processed frames; None of a real camera."""
    if not any(column["name"] == "drawn_blasts" for column in database.execute("PRAGMA table_info(frames)")):
        return None
    query = (
        "SELECT sum(drawn_blasts), sum(drawn_normals) FROM frames WHERE slide = ? AND drawn_blasts IS NOT NULL"
        " AND (reason IS NULL OR reason = ?)"
    )
    blasts, normals = database.execute(query, (slide, Reason.NO_CELL)).fetchone()
    return None if blasts is None else (blasts, normals)


def read_probabilities(database: sqlite3.Connection, slide: int) -> list[int]:
    """Cells inside the domain by calibrated blast probability, PROBABILITY_BINS equal bins over 0..1."""
    query = f"SELECT min(CAST(blast_probability * {PROBABILITY_BINS} AS INTEGER), {PROBABILITY_BINS - 1}), count(*)"
    counts = {row[0]: row[1] for row in database.execute(f"{query} {JUDGED} AND {INSIDE} GROUP BY 1", (slide,))}
    return [counts.get(index, 0) for index in range(PROBABILITY_BINS)]


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
    "cells.id, cells.kind, cells.stage, cells.label, latest.label AS person_label, latest.kind AS person_kind,"
    " latest.stage AS person_stage, sampling"
    " FROM reviews AS latest CROSS JOIN cells ON cells.id = latest.cell CROSS JOIN frames ON frames.id = cells.frame"
    " WHERE latest.cell BETWEEN ? AND ? AND frames.slide = ?"
    " AND latest.id = (SELECT max(id) FROM reviews WHERE reviews.cell = latest.cell)"
    " AND NOT repeated AND (cells.kind IS NOT NULL OR latest.kind IS NOT NULL)"
)
"""Columns and rows of a slide's reviewed cells with a kind, told or reviewed; for cells between two ids."""


def read_reviewed_kinds(database: sqlite3.Connection, slide: int, told: Mapping[KindKey, int]) -> list[ReviewedKind]:
    """How many cells of a slide with a kind, told or reviewed, have which answer of the device and of a person.

    told: the slide's cells as the device told them, of which only the reviewed ones are read.
    """
    reviewed = Counter(
        (row["kind"] is not None, reviewed_kind(row))
        for row in database.execute(f"SELECT {REVIEWED_KINDS}", (*cell_ids(database, slide), slide))
    )
    left = Counter(told)
    for (was_told, one), cells in reviewed.items():
        if was_told:
            left[one.kind, one.stage, one.label] -= cells
    alone = [
        ReviewedKind(kind, stage, label, None, None, cells) for (kind, stage, label), cells in left.items() if cells
    ]
    return [*alone, *(replace(one, cells=cells) for (_, one), cells in reviewed.items())]


def reviewed_kind(row: sqlite3.Row) -> ReviewedKind:
    """A row of REVIEWED_KINDS."""
    person = Review.of(row["person_label"], row["person_kind"], row["person_stage"])
    return ReviewedKind(Kind(row["kind"] or Kind.UNKNOWN), row["stage"], row["label"], person, row["sampling"])


def cell_ids(database: sqlite3.Connection, slide: int) -> tuple[int, int]:
    """The lowest and highest id among a slide's cells; (1, 0) without cells.

    Rows are numbered in the order of writing and none is deleted, so they are those of its first and last frame.
    Other slides' cells may lie between them.
    """
    query = "SELECT cells.id FROM frames CROSS JOIN cells ON cells.frame = frames.id WHERE slide = ? ORDER BY"
    first = database.execute(f"{query} frames.id, cells.id LIMIT 1", (slide,)).fetchone()
    last = database.execute(f"{query} frames.id DESC, cells.id DESC LIMIT 1", (slide,)).fetchone()
    return (1, 0) if first is None or last is None else (first[0], last[0])


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
