"""A frame's light and stain: the empty field behind the cells, and optical density in exact steps."""

import math
from dataclasses import dataclass
from functools import cache, cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Image, as_image

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
"""Green density of a red cell where a frame shows none."""
_BINS = 30
_FEWEST_STAINED = 50


CODES = 6400
STAINED = round(0.04 * CODES)
"""Steps of the integer logarithms in one unit of optical density."""


@dataclass(frozen=True)
class Stain:
    """A frame converted to stain.

    light: uint8 (rows, columns, 3) BGR, the empty field on a coarse grid; steps: int16 (H, W, 3) BGR, optical density
    (log10) against the empty field in steps of 1 / CODES; red_cell: green density of the frame's red cells.
    """

    light: Image
    steps: NDArray[np.int16]
    red_cell: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.steps.shape[0], self.steps.shape[1]

    @cached_property
    def green(self) -> Floats:
        """float32 (H, W): density where every cell of a smear absorbs."""
        return np.asarray(cv2.extractChannel(self.steps, 1), np.float32) * np.float32(1 / CODES)

    @cached_property
    def dark(self) -> Floats:
        """float32 (H, W): red and green density, that nuclei have most of under every stain."""
        both = cv2.add(cv2.extractChannel(self.steps, 1), cv2.extractChannel(self.steps, 2))
        return np.asarray(both, np.float32) * np.float32(1 / CODES)

    def codes(self, per_unit: float) -> Image:
        """uint8 (H, W, 3): density in so many codes per unit, from 0."""
        share = round(CODES / per_unit)
        codes = np.clip((self.steps + np.int16(share // 2)) // np.int16(share), 0, 255)
        return as_image(codes.astype(np.uint8))


def stain_of(bgr: Image) -> Stain:
    """The stain in a frame, uint8 (H, W, 3)."""
    field = np.clip(np.rint(empty_field(bgr)), 0, 255).astype(np.uint8)
    light = cv2.resize(field, (bgr.shape[1], bgr.shape[0]), interpolation=cv2.INTER_LINEAR_EXACT)
    steps = np.asarray(cv2.subtract(cv2.LUT(light, _logarithms()), cv2.LUT(bgr, _logarithms())), np.int16)
    size = max(1, bgr.shape[1] // 4), max(1, bgr.shape[0] // 4)
    green = np.asarray(cv2.resize(cv2.extractChannel(steps, 1), size, interpolation=cv2.INTER_NEAREST), np.float32)
    stained = np.asarray(green.ravel() / CODES, np.float32)
    return Stain(field, steps, _red_cell_density(stained[stained > _STAINED]))


@cache
def _logarithms() -> NDArray[np.int16]:
    """Logarithms of the 256 levels in steps of 1 / CODES."""
    return np.asarray(np.rint(CODES * np.log10(np.arange(1, 257))), np.int16)


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


def light_at(light: Image, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> Light:
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


DENSITY_CODES = 64
"""Levels of the 8-bit density in one unit of optical density."""


def density_codes(bgr: Image, light: Light) -> Image:
    """uint8 (H, W, 3): optical density of an image under one light, 1 / DENSITY_CODES each."""
    tables = np.stack([_density_table(level) for level in light], axis=1)
    return as_image(cv2.LUT(bgr, tables.reshape(1, 256, 3)))


@cache
def _density_table(light: int) -> Image:
    """Density codes of the 256 levels under a light."""
    density = np.log10((light + 1) / (np.arange(256) + 1))
    return as_image(np.clip(np.rint(DENSITY_CODES * density), 0, 255).astype(np.uint8))
