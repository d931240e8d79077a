"""What a person who ran the daemon at a terminal is told at its end."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from bloodedge.decision.error_rates import Rates
from bloodedge.decision.thresholds import Reason
from bloodedge.errors import quoted
from bloodedge_device.slide.statistics import SlideStatistics
from bloodedge_device.store.statistics import read_rates, read_statistics


@dataclass(frozen=True)
class SlideSummary:
    """One slide of a run."""

    id: int
    label: str
    statistics: SlideStatistics
    rates: Rates | None
    """Of the artifact that called its cells."""

    @property
    def figures(self) -> str:
        """The slide's figures in sentences."""
        return self.statistics.sentence(self.rates)

    @property
    def sentence(self) -> str:
        """The slide's name and figures."""
        return f"Slide {self.id}{f' ({self.label})' if self.label else ''}: {self.figures}"


@dataclass(frozen=True)
class RunSummary:
    """Everything since the daemon's start."""

    slides: list[SlideSummary]
    ending: str
    """What the camera says of its end; empty where it did not end by itself, or says nothing."""
    interrupted: bool
    """Whether a person's Ctrl-C ended it."""
    problem: str | None
    """Why the first frame that could not be read could not; None where all could."""

    @property
    def read_nothing(self) -> bool:
        """Whether frames came, and none of them could be read."""
        seen = sum(one.statistics.frames_processed for one in self.slides)
        unreadable = sum(one.statistics.frames_rejected.get(Reason.BAD_FRAME, 0) for one in self.slides)
        return 0 < seen == unreadable

    def lines(self, state: Path) -> list[str]:
        """The run in sentences, the last of which is the command that shows more; state: the folder of its results."""
        counts = [one.statistics for one in self.slides]
        frames, cells = sum(one.frames_seen for one in counts), sum(one.cells_total for one in counts)
        whole = [f"{len(counts)} slides, {frames} frames, {cells} cells."] if len(counts) > 1 else []
        slides = [one.sentence for one in self.slides] if whole else [one.figures for one in self.slides]
        return [*whole, *slides, *([self.ending] if self.ending else []), f"Report: {report_command(state)}"]


def report_command(state: Path) -> str:
    """The command that shows a state folder's latest slide, as a shell takes it."""
    return f"bloodedge device report --state {quoted(state)}"


def read_summary(database: sqlite3.Connection, first: int, ending: str, *, interrupted: bool) -> RunSummary:
    """The summary of the run whose first slide was ``first``."""
    rows = database.execute("SELECT id, label FROM slides WHERE id >= ? ORDER BY id", (first,)).fetchall()
    problem = database.execute(
        "SELECT detail FROM frames WHERE slide >= ? AND reason = ? ORDER BY id LIMIT 1", (first, Reason.BAD_FRAME)
    ).fetchone()
    slides = [
        SlideSummary(row["id"], row["label"], read_statistics(database, row["id"]), read_rates(database, row["id"]))
        for row in rows
    ]
    return RunSummary(slides, ending, interrupted, None if problem is None else problem["detail"])
