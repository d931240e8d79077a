"""Running counts of the current slide, and of everything since the start."""

from collections import Counter, deque
from dataclasses import dataclass

from bloodedge.decision.kinds import OTHER, KindCall
from bloodedge.decision.slide_verdict import ScoreCounts, score_bin
from bloodedge.decision.thresholds import LABELS, Reason
from bloodedge_device.frames import CellResult, FrameResult
from bloodedge_device.slide.differential import KindKey
from bloodedge_device.slide.domain_check import REMEMBERED
from bloodedge_device.slide.interval import ClusteredShare
from bloodedge_device.slide.statistics import SlideStatistics

LOOKED_AT = (None, Reason.NO_CELL)
"""Reasons of frames that were searched for cells."""

REVISABLE = 4000
"""Cells of which a better view may still come."""


@dataclass
class _Frame:
    """One frame's counts."""

    blasts: int = 0
    called: int = 0
    counted: bool = False

    @property
    def counts(self) -> tuple[int, int]:
        return self.blasts, self.called


@dataclass
class _Counted:
    """One view of a cell, and whether this view is counted."""

    frame: _Frame
    label: str
    reason: str
    score: str | None
    """The bin of its blast probability; None when it was not classified."""
    counts: bool
    kind: KindCall | None


class Tally:
    """The current slide's statistics; ``read_statistics`` reads the same from the store."""

    def __init__(self) -> None:
        self._frames = self._dropped = self._repeated = 0
        self._reasons: Counter[str] = Counter()
        self._not_cells: Counter[str] = Counter()
        self._cells: Counter[str] = Counter()
        self._uncertain: Counter[str] = Counter()
        self._scores: Counter[str] = Counter()
        self._kinds: Counter[KindKey] = Counter()
        self._frame_counts: Counter[tuple[int, int]] = Counter()
        self._counted: dict[int, _Counted] = {}
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

    def _add_cell(self, frame: _Frame, cell: CellResult) -> None:
        score = None if cell.blast_probability is None else score_bin(cell.blast_probability)
        view = _Counted(frame, cell.label, str(cell.reason), score, not cell.repeated, cell.kind)
        if score is not None:
            self._latest.append(view)
        if cell.repeated:
            self._repeated += 1
            return
        if cell.number is not None:
            if (worse := self._counted.get(cell.number)) is not None:
                self._count(worse, -1)
                worse.counts = False
                self._repeated += 1
            self._counted[cell.number] = view
            if len(self._counted) > REVISABLE:
                del self._counted[next(iter(self._counted))]
        self._count(view, 1)

    def _recall(self) -> None:
        """Make the latest cells uncertain: the slide turned out to be outside the domain."""
        for view in self._latest:
            if view.label == "uncertain":
                continue
            if view.counts:
                self._count(view, -1)
            view.label, view.reason = "uncertain", str(Reason.OUT_OF_DOMAIN)
            if view.counts:
                self._count(view, 1)

    def _count(self, view: _Counted, by: int) -> None:
        frame, label = view.frame, view.label
        self._cells[label] += by
        if (kind := view.kind) is not None:
            self._kinds[kind.kind, kind.stage, label] += by
        if view.score is not None and (label != "uncertain" or view.reason == Reason.ABSTAIN_BAND):
            self._scores[view.score] += by
        if label == "uncertain":
            self._uncertain[view.reason] += by
        if label not in LABELS:
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
            cells={label: self._cells[label] for label in (*LABELS, "uncertain", OTHER)},
            uncertain=_most_first(self._uncertain),
            not_cells=_most_first(self._not_cells),
            repeated=self._repeated,
            clustered=ClusteredShare.of_frames(self._frame_counts),
            scores=ScoreCounts(**self._scores),
            drawn=self._drawn,
            kinds={key: cells for key, cells in self._kinds.items() if cells},
        )


class Totals:
    """Counts over all slides since the start; they only grow. A cell counts at its first view, with its first label."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        """By outcome: "cells", or the reason why there are none."""
        self.cells: Counter[str] = Counter(dict.fromkeys((*LABELS, "uncertain", OTHER), 0))
        self.uncertain: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        """Cells whose kind was told."""
        self.dropped = 0

    def add(self, result: FrameResult) -> None:
        """Count a frame."""
        self.dropped += result.capture.dropped_before
        self.frames[str(result.reason or "cells")] += 1
        for cell in result.cells:
            if not cell.repeated:
                self.cells[cell.label] += 1
                if cell.kind is not None:
                    self.kinds[cell.kind.kind] += 1
                if cell.label == "uncertain":
                    self.uncertain[str(cell.reason)] += 1


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return {key: count for key, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count}
