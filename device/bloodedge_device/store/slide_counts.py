"""A slide's counts, kept once it has ended, so that no page counts its cells again.

A million cells are counted in seconds; a page may not take that long. The cells of a slide that has ended change no
more, but for their images and what people say of them, and neither is counted here.
"""

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bloodedge.decision.kinds import Kind
from bloodedge.decision.slide_verdict import ScoreCounts
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.store.galleries import GALLERIES, Gallery, first_cells
from bloodedge_device.store.statistics import read_probabilities, read_statistics

STEPS = 100_000
"""Instructions of SQLite's virtual machine between two looks whether to go on: milliseconds."""


@dataclass(frozen=True)
class SlideCounts:
    """What a slide's cells come to."""

    statistics: SlideStatistics
    probabilities: list[int]
    """See ``read_probabilities``."""
    galleries: dict[Gallery, list[int]] | None
    """Ids of the first cells of each gallery; None where they are not kept."""


def read_counts(database: sqlite3.Connection, slide: int) -> SlideCounts:
    """A slide's counts: as they are kept, else counted now."""
    row = database.execute("SELECT counts FROM slide_counts WHERE slide = ?", (slide,)).fetchone()
    if row is not None:
        return _of_json(json.loads(row[0]))
    return SlideCounts(read_statistics(database, slide), read_probabilities(database, slide), None)


def first_to_keep(database: sqlite3.Connection) -> int | None:
    """The newest slide that has ended and whose counts are not kept."""
    row = database.execute(
        "SELECT max(id) FROM slides WHERE id NOT IN (SELECT slide FROM slide_counts)"
        " AND (finished IS NOT NULL OR id < (SELECT max(id) FROM slides))"
    ).fetchone()
    return None if row[0] is None else int(row[0])


def count(database: sqlite3.Connection, slide: int, is_over: Callable[[], bool]) -> tuple[str, int | None] | None:
    """(a slide's counts as they are kept, the id of its last frame), of one moment; None where it ``is_over`` first."""
    database.set_progress_handler(is_over, STEPS)
    database.execute("BEGIN")
    try:
        counts = SlideCounts(
            read_statistics(database, slide), read_probabilities(database, slide), first_cells(database, slide)
        )
        last = last_frame(database, slide)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return None
        raise
    finally:
        database.set_progress_handler(None, 0)
        database.execute("ROLLBACK")
    return json.dumps(_to_json(counts)), last


def last_frame(database: sqlite3.Connection, slide: int) -> int | None:
    """Id of a slide's last frame; None without frames."""
    last: int | None = database.execute("SELECT max(id) FROM frames WHERE slide = ?", (slide,)).fetchone()[0]
    return last


def _to_json(counts: SlideCounts) -> dict[str, Any]:
    statistics = vars(counts.statistics)
    clustered = counts.statistics.clustered
    return {
        **vars(counts),
        "statistics": {
            **statistics,
            "clustered": [list(clustered.part), list(clustered.whole), list(clustered.times or ())],
            "scores": counts.statistics.scores.model_dump(),
            "kinds": [[*key, cells] for key, cells in counts.statistics.kinds.items()],
        },
    }


def _of_json(kept: dict[str, Any]) -> SlideCounts:
    statistics = kept["statistics"]
    return SlideCounts(
        SlideStatistics(
            **{
                **statistics,
                "clustered": ClusteredShare(*statistics["clustered"]),
                "scores": ScoreCounts.model_validate(statistics["scores"]),
                "drawn": None if statistics["drawn"] is None else tuple(statistics["drawn"]),
                "kinds": {(Kind(kind), stage, label): cells for kind, stage, label, cells in statistics["kinds"]},
            }
        ),
        kept["probabilities"],
        {name: kept["galleries"][name] for name in GALLERIES},
    )
