"""The outline of a cell round its nucleus: the closed curve that best separates it from its surroundings.

Seen from the middle of its nucleus a cell is star-shaped: one radius per direction. Dynamic programming over the
directions finds the radii with the most evidence for cell inside and the least roughness.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from bloodedge.finder.exact import Levels
from bloodedge.finder.light import STAINED, Floats, Stain
from bloodedge.finder.neighbours import neighbours
from bloodedge.finder.network import PER_UNIT, ZERO, Maps
from bloodedge.finder.parameters import FinderParameters
from bloodedge.finder.seeds import Seed, seeds_in
from bloodedge.finder.silhouette import filled
from bloodedge.imaging import Image, as_image

Evidence = NDArray[np.int8]

RAYS = 64
_STEP_UM = 0.2


SURE = 2 * PER_UNIT
"""Evidence of a pixel that is certainly a white cell's."""


def evidence(maps: Maps, parameters: FinderParameters) -> Evidence:
    """int8 (H, W), -SURE..SURE: how much each pixel looks like a white cell's rather than its surroundings'."""
    middle = ZERO + round(PER_UNIT * parameters.cell_odds)
    table = np.clip(np.arange(256) - middle, -SURE, SURE).astype(np.int8)
    return np.asarray(cv2.LUT(maps.cell, table), np.int8)


def whole_cells(stain: Stain, maps: Maps, um_per_px: float, parameters: FinderParameters) -> list[tuple[Seed, Floats]]:
    """Each cell's seed and outline (RAYS, 2); of two outlines of one cell the likelier stays."""
    seeds = seeds_in(maps, um_per_px, parameters)
    if not seeds:
        return []
    shape = maps.cell.shape
    field = evidence(maps, parameters)
    # Between a platelet and the cell beside it the empty field shows.
    matter = np.where(stain.steps[:, :, 1] > STAINED, field, np.int8(-SURE))
    field[_platelets(matter, um_per_px, parameters)] = -SURE
    beside = neighbours(stain, maps, um_per_px, parameters.cell_odds)
    kept: list[tuple[Seed, Floats]] = []
    owners = np.zeros(shape, np.uint8)
    for seed, points in zip(seeds, _outlines_without(beside, field, seeds, um_per_px, parameters), strict=True):
        cell = filled(points, shape)
        x, y, width, height = cell.box
        window = owners[y : y + height, x : x + width]
        area = cv2.countNonZero(cell.mask)
        if not area or cv2.countNonZero(cv2.bitwise_and(window, cell.mask)) > parameters.same_cell_share * area:
            continue
        cv2.bitwise_or(window, cell.mask, dst=window)
        kept.append((seed, points))
    return kept


_LEAST_LEFT = 0.75
"""Smallest share of a small cell that is left without what lies beside it."""


def _outlines_without(
    beside: NDArray[np.bool_], field: Evidence, seeds: list[Seed], um_per_px: float, parameters: FinderParameters
) -> list[Floats]:
    """Outlines without what lies beside the cells, bool (H, W).

    A late erythroblast's cytoplasm has the colour of red cells: a small cell of which too little is left keeps it.
    """

    def area_px(points: Floats) -> int:
        return int(cv2.countNonZero(filled(points, field.shape).mask))

    found = list(outlines(np.where(beside, np.int8(-SURE), field), seeds, um_per_px, parameters))
    small_px = 2 * parameters.least_cell_um2 / um_per_px**2
    small = [number for number, points in enumerate(found) if area_px(points) < small_px]
    if small:
        whole = list(outlines(field, seeds, um_per_px, parameters))
        for number in small:
            if area_px(found[number]) < _LEAST_LEFT * area_px(whole[number]):
                found[number] = whole[number]
    return found


def _platelets(field: Evidence, um_per_px: float, parameters: FinderParameters) -> NDArray[np.bool_]:
    """Pixels, by the evidence (H, W), of small objects that touch a cell by a narrow neck at most."""
    reach = parameters.platelet_neck_um / 2
    neck = _disc(reach / um_per_px)
    cores = cv2.erode((field > 0).astype(np.uint8), neck)
    x, y, width, height = cv2.boundingRect(cores)
    window = np.s_[y : y + height, x : x + width]
    if not cores[window].size:
        return np.zeros(field.shape, np.bool_)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cores[window], connectivity=4)
    radius_um = np.sqrt(stats[:, cv2.CC_STAT_AREA] / np.pi) * um_per_px + reach
    small = np.pi * radius_um**2 < parameters.platelet_um2
    small[0] = False
    loose = np.zeros_like(cores)
    loose[window] = small[labels]
    kept = cv2.dilate(cv2.subtract(cores, loose), neck)
    return np.asarray((cv2.dilate(loose, neck) > 0) & (kept == 0), np.bool_)


