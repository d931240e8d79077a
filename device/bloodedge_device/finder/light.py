"""A frame's light and stain: the empty field behind the cells, optical density, and the stain of nuclei only."""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Image

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Light = tuple[int, int, int]
"""Level of the empty field, 0..255 BGR."""

_GRID = (120, 160)
"""Rows and columns of the small copy on which the light is fitted."""
_TILES = (6, 8)
_NEAR = 0.06
"""Pixels within this share of the fitted light belong to the empty field."""
_STAINED = 0.04
"""Green density above which a pixel is stained: twice what a dusty empty field shows, half of a red cell."""
_RED_CELL_GREEN = 0.15
_RED_CELL_BLUE = 0.33
"""Green density of a red cell, and the share of its density that lies in the blue channel, where a frame shows none."""
_RED_CELL_GREEN_SHARE = 0.47
"""Share of a red cell's density that lies in the green channel, of two microscopes."""
_RED_CELL_BLUE_RANGE = (0.25, 0.45)
_BINS = 30
_FEWEST_STAINED = 50


@dataclass(frozen=True)
class Stain:
    """A frame converted to stain.

    light: float32 (rows, columns, 3) BGR, the empty field on a coarse grid;
    density: float32 (H, W, 3) BGR, optical density (log10) against the empty field; nuclear: float32 (H, W), density
    that red cells do not have; noise: its robust standard deviation on red cells, or on all where there are none;
    red_cell: their green density.
    """

    light: Floats
    density: Floats
    nuclear: Floats
    noise: float
    red_cell: float

    @property
    def green(self) -> Floats:
        """float32 (H, W): density where every cell of a smear absorbs."""
        return self.density[:, :, 1]


