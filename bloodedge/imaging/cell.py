"""A white cell: its pixels, its mask and its scale; and how a crop that was already cut out becomes one."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError

Image = NDArray[np.uint8]
"""uint8 (H, W, 3) or (H, W), 0..255."""

Light = tuple[int, int, int]
"""Level of the empty field, 0..255 BGR."""

Box = tuple[int, int, int, int]
"""(x, y, width, height) in pixels of a frame."""

CNMC_UM_PER_PX = 0.066
"""Estimated scale of C-NMC crops. The data set states 1000x and a 2560x1920 Nikon camera (3.4 µm pixels) but no scale;
with it the median healthy cell (24,200 px) measures 11.6 µm, inside the 7..15 µm of lymphocytes on a smear."""

SOURCE_LIGHT = 215
"""Level of the empty field, 0..255, that is assumed for a cell cut out onto black: that of a well-exposed slide."""

BACKGROUND_LEVEL = 10
"""A pixel of a cell cut out onto black belongs to the cell when its brightest channel is above this level."""


@dataclass(frozen=True)
class Cell:
    """One white cell cut out of a frame or read from a data set.

    bgr: uint8 (h, w, 3) BGR; mask: uint8 (h, w), 255 on the cell and 0 elsewhere; um_per_px: micrometres per pixel;
    light: the empty field's around it, None where that is not to be seen.
    """

    bgr: Image
    mask: Image
    um_per_px: float
    light: Light | None = None

    @cached_property
    def area_px(self) -> int:
        """Pixels that belong to the cell."""
        return int(cv2.countNonZero(self.mask))

    @property
    def area_um2(self) -> float:
        """Area in square micrometres."""
        return self.area_px * self.um_per_px**2


def as_image(array: NDArray[Any]) -> Image:
    """OpenCV's result, whose stubs leave the type open, as the uint8 array that it is; copies nothing."""
    return np.asarray(array, np.uint8)


EVEN_BORDER = 0.8
"""The background's colour fills at least this share of the border around a cell that was cut out."""
CLIPPED_BORDER = 0.4
"""A part that touches all four borders, along more than this share of them, is no whole cell; a closely cropped cell
touches less."""
NOT_ONE_CELL = (
    "It shows no single cell cut out onto an even background; cells of a whole field are found with: "
    "bloodedge find IMAGE"
)


class NotCutOutError(BloodedgeError):
    """A picture is no single cell cut out onto an even background."""


def cell_on_black(bgr: Image, um_per_px: float = CNMC_UM_PER_PX) -> Cell:
    """The cell of a crop that was already cut out: its largest part that is not background, holes filled.

    bgr: uint8 (h, w, 3), onto black as C-NMC's are, or onto another even colour, which is taken from the border. Raises
    BloodedgeError when the crop has one colour, NotCutOutError when it holds several cells (a second part of more than
    half the largest's area), or is a whole field or a piece of one.
    """
    blue, green, red = cv2.split(as_image(bgr if is_on_black(bgr) else cv2.absdiff(bgr, _background(bgr))))
    _, lit = cv2.threshold(cv2.max(cv2.max(blue, green), red), BACKGROUND_LEVEL, 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        raise BloodedgeError("The image holds no cell: it has one colour everywhere; remove it from the folder.")
    areas = [cv2.contourArea(contour) for contour in contours]
    largest = int(np.argmax(areas))
    if any(area > areas[largest] / 2 for i, area in enumerate(areas) if i != largest):
        raise NotCutOutError(NOT_ONE_CELL)
    mask = np.zeros(lit.shape, np.uint8)
    cv2.drawContours(mask, contours, largest, 255, cv2.FILLED)
    sides = mask[0], mask[-1], mask[:, 0], mask[:, -1]
    if all(side.any() for side in sides) and np.count_nonzero(border(mask)) > CLIPPED_BORDER * len(border(mask)):
        raise NotCutOutError(NOT_ONE_CELL)
    return Cell(bgr, mask, um_per_px)


def border(image: Image) -> Image:
    """The outermost pixels of an image (H, W) or (H, W, C), in a row: (N,) or (N, C)."""
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def is_on_black(bgr: Image) -> bool:
    """Whether most of a picture's border, uint8 (H, W, 3), is black."""
    brightest = border(bgr).max(axis=1)
    return 2 * int(np.count_nonzero(brightest <= BACKGROUND_LEVEL)) > len(brightest)


def _background(bgr: Image) -> Image:
    """An image like ``bgr`` of the colour that its border has; raises BloodedgeError where that is not even."""
    edge = border(bgr)
    colour = np.sort(edge, axis=0)[len(edge) // 2]
    even = (cv2.absdiff(edge, np.broadcast_to(colour, edge.shape)) <= BACKGROUND_LEVEL).all(axis=1)
    if np.count_nonzero(even) < EVEN_BORDER * len(edge):
        raise NotCutOutError(NOT_ONE_CELL)
    return as_image(np.broadcast_to(colour, bgr.shape))
