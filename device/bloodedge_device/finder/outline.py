"""The outline of a whole cell round its nucleus: the closed curve that best parts cell from surroundings.

Seen from the middle of its nucleus a cell is star-shaped: one radius per direction. Dynamic programming over the
directions finds the radii with the most evidence for cell inside and the least roughness.
"""

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from bloodedge.imaging import Image
from bloodedge_device.finder.light import Floats, Stain
from bloodedge_device.finder.nuclei import Nucleus
from bloodedge_device.finder.parameters import FinderParameters

RAYS = 64
_STEP_UM = 0.2


def evidence(stain: Stain, nuclei: list[Nucleus], um_per_px: float, parameters: FinderParameters) -> Floats:
    """float32 (H, W), -1..1: how much each pixel looks like a white cell rather than empty field or red cell.

    Nuclei are left at 0; ``outline`` gives each cell its own.
    """
    edge = parameters.cytoplasm_density * stain.red_cell
    green = cv2.GaussianBlur(stain.green, (0, 0), max(0.6, 0.15 / um_per_px))
    matter = np.clip(green / edge - 1, -1, 1)
    # Red cells have no nuclear stain at all; cytoplasm, even pink, has some for its density. Blurred over the coloured
    # fringes that a lens leaves round red cells.
    wide = max(0.6, parameters.fringe_um / um_per_px)
    tint = cv2.GaussianBlur(stain.nuclear, (0, 0), wide) / np.maximum(cv2.GaussianBlur(stain.green, (0, 0), wide), 0.02)
    white = np.clip((tint - parameters.cytoplasm_tint) / 0.3, -1, 1)
    return np.asarray(np.minimum(matter, white), np.float32)


def outline(
    field: Floats, nucleus: Nucleus, others: Image, um_per_px: float, parameters: FinderParameters
) -> np.ndarray:
    """float32 (RAYS, 2): the cell's outline as (x, y), in the pixels of ``field``; it may reach beyond the frame.

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
    # Everything on the way to the farthest piece of its nucleus belongs to the cell.
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


def closed_path(cost: Floats, smoothness: float) -> np.ndarray:
    """int (rays,): the step of each ray that minimises summed cost plus roughness, the last ray next to the first.

    cost: float32 (rays, steps). The circle is run through one and a half times, and the settled turn is kept.
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
    return (np.roll(radii, 1) + 2 * radii + np.roll(radii, -1)) / 4


@dataclass(frozen=True)
class Silhouette:
    """A filled outline: box (x, y, width, height) inside the frame, mask uint8 (height, width) 0/255."""

    box: tuple[int, int, int, int]
    mask: Image
    completeness: float
    """Share of the outline's own area that lies inside the frame."""


def filled(points: np.ndarray, shape: tuple[int, ...]) -> Silhouette | None:
    """The outline (N, 2) filled inside a frame of ``shape``; None when nothing of it is inside."""
    whole = cv2.contourArea(points.astype(np.float32))
    left, top = np.floor(points.min(axis=0)).astype(int) - 1
    right, bottom = np.ceil(points.max(axis=0)).astype(int) + 2
    left, top, right, bottom = max(0, left), max(0, top), min(shape[1], right), min(shape[0], bottom)
    if right <= left or bottom <= top:
        return None
    mask = np.zeros((bottom - top, right - left), np.uint8)
    shifted = np.round((points - (left, top)) * 16).astype(np.int32)
    cv2.fillPoly(mask, [shifted], 255, shift=4)
    x, y, width, height = cv2.boundingRect(mask)
    if width == 0:
        return None
    mask = np.ascontiguousarray(mask[y : y + height, x : x + width])
    completeness = min(1.0, cv2.countNonZero(mask) / max(whole, 1.0))
    return Silhouette((int(left + x), int(top + y), width, height), mask, completeness)
