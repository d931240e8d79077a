"""The dyes of a slide, and a cell as it would look with those of another.

Laboratories stain differently, and a network knows the stain that it was trained on. A slide's two dyes are estimated
from the densities of its white cells (Macenko et al., "A method for normalizing histology slides for quantitative
analysis", ISBI 2009); amounts of them, brought to the reference's strengths, are then painted with the reference's
dyes. Applying it takes whole numbers alone, so that the same cell and dyes give the same bytes on every machine;
finding the dyes takes floating point, and may differ in the last place.

What it cannot do: a slide of lymphocytes alone shows little but the nuclear dye, and the second direction found there
is the cells' own variety.
"""

from functools import cache, lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.config import Strict
from bloodedge.imaging.optical_density import romanowsky

FEWEST_PIXELS = 2000
"""Stained pixels that a basis is fitted to at least: an eighth of one cell at 0.1 micrometres per pixel."""
MOST_PIXELS = 20_000
"""More, evenly spread, do not change the percentiles by which a basis is found."""
CELL_PIXELS = 4000
"""Of one cell, where the dyes of many are wanted: each is to count alike."""
STAINED = 0.15
"""Density (largest of the channels) below which a pixel holds too little dye to tell which."""
EXTREMES = 1.0
"""Percentile of the pixels' directions that is taken for a dye's, from either side (Macenko et al. 2009)."""
STRONGEST = 99.0
"""Percentile of a dye's amounts that stands for its strength (Macenko et al. 2009)."""
LEAST_ANGLE = 0.12
"""Radians between the two dyes; with less, one dye alone was seen."""
LEAST_CHANNEL = -0.2
"""A dye may seem to brighten a channel by this share of its density, through noise; by more, it is no dye."""
LEAST_STRENGTH = 0.05
"""Of a dye that is hardly there: it is not blown up to the reference's."""

SOURCE_LIGHT = 215
"""Level of the empty field that is assumed for a cell cut out onto black, where its own is lost: that of a well-exposed
slide."""

_UNIT = 1024
"""Density codes in one unit of optical density."""
_LEAST, _MOST = -_UNIT // 8, 4 * _UNIT
"""Codes that are told apart: from what is brighter than the empty field, up to level 255, to level 0."""
_ONE_BITS = 12
_ONE = 1 << _ONE_BITS
"""Of the fixed-point matrix."""

Image = NDArray[np.uint8]
Light = tuple[int, int, int]
"""Level of the empty field, 0..255 BGR."""


class StainBasis(Strict):
    """The two dyes of a slide, as a camera sees them."""

    dyes: tuple[tuple[float, float, float], tuple[float, float, float]]
    """Densities (red, green, blue) of unit length: the nuclear dye, then the other."""
    strength: tuple[float, float]
    """Amount of either that 1 % of the stained pixels exceed."""
    note: str | None = None
    """Why these are the general dyes and not the slide's own; None for a basis that was fitted."""


