"""One frame's way to results: gate, finder, imaging, engine, decision; every stage timed."""

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from bloodedge.decision import Reason, calibrated, decide
from bloodedge.engine import Engine
from bloodedge.errors import BloodedgeError
from bloodedge.imaging import Cell, Image, colour_8bit, network_input
from bloodedge.manifest import Manifest
from bloodedge_device.camera import BadFrame, Capture, Frame
from bloodedge_device.histogram import StageTimes
from bloodedge_device.stain import Mode, SlideStain

MARGIN = 0.15
"""What a crop shows beyond the box on each side, as a share of the box's longer side."""

Box = tuple[int, int, int, int]
"""(x, y, width, height) in pixels of the frame."""


class Gate(Protocol):
    """What the frame gate says (see bloodedge_device.gate)."""

    @property
    def reason(self) -> Reason | None: ...  # noqa: D102
    @property
    def focus(self) -> float: ...  # noqa: D102
    @property
    def brightness(self) -> float: ...  # noqa: D102


class FoundCell(Protocol):
    """A white cell as the finder gives it (see bloodedge_device.finder)."""

    @property
    def box(self) -> Box: ...  # noqa: D102
    @property
    def area_um2(self) -> float: ...  # noqa: D102
    @property
    def touches_border(self) -> bool: ...  # noqa: D102
    def crop(self, frame: Image, um_per_px: float) -> Cell: ...  # noqa: D102


class Rejected(Protocol):
    """Something that the finder turned down."""

    @property
    def reason(self) -> Reason: ...  # noqa: D102


class Found(Protocol):
    """What the finder found in a frame."""

    @property
    def cells(self) -> Sequence[FoundCell]: ...  # noqa: D102
    @property
    def rejected(self) -> Sequence[Rejected]: ...  # noqa: D102
    @property
    def um_per_px(self) -> float: ...  # noqa: D102


Check = Callable[[Image], Gate]
Find = Callable[[Image, float | None], Found]
"""(uint8 (H, W, 3) BGR, micrometres per pixel if they are known) to what was found."""


@dataclass(frozen=True)
class CellResult:
    """What is said of one cell."""

    box: Box
    label: str
    """blast, normal or uncertain."""
    blast_probability: float | None
    """Calibrated, 0..1; None when the cell was not classified."""
    reason: Reason | None
    area_um2: float
    crop: Image
    """uint8 (h, w, 3) BGR: the cell and a little of what lies round it, for people to look at."""


@dataclass(frozen=True)
class FrameResult:
    """What is said of one frame."""

    capture: Capture
    size: tuple[int, int] | None = None
    """Width and height in pixels; None when it could not be read."""
    problem: str | None = None
    """Why it could not be read."""
    reason: Reason | None = None
    """Why the frame was rejected, or ``no_cell`` when nothing in it is a white cell."""
    focus: float | None = None
    brightness: float | None = None
    cells: list[CellResult] = field(default_factory=list)
    rejected: Counter[Reason] = field(default_factory=Counter)
    """Things that the finder looked at and turned down."""
    um_per_px: float | None = None
    """The scale that was used."""


class Pipeline:
    """Gate, finder and network, put together for one slide and bundle; keeps no frame and no result.

    While frames pass the gate, each is judged by it and searched for cells at the same time, on two cores; what was
    found in a frame that the gate then rejects is forgotten. After a rejected frame the gate comes first, until one
    passes.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        check: Check,
        find: Find,
        *,
        stain: Mode = "auto",
        known_only: bool = True,
    ) -> None:
        """stain: see SlideStain; known_only: whether cells outside the bundle's domain are uncertain."""
        self._engine, self._manifest = engine, manifest
        self._stain = SlideStain(manifest.imaging, manifest.stain, stain)
        self._domain = manifest.domain if known_only else None
        self._check, self._find = check, find
        self._beside = ThreadPoolExecutor(1, "gate")
        self._last_passed = True
        self.times = StageTimes()

    def process(self, frame: Frame | BadFrame) -> FrameResult:
        """Everything that is to be said of a frame, its stages' times counted in ``times``."""
        self.times.add("camera", frame.capture.took_s)
        if isinstance(frame, BadFrame):
            return FrameResult(frame.capture, problem=frame.problem, reason=Reason.BAD_FRAME)
        try:
            bgr = colour_8bit(frame.bgr, "The frame")
        except BloodedgeError as error:
            return FrameResult(frame.capture, problem=str(error), reason=Reason.BAD_FRAME)
        frame = replace(frame, bgr=bgr)
        judged = self._beside.submit(self._judge, frame)
        found = self._search(frame) if self._last_passed or judged.result().reason is None else None
        gate = judged.result()
        self._last_passed = gate.reason is None
        size = (frame.bgr.shape[1], frame.bgr.shape[0])
        result = FrameResult(frame.capture, size, None, gate.reason, gate.focus, gate.brightness)
        if gate.reason is not None or found is None:
            return result
        cells = [self._classify(frame.bgr, cell, found.um_per_px) for cell in found.cells]
        rejected = Counter(thing.reason for thing in found.rejected)
        reason = None if cells else Reason.NO_CELL
        return replace(result, reason=reason, cells=cells, rejected=rejected, um_per_px=found.um_per_px)

    def _judge(self, frame: Frame) -> Gate:
        with self.times.measure("gate"):
            return self._check(frame.bgr)

    def _search(self, frame: Frame) -> Found:
        with self.times.measure("find"):
            return self._find(frame.bgr, frame.um_per_px)

    def _classify(self, bgr: Image, found: FoundCell, um_per_px: float) -> CellResult:
        crop = _surroundings(bgr, found.box)
        if found.touches_border:
            return CellResult(found.box, "uncertain", None, Reason.CUT_BY_BORDER, found.area_um2, crop)
        with self.times.measure("imaging"):
            image = network_input(self._stain.of(found.crop(bgr, um_per_px)), self._stain.imaging)
        with self.times.measure("inference"):
            probabilities = self._engine.predict(image[np.newaxis])
        with self.times.measure("domain"):
            known = self._domain is None or self._domain.holds(image)
        with self.times.measure("decision"):
            blast = float(calibrated(probabilities, self._manifest.temperature)[0, 1])
            label, reason = decide(blast, self._manifest.thresholds)
            if not known:
                label, reason = "uncertain", Reason.OUT_OF_DOMAIN
        return CellResult(found.box, label, blast, reason, found.area_um2, crop)


def _surroundings(bgr: Image, box: Box) -> Image:
    """A square round the box, cut where the frame ends; a copy, so that no result keeps a whole frame in memory."""
    x, y, width, height = box
    half = round((0.5 + MARGIN) * max(width, height))
    column, row = x + width // 2, y + height // 2
    return bgr[max(0, row - half) : row + half, max(0, column - half) : column + half].copy()
