"""Which cell it would help most to review next.

Of the latest slides, the one with the fewest reviewed cells is next. On it, one cell in RANDOM_ONE_IN is the next of a
random order that is fixed for the slide; the others are chosen. Only random ones represent the slide, so error rates
may use them alone; a chosen cell that the random order comes to is therefore asked about again.
"""

import sqlite3
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from bloodedge.decision.thresholds import Reason
from bloodedge_device.slide.review import Sampling
from bloodedge_device.store import open_for_reading, queries
from bloodedge_device.store.statistics import cell_ids

LATEST_SLIDES = 30
RANDOM_ONE_IN = 4

RANDOM = "drawn at random from its slide, which keeps the figures honest"
_FREE = (
    "FROM cells JOIN frames ON frames.id = cells.frame WHERE frames.slide = ? AND repeated = 0"  # noqa: S608
    " AND crop LIKE '%.png'"
    f" AND cells.reason IS NOT '{Reason.CUT_BY_BORDER}' AND cells.id NOT IN (SELECT cell FROM reviews)"
)
_CHOSEN = (
    (
        "near the line between normal and blast",
        f"AND cells.reason = '{Reason.ABSTAIN_BAND}' ORDER BY abs(blast_probability - 0.5), cells.id",
    ),
    ("unlike the training cells", f"AND cells.reason = '{Reason.OUT_OF_DOMAIN}' ORDER BY cells.id"),
    (
        "of a kind that the device is least sure of",
        "AND kind_probability < 0.9 ORDER BY kind_probability, cells.id",
    ),
)
"""Why a cell is chosen, and which it is; in turn."""


@dataclass(frozen=True)
class Suggestion:
    """A cell to review next."""

    cell: int
    slide: int
    sampling: Sampling
    why: str
    """A clause after "it is"."""


def suggest(state: Path) -> Suggestion | None:
    """The cell to review next; None where no cell with an image is left."""
    with open_for_reading(state) as database:
        reviewed = _reviewed(database)
        for slide in sorted(reviewed, key=lambda number: (sum(reviewed[number].values()), -number)):
            if (found := _of_slide(database, state, slide, reviewed[slide])) is not None:
                return found
    return None


def _reviewed(database: sqlite3.Connection) -> dict[int, Counter[str]]:
    """Reviewed cells by sampling, of the latest slides that hold cells to export."""
    slides = database.execute("SELECT id FROM slides ORDER BY id DESC LIMIT ?", (LATEST_SLIDES,)).fetchall()
    counts = {int(row["id"]): Counter[str]() for row in slides}
    query = (
        "SELECT frames.slide, sampling, count(DISTINCT cell) FROM reviews CROSS JOIN cells ON cells.id = reviews.cell"
        " CROSS JOIN frames ON frames.id = cells.frame WHERE reviews.cell >= ? AND frames.slide >= ? GROUP BY 1, 2"
    )
    oldest = min(counts, default=0)
    first, _ = cell_ids(database, oldest)
    for slide, sampling, cells in database.execute(query, (first, oldest)):
        if slide in counts:
            counts[slide][sampling] = cells
    return counts


def _of_slide(database: sqlite3.Connection, state: Path, slide: int, reviewed: Counter[str]) -> Suggestion | None:
    chosen = reviewed["chosen"]
    if RANDOM_ONE_IN * reviewed["random"] > reviewed["random"] + chosen:
        for turn in range(len(_CHOSEN)):
            why, which = _CHOSEN[(chosen + turn) % len(_CHOSEN)]
            row = database.execute(f"SELECT cells.id {_FREE} {which} LIMIT 1", (slide,)).fetchone()
            if row is not None:
                return Suggestion(int(row[0]), slide, "chosen", why)
    answered = queries.answers(state, slide, "random")
    fit = {int(row[0]) for row in database.execute(f"SELECT cells.id {_FIT}", (slide,))}
    order = queries.review_order(state, slide, "random")
    return next(
        (Suggestion(cell, slide, "random", RANDOM) for cell in order if cell in fit and cell not in answered), None
    )


_FIT = (
    "FROM cells JOIN frames ON frames.id = cells.frame WHERE frames.slide = ? AND crop LIKE '%.png'"
    f" AND cells.reason IS NOT '{Reason.CUT_BY_BORDER}'"
)
