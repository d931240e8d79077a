"""A cell cut out of a crop that shows its surroundings: the one in the middle, by the cell finder."""

from collections.abc import Iterable
from itertools import islice
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np

from bloodedge.engine import require
from bloodedge.errors import BloodedgeError
from bloodedge.finder import Found, FoundCell, estimate_um_per_px, find_cells
from bloodedge.imaging import Cell, Image, Light, as_image

LEAST_COMPLETE = 0.9
"""Share of the cell that a tight crop must show."""
MOST_BESIDE = 3
"""A picture with more white cells than these beside the one in the middle is a field, and no crop of one."""
NO_SCALE = (
    "It shows no single cell cut out onto an even background; with --um-per-px X the finder cuts out the one in the "
    "middle of a crop, and cells of a whole field are found with: bloodedge find IMAGE"
)
MEASURED = 8
"""Pictures whose red cells suggest a scale."""


class Cut(NamedTuple):
    """Where the cell of a crop lies."""

    mask: bytes
    """As ``packed`` gave it."""
    light: Light | None
    """The empty field's at the cell; None where it is not known."""

    def cell(self, bgr: Image, um_per_px: float) -> Cell:
        """The cell of the crop, in its own box."""
        decoded = cv2.imdecode(np.frombuffer(self.mask, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert decoded is not None
        whole = as_image(decoded)
        x, y, width, height = cv2.boundingRect(whole)
        box = np.s_[y : y + height, x : x + width]
        return Cell(bgr[box].copy(), whole[box].copy(), um_per_px, self.light)


def central_cell(bgr: Image, um_per_px: float | None) -> Cut:
    """The white cell in the middle of a crop uint8 (H, W, 3) BGR.

    Raises UsageError without LiteRT, which runs the finder, and BloodedgeError when the crop shows no such cell or its
    scale is not known.
    """
    require("litert")
    if um_per_px is None:
        raise BloodedgeError(NO_SCALE)
    cell = _central(find_cells(bgr, um_per_px), bgr.shape[:2])
    mask = np.zeros(bgr.shape[:2], np.uint8)
    x, y, width, height = cell.box
    mask[y : y + height, x : x + width] = cell.mask
    return Cut(packed(mask), cell.light)


def suggested_scale(images: Iterable[Image]) -> str:
    """A sentence on the scale that the red cells in some crops suggest; empty where too few are to be seen."""
    found = [scale for image in islice(images, MEASURED) if (scale := estimate_um_per_px(image)) is not None]
    if len(found) < 3:
        return ""
    return f". The red cells in {len(found)} of them suggest X = {median(found):.2g}."


def _central(found: Found, shape: tuple[int, int]) -> FoundCell:
    """The whole white cell that the middle of the picture lies in; raises BloodedgeError when there is none."""
    cells = found.cells
    if not cells:
        raise BloodedgeError(f"The finder sees no white cell in it at {found.um_per_px:g} micrometres per pixel.")
    if len(cells) > 1 + MOST_BESIDE:
        raise BloodedgeError(
            f"It shows {len(cells)} white cells, not one in the middle; cells of a field are found with: bloodedge find"
        )
    number = found.central(shape)
    if number is None:
        raise BloodedgeError("It shows a white cell, but none in its middle.")
    if cells[number].completeness < LEAST_COMPLETE:
        raise BloodedgeError("The border of the picture cuts its cell.")
    return cells[number]


def packed(mask: Image) -> bytes:
    """A mask as a PNG file of one bit a pixel."""
    return bytes(cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_BILEVEL, 1])[1])
