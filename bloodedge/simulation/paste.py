"""Real (or rendered) single cells put into a background frame, with their truth."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import LABELS
from bloodedge.errors import BloodedgeError
from bloodedge.finder.light import stain_of
from bloodedge.imaging import SOURCE_LIGHT, Cell, Image
from bloodedge.simulation.optics import Floats
from bloodedge.simulation.smear import Field, TrueCell

_EDGE_UM = 0.15
"""Blur of a pasted cell's edge: that of a 100x objective in focus."""

_TRIES = 60


def paste_cells(background_bgr: Image, cells: Sequence[tuple[Cell, str]], um_per_px: float, seed: int) -> Field:
    """``background_bgr`` with each (cell, "blast" or "normal") at a place of its own, where the frame is emptiest.

    background_bgr: uint8 (H, W, 3), ``um_per_px`` its scale, best without white cells of its own. A cell replaces what
    it covers: its transmittance (its levels over SOURCE_LIGHT) dims the background light around it. Each lies wholly
    inside the frame and overlaps no other; one for which no place is left is not pasted and not in the truth.
    Raises BloodedgeError when a cell is larger than the frame or a label is unknown.
    """
    rng = np.random.default_rng(seed)
    frame = background_bgr.astype(np.float32)
    light = _background_light(background_bgr)
    taken = np.zeros(frame.shape[:2], np.uint8)
    crowding = cv2.absdiff(frame, light).sum(axis=2)
    pasted = []
    for cell, label in cells:
        if label not in LABELS:
            raise BloodedgeError(f'A pasted cell is labelled "{label}"; use one of: {", ".join(LABELS)}.')
        through, mask = _rescaled(cell, um_per_px)
        spot = _emptiest(rng, mask, crowding, taken)
        if spot is None:
            continue
        window = slice(spot[1], spot[1] + mask.shape[0]), slice(spot[0], spot[0] + mask.shape[1])
        cover = _blurred(mask / 255, _EDGE_UM / um_per_px)[:, :, None]
        frame[window] += cover * (light[window] * through - frame[window])
        taken[window] |= mask
        x, y, width, height = cv2.boundingRect(mask)
        own = mask[y : y + height, x : x + width].copy()
        pasted.append(TrueCell(label, (spot[0] + x, spot[1] + y, width, height), own, cut_by_border=False))
    bgr = np.clip(np.rint(frame), 0, 255).astype(np.uint8)
    return Field(bgr, um_per_px, tuple(pasted))


def _background_light(bgr: Image) -> Floats:
    """The light between the cells, float32 (H, W, 3)."""
    light = stain_of(bgr).light.astype(np.float32)
    return np.asarray(cv2.resize(light, bgr.shape[1::-1], interpolation=cv2.INTER_LINEAR), np.float32)


def _rescaled(cell: Cell, um_per_px: float) -> tuple[Floats, Image]:
    """The cell with a margin, at another scale: (transmittance float32 (h, w, 3), mask uint8 (h, w))."""
    x, y, width, height = cv2.boundingRect(cell.mask)
    if width == 0:
        raise BloodedgeError("A cell to paste has an empty mask; leave it out.")
    zoom = cell.um_per_px / um_per_px
    margin = round(4 * _EDGE_UM / cell.um_per_px) + 1
    bgr, mask = (
        cv2.copyMakeBorder(whole[y : y + height, x : x + width], *4 * (margin,), cv2.BORDER_CONSTANT)
        for whole in (cell.bgr, cell.mask)
    )
    size = max(1, round(mask.shape[1] * zoom)), max(1, round(mask.shape[0] * zoom))
    kind = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    inside = (mask > 0).astype(np.float32)
    # A crop's outermost pixels are mixed with the black around it: colours come from farther in, and spread outwards.
    inner = cv2.erode(inside, np.ones((5, 5), np.uint8))
    inner = inner if inner.any() else inside
    weight = cv2.resize(inner, size, interpolation=kind)
    colour = cv2.resize(bgr * inner[:, :, None], size, interpolation=kind)
    spread = 3 * _EDGE_UM / um_per_px
    outward = _blurred(colour, spread) / np.maximum(_blurred(weight, spread), 1e-6)[:, :, None]
    levels = colour + (1 - weight)[:, :, None] * outward
    through = np.clip(levels / SOURCE_LIGHT, 0, 1).astype(np.float32)
    return through, np.where(cv2.resize(inside, size, interpolation=kind) >= 0.5, 255, 0).astype(np.uint8)


def _blurred(image: NDArray[np.generic], sigma_px: float) -> Floats:
    floats = image.astype(np.float32)
    return np.asarray(cv2.GaussianBlur(floats, (0, 0), max(sigma_px, 0.5), borderType=cv2.BORDER_CONSTANT), np.float32)


def _emptiest(rng: np.random.Generator, mask: Image, crowding: Floats, taken: Image) -> tuple[int, int] | None:
    """Of many random places (x, y), the one that covers least; None when each would overlap a pasted cell."""
    room_x, room_y = crowding.shape[1] - mask.shape[1], crowding.shape[0] - mask.shape[0]
    if min(room_x, room_y) < 0:
        raise BloodedgeError("A cell to paste is larger than the frame; use a larger frame or check the scales.")
    best, least = None, np.inf
    for _ in range(_TRIES):
        x, y = int(rng.integers(room_x + 1)), int(rng.integers(room_y + 1))
        window = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
        covered = float(crowding[window].mean())
        if covered < least and not cv2.countNonZero(cv2.bitwise_and(taken[window], mask)):
            best, least = (x, y), covered
    return best
