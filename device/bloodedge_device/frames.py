"""Frames, cells and their results as plain data, below every other room."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.kinds import KindCall
from bloodedge.decision.thresholds import Reason
from bloodedge.imaging import Box, Image

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SourceFile:
    """A file of a watched folder, as it was when it was read."""

    path: str
    """Absolute."""
    size: int
    modified_ns: int
    sha256: str
    """SHA-256 of its pixels; empty where they could not be read."""


@dataclass(frozen=True)
class Capture:
    """When and where a frame was taken."""

    index: int
    """Counts from 0 in the order of capture; missing numbers were dropped."""
    captured_at: datetime
    """UTC."""
    monotonic_s: float
    """Monotonic time at the end of the capture."""
    took_s: float
    """Duration of the capture, or of reading and decoding."""
    source: str = ""
    """The file's name; empty where frames come from no files."""
    dropped_before: int = 0
    """Frames since the previous one that were dropped because a newer one came."""
    file: SourceFile | None = None
    """The file, where a folder is watched."""
    truth: tuple[int, int] | None = None
    """Blasts and normal cells in a simulated frame; None of a real camera."""

    @classmethod
    def now(cls, index: int, start_s: float, source: str = "") -> "Capture":
        """A capture from ``start_s`` (monotonic) until now."""
        end_s = monotonic()
        return cls(index, datetime.now(UTC), end_s, end_s - start_s, source)


@dataclass(frozen=True)
class Frame:
    """One camera image."""

    capture: Capture
    bgr: Image
    """uint8 (H, W, 3) BGR."""
    um_per_px: float | None
    """Micrometres per pixel; None when it has to be measured in the frame."""


@dataclass(frozen=True)
class BadFrame:
    """A frame that could not be read."""

    capture: Capture
    problem: str
    """One sentence."""


@dataclass(frozen=True)
class CellResult:
    """One cell's result."""

    box: Box
    label: str
    """blast, normal or uncertain; other where that is not asked of its kind."""
    blast_probability: float | None
    """Calibrated, 0..1; None when the cell was not classified or the network gave none."""
    reason: Reason | None
    area_um2: float
    crop: Image
    """uint8 (h, w, 3) BGR: the cell and its surroundings, for people to look at."""
    outline: list[list[int]] = field(default_factory=list)
    """The cell's border as a polygon [[x, y], ...] in the frame's pixels."""
    figures: Floats | None = None
    """(41,), of bloodedge.decision.domain.describe; None where the bundle has no domain."""
    number: int | None = None
    """The cell's number on the slide; None when cells are not recognised."""
    repeated: bool = False
    """An earlier frame showed this cell at least as well, and it is counted there."""
    mask: Image | None = None
    """uint8 (h, w), 255 on the cell and 0 elsewhere, on the crop; None where it is not known."""
    light: tuple[int, int, int] | None = None
    """The empty field's levels at the cell, 0..255 BGR; None where they are not known."""
    kind: KindCall | None = None
    """None where the frame's border cuts the cell, or kinds are not told."""


@dataclass(frozen=True)
class FrameResult:
    """One frame's result."""

    capture: Capture
    size: tuple[int, int] | None = None
    """Width and height in pixels; None when it could not be read."""
    problem: str | None = None
    """Why it could not be read, a sentence."""
    reason: Reason | None = None
    """Why the frame was rejected, or ``no_cell`` when it has no white cell."""
    focus: float | None = None
    brightness: float | None = None
    cells: list[CellResult] = field(default_factory=list)
    rejected: Counter[Reason] = field(default_factory=Counter)
    """Objects that the finder rejected, by reason."""
    um_per_px: float | None = None
    """Micrometres per pixel that were used."""
    recalls: bool = False
    """With this frame the slide turned out to be unlike the training cells: its latest REMEMBERED classified cells
    (slide.domain_check) become uncertain."""
