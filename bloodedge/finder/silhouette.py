"""Filled outlines: the pixels of cells in a frame, each pixel one cell's."""

import itertools
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.finder.exact import Levels
from bloodedge.finder.light import Floats
from bloodedge.imaging import Image


@dataclass(frozen=True)
class Silhouette:
    """A filled outline: box (x, y, width, height) inside the frame, mask uint8 (height, width) 0/255."""

    box: tuple[int, int, int, int]
    mask: Image
    completeness: float
    """Share of the outline's own area that lies inside the frame."""


def filled(points: Floats, shape: tuple[int, ...]) -> Silhouette:
    """The outline (N, 2) filled inside a frame of ``shape``; the middle of its nucleus lies inside."""
    whole = cv2.contourArea(_parts(points)) / 256
    left, top = (max(0, int(v) - 1) for v in np.floor(points.min(axis=0)))
    right, bottom = (min(side, int(v) + 2) for v, side in zip(np.ceil(points.max(axis=0)), shape[1::-1], strict=True))
    mask = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillPoly(mask, [_parts(points - (left, top))], 255, shift=4)
    return trimmed(mask, (left, top), min(1.0, cv2.countNonZero(mask) / max(whole, 1.0)))


def _parts(points: NDArray[np.floating[Any]]) -> Levels:
    """Points in 16ths of a pixel."""
    return np.round(points * 16).astype(np.int32)


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
