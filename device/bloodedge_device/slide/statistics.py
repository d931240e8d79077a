"""What one slide shows: counts, the share of blasts with its interval, and everything that was not classified."""

import json
import sqlite3
from collections import Counter, deque
from dataclasses import dataclass
from functools import lru_cache

from bloodedge.decision.prevalence import Rates
from bloodedge.decision.thresholds import LABELS, Reason
from bloodedge.metrics import wilson
from bloodedge_device.pipeline import CellResult, FrameResult
from bloodedge_device.slide.domain_check import REMEMBERED
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.share import SlideShare


@dataclass(frozen=True)
class SlideStatistics:
    """Counts over one slide; reasons are those of bloodedge.decision.thresholds.Reason, most frequent first."""

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
    repeated: int
    """Sightings of cells that count elsewhere: an earlier or better view of them does."""
    clustered: ClusteredShare
    """Blasts among called cells, frame by frame."""
    drawn: tuple[int, int] | None = None
    """Blasts and normal cells that the simulated microscope drew in the frames looked at; None of a real camera."""

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

    def share(self, rates: Rates | None) -> SlideShare:
        """The slide's share of blasts; rates: of the artifact that called its cells."""
        return SlideShare.of(self.clustered, rates, self.drawn)

    def sentence(self, rates: Rates | None) -> str:
        """The slide in a few sentences."""
        rejected = sum(self.frames_rejected.values())
        return (
            f"{self.frames_seen} frames ({self.frames_dropped} dropped, {rejected} rejected), "
            f"{self.cells_total} cells, {self.cells['uncertain']} uncertain. {self.share(rates).sentence}"
        )


class Tally:
    """A slide's statistics, kept up while it is in work; what ``read_statistics`` finds in the store afterwards."""

    def __init__(self) -> None:
        self._frames = self._dropped = self._repeated = 0
        self._reasons: Counter[str] = Counter()
        self._not_cells: Counter[str] = Counter()
        self._cells: Counter[str] = Counter()
        self._uncertain: Counter[str] = Counter()
        self._frame_counts: Counter[tuple[int, int]] = Counter()
        self._standing: dict[int, _Counted] = {}
        self._latest: deque[_Counted] = deque(maxlen=REMEMBERED)
        self._drawn: tuple[int, int] | None = None

    def add(self, result: FrameResult) -> None:
        """Count a frame."""
        self._frames += 1
        self._dropped += result.capture.dropped_before
        self._reasons.update([] if result.reason is None else [str(result.reason)])
        self._not_cells.update({str(reason): things for reason, things in result.rejected.items()})
        if result.capture.truth is not None and result.reason in LOOKED_AT:
            before, now = self._drawn or (0, 0), result.capture.truth
            self._drawn = before[0] + now[0], before[1] + now[1]
        if not result.cells:
            return
        frame = _Frame()
        for cell in result.cells:
            self._add_cell(frame, cell)
        self._frame_counts[frame.counts] += 1
        frame.counted = True
        if result.recalls:
            self._recall()

    def _add_cell(self, frame: "_Frame", cell: CellResult) -> None:
        one = _Counted(frame, cell.label, str(cell.reason), counts=not cell.repeated)
        if cell.blast_probability is not None:
            self._latest.append(one)
        if cell.repeated:
            self._repeated += 1
            return
        if cell.number is not None:
            if (worse := self._standing.get(cell.number)) is not None:
                self._count(worse, -1)
                worse.counts = False
                self._repeated += 1
            self._standing[cell.number] = one
            if len(self._standing) > STANDING:
                del self._standing[next(iter(self._standing))]
        self._count(one, 1)

    def _recall(self) -> None:
        """Take the classes of the latest cells back: the slide turned out to be foreign."""
        for one in self._latest:
            if one.label == "uncertain":
                continue
            if one.counts:
                self._count(one, -1)
            one.label, one.reason = "uncertain", str(Reason.OUT_OF_DOMAIN)
            if one.counts:
                self._count(one, 1)

    def _count(self, one: "_Counted", by: int) -> None:
        frame, label = one.frame, one.label
        self._cells[label] += by
        if label == "uncertain":
            self._uncertain[one.reason] += by
            return
        if frame.counted:
            self._frame_counts[frame.counts] -= 1
        frame.called += by
        frame.blasts += by * (label == "blast")
        if frame.counted:
            self._frame_counts[frame.counts] += 1

    def statistics(self) -> SlideStatistics:
        """The counts so far."""
        frames = Counter(self._reasons)
        without_cells = frames.pop(Reason.NO_CELL, 0)
        return SlideStatistics(
            frames_processed=self._frames,
            frames_dropped=self._dropped,
            frames_without_cells=without_cells,
            frames_rejected=_most_first(frames),
            cells={label: self._cells[label] for label in (*LABELS, "uncertain")},
            uncertain=_most_first(self._uncertain),
            not_cells=_most_first(self._not_cells),
            repeated=self._repeated,
            clustered=_by_frame(self._frame_counts),
            drawn=self._drawn,
        )