def _disc(radius_px: float) -> Image:
    """A disc for OpenCV's morphology, uint8, with a radius of at least one pixel."""
    size = 2 * max(1, round(radius_px)) + 1
    return as_image(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def _numbered(seeds: list[Seed], shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """uint16 (H, W): the number of the seed at each pixel, from 1; 0 elsewhere."""
    canvas = np.zeros(shape[:2], np.uint16)
    for number, seed in enumerate(seeds, 1):
        x, y, width, height = seed.box
        canvas[y : y + height, x : x + width][seed.mask > 0] = number
    return canvas


def outlines(field: Evidence, seeds: list[Seed], um_per_px: float, parameters: FinderParameters) -> Iterator[Floats]:
    """float32 (RAYS, 2) for each seed: its cell's outline as (x, y) in the pixels of ``field``, even beyond the frame.

    field: what ``evidence`` gives.
    """
    framed = np.pad(field, 1)
    owners = np.pad(_numbered(seeds, field.shape), 1)
    directions, radii = _rays(parameters.cell_radius_um)
    steps = np.rint(directions.T[:, :, np.newaxis] * (radii * _PARTS / um_per_px)).astype(np.int32)
    for first in range(0, len(seeds), _AT_ONCE):
        part = seeds[first : first + _AT_ONCE]
        costs = [_cost(framed, seed, number, owners, steps) for number, seed in enumerate(part, first + 1)]
        paths = closed_paths(np.stack(costs), round(parameters.smoothness * _PIXEL))
        for seed, chosen in zip(part, paths, strict=True):
            length = _smoothed(radii[chosen])[:, np.newaxis] / um_per_px
            yield np.asarray(np.array(seed.centre) + directions * length, np.float32)


_AT_ONCE = 32
"""Seeds whose outlines are found together."""


_PARTS = 64
"""Parts of a pixel in which a ray's points are given."""


def _cost(framed: Evidence, seed: Seed, number: int, owners: NDArray[np.uint16], steps: Levels) -> Levels:
    """int32 (RAYS, N): what it costs to end the cell at each radius in each direction, in whole numbers.

    framed: the evidence, and owners: the number of the seed at each pixel, ``number`` being this one's, both with a
    frame of 0; steps: (2, RAYS, N), x and y from the seed's centre in parts of a pixel.
    """
    x, y = (round(_PARTS * middle) + way for middle, way in zip(seed.centre, steps, strict=True))
    values = _bilinear(framed, x, y)
    owner = _at(owners, (x + _PARTS // 2) // _PARTS, (y + _PARTS // 2) // _PARTS)
    mine = owner == number
    values[(owner > 0) & ~mine] = -3 * _PIXEL
    # All pixels up to the farthest piece of its seed belong to the cell.
    last = np.where(mine.any(axis=1), mine.shape[1] - np.argmax(mine[:, ::-1], axis=1), 0)
    values[np.arange(values.shape[1]) < last[:, np.newaxis]] = 3 * _PIXEL
    return -np.cumsum(values, axis=1, dtype=np.int32)


_PIXEL = SURE * _PARTS**2
"""Evidence of one certain pixel, as it is summed up along a ray."""


def _bilinear(framed: Evidence, x: Levels, y: Levels) -> Levels:
    """The evidence between its pixels, at parts of them, times _PARTS ** 2."""
    column, row = x // _PARTS, y // _PARTS
    right, down = x % _PARTS, y % _PARTS
    upper, lower = (
        _at(framed, column, r).astype(np.int32) * (_PARTS - right) + _at(framed, column + 1, r) * right
        for r in (row, row + 1)
    )
    return np.asarray(upper * (_PARTS - down) + lower * down, np.int32)


def _at(framed: NDArray[Any], column: Levels, row: Levels) -> NDArray[Any]:
    """The values of an image with a frame of one pixel, whose value is that of all beyond."""
    height, width = framed.shape
    places = np.clip(row + 1, 0, height - 1) * width + np.clip(column + 1, 0, width - 1)
    return np.asarray(framed.ravel()[places])


@cache
def _rays(radius_um: float) -> tuple[Floats, Floats]:
    """Unit directions (RAYS, 2) and radii (N,) in micrometres."""
    angles = np.arange(RAYS) * (2 * math.pi / RAYS)
    radii = np.arange(_STEP_UM, radius_um, _STEP_UM)
    # Cosines differ in their last bits between processors.
    directions = np.round(np.stack([np.cos(angles), np.sin(angles)], axis=1), 6)
    return directions.astype(np.float32), radii.astype(np.float32)


_REACH = 3
"""Neighbouring rays differ by at most this many steps."""


def closed_paths(cost: Levels, smoothness: int) -> NDArray[np.intp]:
    """The step of each ray, int (cells, rays), with the least summed cost plus roughness; the rays form a circle.

    cost: int32 (cells, rays, steps), of a size below 2 ** 28. The circle is run through twice, and the settled turn in
    the middle is kept.
    """
    cells, rays, steps = cost.shape
    price = (smoothness * np.abs(np.arange(-_REACH, _REACH + 1, dtype=np.int32)))[:, np.newaxis, np.newaxis]
    framed = np.full((cells, steps + 2 * _REACH), 1 << 30, np.int32)
    total = framed[:, _REACH:-_REACH]
    total[:] = cost[:, 0]
    moved = sliding_window_view(framed, steps, axis=1).transpose(1, 0, 2)
    turns = 2 * rays
    back = np.empty((turns, cells, steps), np.int8)
    reached = np.empty(moved.shape, np.int32)
    for turn in range(1, turns):
        np.add(moved, price, out=reached)
        back[turn] = reached.argmin(axis=0)
        best = reached.min(axis=0) + cost[:, turn % rays]
        np.subtract(best, best.min(axis=1, keepdims=True), out=total)
    path = np.empty((turns, cells), np.intp)
    path[-1] = np.argmin(total, axis=1)
    every = np.arange(cells)
    for turn in range(turns - 1, 0, -1):
        path[turn - 1] = path[turn] + back[turn, every, path[turn]] - _REACH
    middle = path[rays // 2 : rays // 2 + rays]
    return np.roll(middle, rays // 2, axis=0).T


def _smoothed(radii: Floats) -> Floats:
    """Radii round the circle through a (1, 2, 1) / 4 window."""
    return np.asarray((np.roll(radii, 1) + 2 * radii + np.roll(radii, -1)) / 4, np.float32)
