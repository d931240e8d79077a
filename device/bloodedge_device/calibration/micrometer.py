"""The period of a stage micrometer's lines, at any angle, from the peak of the frame's Fourier transform."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Image

Floats = NDArray[np.float32]

_FEWEST_LINES = 4
_SHARPEST_PX = 4.0
"""Closer lines are noise."""
_LEAST_EXPLAINED = 0.4
"""Least share of the light's variance that repeated lines explain: 0.5 to 0.8 in drawn micrometers at any angle, at
most 0.26 in frames of smears."""
_PHASES = 40
_LEAST_VARIANCE = 0.01
"""Squared grey levels; below it the field is empty."""
_HIGHEST_HARMONIC = 8
_NEARLY = 0.6
"""Magnitude of the fundamental over that of the peak: lines thin against their period have harmonics as strong."""
_ZOOMS = 4
_GRID = np.linspace(-1, 1, 9)


def period_px(bgr: Image) -> float | None:
    """Distance between neighbouring lines in pixels, across them, for a frame uint8 (H, W, 3) BGR; None without lines.

    The transform's highest peak is a harmonic of the lines; it is followed between the transform's frequencies, along
    and across, and from there down to the fundamental.
    """
    green = cv2.extractChannel(bgr, 1).astype(np.float32)
    height, width = green.shape
    if min(height, width) < _FEWEST_LINES * _SHARPEST_PX:
        return None
    window = np.asarray(cv2.createHanningWindow((width, height), cv2.CV_32F), np.float32)
    image = (green - np.average(green, weights=window)) * window
    power = np.abs(np.fft.rfft2(image)) ** 2
    down, across = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    distance = np.hypot(down, across)
    lowest = _FEWEST_LINES / max(height, width)
    power[(distance < lowest) | (distance > 1 / _SHARPEST_PX)] = 0
    peak = np.unravel_index(int(power.argmax()), power.shape)
    if power[peak] <= 0:
        return None
    fundamental = _fundamental(image, _refined(image, float(down[peak]), float(across[peak])), lowest)
    if _explained(green, window, fundamental) < _LEAST_EXPLAINED:
        return None
    return float(1 / np.hypot(fundamental.down, fundamental.across))


@dataclass(frozen=True)
class _Peak:
    """A peak of the transform: frequencies in cycles per pixel, and the magnitude."""

    down: float
    across: float
    height: float


def _explained(green: Floats, window: Floats, peak: _Peak) -> float:
    """Share of the light's variance that one profile, repeated at that frequency, explains, 0..1."""
    y, x = np.indices(green.shape, np.float32)
    phase = ((y * peak.down + x * peak.across) % 1 * _PHASES).astype(np.int32).ravel() % _PHASES
    weight = window.ravel().astype(np.float64)
    light = green.ravel() - np.average(green, weights=window)
    weights = np.bincount(phase, weight, _PHASES)
    sums = np.bincount(phase, weight * light, _PHASES)
    total = float((weight * light**2).sum())
    return (
        float((sums**2 / np.maximum(weights, 1e-9)).sum()) / total if total > _LEAST_VARIANCE * weights.sum() else 0.0
    )


def _fundamental(image: Floats, harmonic: _Peak, lowest: float) -> _Peak:
    """The lowest frequency that the harmonic is a multiple of and that is nearly as strong.

    A harmonic's place is known more exactly than the fundamental's. Longer lines at every fifth division are far weaker
    at a fifth of the frequency than the lines are at theirs.
    """
    for order in range(_HIGHEST_HARMONIC, 1, -1):
        down, across = harmonic.down / order, harmonic.across / order
        if np.hypot(down, across) >= lowest:
            height = float(_heights(image, np.array([down]), np.array([across]))[0, 0])
            if height > _NEARLY * harmonic.height:
                return _Peak(down, across, height)
    return harmonic


def _refined(image: Floats, down: float, across: float) -> _Peak:
    """The peak within one step of the transform, by evaluating that on ever finer grids."""
    height, width = image.shape
    span, best = 1.0, 0.0
    for _ in range(_ZOOMS):
        downs, acrosses = down + span * _GRID / height, across + span * _GRID / width
        heights = _heights(image, downs, acrosses)
        row, column = np.unravel_index(int(heights.argmax()), heights.shape)
        down, across, best = float(downs[row]), float(acrosses[column]), float(heights[row, column])
        span /= 4
    return _Peak(down, across, best)


def _heights(image: Floats, downs: NDArray[np.float64], acrosses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Magnitudes (M, N) of the transform at M frequencies down and N across."""
    left = np.exp(-2j * np.pi * np.outer(downs, np.arange(image.shape[0])))
    right = np.exp(-2j * np.pi * np.outer(np.arange(image.shape[1]), acrosses))
    return np.asarray(np.abs(left @ image @ right), np.float64)
