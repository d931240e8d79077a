"""The frame gate: whether a frame is sharp and bright enough to search for cells."""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.decision.thresholds import Reason
from bloodedge.finder.exact import Levels, blurred, shrunk
from bloodedge.imaging import Image, as_image

_SIDE_PX = 640
"""Focus is measured on a copy of about this side, so that a finer sensor does not look less sharp."""

_BAND_ROWS = 40
_EVERY = 3
"""One band of rows in three is enough: a smear has detail everywhere."""

_DOUBT = 1.15
"""Below so many times the threshold of motion all bands are measured: a few may have few rims of one direction."""

_RESIDUES = 2048
"""Second differences of 8-bit levels lie below this."""

_LEAST_CONTRAST = 0.001
"""Band energy below this share of the light is an empty field, or one far out of focus."""

_DIRECTED = 0.5
"""Blur with less isotropy than this has a direction. Frames of two microscopes blurred evenly by 3 or 4 pixels have at
least 0.65; of those moved by 9 pixels 99 % have at most 0.43."""

_SHAPE_SIDE_PX = 80
"""The shape of pixels is measured on a copy of about this side, where cells are a few pixels wide."""

_LEAST_SHAPE_SIDE_PX = 60
"""Smaller copies hold too few cells to tell."""

_SQUARE, _LONGEST = 1.25, 1.85
"""Only sides that differ by a factor between these are taken for the pixels': cells that happen to lie one way reach
1.23 in nearly all frames, and a stage that moved by a cell exceeds the other. A 4:3 or 16:9 picture squeezed into a
square has 1.33 or 1.78.
"""

_ROUNDING = 12**-0.5
"""Deviation of the noise of rounding to whole levels. In a frame far out of focus it is the finest detail."""

_STAINED = 0.9
"""Darker than this share of the empty field is stained."""

_LEAST_STAINED = 0.02
"""Where less of a frame is stained, a few bright specks do not count as more."""

_MARGIN_PX = 6
"""Pixels at a band's edges where the filter meets pixels mirrored at the edge, which look like detail across it."""


class GateParameters(Strict):
    """Thresholds of the frame gate."""

    focus: float = Field(default=0.38, ge=0, le=2)
    """Lowest focus. Frames of two microscopes have 0.38 to 0.70 in focus, and at most 0.36 when blurred by 4 pixels."""
    motion: float = Field(default=0.22, ge=0, le=2)
    """Lowest focus times isotropy, the sharpness along the least sharp direction. Of 332 frames of two microscopes it
    rejects 3; together with the threshold of focus, 86 % of them when moved by 6 pixels, and all when moved by 9 or 15.
    """
    darkest: float = Field(default=60.0, ge=0, le=255)
    """Lowest brightness, 0..255."""
    brightest: float = Field(default=250.0, ge=0, le=255)
    """Highest brightness, 0..255."""
    saturated: float = Field(default=0.05, ge=0, le=1)
    """Largest share of stained pixels with a channel at 255; the empty field may have one there."""


@dataclass(frozen=True)
class GateResult:
    """The gate's measurements of a frame; it passes when reason is None."""

    reason: Reason | None
    focus: float
    """Energy of fine detail over that of detail twice as coarse, independent of light, contrast and number of cells.
    About 0.4 or more in focus; 0 in an empty frame."""
    brightness: float
    """Green level of the empty field, 0..255: the 90th percentile."""
    saturated: float
    """Share of stained pixels with a channel at 255, 0..1."""
    isotropy: float
    """Energy of fine detail along the direction that has least over that across it, as on square pixels, 0..1: 0.5 to
    0.9 in still frames, 0.2 to 0.4 where the stage moved by nine pixels; 1 in an empty frame."""


_DEFAULTS = GateParameters()


