"""One frame through gate, finder, imaging, engine and decision; every stage timed."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from bloodedge.bundle.manifest import Manifest
from bloodedge.decision.kinds import OTHER
from bloodedge.decision.thresholds import Reason
from bloodedge.engine import Engine
from bloodedge.errors import BloodedgeError
from bloodedge.finder import Found, FoundCell
from bloodedge.finder.frame_gate import GateResult
from bloodedge.imaging import Box, Image, colour_8bit
from bloodedge_device.classify import CellClassifier
from bloodedge_device.frames import BadFrame, CellResult, Floats, Frame, FrameResult
from bloodedge_device.kinds import KindInput, KindsOf
from bloodedge_device.latency import StageTimes
from bloodedge_device.slide.domain_check import SlideDomain
from bloodedge_device.slide.overlap import Sighting, SlideMap

MARGIN = 0.15
"""Margin of a crop on each side of the box, as a share of the box's longer side."""

Check = Callable[[Image], GateResult]
Find = Callable[[Image, float | None], Found]
"""Takes uint8 (H, W, 3) BGR and the micrometres per pixel, if known."""


@dataclass(frozen=True)
class Searched:
    """A frame that gate and finder have looked at; gate and found are None where it could not be read or searched."""

    frame: Frame | BadFrame
    gate: GateResult | None = None
    found: Found | None = None
    problem: str | None = None

    def kept(self) -> "Searched":
        """The same with pixels of its own: a camera's are valid only until its next frame."""
        if isinstance(self.frame, BadFrame):
            return self
        return replace(self, frame=replace(self.frame, bgr=self.frame.bgr.copy()))


