"""The frame gate: is this frame sharp and well lit enough to look for cells in?"""

from dataclasses import dataclass

import cv2
import numpy as np
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.decision import Reason
from bloodedge.imaging import Image, as_image


class GateParameters(Strict):
    """Thresholds of the frame gate."""

    focus: float = Field(default=0.0, ge=0)
    """Least focus; 0 lets every frame through."""
    darkest: float = Field(default=60.0, ge=0, le=255)
    """Least brightness."""
    brightest: float = Field(default=250.0, ge=0, le=255)
    """Greatest brightness."""
    saturated: float = Field(default=0.5, ge=0, le=1)
    """Greatest share of pixels with a channel at 255."""


@dataclass(frozen=True)
class GateResult:
    """What the gate says of a frame; reason None lets it through."""

    reason: Reason | None
    focus: float
    brightness: float
    """Green level of the empty field, 0..255: the 90th percentile."""
    saturated: float
    """Share of pixels with a channel at 255, 0..1."""


_DEFAULTS = GateParameters()


def check(bgr: Image, parameters: GateParameters = _DEFAULTS) -> GateResult:
    """Judge a frame, uint8 (H, W, 3) BGR."""
    green = bgr[:, :, 1]
    brightness = float(np.percentile(green[::4, ::4], 90))
    saturated = float(np.mean(bgr[::4, ::4].max(axis=2) == 255))
    focus = focus_of(as_image(green))
    return GateResult(_reason(focus, brightness, saturated, parameters), focus, brightness, saturated)


def focus_of(green: Image) -> float:
    """Band-pass energy of a channel, uint8 (H, W), relative to its light: 0 for an empty or defocused frame."""
    fine = cv2.GaussianBlur(green, (0, 0), 1.0).astype(np.float32)
    coarse = cv2.GaussianBlur(green, (0, 0), 2.0).astype(np.float32)
    return float(np.sqrt(np.mean((fine - coarse) ** 2)) / (float(green.mean()) + 1))


def _reason(focus: float, brightness: float, saturated: float, parameters: GateParameters) -> Reason | None:
    if brightness < parameters.darkest:
        return Reason.TOO_DARK
    if brightness > parameters.brightest or saturated > parameters.saturated:
        return Reason.TOO_BRIGHT
    if focus < parameters.focus:
        return Reason.OUT_OF_FOCUS
    return None
