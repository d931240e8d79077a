"""The frame gate: whether a frame is sharp and well lit enough to look for cells in."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.decision import Reason
from bloodedge.imaging import Image, as_image

Floats = NDArray[np.float32]

_SIDE_PX = 640
"""Focus is judged on a copy of about this side, so that a finer sensor does not look less sharp."""

_BAND_ROWS = 40
_RESIDUES = 2048
"""Second differences of 8-bit levels lie below this."""

_LEAST_CONTRAST = 0.001
"""Band energy below this share of the light is an empty field, or one far out of focus."""


class GateParameters(Strict):
    """Thresholds of the frame gate."""

    focus: float = Field(default=0.39, ge=0, le=2)
    """Least focus. Frames of two microscopes have 0.42..0.70 in focus, and at most 0.37 blurred by 4 pixels."""
    darkest: float = Field(default=60.0, ge=0, le=255)
    """Least brightness."""
    brightest: float = Field(default=250.0, ge=0, le=255)
    """Greatest brightness."""
    saturated: float = Field(default=0.3, ge=0, le=1)
    """Greatest share of pixels with a channel at 255."""


@dataclass(frozen=True)
class GateResult:
    """What the gate says of a frame; reason None lets it through."""

    reason: Reason | None
    focus: float
    """Energy of fine detail over that of detail twice as coarse: independent of light, contrast and how much there is
    in the frame. About 0.4 and more in focus; 0 in an empty frame."""
    brightness: float
    """Green level of the empty field, 0..255: the 90th percentile."""
    saturated: float
    """Share of pixels with a channel at 255, 0..1."""


_DEFAULTS = GateParameters()


def check(bgr: Image, parameters: GateParameters = _DEFAULTS) -> GateResult:
    """Judge a frame, uint8 (H, W, 3) BGR."""
    blue, green, red = cv2.split(cv2.resize(bgr, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_NEAREST))
    brightness = float(_quantile(cv2.calcHist([green], [0], None, [256], [0, 256]), 0.9))
    saturated = float(np.count_nonzero(cv2.max(cv2.max(blue, green), red) == 255) / green.size)
    focus = _focus(bgr, cv2.mean(green)[0])
    return GateResult(_reason(focus, brightness, saturated, parameters), focus, brightness, saturated)


def _focus(bgr: Image, light: float) -> float:
    """Focus from every third band of rows: a third of the work, and detail lies everywhere in a smear."""
    factor = max(1, round(max(bgr.shape[:2]) / _SIDE_PX))
    rows = min(_BAND_ROWS * factor, bgr.shape[0])
    fine, coarse = _Detail(), _Detail()
    residues = np.zeros(_RESIDUES, np.float64)
    for top in range(0, bgr.shape[0] - rows + 1, 3 * rows):
        green = as_image(cv2.extractChannel(bgr[top : top + rows], 1))
        if factor > 1:
            size = max(2, green.shape[1] // factor), max(2, green.shape[0] // factor)
            green = as_image(cv2.resize(green, size, interpolation=cv2.INTER_AREA))
        residues += _noise_residues(green)
        image = green.astype(np.float32)
        fine.add(image)
        half = max(1, image.shape[1] // 2), max(1, image.shape[0] // 2)
        coarse.add(np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), np.float32))
    # Immerkaer, Computer Vision and Image Understanding 64, 1996; from the median residue instead of the paper's mean,
    # so that edges do not count. Averaging two by two pixels halves the noise.
    noise = 1.4826 * _quantile(residues, 0.5) / 6
    return fine.amplitude(noise) / max(coarse.amplitude(noise / 2), _LEAST_CONTRAST * (light + 1))


class _Detail:
    """Detail between 1 and 2 pixels, summed over bands."""

    def __init__(self) -> None:
        self.energy, self.pixels = 0.0, 0

    def add(self, image: Floats) -> None:
        detail = cv2.subtract(cv2.GaussianBlur(image, (0, 0), 1.0), cv2.GaussianBlur(image, (0, 0), 2.0))
        self.energy += cv2.norm(detail, cv2.NORM_L2SQR)
        self.pixels += image.size

    def amplitude(self, noise: float) -> float:
        """Root mean square, less what white noise of that deviation puts there."""
        # Sum of squares of the kernel G(1) - G(2): (1 + 1/4 - 4/5) / (4 pi).
        return float(np.sqrt(max(0.0, self.energy / self.pixels - 0.0358 * noise**2)))


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


def _reason(focus: float, brightness: float, saturated: float, parameters: GateParameters) -> Reason | None:
    if brightness < parameters.darkest:
        return Reason.TOO_DARK
    if brightness > parameters.brightest or saturated > parameters.saturated:
        return Reason.TOO_BRIGHT
    if focus < parameters.focus:
        return Reason.OUT_OF_FOCUS
    return None