class Pipeline:
    """Gate, finder and network for one slide and bundle; keeps no frame and no result.

    ``search`` and ``classify`` may run in two threads, the one a frame ahead of the other; each takes the frames in
    their order. Gate and finder work on a frame at the same time; cells in a frame that the gate rejects are thrown
    away. After a rejected frame the finder waits for the gate, until a frame passes.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        check: Check,
        find: Find,
        *,
        kinds: KindsOf | None = None,
        known_only: bool = True,
        slide_map: SlideMap | None = None,
    ) -> None:
        """A pipeline of loaded parts.

        kinds: None asks *blast or normal?* of every cell; known_only: whether cells outside the domain are uncertain.
        """
        self._known_only = known_only
        self._slide_domain = SlideDomain()
        self._check, self._find, self._slide_map = check, find, slide_map
        self._helper = ThreadPoolExecutor(1, "pipeline helper")
        self._last_passed = True
        self.times = StageTimes()
        self._classifier = CellClassifier(engine, manifest, kinds, self._helper, self.times)

    def process(self, frame: Frame | BadFrame) -> FrameResult:
        """A frame's result; the stages' times are counted in ``times``."""
        return self.classify(self.search(frame))

    def search(self, frame: Frame | BadFrame) -> Searched:
        """Judge a frame and find its cells."""
        self.times.add("camera", frame.capture.took_s)
        if isinstance(frame, BadFrame):
            return Searched(frame, problem=frame.problem)
        try:
            frame = replace(frame, bgr=colour_8bit(frame.bgr, "The frame"))
        except BloodedgeError as error:
            return Searched(frame, problem=str(error))
        judged = self._helper.submit(self._judge, frame)
        found = self._find_in(frame) if self._last_passed or judged.result().reason is None else None
        gate = judged.result()
        self._last_passed = gate.reason is None
        return Searched(frame, gate, found if self._last_passed else None)

    def classify(self, searched: Searched) -> FrameResult:
        """Classify the cells of a searched frame, and tell which of them earlier frames showed."""
        frame, gate, found = searched.frame, searched.gate, searched.found
        if isinstance(frame, BadFrame) or gate is None:
            return FrameResult(frame.capture, problem=searched.problem, reason=Reason.BAD_FRAME)
        size = (frame.bgr.shape[1], frame.bgr.shape[0])
        result = FrameResult(frame.capture, size, None, gate.reason, gate.focus, gate.brightness)
        if found is None:
            return result
        located = self._helper.submit(self._locate, frame.bgr)
        was_inside = not self._slide_domain.is_outside
        cells = self._classify_all(frame.bgr, found)
        recalls = was_inside and self._slide_domain.is_outside
        if recalls:
            cells = [_made_uncertain(cell) for cell in cells]
        located.result()
        if self._slide_map is not None:
            seen = self._slide_map.identify(found.um_per_px, [Sighting.of(cell) for cell in found.cells]).seen
            cells = [
                replace(cell, number=identity.number, repeated=identity.repeated)
                for cell, identity in zip(cells, seen, strict=True)
            ]
        rejected = Counter(other.reason for other in found.rejected)
        reason = None if cells else Reason.NO_CELL
        scale = found.um_per_px
        return replace(result, reason=reason, cells=cells, rejected=rejected, um_per_px=scale, recalls=recalls)

    def close(self) -> None:
        """End the helper thread."""
        self._helper.shutdown()

    def _judge(self, frame: Frame) -> GateResult:
        with self.times.measure("gate"):
            return self._check(frame.bgr)

    def _locate(self, bgr: Image) -> None:
        """Register a frame that passed the gate."""
        if self._slide_map is not None:
            with self.times.measure("overlap"):
                self._slide_map.locate(bgr)

    def _find_in(self, frame: Frame) -> Found:
        with self.times.measure("find"):
            return self._find(frame.bgr, frame.um_per_px)

    def _classify_all(self, bgr: Image, found: Found) -> list[CellResult]:
        """Each found cell's result; those that the frame's border cuts are not classified."""
        cells = [_unclassified(cell, bgr) for cell in found.cells]
        whole = [number for number, cell in enumerate(found.cells) if not cell.touches_border]
        scale = found.um_per_px
        classes = self._classifier.classify(
            [found.cells[number] for number in whole],
            lambda cell: KindInput.of(cell, scale),
            lambda cell: cell.crop(bgr, scale),
            self._is_outside,
        )
        for number, given in zip(whole, classes, strict=True):
            cells[number] = replace(
                cells[number],
                label=given.label,
                blast_probability=given.blast_probability,
                reason=given.reason,
                figures=given.figures,
                kind=given.kind,
            )
        return cells

    def _is_outside(self, figures: Floats | None) -> bool:
        """Whether a cell, or its whole slide, is unlike the training cells."""
        if figures is None or not self._known_only:
            return False
        outside = self._classifier.is_outside(figures)
        self._slide_domain.note(outside=outside)
        return outside or self._slide_domain.is_outside


def _unclassified(cell: FoundCell, bgr: Image) -> CellResult:
    """A cell that the frame's border cuts, or that is not classified yet."""
    rows, columns = _surroundings(cell.box)
    crop = bgr[rows, columns].copy()  # no view: a result must not keep its whole frame in memory
    x, y, width, height = cell.box
    left, top = x - columns.start, y - rows.start
    mask = np.zeros(crop.shape[:2], np.uint8)
    mask[top : top + height, left : left + width] = cell.mask
    return CellResult(
        box=cell.box,
        label="uncertain",
        blast_probability=None,
        reason=Reason.CUT_BY_BORDER,
        area_um2=cell.area_um2,
        crop=crop,
        mask=mask,
        light=cell.light,
        outline=cell.outline,
    )


def _made_uncertain(cell: CellResult) -> CellResult:
    """The cell without its class."""
    return cell if cell.label in {"uncertain", OTHER} else replace(cell, label="uncertain", reason=Reason.OUT_OF_DOMAIN)


def _surroundings(box: Box) -> tuple[slice, slice]:
    """Rows and columns of a square round the box; those beyond the frame's end are for NumPy to leave out."""
    x, y, width, height = box
    half = round((0.5 + MARGIN) * max(width, height))
    column, row = x + width // 2, y + height // 2
    return slice(max(0, row - half), row + half), slice(max(0, column - half), column + half)
