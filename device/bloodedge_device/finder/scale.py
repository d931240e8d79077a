"""A frame's scale from its own red cells.

Every piece of a red cell's rim votes for a centre, one radius inwards along its normal (the circular Hough transform
with gradient direction; Kimme, Ballard and Sklansky, 1975): cells that overlap still vote with their free arcs.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from bloodedge_device.finder.light import Floats, Stain
from bloodedge_device.finder.parameters import RED_CELL_UM

_RADII_PX = np.geomspace(6, 90, 40)
_LEAST_ARC = 0.33
"""Share of a circle's rim that must vote for it."""
_LEAST_COVER = 0.02
"""Smallest share of the stained area that red cells of the right radius cover; specks cover less."""
_LEAST_CIRCLES = 0.8
"""Fewest full circles of rim for a radius to be accepted."""


@dataclass(frozen=True)
class Rims:
    """Pixels on the rims of stained objects: positions and inward unit normals, each float32 (N, 2) as (x, y)."""

    points: Floats
    normals: Floats


def um_per_px_of(stain: Stain, nuclear_density: float) -> float | None:
    """Micrometres per pixel from the most frequent radius of round red cells; None when there are too few."""
    rims = _rims(stain, nuclear_density)
    if len(rims.points) < 50:
        return None
    circles = np.array([_circles(rims, radius, stain.green.shape) for radius in _RADII_PX])
    # Red cells cover more of a frame than platelets, however many those are.
    weight = circles * _RADII_PX
    smooth = np.convolve(weight, (0.25, 0.5, 0.25), mode="same")
    best = int(np.argmax(smooth))
    if circles[max(0, best - 1) : best + 2].sum() < _LEAST_CIRCLES or best in (0, len(_RADII_PX) - 1):
        return None
    covered = circles[best - 1 : best + 2].sum() * np.pi * _RADII_PX[best] ** 2
    if covered < _LEAST_COVER * np.count_nonzero(stain.green > 0.5 * stain.red_cell):
        return None
    left, middle, right = smooth[best - 1 : best + 2]
    offset = 0.5 * (left - right) / (left - 2 * middle + right)
    radius = float(np.interp(best + offset, np.arange(len(_RADII_PX)), _RADII_PX))
    return RED_CELL_UM / (2 * (radius + 0.5))  # a rim pixel's middle lies half a pixel inside the rim


def _rims(stain: Stain, nuclear_density: float) -> Rims:
    """Where density crosses half of a red cell's, away from nuclei."""
    green = cv2.GaussianBlur(stain.green, (0, 0), 1.0)
    inside = (green > 0.5 * stain.red_cell).astype(np.uint8)
    rim = (inside - cv2.erode(inside, np.ones((3, 3), np.uint8))).astype(bool)
    rim &= cv2.dilate(stain.nuclear, np.ones((5, 5), np.uint8)) < nuclear_density
    rim[[0, -1]] = False
    rim[:, [0, -1]] = False
    y, x = np.nonzero(rim)
    across = cv2.Sobel(green, cv2.CV_32F, 1, 0, ksize=5)[y, x]
    down = cv2.Sobel(green, cv2.CV_32F, 0, 1, ksize=5)[y, x]
    length = np.maximum(np.hypot(across, down), 1e-6)
    return Rims(
        np.stack([x, y], axis=1).astype(np.float32),
        np.stack([across / length, down / length], axis=1).astype(np.float32),
    )


def _circles(rims: Rims, radius: float, shape: tuple[int, ...]) -> float:
    """How many circles of ``radius`` the rims make, each counted by the share of its rim that votes for it."""
    bin_px = max(1.0, radius / 7)
    rows, columns = int(shape[0] / bin_px) + 1, int(shape[1] / bin_px) + 1
    cell = ((rims.points + radius * rims.normals) / bin_px).astype(np.int32)
    valid = (cell >= 0).all(axis=1) & (cell[:, 0] < columns) & (cell[:, 1] < rows)
    flat = cell[valid, 1] * columns + cell[valid, 0]
    votes = np.bincount(flat, minlength=rows * columns).reshape(rows, columns).astype(np.float32)
    # A rim one pixel wide has about 0.9 pixels per pixel of its length (diagonal steps).
    counted = cv2.boxFilter(votes, -1, (3, 3), normalize=False)
    arcs = np.asarray(counted / (0.9 * 2 * np.pi * radius), np.float32)
    peak = (arcs >= cv2.dilate(arcs, np.ones((9, 9), np.uint8))) & (arcs > _LEAST_ARC)
    return float(np.clip(arcs[peak] - _LEAST_ARC, 0, 1).sum())
