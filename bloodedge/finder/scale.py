"""A frame's scale from its own red cells.

Every piece of a red cell's rim votes for a centre, one radius inwards along its normal (the circular Hough transform
with gradient direction; Kimme, Ballard and Sklansky, 1975): cells that overlap still vote with their free arcs.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from bloodedge.finder.exact import blurred, shrunk
from bloodedge.finder.light import Floats, Stain, stain_of
from bloodedge.finder.network import CORE_SHARE, ZERO, PixelNetwork
from bloodedge.finder.parameters import DEFAULT_UM_PER_PX, RED_CELL_UM, FinderParameters
from bloodedge.finder.seeds import seeds_in
from bloodedge.imaging import Image, as_image

_RADII_PX = np.round(np.geomspace(6, 90, 40), 3)
_LEAST_ARC = 0.33
"""Share of a circle's rim that must vote for it."""
_LEAST_COVER = 0.02
"""Smallest share of the stained area that red cells of the right radius cover; specks cover less."""
_LEAST_CIRCLES = 0.8
"""Fewest full circles of rim for a radius to be accepted."""


_SIDE_PX = 640
"""Frames are shrunk to about this side before their red cells are measured."""
_WHITE_CELL_UM = 12.0
"""Diameter of a white cell on a smear: lymphocytes 7 to 15 µm, neutrophils 10 to 15, monocytes 12 to 20."""


@dataclass(frozen=True)
class Scale:
    """Micrometres per pixel: as the red cells show (None: too few stand alone), and the best that is known."""

    from_red_cells: float | None
    um_per_px: float


@dataclass(frozen=True)
class Rims:
    """Pixels on the rims of stained objects: positions and inward unit normals, each float32 (N, 2) as (x, y)."""

    points: Floats
    normals: Floats


def measured_scale(bgr: Image, parameters: FinderParameters, network: PixelNetwork) -> Scale:
    """The scale of a frame, uint8 (H, W, 3).

    White cells are found at the scale of whatever is round, and left out before the red cells are measured. Where there
    are none, white cells are assumed to be as large as they are on the average.
    """
    shrink = max(1, round(max(bgr.shape[:2]) / _SIDE_PX))
    stain = stain_of(shrunk(bgr, shrink))
    nothing = np.zeros(stain.shape, np.uint8)
    first, circles = um_per_px_of(stain, nothing)
    tried = _BLIND if first is None else (first,)
    alone = first is not None and (circles < _CERTAIN or RED_CELL_UM / first > _LARGE * min(stain.shape))
    if alone and first is not None:
        tried = first, first * _WHITE_CELL_UM / RED_CELL_UM
    whites = max((_whites(stain, scale, parameters, network) for scale in tried), key=lambda found: found.odds)
    white = as_image(cv2.threshold(whites.cells, ZERO, 255, cv2.THRESH_BINARY)[1])
    second = first
    if first is not None and cv2.countNonZero(white):
        second, _ = um_per_px_of(stain, white)
        if second is not None and not (alone * _PLAUSIBLE[0]) < second / whites.um_per_px < _PLAUSIBLE[1]:
            second = None
    return Scale(second and second / shrink, (second or whites.um_per_px) / shrink)


_PLAUSIBLE = (0.55, 2.4)
"""White cells' median diameter over the average one, at a scale that red cells show."""
_CERTAIN = 2.5
"""With fewer full circles than this in a frame, what is round may be its white cell, ..."""
_LARGE = 0.4
"""... and where it is larger than this share of the frame's side."""
_BLIND = (DEFAULT_UM_PER_PX, 2 * DEFAULT_UM_PER_PX)
"""Scales to look for white cells at where nothing is round."""


@dataclass(frozen=True)
class _Whites:
    """White cells by the network at a scale.

    cells: log-odds, as in Maps; um_per_px: the scale at which they are as large as on the average, or where none was
    found the one at which they were sought; odds: of the likeliest.
    """

    cells: Image
    um_per_px: float
    odds: float


def _whites(stain: Stain, um_per_px: float, parameters: FinderParameters, network: PixelNetwork) -> _Whites:
    maps = network.maps(stain, um_per_px).at(stain.shape)
    seeds = seeds_in(maps, um_per_px, parameters)
    if not seeds:
        return _Whites(maps.cell, um_per_px, 0.0)
    core_px = float(np.median([cv2.countNonZero(seed.mask) for seed in seeds]))
    diameter_px = 2 * math.sqrt(core_px / math.pi) / CORE_SHARE
    return _Whites(maps.cell, _WHITE_CELL_UM / diameter_px, seeds[0].odds)


def um_per_px_of(stain: Stain, white: Image) -> tuple[float | None, float]:
    """(micrometres per pixel by the most frequent radius of round red cells, None when there are too few; how many)."""
    rims = _rims(stain, white)
    if len(rims.points) < 50:
        return None, 0.0
    circles = np.array([_circles(rims, radius, stain.shape) for radius in _RADII_PX])
    # Red cells cover more of a frame than platelets, however many those are.
    weight = circles * _RADII_PX
    framed = np.pad(weight, 1)
    smooth = (framed[:-2] + 2 * weight + framed[2:]) / 4
    best = int(np.argmax(smooth))
    if circles[max(0, best - 1) : best + 2].sum() < _LEAST_CIRCLES or best in (0, len(_RADII_PX) - 1):
        return None, 0.0
    covered = circles[best - 1 : best + 2].sum() * np.pi * _RADII_PX[best] ** 2
    if covered < _LEAST_COVER * np.count_nonzero(2 * stain.green > stain.red_cell):
        return None, 0.0
    left, middle, right = smooth[best - 1 : best + 2]
    offset = 0.5 * (left - right) / (left - 2 * middle + right)
    lower = math.floor(best + offset)
    radius = float(_RADII_PX[lower] + (best + offset - lower) * (_RADII_PX[lower + 1] - _RADII_PX[lower]))
    um_per_px = RED_CELL_UM / (2 * (radius + 0.5))  # a rim pixel's middle lies half a pixel inside the rim
    return um_per_px, float(circles[best - 1 : best + 2].sum())


def _rims(stain: Stain, white: Image) -> Rims:
    """Where density crosses half of a red cell's, away from white cells, uint8 (H, W) above 0."""
    green = blurred(stain.green, 1.0)
    inside = (2 * green > stain.red_cell).astype(np.uint8)
    rim = (inside - cv2.erode(inside, np.ones((3, 3), np.uint8))).astype(bool)
    rim &= cv2.dilate(white, np.ones((5, 5), np.uint8)) == 0
    rim[[0, -1]] = False
    rim[:, [0, -1]] = False
    y, x = np.nonzero(rim)
    # Sums of whole numbers below 2 ** 24 are exact in float32.
    across, down = (
        cv2.Sobel(green.astype(np.float32), cv2.CV_32F, *axes, ksize=5)[y, x].astype(np.float64)
        for axes in ((1, 0), (0, 1))
    )
    length = np.maximum(np.sqrt(across**2 + down**2), 1)
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
    return math.fsum(np.clip(arcs[peak] - _LEAST_ARC, 0, 1))
