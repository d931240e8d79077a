"""Which cells of a slide were seen before: frames are registered to each other, and each cell gets one number.

A slide moved by hand shows many cells in several frames. A frame is placed by the phase correlation (Kuglin and Hines,
"The phase correlation image alignment method", ICCS 1975) of small pictures of the fields, and only believed where the
pictures then agree in detail. A frame that fits none opens a new patch, whose cells count as new: counting a cell twice
is better than losing one.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.finder import FoundCell
from bloodedge.imaging import Image

SIDE_PX = 213
"""Frames are shrunk to about this longer side: a third of 640."""
DETAIL_PX = 1.5
"""Blur, in small pixels, of what is taken off: cells are compared by their insides and rims. Two different white cells
alone in their frames are as round as each other, and would pass for one by coarser detail."""
AGREEMENT = 0.75
"""Least correlation of the common part, at the best shift between whole small pixels. Of 1,770 pairs of different
rendered frames that hold one white cell and nothing else, the best reaches 0.68, of 780 pairs of real fields 0.12; of
pairs cut out of one real field, 99 in a hundred are above 0.79."""
_WORTH_REFINING = 0.5
"""Half a pixel off, frames that overlap agree at least as well."""
LEAST_COMMON = 0.15
"""Smallest common part of two frames, as a share of a frame, in which agreement is no chance."""
KEYFRAMES = 4
"""Earlier frames that a frame is compared with when it does not fit the last one, about 1 ms each."""
KNOWN_CELLS = 2000
"""Positions kept, the oldest forgotten first."""
ALIKE = 1.6
"""Largest ratio of two whole sightings' areas of one cell."""
_PEAKS = 3
"""Peaks of the correlation that are tried."""
_TAPER = 0.1
"""Share of each side that fades out; more would hide what frames with a small common part share."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sighting:
    """A cell in a frame.

    centre_px: (x, y) in the frame; cut: the frame's border hides a part of it.
    """

    centre_px: tuple[float, float]
    area_um2: float
    cut: bool

    @classmethod
    def of(cls, cell: FoundCell) -> "Sighting":
        """The sighting of a found cell."""
        x, y, width, height = cell.box
        return cls((x + width / 2, y + height / 2), cell.area_um2, cell.touches_border)


@dataclass(frozen=True)
class CellIdentity:
    """Which of the slide's cells a found cell is."""

    number: int
    """The cell's number, unique within the slide."""
    first: bool
    """Not seen before."""
    better: bool
    """Whole for the first time, after sightings that were all cut by the border."""

    @property
    def repeated(self) -> bool:
        """Whether an earlier frame showed it at least as well."""
        return not (self.first or self.better)


@dataclass(frozen=True)
class Placement:
    """Where a frame lies on the slide."""

    patch: int
    """Frames of one patch are registered to each other; how patches lie to each other is not known."""
    offset_um: tuple[float, float]
    """(x, y) of the frame's top left corner from that of the patch's first frame."""
    agreement: float | None
    """Correlation with the frame that it was placed by, AGREEMENT..1; None when it opened the patch."""
    seen: list[CellIdentity]
    """One for each sighting, in their order."""


@dataclass(frozen=True)
class _View:
    """A frame as it is compared: small, without its light."""

    size: tuple[int, ...]
    shrink: int
    detail: Floats
    spectrum: NDArray[np.complex64]


@dataclass(frozen=True)
class _Placed:
    """A frame that others can be placed by; x, y in pixels of its patch."""

    view: _View
    patch: int
    x: float
    y: float
    agreement: float | None = None


@dataclass
class _Known:
    """A cell of the slide where it was last seen best, in pixels of its patch."""

    number: int
    patch: int
    x: float
    y: float
    area_px: float
    cut: bool

    def distance(self, other: "_Known") -> float | None:
        """Distance in pixels of a sighting that may be of this cell; None when it is of another."""
        apart = float(np.hypot(self.x - other.x, self.y - other.y))
        smaller, larger = sorted((self.area_px, other.area_px))
        if self.cut or other.cut:
            return apart if apart <= np.sqrt(larger / np.pi) else None
        alike = larger <= ALIKE * smaller and apart <= np.sqrt(other.area_px / np.pi)
        return apart if alike else None


