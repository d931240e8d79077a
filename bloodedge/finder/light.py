"""A frame's light and stain: the empty field behind the cells, and optical density in exact steps."""

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.finder.exact import shrunk
from bloodedge.imaging import Image, Light, as_image

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_GRID = (120, 160)
"""Rows and columns of the small copy on which the light is fitted."""
_TILES = (6, 8)
_NEAR = 0.06
"""Pixels within this share of the fitted light belong to the empty field."""
_BINS = 30
_FEWEST_STAINED = 50


CODES = 6400
"""Steps of the integer logarithms in one unit of optical density."""
STAINED = round(0.04 * CODES)
"""Green density above which a pixel is stained: twice what a dusty empty field shows, half of a red cell."""
_RED_CELL_GREEN = round(0.15 * CODES)
"""Green density of a red cell where a frame shows none."""
_DARKEST = 2 * CODES
"""Green density of what is as dark as can be told."""


@dataclass(frozen=True)
class Stain:
    """A frame converted to stain.

    light: uint8 (rows, columns, 3) BGR, the empty field on a coarse grid; steps: int16 (H, W, 3) BGR, optical density
    (log10) against the empty field in steps of 1 / CODES; red_cell: green density of the frame's red cells, in
    such steps.
    """

    light: Image
    steps: NDArray[np.int16]
    red_cell: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.steps.shape[0], self.steps.shape[1]

    @property
    def green(self) -> NDArray[np.int16]:
        """int16 (H, W): density where every cell of a smear absorbs, in steps."""
        return np.asarray(cv2.extractChannel(self.steps, 1), np.int16)

    @property
    def dark(self) -> NDArray[np.int16]:
        """int16 (H, W): red and green density, that nuclei have most of under every stain, in steps."""
        return np.asarray(cv2.add(self.green, cv2.extractChannel(self.steps, 2)), np.int16)

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
    green = np.asarray(cv2.resize(cv2.extractChannel(steps, 1), size, interpolation=cv2.INTER_NEAREST), np.int16)
    return Stain(field, steps, _red_cell_density(green[green > STAINED]))


@cache
def _logarithms() -> NDArray[np.int16]:
    """Logarithms of the 256 levels in steps of 1 / CODES."""
    return np.asarray(np.rint(CODES * np.log10(np.arange(1, 257))), np.int16)


def _red_cell_density(green: NDArray[np.int16]) -> int:
    """Green density of the red cells, from stained pixels' (N,): the palest that is common, for nuclei are darker."""
    if len(green) < _FEWEST_STAINED:
        return _RED_CELL_GREEN
    edges, middles = _bins()
    peaks = _peaks(_smoothed(np.histogram(green, edges)[0]))
    return int(middles[peaks[0]]) if len(peaks) else int(np.median(green))


@cache
def _bins() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges and middles of the histogram's bins, evenly spread over the logarithm of density."""
    levels = np.rint(STAINED * (_DARKEST / STAINED) ** (np.arange(2 * _BINS + 1) / (2 * _BINS))).astype(np.int64)
    return levels[::2], levels[1::2]


