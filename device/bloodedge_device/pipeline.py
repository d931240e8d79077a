"""One frame through gate, finder, imaging, engine and decision; every stage timed."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter

import numpy as np

from bloodedge.bundle.manifest import Manifest
from bloodedge.decision.domain import describe
from bloodedge.decision.kinds import OTHER, KindCall
from bloodedge.decision.thresholds import Reason, calibrated, decide
from bloodedge.engine import Engine
from bloodedge.errors import BloodedgeError
from bloodedge.finder import Found, FoundCell
from bloodedge.finder.frame_gate import GateResult
from bloodedge.imaging import Box, Image, colour_8bit, network_input
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


class Pipeline:
    """Gate, finder and network for one slide and bundle; keeps no frame and no result.

    Gate and finder work on a frame at the same time, on two cores; cells in a frame that the gate rejects are thrown
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
        self._engine, self._manifest, self._kinds = engine, manifest, kinds
        self._domain = manifest.domain
        self._known_only = known_only
        self._slide_domain = SlideDomain()
        self._check, self._find, self._slide_map = check, find, slide_map
        self._helper = ThreadPoolExecutor(1, "pipeline helper")
        self._last_passed = True
        self.times = StageTimes()

    def process(self, frame: Frame | BadFrame) -> FrameResult:
        """A frame's result; the stages' times are counted in ``times``."""
        self.times.add("camera", frame.capture.took_s)
        if isinstance(frame, BadFrame):
            return FrameResult(frame.capture, problem=frame.problem, reason=Reason.BAD_FRAME)
        try:
            bgr = colour_8bit(frame.bgr, "The frame")
        except BloodedgeError as error:
            return FrameResult(frame.capture, problem=str(error), reason=Reason.BAD_FRAME)
        frame = replace(frame, bgr=bgr)
        judged = self._helper.submit(self._judge, frame)
        located = self._helper.submit(self._locate, judged, bgr)
        found = self._search(frame) if self._last_passed or judged.result().reason is None else None
        gate = judged.result()
        self._last_passed = gate.reason is None
        size = (frame.bgr.shape[1], frame.bgr.shape[0])
        result = FrameResult(frame.capture, size, None, gate.reason, gate.focus, gate.brightness)
        if gate.reason is not None or found is None:
            return result
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

    def _locate(self, judged: Future[GateResult], bgr: Image) -> None:
        """Register a frame that passed the gate; runs after ``_judge`` in the helper thread."""
        if self._slide_map is not None and judged.result().reason is None:
            with self.times.measure("overlap"):
                self._slide_map.locate(bgr)

    def _search(self, frame: Frame) -> Found:
        with self.times.measure("find"):
            return self._find(frame.bgr, frame.um_per_px)

    def _classify_all(self, bgr: Image, found: Found) -> list[CellResult]:
        """Each found cell's result; their features are computed on the other core."""
        cells = [_unclassified(cell, bgr) for cell in found.cells]
        whole = [number for number, cell in enumerate(found.cells) if not cell.touches_border]
        for number, kind in self._kinds_of(found, whole).items():
            cells[number] = replace(cells[number], kind=kind)
            if not kind.asked:
                cells[number] = replace(cells[number], label=OTHER, reason=None)
                whole.remove(number)
        images = [self._image(bgr, found.cells[number], found.um_per_px) for number in whole]
        figures = [self._helper.submit(self._describe, image) for image in images]
        blasts = self._blast_probabilities(images)
        for number, blast, figure in zip(whole, blasts, figures, strict=True):
            cells[number] = self._decide(cells[number], blast, figure.result())
        return cells

    def _kinds_of(self, found: Found, whole: Sequence[int]) -> dict[int, KindCall]:
        if self._kinds is None or not whole:
            return {}
        start = perf_counter()
        calls = self._kinds([KindInput.of(found.cells[number], found.um_per_px) for number in whole])
        each_s = (perf_counter() - start) / len(whole)
        for _ in whole:
            self.times.add("kind", each_s)
        return dict(zip(whole, calls, strict=True))

    def _image(self, bgr: Image, found: FoundCell, um_per_px: float) -> Image:
        with self.times.measure("imaging"):
            return network_input(found.crop(bgr, um_per_px), self._manifest.imaging)

    def _describe(self, image: Image) -> Floats | None:
        if self._domain is None:
            return None
        with self.times.measure("domain"):
            return describe(image)

    def _blast_probabilities(self, images: Sequence[Image]) -> list[float]:
        """Calibrated blast probabilities of network inputs; NaN where the network gives no probabilities."""
        if not images:
            return []
        start = perf_counter()
        probabilities = self._engine.predict(np.stack(images))
        each_s = (perf_counter() - start) / len(images)
        for _ in images:
            self.times.add("inference", each_s)
        return [float(blast) for blast in calibrated(probabilities, self._manifest.temperature)[:, 1]]

    def _decide(self, cell: CellResult, blast: float, figures: Floats | None) -> CellResult:
        with self.times.measure("decision"):
            label, reason = decide(blast, self._manifest.thresholds)
            fault = reason is Reason.MODEL_FAULT
            if self._is_outside(figures) and not fault:
                label, reason = "uncertain", Reason.OUT_OF_DOMAIN
        probability = None if fault else blast
        return replace(cell, label=label, blast_probability=probability, reason=reason, figures=figures)

    def _is_outside(self, figures: Floats | None) -> bool:
        """Whether a cell, or its whole slide, is unlike the training cells."""
        if self._domain is None or figures is None or not self._known_only:
            return False
        outside = float(self._domain.distances(figures[np.newaxis])[0]) > self._domain.limit
        self._slide_domain.note(outside=outside)
        return outside or self._slide_domain.is_outside


def _unclassified(cell: FoundCell, bgr: Image) -> CellResult:
    """A cell that the frame's border cuts, or that is not classified yet."""
    crop = _surroundings(bgr, cell.box)
    return CellResult(cell.box, "uncertain", None, Reason.CUT_BY_BORDER, cell.area_um2, crop, cell.outline)


def _made_uncertain(cell: CellResult) -> CellResult:
    """The cell without its class."""
    return cell if cell.label in {"uncertain", OTHER} else replace(cell, label="uncertain", reason=Reason.OUT_OF_DOMAIN)


def _surroundings(bgr: Image, box: Box) -> Image:
    """A square round the box, cut at the frame's border; a copy, so that no result keeps a whole frame in memory."""
    x, y, width, height = box
    half = round((0.5 + MARGIN) * max(width, height))
    column, row = x + width // 2, y + height // 2
    return bgr[max(0, row - half) : row + half, max(0, column - half) : column + half].copy()
