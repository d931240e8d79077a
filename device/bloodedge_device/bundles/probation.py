"""Whether a bundle on probation does as well on this board as the one before it."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bloodedge.decision.thresholds import Reason
from bloodedge.metrics import wilson
from bloodedge_device.bundles.slot_record import Slot
from bloodedge_device.latency import LatencyHistogram
from bloodedge_device.settings.sections import UpdateSettings
from bloodedge_device.store import open_for_reading

LATEST_CELLS = 2000
"""How many of a bundle's latest cells are judged."""
LATEST_SLIDES = 20
ENOUGH_CELLS = 100
"""Fewest cells of the previous bundle for its figures to count."""
MORE_UNCERTAIN = 0.2
"""Largest rise in the share of uncertain cells, beyond chance."""
MOST_FAULTS = 5
"""Cells without a probability among the latest that make a bundle fail."""
ENOUGH_REVIEWED = 30
"""Fewest reviewed cells of each bundle for their agreement with reviewers to be compared."""
SLOWER = 2.0
"""Largest ratio of its median latency to the previous bundle's ..."""
SLOWER_BY_MS = 5.0
"""... where it also takes more than this longer per cell: a tenth of a second for a frame of 20 cells. Less than that
is of no consequence, and a busy board doubles a median of half a millisecond by itself."""


@dataclass(frozen=True)
class Figures:
    """A bundle's figures on this board."""

    cells: int = 0
    """Cells that the network classified."""
    uncertain: int = 0
    """Those among them without a class."""
    latency_ms: float | None = None
    """Median per cell, milliseconds."""
    faults: int = 0
    """Cells that the network gave no probability for."""
    reviewed: int = 0
    """Cells drawn at random that both the bundle and a reviewer called blast or normal."""
    right: int = 0
    """Those among them on which they agree."""

    @property
    def share(self) -> float:
        """Share of uncertain cells, 0..1."""
        return self.uncertain / self.cells if self.cells else 0.0


def figures_of(state: Path, slot: Slot) -> tuple[Figures, Figures]:
    """(figures of a slot's bundle since the switch to it, figures of the bundle that ran before the switch)."""
    with open_for_reading(state) as database:
        last = database.execute("SELECT coalesce(max(id), 0) FROM runs").fetchone()[0]
        after = slot.after_run if slot.after_run <= last else 0  # 0: a new database was begun
        now = _figures(database, "runs.id > ?", after, slot.name, slot.serial)
        query = "SELECT bundle_name, bundle_serial FROM runs WHERE id <= ? ORDER BY id DESC LIMIT 1"
        before = database.execute(query, (slot.after_run,)).fetchone()
        if before is None or tuple(before) == (slot.name, slot.serial):
            return now, Figures()
        return now, _figures(database, "runs.id <= ?", slot.after_run, *before)


def _figures(database: sqlite3.Connection, which: str, *values: int | str) -> Figures:
    """Figures of the runs that ``which`` names, with a bundle; values: of ``which``, the bundle's name and serial."""
    slides = database.execute(
        f"SELECT slides.id FROM slides JOIN runs ON runs.id = slides.run WHERE {which}"  # noqa: S608  # own conditions
        f" AND bundle_name = ? AND bundle_serial = ? ORDER BY slides.id DESC LIMIT {LATEST_SLIDES}",
        values,
    ).fetchall()
    numbers = [int(row[0]) for row in slides]
    marks = ", ".join("?" * len(numbers))
    cells, uncertain, faults = database.execute(
        "SELECT count(blast_probability), count(CASE WHEN label = 'uncertain' THEN blast_probability END),"  # noqa: S608
        " count(*) - count(blast_probability) FROM (SELECT label, blast_probability FROM cells"
        f" JOIN frames ON frames.id = cells.frame WHERE frames.slide IN ({marks})"
        " AND (blast_probability IS NOT NULL OR cells.reason = ?)"
        f" AND repeated = 0 ORDER BY cells.id DESC LIMIT {LATEST_CELLS})",
        (*numbers, Reason.MODEL_FAULT),
    ).fetchone()
    stored = database.execute(
        f"SELECT histogram FROM latency WHERE stage = 'inference' AND slide IN ({marks})",  # noqa: S608
        numbers,
    )
    latency = LatencyHistogram()
    for (text,) in stored:
        latency = latency.plus(LatencyHistogram.from_json(text))
    median = latency.percentile(50) if latency.count else None
    reviewed, right = database.execute(
        "SELECT count(*), coalesce(sum(reviews.label = cells.label), 0) FROM reviews"  # noqa: S608
        " JOIN cells ON cells.id = reviews.cell JOIN frames ON frames.id = cells.frame"
        " WHERE reviews.id IN (SELECT max(id) FROM reviews WHERE sampling = 'random' GROUP BY cell)"
        f" AND frames.slide IN ({marks}) AND cells.label IN ('blast', 'normal')"
        " AND reviews.label IN ('blast', 'normal')",
        numbers,
    ).fetchone()
    return Figures(int(cells), int(uncertain), median, int(faults), int(reviewed), int(right))


def why_failed(update: UpdateSettings, now: Figures, before: Figures) -> str:
    """Why the bundle fails its probation, a clause; empty where it does not, or too few cells were seen."""
    if now.faults >= MOST_FAULTS:
        return f"its network gave no probability for {now.faults} of {now.cells + now.faults} cells"
    if why := _too_often_wrong(now, before):
        return why
    if now.cells < max(1, update.probation_cells):
        return ""
    return _too_uncertain(now, before) or _too_slow(update, now, before)  # what it says, before how fast


def _too_slow(update: UpdateSettings, now: Figures, before: Figures) -> str:
    limit_ms, taken_ms, earlier_ms = update.most_latency_ms, now.latency_ms, before.latency_ms
    if taken_ms is None:
        return ""
    if limit_ms is not None:
        slow = taken_ms > limit_ms
        return f"it takes {taken_ms:.1f} ms per cell, longer than the {limit_ms:g} ms allowed" if slow else ""
    if earlier_ms is None or before.cells < ENOUGH_CELLS:
        return ""
    if taken_ms <= max(SLOWER * earlier_ms, earlier_ms + SLOWER_BY_MS):
        return ""
    return f"it takes {taken_ms:.1f} ms per cell, where the one before took {earlier_ms:.1f} ms"


def _too_uncertain(now: Figures, before: Figures) -> str:
    if before.cells < ENOUGH_CELLS or now.share <= before.share + MORE_UNCERTAIN:
        return ""
    if wilson(now.uncertain, now.cells)[0] <= wilson(before.uncertain, before.cells)[1]:
        return ""  # the difference may be chance, even if cells were independent
    return f"{now.share:.0%} of {now.cells} cells are uncertain, where {before.share:.0%} were before"


def _too_often_wrong(now: Figures, before: Figures) -> str:
    """Reviewers agree with it less often than with the one before, beyond chance."""
    if min(now.reviewed, before.reviewed) < ENOUGH_REVIEWED:
        return ""
    if wilson(now.right, now.reviewed)[1] >= wilson(before.right, before.reviewed)[0]:
        return ""
    return (
        f"reviewers agree with it on {now.right / now.reviewed:.0%} of {now.reviewed} cells, where they did on"
        f" {before.right / before.reviewed:.0%} of {before.reviewed} before"
    )


def is_proven(update: UpdateSettings, slot: Slot, now: Figures) -> bool:
    """Whether a bundle has run in good health for long enough."""
    return slot.healthy_s >= update.probation_minutes * 60 and now.cells >= update.probation_cells
