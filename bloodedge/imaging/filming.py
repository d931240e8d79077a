"""A cell cut out onto black, as another camera or another laboratory's bench would show it.

Data sets that cells are learned from come from one microscope each. These cells are the same ones as a camera and a
finder would give them, and as other dyes, light and lenses would show them, so that what is learned holds there too.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging.cell import SOURCE_LIGHT, Cell, Image, as_image

Floats = NDArray[np.float64]

_FINEST_UM, _COARSEST_UM = 0.066, 0.2
"""Micrometres per pixel of cameras that are inside the domain: C-NMC's own to a 40x objective's."""
_EDGE_UM = 0.1, 0.2
"""Least and largest blur of a cell's edge in a field, on the inner side: objectives in focus."""
_RED_CELL_UM = 7.4
_MOST_NEIGHBOURS = 4
_DEEPEST_UM = 0.9
"""Deepest dent that a finder leaves at a neighbour: its masks of simulated cells among red cells have 1 to 11 % less
area than the cells."""
_WIDEST_RIM_UM = 0.1
"""Widest rim of the field around a cell that a finder takes for the cell's: a mask's edge lies in the blur."""
_LIGHT_ERROR = 0.05
"""Largest error of each channel's light, as a share: the empty field is estimated, and a lamp warms up."""
_MOST_GRAIN = 2.5
"""Largest standard deviation of a camera's noise, in levels."""

_TINY = 1e-3
_DYES_RGB = (0.834750233, 0.513556283, 0.196330403), (0.092789, 0.954111, 0.283111)
"""Optical density of thiazine dyes and of eosin in red, green and blue, as Fiji's colour deconvolution has them for
Giemsa."""
_LEAST = 0.3
"""Of the limits that follow, how much of them a bench differs at least."""
_LIGHT = 0.2
"""Largest change of each channel's light, as a share."""
_STRENGTH, _EACH = 0.4, 0.2
"""Largest logarithm of the stain's strength, and of either dye's beside it."""
_HUE = 0.15
"""Largest change of a dye's density in a channel."""
_SHARP_SHARE, _SHARPER = 0.6, 3.0
"""Share of benches that are sharper than the cell's picture, and by how many times its own detail at most. C-NMC's
pictures are softer than those of each other bench at hand."""
_DETAIL_UM = 0.1, 0.35
"""Standard deviations of the blurs between which that detail lies."""
_DEFOCUS_UM = 0.3
"""Largest standard deviation of the blur of the other benches."""
_SIZE = 0.08
"""Largest error of a bench's scale."""


def camera_scale(rng: np.random.Generator) -> float:
    """Micrometres per pixel of some camera inside the domain."""
    return float(rng.uniform(_FINEST_UM, _COARSEST_UM))