def check(bgr: Image, parameters: GateParameters = _DEFAULTS) -> GateResult:
    """Measure a frame, uint8 (H, W, 3) BGR."""
    blue, green, red = map(as_image, cv2.split(bgr[::4, ::4]))
    brightness = float(_quantile(cv2.calcHist([green], [0], None, [256], [0, 256]), 0.9))
    saturated = _saturated(blue, green, red, brightness)
    light, shape = cv2.mean(green)[0], _pixel_shape(green)
    focus, isotropy = _sharpness(bgr, light, shape, _EVERY)
    if focus * isotropy < _DOUBT * parameters.motion:
        _, isotropy = _sharpness(bgr, light, shape, 1)
    reason = _reason(focus, isotropy, brightness, saturated, parameters)
    return GateResult(reason, focus, brightness, saturated, isotropy)


def _saturated(blue: Image, green: Image, red: Image, brightness: float) -> float:
    """Share of stained pixels with a channel at 255.

    Only there is something of a cell lost: a white balance may put one channel of the empty field at 255, and how much
    of a frame is empty says nothing about its light.
    """
    stained = green < _STAINED * brightness
    clipped = stained & (cv2.max(cv2.max(blue, green), red) == 255)
    return float(clipped.sum() / max(1, stained.sum(), _LEAST_STAINED * stained.size))


def _pixel_shape(green: Image) -> float:
    """Height over width of what a round cell looks like: 1 for square pixels.

    A scaled picture is squeezed at every scale of its detail; a moving stage blurs the fine detail alone.
    """
    factor = max(1, round(max(green.shape) / _SHAPE_SIDE_PX))
    size = green.shape[1] // factor, green.shape[0] // factor
    if min(size) < _LEAST_SHAPE_SIDE_PX // 2 or max(size) < _LEAST_SHAPE_SIDE_PX:
        return 1.0
    detail = _detail(_fine_levels(shrunk(green, factor)))
    right, down = _energy(detail[:, 1:] - detail[:, :-1]), _energy(detail[1:] - detail[:-1])
    shape = math.sqrt(right / down) if min(right, down) > 0 else 1.0
    return shape if _SQUARE < max(shape, 1 / shape) < _LONGEST else 1.0


def _sharpness(bgr: Image, light: float, shape: float, every: int) -> tuple[float, float]:
    """Focus and isotropy of a frame from one of ``every`` bands of its rows."""
    factor = max(1, round(max(bgr.shape[:2]) / _SIDE_PX))
    rows = min(_BAND_ROWS * factor, bgr.shape[0])
    fine, coarse, direction = _Detail(), _Detail(), _Direction()
    residues = np.zeros(_RESIDUES, np.float64)
    for top in range(0, bgr.shape[0] - rows + 1, every * rows):
        green = as_image(cv2.extractChannel(bgr[top : top + rows], 1))
        green = shrunk(green, factor)
        residues += _noise_residues(green)
        levels = _fine_levels(green)
        direction.add(fine.add(levels))
        coarse.add(shrunk(levels, 2))
    # Immerkaer, Computer Vision and Image Understanding 64, 1996; from the median residue instead of the paper's mean,
    # so that edges do not count. Averaging two by two pixels halves the noise.
    noise = 1.4826 * _quantile(residues, 0.5) / 6
    least = max(noise, _ROUNDING)
    focus = fine.amplitude(least) / max(coarse.amplitude(least / 2), _LEAST_CONTRAST * (light + 1))
    return focus, direction.isotropy(noise, shape)


_PARTS = 128
"""Parts of a level, 0..255, in which detail is measured, in whole numbers, which every processor adds up alike."""


def _fine_levels(green: Image) -> NDArray[np.uint16]:
    return green.astype(np.uint16) * np.uint16(_PARTS)


def _detail(levels: NDArray[np.uint16]) -> Levels:
    """Detail between 1 and 2 pixels, in _PARTS."""
    return blurred(levels, 1.0) - blurred(levels, 2.0)


def _energy(detail: Levels) -> float:
    """Sum of squares, in levels: a sum of whole numbers up to the last step."""
    return float(np.square(detail, dtype=np.float64).sum()) / _PARTS**2


