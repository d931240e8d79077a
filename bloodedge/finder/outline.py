"""The outline of a cell round its nucleus: the closed curve that best separates it from its surroundings.

Seen from the middle of its nucleus a cell is star-shaped: one radius per direction. Dynamic programming over the
directions finds the radii with the most evidence for cell inside and the least roughness.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.finder.light import STAINED, Floats, Stain
from bloodedge.finder.network import PER_UNIT, ZERO, Maps
from bloodedge.finder.parameters import FinderParameters
from bloodedge.finder.seeds import Seed, seeds_in
from bloodedge.imaging import Image, as_image

RAYS = 64
_STEP_UM = 0.2


def evidence(maps: Maps, parameters: FinderParameters) -> Floats:
    """float32 (H, W), -1..1: how much each pixel looks like a white cell's rather than its surroundings'."""
    middle = ZERO + PER_UNIT * parameters.cell_odds
    table = np.clip((np.arange(256) - middle) / (2 * PER_UNIT), -1, 1).astype(np.float32)
    return np.asarray(cv2.LUT(maps.cell, table), np.float32)


def whole_cells(stain: Stain, maps: Maps, um_per_px: float, parameters: FinderParameters) -> list[tuple[Seed, Floats]]:
    """Each cell's seed and outline (RAYS, 2); of two outlines of one cell the likelier stays."""
    seeds = seeds_in(maps, um_per_px, parameters)
    if not seeds:
        return []
    shape = maps.cell.shape
    field = evidence(maps, parameters)
    # Between a platelet and the cell beside it the empty field shows.
    matter = np.where(stain.steps[:, :, 1] > STAINED, field, -1)
    field[_platelets(matter, um_per_px, parameters)] = -1
    kept: list[tuple[Seed, Floats]] = []
    owners = np.zeros(shape, np.uint8)
    for seed, points in zip(seeds, outlines(field, seeds, um_per_px, parameters), strict=True):
        cell = filled(points, shape)
        x, y, width, height = cell.box
        window = owners[y : y + height, x : x + width]
        area = cv2.countNonZero(cell.mask)
        if not area or cv2.countNonZero(cv2.bitwise_and(window, cell.mask)) > parameters.same_cell_share * area:
            continue
        cv2.bitwise_or(window, cell.mask, dst=window)
        kept.append((seed, points))
    return kept


def _platelets(field: Floats, um_per_px: float, parameters: FinderParameters) -> NDArray[np.bool_]:
    """Pixels, by the evidence (H, W), of small objects that touch a cell by a narrow neck at most."""
    reach = parameters.platelet_neck_um / 2
    neck = _disc(reach / um_per_px)
    cores = cv2.erode((field > 0).astype(np.uint8), neck)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cores, connectivity=4)
    radius_um = np.sqrt(stats[:, cv2.CC_STAT_AREA] / np.pi) * um_per_px + reach
    small = np.pi * radius_um**2 < parameters.platelet_um2
    small[0] = False
    loose = small[labels]
    kept = cv2.dilate(cores * ~loose, neck)
    return np.asarray((cv2.dilate(loose.astype(np.uint8), neck) > 0) & (kept == 0), np.bool_)


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


def outlines(field: Floats, seeds: list[Seed], um_per_px: float, parameters: FinderParameters) -> Iterator[Floats]:
    """float32 (RAYS, 2) for each seed: its cell's outline as (x, y) in the pixels of ``field``, even beyond the frame.

    field: what ``evidence`` gives.
    """
    owners = _numbered(seeds, field.shape)
    directions, radii = _rays(parameters.cell_radius_um)
    for first in range(0, len(seeds), _AT_ONCE):
        part = seeds[first : first + _AT_ONCE]
        costs = [
            _cost(field, seed, number, owners, directions, radii / um_per_px)
            for number, seed in enumerate(part, first + 1)
        ]
        for seed, chosen in zip(part, closed_paths(np.stack(costs), parameters.smoothness), strict=True):
            length = _smoothed(radii[chosen])[:, np.newaxis] / um_per_px
            yield np.asarray(np.array(seed.centre) + directions * length, np.float32)


_AT_ONCE = 32
"""Seeds whose outlines are found together."""


def _cost(
    field: Floats, seed: Seed, number: int, owners: NDArray[np.uint16], directions: Floats, radii_px: Floats
) -> Floats:
    """float32 (RAYS, N): what it costs to end the cell at each radius in each direction.

    owners: the number of the seed at each pixel, ``number`` being this one's.
    """
    x, y = seed.centre
    columns = (x + directions[:, :1] * radii_px).astype(np.float32)
    rows = (y + directions[:, 1:] * radii_px).astype(np.float32)
    values = cv2.remap(field, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    owner = cv2.remap(owners, columns, rows, cv2.INTER_NEAREST)
    mine, theirs = owner == number, (owner > 0) & (owner != number)
    values = np.where(theirs, -3, values)
    # All pixels up to the farthest piece of its seed belong to the cell.
    last = np.where(mine.any(axis=1), mine.shape[1] - np.argmax(mine[:, ::-1], axis=1), 0)
    values = np.where(np.arange(values.shape[1]) < last[:, None], 3, values)
    return -np.cumsum(values, axis=1).astype(np.float32)


@cache
def _rays(radius_um: float) -> tuple[Floats, Floats]:
    """Unit directions (RAYS, 2) and radii (N,) in micrometres."""
    angles = np.arange(RAYS) * (2 * math.pi / RAYS)
    radii = np.arange(_STEP_UM, radius_um, _STEP_UM)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), radii.astype(np.float32)