def stain_of(bgr: Image) -> Stain:
    """The stain in a frame, uint8 (H, W, 3)."""
    field = empty_field(bgr)
    light = cv2.resize(field, (bgr.shape[1], bgr.shape[0]), interpolation=cv2.INTER_LINEAR)
    density = np.log10((light + 1) / (bgr.astype(np.float32) + 1))
    size = max(1, bgr.shape[1] // 4), max(1, bgr.shape[0] // 4)
    stained = np.asarray(cv2.resize(density, size, interpolation=cv2.INTER_AREA), np.float32).reshape(-1, 3)
    stained = stained[stained[:, 1] > _STAINED]
    red_cell = _red_cell_density(stained[:, 1])
    blue = _red_cell_blue(stained[stained[:, 1] < 1.5 * red_cell])
    # Green and red, less what red cells of this much blue would absorb there: two of them at most, one over the other,
    # so that a nucleus dark in all three channels is not taken for a heap of red cells.
    explained = np.minimum(density[:, :, 0], 2.2 * red_cell * blue / _RED_CELL_GREEN_SHARE)
    nuclear = density[:, :, 1] + density[:, :, 2] - ((1 - blue) / blue) * explained
    sample, green = nuclear[::2, ::2], density[::2, ::2, 1]
    # Red cells are around zero; nuclei are never below it, so they do not count as noise.
    below = sample[(green > _STAINED) & (sample < 0)]
    if len(below) < _FEWEST_STAINED:
        below = sample[sample < 0]
    noise = -1.4826 * float(np.median(below)) if len(below) else 0.0
    return Stain(field, density, nuclear, noise, red_cell)


def _red_cell_density(green: Floats) -> float:
    """Green density of the red cells, from stained pixels' (N,): the palest that is common, for nuclei are darker."""
    if len(green) < _FEWEST_STAINED:
        return _RED_CELL_GREEN
    counts = _histogram(np.log(green), (math.log(_STAINED), math.log(2.0)))
    peaks = _peaks(counts)
    if not len(peaks):
        return float(np.median(green))
    palest = int(peaks[0])
    return float(_STAINED * (2.0 / _STAINED) ** ((palest + 0.5) / _BINS))


def _red_cell_blue(stained: Floats) -> float:
    """Share of the red cells' density in the blue channel, from stained densities (N, 3) BGR.

    Nuclei absorb less blue than red cells: of all the common shares the largest is the red cells'.
    """
    low, high = _RED_CELL_BLUE_RANGE
    share = stained[:, 0] / stained.sum(axis=1)
    share = share[(share > low - 0.05) & (share < high + 0.05)]
    if len(share) < _FEWEST_STAINED:
        return _RED_CELL_BLUE
    peaks = _peaks(_histogram(share, (low - 0.05, high + 0.05)))
    if not len(peaks):
        return float(np.clip(np.median(share), low, high))
    last = int(peaks[-1])
    return float(np.clip(low - 0.05 + (last + 0.5) * (high - low + 0.1) / _BINS, low, high))


def _histogram(values: Floats, limits: tuple[float, float]) -> Floats:
    counts = np.histogram(values, _BINS, limits)[0].astype(np.float32)
    return np.asarray(cv2.GaussianBlur(counts[:, np.newaxis], (1, 13), 2.0).ravel(), np.float32)


def _peaks(counts: Floats) -> NDArray[np.intp]:
    """Inner bins that stand out: no neighbour is higher, and they reach a third of the highest."""
    inner = counts[1:-1]
    high = (inner >= counts[:-2]) & (inner >= counts[2:]) & (inner >= inner.max() / 3)
    return np.nonzero(high)[0] + 1


def empty_field(bgr: Image) -> Floats:
    """The light of a frame uint8 (H, W, 3) where nothing absorbs: a quadratic surface, float32 (120, 160, 3).

    It starts from the bright end of each tile, drops tiles that cells cover, and is then fitted to all pixels near it.
    Products are taken in float64 and kept in float32: what linear algebra libraries sum in another order on another
    processor then differs below what is kept, and a frame has the same cells on every machine.
    """
    small = cv2.resize(bgr, _GRID[::-1], interpolation=cv2.INTER_AREA).astype(np.float32)
    green = small[:, :, 1].ravel()
    terms, tile_terms = _terms()
    surface = _surface(terms, _bright_tiles(small[:, :, 1], tile_terms))
    pixels = small.reshape(-1, 3)
    for _ in range(2):
        near = np.abs(green - surface) <= _NEAR * np.abs(surface) + 1
        if np.count_nonzero(near) < 0.02 * near.size:
            break
        coefficients = _fit(terms[near], pixels[near])
        surface = _surface(terms, coefficients[:, 1])
    else:
        return np.maximum(_surface(terms, coefficients), 0).reshape(*_GRID, 3)
    level = np.percentile(pixels, 90, axis=0).astype(np.float32)
    return np.broadcast_to(level, (*_GRID, 3)).copy()


def light_at(light: Floats, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> Light:
    """The empty field's levels in the middle of a box of a frame of that shape; light: as in Stain."""
    x, y, width, height = box
    row = (2 * y + height) * light.shape[0] // (2 * shape[0])
    column = (2 * x + width) * light.shape[1] // (2 * shape[1])
    blue, green, red = np.clip(np.rint(light[row, column]), 0, 255).astype(int)
    return int(blue), int(green), int(red)


def _bright_tiles(green: Floats, tile_terms: Doubles) -> Floats:
    rows, columns = _TILES
    tiles = green.reshape(rows, _GRID[0] // rows, columns, _GRID[1] // columns).transpose(0, 2, 1, 3)
    bright = np.percentile(tiles.reshape(rows * columns, -1), 85, axis=1).astype(np.float32)
    kept = np.ones(bright.size, bool)
    coefficients = _fit(tile_terms, bright)
    for _ in range(3):
        below = bright - _surface(tile_terms, coefficients) < -0.05 * np.median(bright)
        kept = ~below
        if np.count_nonzero(kept) < bright.size // 3:
            break
        coefficients = _fit(tile_terms[kept], bright[kept])
    return coefficients


def _fit(terms: Doubles, values: Floats) -> Floats:
    """Least squares with a small ridge penalty, so that any set of pixels has a solution."""
    normal = terms.T @ terms + 1e-3 * np.eye(terms.shape[1])
    return np.asarray(np.linalg.solve(normal, terms.T @ values.astype(np.float64)), np.float32)


def _surface(terms: Doubles, coefficients: Floats) -> Floats:
    return np.asarray(terms @ coefficients.astype(np.float64), np.float32)


@cache
def _terms() -> tuple[Doubles, Doubles]:
    """Quadratic terms at every pixel of the grid (19200, 6), and their means over the tiles (48, 6)."""
    y, x = np.mgrid[-1 : 1 : _GRID[0] * 1j, -1 : 1 : _GRID[1] * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], axis=-1)
    rows, columns = _TILES
    tiles = terms.reshape(rows, _GRID[0] // rows, columns, _GRID[1] // columns, 6).mean(axis=(1, 3))
    return terms.reshape(-1, 6), tiles.reshape(-1, 6)
