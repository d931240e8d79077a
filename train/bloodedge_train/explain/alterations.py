"""Cells altered in size, colour or texture, or reduced to their outline."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from bloodedge.evaluation.ensemble import rescaled
from bloodedge.imaging import Cell, as_image
from bloodedge_train.explain.cues import colour

BLUR_UM = 1.0
"""Sigma of the blur: chromatin's clumps and threads are finer, a nucleus of 7 µm or more and its place are not."""


def boxed(cell: Cell) -> Cell:
    """The cell without what lies about its bounding box."""
    x, y, width, height = cv2.boundingRect(cell.mask)
    window = slice(y, y + height), slice(x, x + width)
    return replace(cell, bgr=cell.bgr[window], mask=cell.mask[window])


def filled(cell: Cell) -> Cell:
    """Nothing but the outline: the cell filled with its mean colour."""
    mean = np.rint(colour(cell))
    return replace(cell, bgr=as_image(np.where(cell.mask[:, :, None] > 0, mean, 0)))


def grey(cell: Cell) -> Cell:
    """The cell without its colour."""
    plain = cv2.cvtColor(cell.bgr, cv2.COLOR_BGR2GRAY)
    return replace(cell, bgr=as_image(cv2.merge([plain] * 3)))


def blurred(cell: Cell) -> Cell:
    """The cell without its texture: each pixel the mean of those about it that belong to the cell."""
    sigma = BLUR_UM / cell.um_per_px
    inside = (cell.mask > 0).astype(np.float32)
    total = cv2.GaussianBlur(cell.bgr * inside[:, :, None], (0, 0), sigma)
    weight = np.maximum(cv2.GaussianBlur(inside, (0, 0), sigma), 1e-6)
    smooth = np.rint(total / weight[:, :, None]) * inside[:, :, None]
    return replace(cell, bgr=as_image(np.clip(smooth, 0, 255)))


ALTERATIONS: dict[str, Callable[[Cell], Cell]] = {
    "as it is": lambda cell: cell,
    "0.8 times the size": lambda cell: rescaled(cell, 0.8),
    "1.25 times the size": lambda cell: rescaled(cell, 1.25),
    "grey": grey,
    "blurred": blurred,
    "silhouette": filled,
}
