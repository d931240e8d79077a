"""What one slide shows: counts, the share of blasts with its interval, and everything that was not classified."""

import sqlite3
from dataclasses import dataclass

from bloodedge.decision import LABELS, Reason
from bloodedge.metrics import wilson


@dataclass(frozen=True)
class SlideStatistics:
    """Counts over one slide; reasons are those of bloodedge.decision.Reason, most frequent first."""

    frames_processed: int
    frames_dropped: int
    """Captured, but replaced by a newer frame before the pipeline was free."""
    frames_without_cells: int
    frames_rejected: dict[str, int]
    """Frames turned away, by reason."""
    cells: dict[str, int]
    """Cells called normal, blast and uncertain."""
    uncertain: dict[str, int]
    """Uncertain cells by reason."""
    not_cells: dict[str, int]
    """Things that the finder turned down, by reason."""

    @property
    def frames_seen(self) -> int:
        """Every frame that the camera gave."""
        return self.frames_processed + self.frames_dropped

    @property
    def cells_total(self) -> int:
        """White cells found."""
        return sum(self.cells.values())

    @property
    def called(self) -> int:
        """Cells called either normal or blast."""
        return sum(self.cells[label] for label in LABELS)

    @property
    def blast_share(self) -> float | None:
        """Blasts among the called cells, 0..1; None before the first."""
        return self.cells["blast"] / self.called if self.called else None

    @property
    def blast_ci95(self) -> tuple[float, float]:
        """Wilson's 95 % interval of ``blast_share``: as if cells were independent."""
        return wilson(self.cells["blast"], self.called)

    @property
    def uncertain_share(self) -> float | None:
        """Uncertain ones among the found cells, 0..1; None before the first."""
        return self.cells["uncertain"] / self.cells_total if self.cells_total else None

    def sentence(self) -> str:
        """The slide in one sentence."""
        if self.blast_share is None:
            share = "no cell was called"
        else:
            low, high = self.blast_ci95
            share = f"{self.blast_share:.1%} of {self.called} called cells are blasts (95 % CI {low:.1%} to {high:.1%})"
        rejected = sum(self.frames_rejected.values())
        return (
            f"{self.frames_seen} frames ({self.frames_dropped} dropped, {rejected} rejected), "
            f"{self.cells_total} cells: {share}, {self.cells['uncertain']} uncertain."
        )


def read_statistics(database: sqlite3.Connection, slide: int) -> SlideStatistics:
    """A slide's statistics from the store, finished or not."""
    processed, dropped = database.execute(
        "SELECT count(*), coalesce(sum(dropped_before), 0) FROM frames WHERE slide = ?", (slide,)
    ).fetchone()
    frames = _counts(database, "SELECT reason, count(*) FROM frames WHERE slide = ? AND reason IS NOT NULL", slide)
    of_slide = "FROM cells JOIN frames ON frames.id = cells.frame WHERE frames.slide = ?"
    cells = _counts(database, f"SELECT cells.label, count(*) {of_slide}", slide)
    without_cells = frames.pop(Reason.NO_CELL, 0)
    return SlideStatistics(
        frames_processed=processed,
        frames_dropped=dropped,
        frames_without_cells=without_cells,
        frames_rejected=frames,
        cells={label: cells.get(label, 0) for label in (*LABELS, "uncertain")},
        uncertain=_counts(database, f"SELECT cells.reason, count(*) {of_slide} AND cells.label = 'uncertain'", slide),
        not_cells=_counts(
            database,
            "SELECT rejected.reason, sum(objects) FROM rejected JOIN frames ON frames.id = rejected.frame"
            " WHERE frames.slide = ?",
            slide,
        ),
    )


def _counts(database: sqlite3.Connection, query: str, slide: int) -> dict[str, int]:
    rows = database.execute(f"{query} GROUP BY 1 ORDER BY 2 DESC, 1", (slide,)).fetchall()
    return {row[0]: row[1] for row in rows}
