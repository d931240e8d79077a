"""The outline of a cell round its nucleus: the closed curve that best separates it from its surroundings.

Seen from the middle of its nucleus a cell is star-shaped: one radius per direction. Dynamic programming over the
directions finds the radii with the most evidence for cell inside and the least roughness.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging import Image
from bloodedge_device.finder.light import Floats, Stain
from bloodedge_device.finder.nuclei import Nucleus, disc
from bloodedge_device.finder.parameters import FinderParameters

RAYS = 64
_STEP_UM = 0.2
_LEAST_GREEN = 0.02
"""Lowest green density of which shares are meaningful."""


def evidence(stain: Stain, nuclei: list[Nucleus], um_per_px: float, parameters: FinderParameters) -> Floats:
    """float32 (H, W), -1..1: how much each pixel looks like a white cell rather than empty field or red cell."""
    edge = parameters.cytoplasm_density * stain.red_cell
    green = cv2.GaussianBlur(stain.green, (0, 0), max(0.6, 0.15 / um_per_px))
    matter = np.clip(green / edge - 1, -1, 1)
    # Red cells have no nuclear stain at all; cytoplasm, even pink, has some for its density. Blurred over the coloured
    # fringes that a lens leaves round red cells.
    wide = max(0.6, parameters.fringe_um / um_per_px)
    nuclear, all_green = (cv2.GaussianBlur(density, (0, 0), wide) for density in (stain.nuclear, stain.green))
    tint = nuclear / np.maximum(all_green, _LEAST_GREEN)
    deep = float(np.median([_tint(stain, nucleus) for nucleus in nuclei]))
    white = np.clip((tint / deep - parameters.cytoplasm_tint) / 0.2, -1, 1)
    return np.asarray(np.minimum(matter, white), np.float32)


def _platelets(field: Floats, um_per_px: float, parameters: FinderParameters) -> NDArray[np.bool_]:
    """Pixels, by the evidence (H, W), of small objects that touch a cell by a narrow neck at most."""
    reach = parameters.platelet_neck_um / 2
    neck = disc(reach / um_per_px)
    cores = cv2.erode((field > 0).astype(np.uint8), neck)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cores, connectivity=4)
    radius_um = np.sqrt(stats[:, cv2.CC_STAT_AREA] / np.pi) * um_per_px + reach
    small = np.pi * radius_um**2 < parameters.platelet_um2
    small[0] = False
    loose = small[labels]
    kept = cv2.dilate(cores * ~loose, neck)
    return np.asarray((cv2.dilate(loose.astype(np.uint8), neck) > 0) & (kept == 0), np.bool_)


def _tint(stain: Stain, nucleus: Nucleus) -> float:
    """Nuclear stain of a nucleus as a share of its green density."""
    x, y, width, height = nucleus.box
    window = np.s_[y : y + height, x : x + width]
    nuclear = cv2.mean(stain.nuclear[window], mask=nucleus.mask)[0]
    return float(nuclear / max(cv2.mean(stain.green[window], mask=nucleus.mask)[0], _LEAST_GREEN))


def whole_cells(
    stain: Stain, nuclei: list[Nucleus], um_per_px: float, parameters: FinderParameters
) -> list[tuple[Nucleus, Floats]]:
    """Each cell's nucleus and outline (RAYS, 2); nuclei whose outlines form one cell are merged."""
    if not nuclei:
        return []
    field = evidence(stain, nuclei, um_per_px, parameters)
    shape = stain.green.shape
    everyone = _painted(nuclei, shape)

    def traced(nucleus: Nucleus) -> tuple[Nucleus, Floats]:
        return nucleus, outline(field, nucleus, everyone, um_per_px, parameters)

    cells = [traced(nucleus) for nucleus in nuclei]
    while (pair := _one_cell(cells, shape, um_per_px, parameters)) is not None:
        first, second = (cells[index][0] for index in pair)
        cells = [cell for index, cell in enumerate(cells) if index not in pair]
        cells.append(traced(_joined(first, second, shape)))
    platelets = _platelets(field, um_per_px, parameters)
    if not platelets.any():
        return cells
    field[platelets] = -1
    return [traced(nucleus) for nucleus, _ in cells]


