"""What a camera gives and what its frames and cells became: plain data, below every other room."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import Reason
from bloodedge.imaging import Image

Floats = NDArray[np.float64]

Box = tuple[int, int, int, int]
"""(x, y, width, height) in pixels of the frame."""


@dataclass(frozen=True)
class SourceFile:
    """A file of a watched folder as it was when it was taken."""

    path: str
    """Absolute."""
    size: int
    modified_ns: int
    sha256: str
    """Of its pixels; empty where they could not be read."""


@dataclass(frozen=True)
class Capture:
    """When and where a frame was taken."""

    index: int
    """Counts from 0 in the order of capture; missing numbers were dropped."""
    captured_at: datetime
    """UTC."""
    monotonic_s: float
    """Seconds on the clock that never jumps, at the end of the capture."""
    took_s: float
    """Seconds that the capture (or reading and decoding) took."""
    source: str = ""
    """The file's name, where frames come from files."""
    dropped_before: int = 0
    """Frames captured since the one before and dropped because a newer one came."""
    file: SourceFile | None = None
    """What the frame was read from, where a folder is watched."""
    truth: tuple[int, int] | None = None
    """Blasts and normal cells that the frame shows, where a simulated microscope knows them."""

    @classmethod
    def now(cls, index: int, start_s: float, source: str = "") -> "Capture":
        """A capture that began at ``start_s`` on the monotonic clock and ends now."""
        end_s = monotonic()
        return cls(index, datetime.now(UTC), end_s, end_s - start_s, source)


@dataclass(frozen=True)
class Frame:
    """One camera image."""

    capture: Capture
    bgr: Image
    """uint8 (H, W, 3) BGR."""
    um_per_px: float | None
    """Micrometres per pixel; None when only the frame itself can tell."""


@dataclass(frozen=True)
class BadFrame:
    """A frame that could not be read."""

    capture: Capture
    problem: str
    """One sentence."""


@dataclass(frozen=True)
class CellResult:
    """What is said of one cell."""

    box: Box
    label: str
    """blast, normal or uncertain."""
    blast_probability: float | None
    """Calibrated, 0..1; None when the cell was not classified or the network is at fault."""
    reason: Reason | None
    area_um2: float
    crop: Image
    """uint8 (h, w, 3) BGR: the cell and a little of what lies round it, for people to look at."""
    outline: list[list[int]] = field(default_factory=list)
    """The cell's border as a polygon [[x, y], ...] in the frame's pixels."""
    figures: Floats | None = None
    """Of bloodedge.decision.domain.describe, where cells are held against the training cells."""
    number: int | None = None
    """Which of the slide's cells it is; None when they are not recognised."""
    repeated: bool = False
    """An earlier frame showed this cell at least as well, and it counts there."""


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
    recalls: bool = False
    """With this frame the slide turned out to be of another kind than the training cells: the classes of its latest
    REMEMBERED classified cells (slide.domain_check) stand no longer."""