class SlideMap:
    """Registers the frames and cells of one slide; keeps small pictures of a few frames, and the latest cells.

    A patch that a frame has left is only found again by a frame that fits neither the last one nor its neighbours.
    """

    def __init__(self) -> None:
        self._last: _Placed | None = None
        self._keyframes: deque[_Placed] = deque(maxlen=KEYFRAMES)
        self._cells: deque[_Known] = deque(maxlen=KNOWN_CELLS)
        self._patches = itertools.count()
        self._numbers = itertools.count()

    def locate(self, bgr: Image) -> None:
        """Register a frame, uint8 (H, W, 3) BGR, to the earlier ones; most of the work, and needs none of its cells."""
        self._last = self._placed(_view(bgr))

    def identify(self, um_per_px: float, sightings: Sequence[Sighting]) -> Placement:
        """Which cells those of the frame located last are."""
        frame = self._last
        assert frame is not None
        seen = self._identified(frame, um_per_px, sightings)
        if sightings and self._shows_news(frame):
            self._keyframes.appendleft(frame)
        return Placement(frame.patch, (frame.x * um_per_px, frame.y * um_per_px), frame.agreement, seen)

    def _placed(self, view: _View) -> _Placed:
        last = () if self._last is None else (self._last,)
        for earlier in (*last, *(frame for frame in self._keyframes if frame is not self._last)):
            found = _shift(earlier.view, view)
            if found is not None:
                (right, down), agreement = found
                return _Placed(view, earlier.patch, earlier.x + right, earlier.y + down, agreement)
        return _Placed(view, next(self._patches), 0.0, 0.0)

    def _shows_news(self, frame: _Placed) -> bool:
        """Whether a frame lies half a frame or more from each keyframe of its patch."""
        height, width = frame.view.size[:2]
        return all(
            2 * max(abs(earlier.x - frame.x) / width, abs(earlier.y - frame.y) / height) >= 1
            for earlier in self._keyframes
            if earlier.patch == frame.patch
        )

    def _identified(self, frame: _Placed, um_per_px: float, sightings: Sequence[Sighting]) -> list[CellIdentity]:
        here = [
            _Known(
                -1, frame.patch, frame.x + s.centre_px[0], frame.y + s.centre_px[1], s.area_um2 / um_per_px**2, s.cut
            )
            for s in sightings
        ]
        matches = _matches([cell for cell in self._cells if cell.patch == frame.patch], here)
        return [self._identity(cell, matches.get(index)) for index, cell in enumerate(here)]

    def _identity(self, cell: _Known, known: _Known | None) -> CellIdentity:
        if known is None:
            cell.number = next(self._numbers)
            self._cells.append(cell)
            return CellIdentity(cell.number, first=True, better=False)
        better = known.cut and not cell.cut
        if better or known.cut == cell.cut:
            known.x, known.y, known.area_px, known.cut = cell.x, cell.y, cell.area_px, cell.cut
        return CellIdentity(known.number, first=False, better=better)


def _matches(known: list[_Known], here: list[_Known]) -> dict[int, _Known]:
    """The known cell for each index of ``here`` that has one, nearest pairs first, each cell once."""
    pairs = [
        (distance, index, number)
        for index, cell in enumerate(here)
        for number, earlier in enumerate(known)
        if (distance := earlier.distance(cell)) is not None
    ]
    taken: set[int] = set()
    found: dict[int, _Known] = {}
    for _, index, number in sorted(pairs):
        if index not in found and number not in taken:
            taken.add(number)
            found[index] = known[number]
    return found


def _view(bgr: Image) -> _View:
    shrink = max(1, round(max(bgr.shape[:2]) / SIDE_PX))
    height, width = (max(1, side // shrink) for side in bgr.shape[:2])
    green = cv2.extractChannel(bgr[: height * shrink, : width * shrink], 1)
    small = cv2.resize(green, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail: Any = small - cv2.GaussianBlur(small, (0, 0), DETAIL_PX)
    spectrum: Any = np.fft.rfft2(detail * np.outer(_taper(height), _taper(width)), _padded(detail))
    strength = np.abs(spectrum)
    spectrum /= strength + max(float(strength.mean()) / 2, 1e-6)
    return _View(bgr.shape, shrink, detail, spectrum)


def _padded(detail: Floats) -> tuple[int, int]:
    """Rows and columns, at least twice as many, so that a shift to the right is none to the left."""
    height, width = detail.shape
    return cv2.getOptimalDFTSize(2 * height), cv2.getOptimalDFTSize(2 * width)


def _taper(length: int) -> Floats:
    """Tukey's window: flat, with cosine ends, so that the border's step is no detail."""
    ends = np.clip((np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5) / (_TAPER * length), 0, 1)
    return np.asarray(0.5 - 0.5 * np.cos(np.pi * ends), np.float32)


def _shift(before: _View, now: _View) -> tuple[tuple[float, float], float] | None:
    """Where ``now``'s corner lies in ``before``, (x, y) in the frame's pixels, and how well they agree there."""
    if before.size != now.size:
        return None
    agreement, right, down = max((_agreement(before, now, *peak), *peak) for peak in _peaks(before, now))
    if agreement < _WORTH_REFINING:
        return None
    across = [_agreement(before, now, right + step, down) for step in (-1, 1)]
    along = [_agreement(before, now, right, down + step) for step in (-1, 1)]
    x, more_across = _vertex(across[0], agreement, across[1])
    y, more_along = _vertex(along[0], agreement, along[1])
    agreement = min(1.0, agreement + more_across + more_along)
    if agreement < AGREEMENT:
        return None
    return ((right + x) * now.shrink, (down + y) * now.shrink), agreement


def _peaks(before: _View, now: _View) -> list[tuple[int, int]]:
    """The likeliest shifts (x, y) in small pixels."""
    height, width = _padded(now.detail)
    surface = np.fft.irfft2(before.spectrum * np.conj(now.spectrum), (height, width))
    found = []
    for _ in range(_PEAKS):
        row, column = divmod(int(surface.argmax()), width)
        surface[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = -np.inf
        found.append((column - width * (2 * column > width), row - height * (2 * row > height)))
    return found


def _agreement(before: _View, now: _View, right: int, down: int) -> float:
    """Correlation, -1..1, of the common part of two views; -1 when it is too small."""
    height, width = now.detail.shape
    if max(0, height - abs(down)) * max(0, width - abs(right)) < LEAST_COMMON * height * width:
        return -1.0
    old = before.detail[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    new = now.detail[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
    old, new = old - old.mean(), new - new.mean()
    return float(np.vdot(old, new)) / max(float(np.sqrt(np.vdot(old, old) * np.vdot(new, new))), 1e-6)


def _vertex(left: float, middle: float, right: float) -> tuple[float, float]:
    """Where the parabola through three neighbouring heights is highest, -1..1, and how far above the middle one."""
    bend = left - 2 * middle + right
    if bend >= 0 or min(left, right) == -1.0 or abs(left - right) > -2 * bend:
        return 0.0, 0.0
    return (left - right) / (2 * bend), -((left - right) ** 2) / (8 * bend)
