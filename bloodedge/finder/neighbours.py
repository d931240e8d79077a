"""Pieces of red cells and other objects that touch a white cell, by the colours of the frame that they are in.

Half a micrometre is all that the network sees: where a red cell touches a white one it is not sure where the one ends.
The frame's own colours are: what is common beside its white cells and rare in them is no part of one, whatever the
stain. Pale cytoplasm may look like the thin edge of a red cell, so only what lies mostly outside of the white cells is
taken for a neighbour.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.finder.light import CODES, STAINED, Stain
from bloodedge.finder.network import PER_UNIT, ZERO, Maps
from bloodedge.finder.parameters import RED_CELL_UM
from bloodedge.imaging import Image

_STEP = CODES // 16
"""A colour is a density in each channel, in steps of 1 / 16, ..."""
_LEVELS = 16
"""... of which there are so many."""
_CELL_ODDS = 2
"""Log-odds by the network of what is certainly a white cell's, ..."""
_OTHER_ODDS = -4
"""... and of what is certainly none's."""
_RIM = np.ones((5, 5), np.uint8)
"""The rim of other objects is left out: its colours are between theirs and the empty field's."""
_FEWEST = 200
"""Pixels of either that colours can be judged by."""
_TIMES_RARER = 4
"""A colour is another object's that is so many times as common beside the cells as in them, ..."""
_COMMON = 100
"""... if one in so many of their pixels has it."""
_MOST_INSIDE = 0.7
"""Largest share of a neighbour that lies where the network sees white cells."""
_THREAD = np.ones((3, 3), np.uint8)

Colours = NDArray[np.int16]


def neighbours(stain: Stain, maps: Maps, um_per_px: float, least_odds: float) -> NDArray[np.bool_]:
    """The pixels of objects beside the white cells, bool (H, W).

    maps: at the stain's scale; least_odds: log-odds of a white cell at its edge.
    """
    found = np.zeros(stain.shape, np.bool_)
    colours = _colours(stain)
    stained = (stain.steps[:, :, 1] > STAINED).astype(np.uint8)
    cells = cv2.bitwise_and(stained, (maps.cell >= ZERO + PER_UNIT * _CELL_ODDS).astype(np.uint8))
    others = cv2.bitwise_and(stained, (maps.cell <= ZERO + PER_UNIT * _OTHER_ODDS).astype(np.uint8))
    inner = cv2.erode(others, _RIM)
    if min(cv2.countNonZero(cells), cv2.countNonZero(inner)) < _FEWEST:
        return found
    in_cells, beside = _counts(colours[cells > 0]), _counts(colours[inner > 0])
    common = beside * _COMMON > beside.sum()
    rare = beside * in_cells.sum() > _TIMES_RARER * in_cells * beside.sum()
    near = (maps.cell > ZERO + PER_UNIT * least_odds).astype(np.uint8)
    window = _round(near, round(RED_CELL_UM / um_per_px))
    alike = (common & rare).astype(np.uint8)[colours[window]] & stained[window]
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        cv2.morphologyEx(alike, cv2.MORPH_OPEN, _THREAD), connectivity=4
    )
    inside = np.bincount(labels[near[window] > 0], minlength=len(stats))
    outside = inside < _MOST_INSIDE * stats[:, cv2.CC_STAT_AREA]
    outside[0] = False
    found[window] = (cv2.dilate(outside.astype(np.uint8)[labels], _THREAD) & alike) > 0
    return found


def _round(mask: Image, margin_px: int) -> tuple[slice, slice]:
    """Rows and columns of what is above 0 in a mask, with a margin; some are."""
    x, y, width, height = cv2.boundingRect(mask)
    rows = slice(max(0, y - margin_px), y + height + margin_px)
    return rows, slice(max(0, x - margin_px), x + width + margin_px)


def _colours(stain: Stain) -> Colours:
    """int16 (H, W): the number of each pixel's colour, below _LEVELS ** 3."""
    blue, green, red = (
        np.clip((channel + np.int16(_STEP // 2)) // np.int16(_STEP), 0, _LEVELS - 1)
        for channel in cv2.split(stain.steps)
    )
    return np.asarray((blue * _LEVELS + green) * _LEVELS + red, np.int16)


def _counts(colours: Colours) -> NDArray[np.int64]:
    """How many of the pixels (N,) have each colour or one beside it: (_LEVELS ** 3,)."""
    cube = np.bincount(colours, minlength=_LEVELS**3).reshape(_LEVELS, _LEVELS, _LEVELS).astype(np.float64)
    summed = cube
    for axis in range(3):
        summed = summed + np.roll(summed, 1, axis) + np.roll(summed, -1, axis)
    return np.asarray(summed.ravel(), np.int64)