def _smoothed(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts behind a Gaussian of two bins, in 256ths."""
    return np.convolve(np.pad(counts, len(_GAUSSIAN) // 2, mode="reflect"), _GAUSSIAN, mode="valid")


_GAUSSIAN = (1, 2, 7, 17, 31, 45, 50, 45, 31, 17, 7, 2, 1)


def _peaks(counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """Inner bins that stand out: no neighbour is higher, and they reach a third of the highest."""
    inner = counts[1:-1]
    high = (inner >= counts[:-2]) & (inner >= counts[2:]) & (3 * inner >= inner.max())
    return np.nonzero(high)[0] + 1


def empty_field(bgr: Image) -> Floats:
    """The light of a frame uint8 (H, W, 3) where nothing absorbs: a quadratic surface, float32 (120, 160, 3).

    It starts from the bright end of each tile, drops tiles that cells cover, and is then fitted to all pixels near it.
    """
    factor = max(1, min(side // wanted for side, wanted in zip(bgr.shape[:2], _GRID, strict=True)))
    small = as_image(cv2.resize(shrunk(bgr, factor), _GRID[::-1], interpolation=cv2.INTER_LINEAR_EXACT))
    pixels = small.reshape(-1, 3).astype(np.float64)
    green = pixels[:, 1]
    terms, tile_terms = _terms()
    surface = _surface(terms, _bright_tiles(small[:, :, 1], tile_terms))
    for _ in range(2):
        near = np.abs(green - surface) <= _NEAR * np.abs(surface) + 1
        if np.count_nonzero(near) < 0.02 * near.size:
            break
        coefficients = _fit(terms[:, near], pixels[near])
        surface = _surface(terms, coefficients[:, 1])
    else:
        channels = [np.maximum(_surface(terms, c), 0).reshape(_GRID) for c in coefficients.T]
        return np.stack(channels, axis=-1).astype(np.float32)
    level = np.percentile(pixels, 90, axis=0).astype(np.float32)
    return np.broadcast_to(level, (*_GRID, 3)).copy()


def light_at(light: Image, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> Light:
    """The empty field's levels in the middle of a box of a frame of that shape; light: as in Stain."""
    x, y, width, height = box
    row = (2 * y + height) * light.shape[0] // (2 * shape[0])
    column = (2 * x + width) * light.shape[1] // (2 * shape[1])
    blue, green, red = np.clip(np.rint(light[row, column]), 0, 255).astype(int)
    return int(blue), int(green), int(red)


def _bright_tiles(green: Image, tile_terms: Doubles) -> Doubles:
    rows, columns = _TILES
    tiles = green.reshape(rows, _GRID[0] // rows, columns, _GRID[1] // columns).transpose(0, 2, 1, 3)
    bright = np.percentile(tiles.reshape(rows * columns, -1), 85, axis=1, method="nearest").astype(np.float64)
    coefficients = _fit(tile_terms, bright)
    for _ in range(3):
        below = bright - _surface(tile_terms, coefficients) < -0.05 * np.median(bright)
        if np.count_nonzero(~below) < bright.size // 3:
            break
        coefficients = _fit(tile_terms[:, ~below], bright[~below])
    return coefficients


def _fit(terms: Doubles, values: Doubles) -> Doubles:
    """Least squares with a small ridge penalty, so that any set of pixels has a solution.

    terms: (6, N), values: (N, ...), whole numbers, whose sums of products are the same in any order of summing.
    """
    normal = terms @ terms.T / np.outer(_TERM_SIZES, _TERM_SIZES) + 1e-3 * np.eye(len(terms))
    right = (terms @ values).reshape(len(terms), -1) / _TERM_SIZES[:, np.newaxis]
    coefficients = _solved(normal, right) / _TERM_SIZES[:, np.newaxis]
    return np.asarray(coefficients.reshape(len(terms), *values.shape[1:]), np.float64)


def _solved(matrix: Doubles, right: Doubles) -> Doubles:
    """The solution of a positive definite system, by elimination in one order: linear algebra libraries have others."""
    rows = np.hstack([matrix, right])
    for pivot in range(len(rows)):
        rows[pivot] /= rows[pivot, pivot]
        others = np.arange(len(rows)) != pivot
        rows[others] -= rows[others, pivot, np.newaxis] * rows[pivot]
    return np.asarray(rows[:, len(matrix) :], np.float64)


def _surface(terms: Doubles, coefficients: Doubles) -> Doubles:
    """(N,): summed in one order."""
    total = np.asarray(terms[0] * coefficients[0], np.float64)
    for term, coefficient in zip(terms[1:], coefficients[1:], strict=True):
        total += term * coefficient
    return total


_TERM_SIZES = np.array([1.0, _GRID[1], _GRID[0], _GRID[0] * _GRID[1], _GRID[1] ** 2, _GRID[0] ** 2])


@cache
def _terms() -> tuple[Doubles, Doubles]:
    """Quadratic terms at every pixel of the grid (6, 19200), and their means over the tiles (6, 48): whole numbers."""
    y, x = np.mgrid[1 - _GRID[0] : _GRID[0] : 2, 1 - _GRID[1] : _GRID[1] : 2].astype(np.float64)
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y])
    rows, columns = _TILES
    tiles = terms.reshape(6, rows, _GRID[0] // rows, columns, _GRID[1] // columns).mean(axis=(2, 4))
    return terms.reshape(6, -1), tiles.reshape(6, -1)


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