_REACH = 3
"""Neighbouring rays differ by at most this many steps."""


def closed_paths(cost: Floats, smoothness: float) -> NDArray[np.intp]:
    """The step of each ray, int (cells, rays), with the least summed cost plus roughness; the rays form a circle.

    cost: float32 (cells, rays, steps). The circle is run through twice, and the settled turn in the middle is kept.
    """
    cells, rays, steps = cost.shape
    price = smoothness * np.abs(np.arange(-_REACH, _REACH + 1)).astype(np.float32)
    total = np.full((cells, steps + 2 * _REACH), np.inf, np.float32)
    total[:, _REACH:-_REACH] = cost[:, 0]
    turns = 2 * rays
    back = np.empty((turns, cells, steps), np.int8)
    for turn in range(1, turns):
        best = total[:, :steps] + price[0]
        back[turn] = -_REACH
        for shift in range(1, 2 * _REACH + 1):
            reached = total[:, shift : shift + steps] + price[shift]
            back[turn][reached < best] = shift - _REACH
            np.minimum(best, reached, out=best)
        best += cost[:, turn % rays]
        total[:, _REACH:-_REACH] = best - best.min(axis=1, keepdims=True)
    path = np.empty((turns, cells), np.intp)
    path[-1] = np.argmin(total[:, _REACH:-_REACH], axis=1)
    every = np.arange(cells)
    for turn in range(turns - 1, 0, -1):
        path[turn - 1] = path[turn] + back[turn, every, path[turn]]
    middle = path[rays // 2 : rays // 2 + rays]
    return np.roll(middle, rays // 2, axis=0).T


def _smoothed(radii: Floats) -> Floats:
    """Radii round the circle through a (1, 2, 1) / 4 window."""
    return np.asarray((np.roll(radii, 1) + 2 * radii + np.roll(radii, -1)) / 4, np.float32)


@dataclass(frozen=True)
class Silhouette:
    """A filled outline: box (x, y, width, height) inside the frame, mask uint8 (height, width) 0/255."""

    box: tuple[int, int, int, int]
    mask: Image
    completeness: float
    """Share of the outline's own area that lies inside the frame."""


def filled(points: Floats, shape: tuple[int, ...]) -> Silhouette:
    """The outline (N, 2) filled inside a frame of ``shape``; the middle of its nucleus lies inside."""
    whole = cv2.contourArea(points.astype(np.float32))
    left, top = (max(0, int(v) - 1) for v in np.floor(points.min(axis=0)))
    right, bottom = (min(side, int(v) + 2) for v, side in zip(np.ceil(points.max(axis=0)), shape[1::-1], strict=True))
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [np.round((points - (left, top)) * 16).astype(np.int32)], 255, shift=4)
    return trimmed(mask, (left, top), min(1.0, cv2.countNonZero(mask) / max(whole, 1.0)))


def trimmed(mask: Image, corner: tuple[int, int], completeness: float) -> Silhouette:
    """The mask, whose corner is at ``corner`` of the frame, cut to its pixels."""
    x, y, width, height = cv2.boundingRect(mask)
    inner = np.ascontiguousarray(mask[y : y + height, x : x + width])
    return Silhouette((corner[0] + x, corner[1] + y, width, height), inner, completeness)


def exclusive(cells: list[Silhouette]) -> list[Silhouette]:
    """Silhouettes that share no pixel: of two that overlap, each keeps what is nearer to its middle in its radii."""
    masks = [cell.mask.copy() for cell in cells]
    for i, j in itertools.combinations(range(len(cells)), 2):
        left, top = (max(cells[i].box[k], cells[j].box[k]) for k in (0, 1))
        right, bottom = (min(cells[n].box[k] + cells[n].box[k + 2] for n in (i, j)) for k in (0, 1))
        if right <= left or bottom <= top:
            continue
        windows, reaches = [], []
        for n in (i, j):
            x, y, _, _ = cells[n].box
            windows.append(masks[n][top - y : bottom - y, left - x : right - x])
            reaches.append(_reach(cells[n], np.arange(left, right), np.arange(top, bottom)))
        both = (windows[0] > 0) & (windows[1] > 0)
        windows[0][both & (reaches[0] > reaches[1])] = 0
        windows[1][both & (reaches[0] <= reaches[1])] = 0
    return [trimmed(mask, cell.box[:2], cell.completeness) for mask, cell in zip(masks, cells, strict=True)]


def _reach(cell: Silhouette, columns: NDArray[np.intp], rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Distance from a cell's middle in units of its radius, squared, (rows, columns)."""
    moments = cv2.moments(cell.mask, binaryImage=True)
    x = cell.box[0] + moments["m10"] / moments["m00"]
    y = cell.box[1] + moments["m01"] / moments["m00"]
    squared = (columns[np.newaxis, :] - x) ** 2 + (rows[:, np.newaxis] - y) ** 2
    return np.asarray(squared / moments["m00"], np.float64)