def fit_stain(densities: NDArray[np.floating[Any]]) -> StainBasis:
    """The dyes in stained cells, from optical densities (N, 3) red, green, blue of their pixels.

    Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009: in the plane in
    which densities spread most, the outermost directions are the dyes. Where that cannot be told, the dyes are
    Landini's Romanowsky pair with this slide's strengths, and ``note`` says why.
    """
    stained = np.asarray(densities, np.float64).reshape(-1, 3)
    stained = stained[stained.max(axis=1) > STAINED]
    stained = stained[:: max(1, len(stained) // MOST_PIXELS)]
    if len(stained) < FEWEST_PIXELS:
        return _basis(romanowsky()[:2], stained, "too few stained pixels")
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, :0:-1].T
    plane *= np.sign(plane @ stained.mean(axis=0))[:, np.newaxis]
    angles = np.arctan2(stained @ plane[1], stained @ plane[0])
    ends = np.percentile(angles, (EXTREMES, 100 - EXTREMES))
    dyes = np.stack([np.cos(ends), np.sin(ends)], axis=1) @ plane
    if ends[1] - ends[0] < LEAST_ANGLE:
        return _basis(romanowsky()[:2], stained, "one dye alone")
    if dyes.min() < LEAST_CHANNEL:
        return _basis(romanowsky()[:2], stained, "colours that no pair of dyes gives")
    nuclear_first = dyes[np.argsort(dyes[:, 1] - dyes[:, 0])]  # azure takes more red, eosin more green
    return _basis(nuclear_first, stained, None)


def _basis(dyes: NDArray[np.float64], stained: NDArray[np.float64], note: str | None) -> StainBasis:
    amounts = stained @ np.linalg.pinv(dyes) if len(stained) else np.ones((1, 2))
    strength = np.maximum(np.percentile(amounts, STRONGEST, axis=0), LEAST_STRENGTH)
    return StainBasis.model_validate({"dyes": dyes.tolist(), "strength": strength.tolist(), "note": note})


def densities(bgr: Image, mask: Image, light: Light, most: int | None = None) -> NDArray[np.float64]:
    """Optical densities (N, 3) red, green, blue of a cell's pixels, its rim left out; mask: uint8 0/255.

    most: about so many pixels, evenly spread, stand for all.
    """
    inner = cv2.erode(mask, np.ones((5, 5), np.uint8))
    pixels = bgr[(inner if inner.any() else mask) > 0]
    levels = pixels[:: max(1, len(pixels) // most) if most else 1].astype(np.float64)
    return np.asarray(np.log10((np.array(light) + 1) / (levels + 1))[:, ::-1], np.float64)


def restained(bgr: Image, light: Light, stain: StainBasis, reference: StainBasis) -> Image:
    """A picture under a light and with the dyes ``stain`` as it would look under SOURCE_LIGHT with the reference's.

    bgr: uint8 (H, W, 3). What neither dye explains stays.
    """
    # Products of whole numbers are exact in the double precision that OpenCV computes these in.
    sums = np.asarray(cv2.transform(cv2.LUT(bgr, _tables(light)), _matrix(stain, reference)), np.int32)
    codes: NDArray[np.int32] = sums >> _ONE_BITS
    return _levels().take(codes, mode="clip")


@lru_cache(maxsize=256)
def _tables(light: Light) -> NDArray[np.int32]:
    """Density codes of the levels of each channel, (256, 1, 3)."""
    return np.stack([_density_codes(level) for level in light], axis=-1)[:, np.newaxis]


@lru_cache(maxsize=16)
def _matrix(stain: StainBasis, reference: StainBasis) -> NDArray[np.float64]:
    """What takes codes BGR of one stain to those of the other from _LEAST on, fixed-point with rounding (3, 4)."""
    ratio = np.append(np.array(reference.strength) / stain.strength, 1.0)
    matrix = np.linalg.inv(_whole(stain)) @ np.diag(ratio) @ _whole(reference)
    rounding = np.full((3, 1), _ONE / 2 - _ONE * _LEAST)
    return np.hstack([np.rint(_ONE * matrix[::-1, ::-1].T), rounding])


def _whole(basis: StainBasis) -> NDArray[np.float64]:
    """The dyes and the direction at right angles to both, rows of unit length (3, 3)."""
    dyes = np.array(basis.dyes)
    rest = np.cross(*dyes)
    return np.vstack([dyes, rest / np.linalg.norm(rest)])


@cache
def _density_codes(light: int) -> NDArray[np.int32]:
    """Codes of the 256 levels under a light; what is brighter than the light has a negative one."""
    codes: NDArray[np.float64] = np.rint(_UNIT * np.log10((light + 1) / (np.arange(256) + 1.0)))
    return codes.astype(np.int32)


@cache
def _levels() -> Image:
    """The level of each code from _LEAST on under SOURCE_LIGHT."""
    through = 10.0 ** (-np.arange(_LEAST, _MOST + 1) / _UNIT)
    return np.clip(np.rint((SOURCE_LIGHT + 1) * through - 1), 0, 255).astype(np.uint8)