def _one_cell(
    cells: list[tuple[Nucleus, Floats]], shape: tuple[int, ...], um_per_px: float, parameters: FinderParameters
) -> tuple[int, int] | None:
    """Indices of two outlines of one cell; None when there are none."""
    for i, j in itertools.combinations(range(len(cells)), 2):
        first, second = cells[i][1], cells[j][1]
        if (first.min(axis=0) > second.max(axis=0)).any() or (second.min(axis=0) > first.max(axis=0)).any():
            continue
        masks = [np.zeros(shape, np.uint8) for _ in range(2)]
        for mask, points in zip(masks, (first, second), strict=True):
            cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255)
        shared = cv2.countNonZero(cv2.bitwise_and(*masks))
        smaller = min(cv2.countNonZero(mask) for mask in masks)
        if shared < parameters.one_cell_overlap * smaller:
            continue
        contours, _ = cv2.findContours(cv2.bitwise_or(*masks), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        union = max(contours, key=cv2.contourArea)
        area = cv2.contourArea(union)
        solid = area >= parameters.one_cell_solidity * cv2.contourArea(cv2.convexHull(union))
        if solid and area * um_per_px**2 <= parameters.one_cell_um2:
            return i, j
    return None


def _joined(first: Nucleus, second: Nucleus, shape: tuple[int, ...]) -> Nucleus:
    canvas = _painted([first, second], shape)
    x, y, width, height = cv2.boundingRect(canvas)
    mask = np.ascontiguousarray(canvas[y : y + height, x : x + width])
    return Nucleus((x, y, width, height), mask, first.cut or second.cut)


def _painted(nuclei: list[Nucleus], shape: tuple[int, ...]) -> Image:
    """uint8 (H, W), 255 on every nucleus."""
    canvas = np.zeros(shape[:2], np.uint8)
    for nucleus in nuclei:
        x, y, width, height = nucleus.box
        window = canvas[y : y + height, x : x + width]
        cv2.bitwise_or(window, nucleus.mask, dst=window)
    return canvas


def outline(field: Floats, nucleus: Nucleus, others: Image, um_per_px: float, parameters: FinderParameters) -> Floats:
    """float32 (RAYS, 2): the cell's outline as (x, y) in the pixels of ``field``, possibly beyond the frame.

    field: what ``evidence`` gives; others: uint8 (H, W), 255 on all nuclei, this one included.
    """
    x, y = nucleus.centre
    own = np.zeros_like(others)
    left, top, width, height = nucleus.box
    own[top : top + height, left : left + width] = nucleus.mask
    directions, radii = _rays(parameters.cell_radius_um)
    columns = (x + directions[:, :1] * radii / um_per_px).astype(np.float32)
    rows = (y + directions[:, 1:] * radii / um_per_px).astype(np.float32)
    values = cv2.remap(field, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    mine = cv2.remap(own, columns, rows, cv2.INTER_NEAREST) > 0
    theirs = (cv2.remap(others, columns, rows, cv2.INTER_NEAREST) > 0) & ~mine
    values = np.where(theirs, -3, values)
    # All pixels up to the farthest piece of its nucleus belong to the cell.
    last = np.where(mine.any(axis=1), mine.shape[1] - np.argmax(mine[:, ::-1], axis=1), 0)
    values = np.where(np.arange(values.shape[1]) < last[:, None], 3, values)
    chosen = closed_path(-np.cumsum(values, axis=1).astype(np.float32), parameters.smoothness)
    length = _smoothed(radii[chosen])
    return np.stack([x + directions[:, 0] * length / um_per_px, y + directions[:, 1] * length / um_per_px], axis=1)


@cache
def _rays(radius_um: float) -> tuple[Floats, Floats]:
    """Unit directions (RAYS, 2) and radii (N,) in micrometres."""
    angles = np.arange(RAYS) * (2 * math.pi / RAYS)
    radii = np.arange(_STEP_UM, radius_um, _STEP_UM)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32), radii.astype(np.float32)


_REACH = 3
"""Neighbouring rays differ by at most this many steps."""


def closed_path(cost: Floats, smoothness: float) -> NDArray[np.intp]:
    """The step of each ray, int (rays,), with the least summed cost plus roughness; the last ray is next to the first.

    cost: float32 (rays, steps). The circle is run through twice, and the settled turn in the middle is kept.
    """
    rays, steps = cost.shape
    shifts = np.arange(-_REACH, _REACH + 1)
    price = smoothness * np.abs(shifts)[:, None].astype(np.float32)
    total = np.full(steps + 2 * _REACH, np.inf, np.float32)
    total[_REACH:-_REACH] = cost[0]
    turns = 2 * rays
    back = np.empty((turns, steps), np.int8)
    windows = np.lib.stride_tricks.sliding_window_view(total, steps)
    for turn in range(1, turns):
        reached = windows + price
        best = np.argmin(reached, axis=0)
        back[turn] = best - _REACH
        total[_REACH:-_REACH] = reached[best, np.arange(steps)] + cost[turn % rays]
        total[_REACH:-_REACH] -= total[_REACH:-_REACH].min()
    path = np.empty(turns, np.intp)
    path[-1] = int(np.argmin(total[_REACH:-_REACH]))
    for turn in range(turns - 1, 0, -1):
        path[turn - 1] = path[turn] + back[turn][path[turn]]
    middle = path[rays // 2 : rays // 2 + rays]
    return np.roll(middle, rays // 2)


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