def in_a_field(cell: Cell, rng: np.random.Generator, um_per_px: float | None = None) -> Cell:
    """A cell cut out onto black, as a camera and a finder would show it: coarser, lit at its edge, noisy.

    um_per_px: the camera's; default: any. Such differences must not take a cell out of the domain.
    """
    sigma = max(rng.uniform(*_EDGE_UM) / cell.um_per_px, 0.5)
    inner = cv2.erode(cell.mask, np.ones((3, 3), np.uint8)).astype(np.float32) / 255
    cover = cv2.GaussianBlur(inner, (0, 0), sigma)[:, :, np.newaxis]
    lit = cell.bgr * cover + _field(cell) * (1 - cover)
    um_per_px = max(cell.um_per_px, um_per_px or camera_scale(rng))
    zoom = cell.um_per_px / um_per_px
    small = cv2.resize(lit, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(cell.mask, small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    changed = _redrawn(_dented(mask, um_per_px, rng), um_per_px, rng)
    small = small * (1 + _LIGHT_ERROR * rng.uniform(-1, 1, 3))
    bgr = np.clip(np.rint(small + rng.normal(0, rng.uniform(0, _MOST_GRAIN), small.shape)), 0, 255).astype(np.uint8)
    return Cell(bgr, changed if changed.any() else as_image(mask), um_per_px, cell.light)


def _field(cell: Cell) -> Floats:
    """(3,): level of the empty field around a cell, BGR."""
    return np.array(cell.light or [SOURCE_LIGHT] * 3, np.float64)


def _dented(mask: Any, um_per_px: float, rng: np.random.Generator) -> Image:
    """The mask without the dents that a finder leaves where red cells touch the cell."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return as_image(mask)
    dented = mask.copy()
    middle = columns.mean(), rows.mean()
    radius = _RED_CELL_UM / 2 / um_per_px
    for _ in range(rng.integers(_MOST_NEIGHBOURS + 1)):
        angle, depth = rng.uniform(0, 2 * np.pi), rng.uniform(0, _DEEPEST_UM) / um_per_px
        along = (columns - middle[0]) * np.cos(angle) + (rows - middle[1]) * np.sin(angle)
        distance = float(along.max()) - depth + radius
        centre = round(middle[0] + distance * np.cos(angle)), round(middle[1] + distance * np.sin(angle))
        cv2.circle(dented, centre, round(radius), 0, cv2.FILLED)
    return as_image(dented)


def _redrawn(mask: Any, um_per_px: float, rng: np.random.Generator) -> Image:
    """The mask with or without its smallest notches and spikes, and with a rim of the field."""
    if rng.random() < 0.5:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        mask = cv2.morphologyEx(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disc), cv2.MORPH_CLOSE, disc)
    side = 2 * round(rng.uniform(0, _WIDEST_RIM_UM) / um_per_px) + 1
    return as_image(cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))))


def at_another_bench(cell: Cell, rng: np.random.Generator, severity: float = 1.0) -> Cell:
    """A cell cut out onto black as another bench's dyes, light and lens would show it, by one of its cameras.

    Some benches are much like the cell's own, others as different as the limits above say; severity multiplies these.
    """
    return in_a_field(_restained(cell, rng.uniform(_LEAST, severity), rng), rng)


def _restained(cell: Cell, severity: float, rng: np.random.Generator) -> Cell:
    """In other dyes and light, sharper or softer, its scale known a little wrong; severity: 0..1 of each limit."""
    field = _field(cell)
    density = -np.log10((cell.bgr + 1) / (field + 1))
    density = _through_another_lens(density, cell, severity, rng)
    light = field * (1 + severity * _LIGHT * rng.uniform(-1, 1, 3))
    levels = (light + 1) * 10 ** -(density @ _other_dyes(severity, rng)) - 1
    bgr = np.clip(np.rint(levels), 1, 255).astype(np.uint8)
    bgr[cell.mask == 0] = 0
    return Cell(bgr, cell.mask, cell.um_per_px * (1 + severity * _SIZE * rng.uniform(-1, 1)), cell.light)


def _other_dyes(severity: float, rng: np.random.Generator) -> Floats:
    """(3, 3) that takes a pixel's density in blue, green and red, from the right, to that of other dyes."""
    dyes = np.array(_DYES_RGB)[:, ::-1]
    dyes = np.vstack([dyes, np.cross(*dyes)])
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    others = dyes.copy()
    others[:2] += severity * _HUE * rng.uniform(-1, 1, (2, 3))
    others[:2] *= np.exp(severity * (_STRENGTH * rng.uniform(-1, 1) + _EACH * rng.uniform(-1, 1, (2, 1))))
    return np.asarray(np.linalg.inv(dyes) @ others, np.float64)


def _through_another_lens(density: Floats, cell: Cell, severity: float, rng: np.random.Generator) -> Floats:
    """Densities (h, w, 3) of the cell, with more or less of their detail."""
    inside = (cell.mask > 0).astype(np.float64)
    if rng.random() < _SHARP_SHARE:
        soft = _blurred(density, inside, rng.uniform(*_DETAIL_UM) / cell.um_per_px)
        return density + severity * _SHARPER * rng.uniform() * (density - soft)
    return _blurred(density, inside, severity * _DEFOCUS_UM * rng.uniform() / cell.um_per_px)


def _blurred(density: Floats, inside: Floats, sigma: float) -> Floats:
    """Blurred by a Gaussian over the cell's own pixels alone."""
    if sigma < 0.3:
        return density
    own = cv2.GaussianBlur(inside, (0, 0), sigma)[:, :, np.newaxis]
    return np.asarray(cv2.GaussianBlur(density * inside[:, :, np.newaxis], (0, 0), sigma) / np.maximum(own, _TINY))
