"""The summary that a terminal shows at the end of a run."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bloodedge.decision.error_rates import Rates
from bloodedge.decision.slide_verdict import PeopleScores
from bloodedge.decision.thresholds import Reason
from bloodedge.errors import quoted
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.store.slide_counts import read_counts
from bloodedge_device.store.statistics import read_people_scores, read_rates


@dataclass(frozen=True)
class SlideSummary:
    """One slide of a run."""

    id: int
    label: str
    statistics: SlideStatistics
    rates: Rates | None
    """Error rates of the artifact that called its cells."""
    people_scores: PeopleScores | None
    """Held-out people's scores of its bundle."""

    @property
    def figures(self) -> str:
        """The slide's figures in sentences."""
        return self.statistics.sentence(self.rates, self.people_scores)

    @property
    def sentence(self) -> str:
        """The slide's name and figures."""
        return f"Slide {self.id}{f' ({self.label})' if self.label else ''}: {self.figures}"


@dataclass(frozen=True)
class RunSummary:
    """All slides since the daemon's start."""

    slides: list[SlideSummary]
    ending: str
    """The camera's sentence about its end; may be empty."""
    interrupted: bool
    """Whether a person's Ctrl-C ended it."""
    problem: str | None
    """Why the first unreadable frame could not be read; None without one."""

    @property
    def read_nothing(self) -> bool:
        """Whether frames came, but none could be read."""
        seen = sum(slide.statistics.frames_processed for slide in self.slides)
        unreadable = sum(slide.statistics.frames_rejected.get(Reason.BAD_FRAME, 0) for slide in self.slides)
        return 0 < seen == unreadable

    def lines(self, state: Path) -> list[str]:
        """The run in sentences, the last one the command that shows more; state: the state folder."""
        counts = [slide.statistics for slide in self.slides]
        frames, cells = sum(count.frames_seen for count in counts), sum(count.cells_total for count in counts)
        whole = [f"{len(counts)} slides, {frames} frames, {cells} cells."] if len(counts) > 1 else []
        slides = [slide.sentence if whole else slide.figures for slide in self.slides]
        return [*whole, *slides, *([self.ending] if self.ending else []), f"Report: {report_command(state)}"]


def report_command(state: Path) -> str:
    """The shell command that shows a state folder's latest slide."""
    return f"bloodedge device report --state {quoted(state)}"


def read_summary(database: sqlite3.Connection, first: int, ending: str, *, interrupted: bool) -> RunSummary:
    """The summary of the run whose first slide was ``first``."""
    rows = database.execute("SELECT id, label FROM slides WHERE id >= ? ORDER BY id", (first,)).fetchall()
    problem = database.execute(
        "SELECT detail FROM frames WHERE slide >= ? AND reason = ? ORDER BY id LIMIT 1", (first, Reason.BAD_FRAME)
    ).fetchone()
    slides = [
        SlideSummary(
            row["id"],
            row["label"],
            read_counts(database, row["id"]).statistics,
            read_rates(database, row["id"]),
            read_people_scores(database, row["id"]),
        )
        for row in rows
    ]
    return RunSummary(slides, ending, interrupted, None if problem is None else problem["detail"])
