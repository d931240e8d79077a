"""The frame gate: whether a frame is sharp and well lit enough to look for cells in."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.decision import Reason
from bloodedge.imaging import Image

Floats = NDArray[np.float32]

_SIDE_PX = 640
"""Focus is judged on a copy of about this side, so that a finer sensor does not look less sharp."""

_LEAST_CONTRAST = 0.001
"""Band energy below this share of the light is an empty field, or one far out of focus."""


class GateParameters(Strict):
    """Thresholds of the frame gate."""

    focus: float = Field(default=0.38, ge=0, le=2)
    """Least focus. Frames of two microscopes have 0.41..0.70 in focus, and at most 0.36 blurred by 4 pixels."""
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
    factor = max(1, round(max(bgr.shape[:2]) / _SIDE_PX))
    sample = bgr[::4, ::4]
    brightness = float(np.percentile(sample[:, :, 1], 90))
    saturated = float(np.mean(sample.max(axis=2) == 255))
    focus = _focus(bgr[:, :, 1], factor)
    return GateResult(_reason(focus, brightness, saturated, parameters), focus, brightness, saturated)


def _focus(green: Image, factor: int) -> float:
    size = max(2, green.shape[1] // factor), max(2, green.shape[0] // factor)
    shrunk = green if factor == 1 else cv2.resize(green, size, interpolation=cv2.INTER_AREA)
    fine = np.asarray(shrunk, np.float32)
    coarse = cv2.resize(fine, (max(1, size[0] // 2), max(1, size[1] // 2)), interpolation=cv2.INTER_AREA)
    noise = _noise(fine)
    light = float(fine.mean()) + 1
    # Averaging two by two pixels halves the noise.
    return _band(fine, noise) / max(_band(np.asarray(coarse, np.float32), noise / 2), _LEAST_CONTRAST * light)


def _band(image: Floats, noise: float) -> float:
    """Root mean square of the detail between 1 and 2 pixels, less what white noise of that deviation puts there."""
    detail = cv2.GaussianBlur(image, (0, 0), 1.0) - cv2.GaussianBlur(image, (0, 0), 2.0)
    # Sum of squares of the kernel G(1) - G(2): (1 + 1/4 - 4/5) / (4 pi).
    return float(np.sqrt(max(0.0, float(np.mean(detail**2)) - 0.0358 * noise**2)))


def _noise(image: Floats) -> float:
    """Standard deviation of the sensor's noise (Immerkaer, Computer Vision and Image Understanding 64, 1996).

    From a median instead of the paper's mean, so that edges do not count.
    """
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    residue = cv2.filter2D(image, cv2.CV_32F, kernel)[::2, ::2]
    return 1.4826 * float(np.median(np.abs(residue))) / 6


def _reason(focus: float, brightness: float, saturated: float, parameters: GateParameters) -> Reason | None:
    if brightness < parameters.darkest:
        return Reason.TOO_DARK
    if brightness > parameters.brightest or saturated > parameters.saturated:
        return Reason.TOO_BRIGHT
    if focus < parameters.focus:
        return Reason.OUT_OF_FOCUS
    return None
