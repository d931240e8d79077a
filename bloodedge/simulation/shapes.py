"""Shapes of cells: regions around a centre, outlines, smooth noise, and a cell drawn by itself."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Image
from bloodedge.simulation.optics import Floats

ANGLES = 720
EDGE_UM = 0.2
"""Width over which a cell's edge fades."""
_MARGIN = 1.35
"""Half a sprite's side relative to the cell's mean radius: leaves room for elongated cells."""


@dataclass(frozen=True)
class Sprite:
    """One cell by itself, centred in its picture.

    amounts: float32 (n, n, 3) of azure dye, eosin and haemoglobin; mask: uint8 (n, n), 255 on the cell.
    """

    amounts: Floats
    mask: Image


@dataclass(frozen=True)
class Shape:
    """A star-shaped region around a centre, as maps over a square picture."""

    inside_px: Floats
    """How far inside the outline a pixel lies, along its ray; negative outside."""
    radius_share: Floats
    """Distance from the centre relative to the outline's: 1 on the outline."""
    radius_px: float
    offset: tuple[int, int]

    @classmethod
    def centred(cls, outline: Floats, diameter_px: float) -> "Shape":
        """The region around the middle of a picture that has room for it."""
        return cls.of(
            outline, diameter_px, round(0.5 * diameter_px * max(_MARGIN, float(outline.max()) + 0.05)) + 2, (0, 0)
        )

    @classmethod
    def of(cls, outline: Floats, diameter_px: float, half: int, offset: tuple[int, int]) -> "Shape":
        """The region whose area is that of a circle of ``diameter_px``, in a picture of side ``2 * half + 1``."""
        table = outline / np.sqrt(np.mean(outline**2)) * np.float32(diameter_px / 2)
        radius, angle = polar(half, offset)
        border = table[angle]
        return cls(border - radius, radius / border, diameter_px / 2, offset)

    @property
    def mask(self) -> Image:
        """uint8 (n, n), 255 inside."""
        return np.where(self.inside_px > 0, 255, 0).astype(np.uint8)

    def edge(self, width_px: float) -> Floats:
        """0 outside, 1 inside, a ramp of ``width_px`` (at least a pixel) across the outline."""
        return np.asarray(np.clip(self.inside_px / np.float32(max(1.0, width_px)) + 0.5, 0, 1), np.float32)


@lru_cache(maxsize=2)
def _polar_grid(half: int) -> tuple[Floats, NDArray[np.uint16]]:
    """Radius and angle index of every pixel of a square of side ``2 * half + 1``."""
    axis = np.arange(-half, half + 1, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    angle = (np.arctan2(y, x) / (2 * np.pi) % 1 * ANGLES).astype(np.uint16) % ANGLES
    return np.hypot(x, y), angle.astype(np.uint16)


def polar(half: int, centre: tuple[int, int]) -> tuple[Floats, NDArray[np.uint16]]:
    """Radius and angle index around ``centre`` = (x, y) relative to the picture's middle, cut from one kept grid."""
    reach = half + max(abs(centre[0]), abs(centre[1]))
    kept = 1 << max(8, reach.bit_length())
    radius, angle = _polar_grid(kept)
    left, top = kept - half - centre[0], kept - half - centre[1]
    window = slice(top, top + 2 * half + 1), slice(left, left + 2 * half + 1)
    return radius[window], angle[window]


def outline_of(rng: np.random.Generator, elongation: float, ripple: float) -> Floats:
    """Radius over the angle, float32 (ANGLES,), about 1: an ellipse with a few random harmonics."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    radius = 1 + elongation * np.cos(2 * (angle - rng.uniform(0, np.pi)))
    for harmonic in range(3, 8):
        radius += rng.normal(0, ripple) * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi)) * 3 / harmonic
    return np.maximum(radius, 0.5).astype(np.float32)


def noise(rng: np.random.Generator, shape: tuple[int, ...], grain_px: float) -> Floats:
    """Smooth noise of mean 0 and deviation about 1, float32 ``shape``, with features of about ``grain_px``."""
    rows, columns = (int(side / grain_px) + 4 for side in shape)
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    side = round(rows * grain_px) + 1, round(columns * grain_px) + 1
    smooth = cv2.resize(grid, (max(side[1], shape[1]), max(side[0], shape[0])), interpolation=cv2.INTER_CUBIC)
    return np.asarray(1.4 * smooth[: shape[0], : shape[1]], np.float32)