class _Detail:
    """Detail between 1 and 2 pixels, summed over bands."""

    def __init__(self) -> None:
        self.energy, self.pixels = 0.0, 0

    def add(self, levels: NDArray[np.uint16]) -> Levels:
        """Count a band (H, W) in _PARTS; returns its detail, of the same shape."""
        detail = _detail(levels)
        inside = (
            detail if min(detail.shape) <= 2 * _MARGIN_PX else detail[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
        )
        self.energy += _energy(inside)
        self.pixels += inside.size
        return detail

    def amplitude(self, noise: float) -> float:
        """Root mean square, less what white noise of that deviation puts there."""
        return math.sqrt(max(0.0, self.energy / self.pixels - _noise_share(0) * noise**2))


class _Direction:
    """The structure tensor (Bigun and Granlund, ICCV 1987) of detail, summed over bands.

    Its elements come from the energies of differences to the next pixel on the right, below, and on both diagonals.
    """

    def __init__(self) -> None:
        self._energies = np.zeros(4)
        self._pixels = 0

    def add(self, detail: Levels) -> None:
        """Count the detail of a band (H, W) in _PARTS."""
        inside = detail[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
        if min(inside.shape) < 2:
            return
        corner = inside[:-1, :-1]
        pairs = (
            (corner, inside[:-1, 1:]),
            (corner, inside[1:, :-1]),
            (corner, inside[1:, 1:]),
            (inside[:-1, 1:], inside[1:, :-1]),
        )
        self._energies += [_energy(first - second) for first, second in pairs]
        self._pixels += corner.size

    def isotropy(self, noise: float, shape: float) -> float:
        """Smallest over largest eigenvalue, 0..1, less what white noise of that deviation adds; 1 without detail.

        As it is on square pixels, where pixels of that shape (height over width of a round cell) are taken for square.
        """
        if not self._pixels:
            return 1.0
        straight, slanting = (2 * noise**2 * (_noise_share(0) - _noise_share(squared)) for squared in (1, 2))
        white = (straight, straight, slanting, slanting)
        right, down, falling, rising = self._energies / self._pixels - white
        right, down = right / shape, down * shape
        trace = right + down
        spread = math.sqrt((right - down) ** 2 + ((falling - rising) / 2) ** 2)
        return float(np.clip((trace - spread) / (trace + spread), 0, 1)) if trace > 0 else 1.0


def _noise_share(squared_px: float) -> float:
    """Autocorrelation of white noise of deviation 1 behind the kernel G(1) - G(2), at a squared distance in pixels."""
    narrow, mixed, wide = (math.exp(-squared_px / scale) for scale in (4, 10, 16))
    return round((narrow - 0.8 * mixed + wide / 4) / (4 * math.pi), 9)  # exponentials differ in their last bits


def _noise_residues(green: Image) -> NDArray[np.float64]:
    """Histogram (_RESIDUES,) of the absolute second differences of every other pixel."""
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    residue = np.abs(cv2.filter2D(green, cv2.CV_16S, kernel)[::2, ::2]).astype(np.uint16)
    counts = cv2.calcHist([residue], [0], None, [_RESIDUES], [0, _RESIDUES])
    return np.asarray(counts.ravel(), np.float64)


def _quantile(counts: NDArray[Any], share: float) -> int:
    """The level below or at which ``share`` of a histogram's counts lie."""
    sums = np.cumsum(counts)
    return int(np.searchsorted(sums, share * sums[-1]))


def _reason(
    focus: float, isotropy: float, brightness: float, saturated: float, parameters: GateParameters
) -> Reason | None:
    if brightness < parameters.darkest:
        return Reason.TOO_DARK
    if brightness > parameters.brightest or saturated > parameters.saturated:
        return Reason.TOO_BRIGHT
    if focus < parameters.focus and isotropy >= _DIRECTED:
        return Reason.OUT_OF_FOCUS
    if focus * isotropy < parameters.motion:
        return Reason.MOTION_BLUR
    return Reason.OUT_OF_FOCUS if focus < parameters.focus else None