LOOKED_AT = (None, Reason.NO_CELL)
"""Reasons of frames whose cells were looked for."""


STANDING = 4000
"""Cells of which a better view may still come."""


@dataclass
class _Frame:
    """What counts of one frame."""

    blasts: int = 0
    called: int = 0
    counted: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        return self.blasts, self.called


@dataclass
class _Counted:
    """A cell, and whether it is the view that counts."""

    frame: _Frame
    label: str
    reason: str
    counts: bool


def _by_frame(frames: Counter[tuple[int, int]]) -> ClusteredShare:
    """From how many frames had so many (blasts, called cells); those where no cell was called say nothing."""
    alike = [(blasts, called, count) for (blasts, called), count in sorted(frames.items()) if called and count]
    return ClusteredShare([one[0] for one in alike], [one[1] for one in alike], [one[2] for one in alike])


class Totals:
    """Counts over all slides since the start; they only grow. A cell counts at its first view, as first said."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        """By outcome: "cells", or the reason why there are none."""
        self.cells: Counter[str] = Counter(dict.fromkeys((*LABELS, "uncertain"), 0))
        self.uncertain: Counter[str] = Counter()
        self.dropped = 0

    def add(self, result: FrameResult) -> None:
        """Count a frame."""
        self.dropped += result.capture.dropped_before
        self.frames[str(result.reason or "cells")] += 1
        for cell in result.cells:
            if not cell.repeated:
                self.cells[cell.label] += 1
                if cell.label == "uncertain":
                    self.uncertain[str(cell.reason)] += 1


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return {key: count for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count}


def read_statistics(database: sqlite3.Connection, slide: int) -> SlideStatistics:
    """A slide's statistics from the store, finished or not."""
    processed, dropped = database.execute(
        "SELECT count(*), coalesce(sum(dropped_before), 0) FROM frames WHERE slide = ?", (slide,)
    ).fetchone()
    frames = _counts(database, "SELECT reason, count(*) FROM frames WHERE slide = ? AND reason IS NOT NULL", slide)
    sighted = "FROM cells JOIN frames ON frames.id = cells.frame WHERE frames.slide = ?"
    of_slide = f"{sighted} AND NOT cells.repeated"
    (repeated,) = database.execute(f"SELECT count(*) {sighted} AND cells.repeated", (slide,)).fetchone()
    by_frame = database.execute(
        f"SELECT sum(cells.label = 'blast'), sum(cells.label != 'uncertain') {of_slide} GROUP BY cells.frame", (slide,)
    ).fetchall()
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
        repeated=repeated,
        clustered=_by_frame(Counter((row[0], row[1]) for row in by_frame)),
        drawn=read_drawn(database, slide, slide)[slide],
    )


def read_drawn(database: sqlite3.Connection, first: int, last: int) -> dict[int, tuple[int, int] | None]:
    """Drawn blasts and normal cells in the frames looked at, by slide; None of real cameras' slides."""
    found: dict[int, tuple[int, int] | None] = dict.fromkeys(range(first, last + 1))
    if any(column["name"] == "drawn_blasts" for column in database.execute("PRAGMA table_info(frames)")):
        query = (
            "SELECT slide, sum(drawn_blasts), sum(drawn_normals) FROM frames WHERE slide BETWEEN ? AND ?"
            " AND drawn_blasts IS NOT NULL AND (reason IS NULL OR reason = ?) GROUP BY slide"
        )
        found |= {row[0]: (row[1], row[2]) for row in database.execute(query, (first, last, Reason.NO_CELL))}
    return found


def read_rates(database: sqlite3.Connection, slide: int) -> Rates | None:
    """The rates of error of the artifact that called a slide's cells; None where its bundle does not say."""
    row = database.execute(
        "SELECT manifest, engine, precision FROM runs JOIN slides ON slides.run = runs.id WHERE slides.id = ?", (slide,)
    ).fetchone()
    return _rates(row["manifest"], row["engine"], row["precision"])


@lru_cache(maxsize=16)
def _rates(manifest: str, engine: str, precision: str) -> Rates | None:
    for artifact in json.loads(manifest)["artifacts"]:
        if (artifact["engine"], artifact["precision"]) == (engine, precision):
            return None if artifact.get("rates") is None else Rates.model_validate(artifact["rates"])
    return None


def _counts(database: sqlite3.Connection, query: str, slide: int) -> dict[str, int]:
    rows = database.execute(f"{query} GROUP BY 1 ORDER BY 2 DESC, 1", (slide,)).fetchall()
    return {row[0]: row[1] for row in rows}
