"""The one preprocessing: a segmented cell becomes the network's input, on the GPU host and on the board alike.

Only integer arithmetic and OpenCV's bit-exact filters are used, so that the same cell gives the same bytes on every
machine (where a spec asks for a stain, the same cell and dyes: ``bloodedge.imaging.restain``). The spec travels with
the run folder and the bundle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.imaging.denoise import denoise
from bloodedge.imaging.optical_density import density_table
from bloodedge.imaging.picture_files import is_truncated, tiff_pages
from bloodedge.imaging.restain import SOURCE_LIGHT, Light, StainBasis, densities, fit_stain, restained

Image = NDArray[np.uint8]
"""uint8 (H, W, 3) or (H, W), 0..255."""

Counts = NDArray[np.int64]

CNMC_UM_PER_PX = 0.066
"""Estimated scale of C-NMC crops. The data set states 1000x and a 2560x1920 Nikon camera (3.4 µm pixels) but no scale;
with it the median healthy cell (24,200 px) measures 11.6 µm, inside the 7..15 µm of lymphocytes on a smear."""

BACKGROUND_LEVEL = 10
"""A pixel of a cell cut out onto black belongs to the cell when its brightest channel is above this level."""

SMALLEST_SIDE_PX, LARGEST_SIDE_PX = 16, 16384


class ImagingSpec(Strict):
    """How a cell becomes network input; every stage applies the one that the run folder or bundle carries."""

    size_px: int = Field(default=160, ge=32, le=1024)
    um_per_px: float = Field(default=2 * CNMC_UM_PER_PX, gt=0.01, lt=2)
    scale: Literal["physical", "canonical"] = "physical"
    """physical: every cell at ``um_per_px``; canonical: every cell resampled to ``area_fraction`` of the frame."""
    area_fraction: float = Field(default=0.45, gt=0.05, lt=0.9)
    light: Literal["as_is", "levelled", "equalised"] = "as_is"
    """levelled: each channel's 10th and 90th percentiles inside the mask are moved to fixed levels; equalised: each
    channel's histogram inside the mask is flattened."""
    denoise: Literal["none", "gaussian", "median", "wavelet"] = "none"
    """A filter of the cell before anything else (see ``bloodedge.imaging.denoise``)."""
    colour: Literal["rgb", "density"] = "rgb"
    """rgb: intensities; density: optical densities (``bloodedge.imaging.optical_density``), 0 round the cell."""
    stain: StainBasis | None = None
    """The dyes that every cell is brought to (``bloodedge.imaging.restain``): from the dyes of its slide where they are
    known, else from its own pixels. None leaves cells as they are."""


@dataclass(frozen=True)
class Cell:
    """One white cell cut out of a frame or read from a data set.

    bgr: uint8 (h, w, 3) BGR; mask: uint8 (h, w), 255 on the cell and 0 elsewhere; um_per_px: micrometres per pixel;
    light: level of the empty field where it lies; stain: its slide's dyes, None where they are not known.
    """

    bgr: Image
    mask: Image
    um_per_px: float
    light: Light = (SOURCE_LIGHT,) * 3
    stain: StainBasis | None = None

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


def read_image(path: Path) -> Image:
    """A colour image file as uint8 (H, W, 3) BGR; see decode_image for what becomes of alpha and of 16 bits.

    Raises BloodedgeError when the file is missing, truncated, grey, of several pictures or of an impossible size.
    """
    return decode_image(_read(path), str(path))


def read_images(path: Path) -> list[Image]:
    """Every picture of a file, as read_image gives the one; a TIFF file may hold many. Raises as read_image."""
    data, name = _read(path), str(path)
    if len(tiff_pages(data)) < 2:
        return [decode_image(data, name)]
    _check_file(data, name)
    _, pages = cv2.imdecodemulti(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if len(pages) != len(tiff_pages(data)):
        raise BloodedgeError(f"{name} is truncated or not an image; copy it again from its source.")
    return [_decoded(page, f"{name}, page {number}") for number, page in enumerate(pages, 1)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BloodedgeError(f"{path} cannot be read ({error.strerror}); check its name and permissions.") from error


def decode_image(data: bytes, name: str) -> Image:
    """Encoded image bytes as uint8 (H, W, 3) BGR; ``name`` is used in errors. Raises BloodedgeError as read_image.

    Transparent pixels become black. 16-bit values are divided by 257, so that 65535 becomes 255; where none is above
    4095, as cameras of 12 bits store them, by 16.
    """
    _check_file(data, name)
    pages = len(tiff_pages(data))
    if pages > 1:
        raise BloodedgeError(f"{name} holds {pages} pictures; save each as a file of its own.")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        image = None
    if image is None:
        raise BloodedgeError(f"{name} is truncated or not an image; copy it again from its source.")
    return _decoded(image, name)


def _check_file(data: bytes, name: str) -> None:
    """Raise BloodedgeError for what OpenCV would read wrongly without a word."""
    if not data:
        raise BloodedgeError(f"{name} is empty; copy it again from its source.")
    if is_truncated(data):
        raise BloodedgeError(f"{name} is truncated or not an image; copy it again from its source.")
    if any(page.lab for page in tiff_pages(data)):
        raise BloodedgeError(f"{name} stores its colours as CIELAB; save it as RGB.")


HALF_OPAQUE = 128
TWELVE_BITS = 4095


def _decoded(image: NDArray[np.generic], name: str) -> Image:
    """What OpenCV read of a file as 8-bit colour, as decode_image says; raises BloodedgeError as colour_8bit."""
    if image.dtype == np.uint16:
        deep = np.asarray(image, np.uint16)
        image = as_image(deep // (16 if int(deep.max(initial=0)) <= TWELVE_BITS else 257))
    bgr = colour_8bit(image, name)
    if image.shape[2] == 4:
        bgr[as_image(image[:, :, 3]) < HALF_OPAQUE] = 0
    return bgr


def colour_8bit(image: NDArray[np.generic], name: str) -> Image:
    """``image`` checked to be an 8-bit colour picture, its alpha channel (if any) dropped; raises BloodedgeError."""
    if image.dtype != np.uint8:
        bits = image.dtype.itemsize * 8
        raise BloodedgeError(f"{name} has {bits} bits per channel; save it as an 8-bit colour image.")
    if image.ndim != 3 or image.shape[2] not in (3, 4):
        raise BloodedgeError(f"{name} is a grey image; stained cells need colour, save it as 8-bit RGB.")
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE_PX or max(height, width) > LARGEST_SIDE_PX:
        raise BloodedgeError(
            f"{name} is {width}x{height} pixels; sides from {SMALLEST_SIDE_PX} to {LARGEST_SIDE_PX} are supported."
        )
    return as_image(np.ascontiguousarray(image[:, :, :3]))


EVEN_BORDER = 0.8
"""A cell that was cut out has its background's colour along at least so much of the crop's border, or lies on black."""
CLIPPED_BORDER = 0.4
"""A part that touches all four borders along more of them than this is no whole cell. A cell that was cropped closely
touches them along less."""
NOT_ONE_CELL = (
    "It shows no single cell cut out onto an even background; cells of a whole field are found with: "
    "bloodedge find IMAGE"
)


def cell_on_black(bgr: Image, um_per_px: float = CNMC_UM_PER_PX) -> Cell:
    """The cell of a crop that was already cut out: its largest part that is not background, holes filled.

    A part of more than half its area beside it says that the crop holds several.

    bgr: uint8 (h, w, 3), onto black as C-NMC's are, or onto another even colour, which the border tells. Raises
    BloodedgeError when nothing in the crop stands out, or when it is a whole field or a piece of one.
    """
    blue, green, red = cv2.split(as_image(bgr if _on_black(bgr) else cv2.absdiff(bgr, _background(bgr))))
    _, lit = cv2.threshold(cv2.max(cv2.max(blue, green), red), BACKGROUND_LEVEL, 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(lit, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        raise BloodedgeError("The image holds no cell: it has one colour everywhere; remove it from the folder.")
    areas = [cv2.contourArea(contour) for contour in contours]
    largest = int(np.argmax(areas))
    if any(area > areas[largest] / 2 for i, area in enumerate(areas) if i != largest):
        raise BloodedgeError(NOT_ONE_CELL)
    mask = np.zeros(lit.shape, np.uint8)
    cv2.drawContours(mask, contours, largest, 255, cv2.FILLED)
    sides = mask[0], mask[-1], mask[:, 0], mask[:, -1]
    if all(side.any() for side in sides) and np.count_nonzero(border(mask)) > CLIPPED_BORDER * len(border(mask)):
        raise BloodedgeError(NOT_ONE_CELL)
    return Cell(bgr, mask, um_per_px)


def border(image: Image) -> Image:
    """The outermost pixels of an image (H, W) or (H, W, C), in a row: (N,) or (N, C)."""
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def _on_black(bgr: Image) -> bool:
    """Whether most of the border is black."""
    brightest = border(bgr).max(axis=1)
    return 2 * int(np.count_nonzero(brightest <= BACKGROUND_LEVEL)) > len(brightest)


def _background(bgr: Image) -> Image:
    """An image like ``bgr`` of the colour that its border has; raises BloodedgeError where that is not even."""
    edge = border(bgr)
    colour = np.sort(edge, axis=0)[len(edge) // 2]
    even = (cv2.absdiff(edge, np.broadcast_to(colour, edge.shape)) <= BACKGROUND_LEVEL).all(axis=1)
    if np.count_nonzero(even) < EVEN_BORDER * len(edge):
        raise BloodedgeError(NOT_ONE_CELL)
    return as_image(np.broadcast_to(colour, bgr.shape))


def network_input(cell: Cell, spec: ImagingSpec) -> Image:
    """The cell as network input: uint8 (spec.size_px, spec.size_px, 3) RGB, 0 outside the mask.

    The cell's bounding box is centred; what reaches beyond the frame is cut. Raises BloodedgeError for an empty mask.
    """
    x, y, width, height = cv2.boundingRect(cell.mask)
    if width == 0:
        raise BloodedgeError("The cell's mask is empty; nothing can be classified.")
    mask = cell.mask[y : y + height, x : x + width]
    bgr = cell.bgr[y : y + height, x : x + width]
    if spec.denoise != "none":
        bgr = denoise(bgr, mask, spec.denoise)
    if spec.stain is not None:
        stain = cell.stain or fit_stain(densities(bgr, mask, cell.light))
        bgr = restained(bgr, cell.light, stain, spec.stain)
    if spec.light != "as_is":
        bgr = _relight(bgr, mask, _levels if spec.light == "levelled" else _equal_shares)
    if spec.colour == "density":
        # Before resampling: darkened by the black beyond it, the cell's rim would else look dense.
        bgr = as_image(cv2.LUT(bgr, density_table()))
    cut = as_image(cv2.bitwise_and(bgr, bgr, mask=mask))
    scaled = _resample(cut, _zoom(cell, spec))
    return as_image(cv2.cvtColor(_centred(scaled, spec.size_px), cv2.COLOR_BGR2RGB))


def _zoom(cell: Cell, spec: ImagingSpec) -> float:
    if spec.scale == "physical":
        return cell.um_per_px / spec.um_per_px
    return float(np.sqrt(spec.area_fraction * spec.size_px**2 / cell.area_px))


def _resample(image: Image, zoom: float) -> Image:
    """``image`` scaled by ``zoom``: exact 2x2 means while it shrinks by half or more, then bit-exact bilinear."""
    while zoom <= 0.5:
        height, width = image.shape[:2]
        even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT)
        image = as_image(cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
        zoom *= 2
    if zoom == 1:
        return image
    size = max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom))
    return as_image(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT))


def _centred(image: Image, size_px: int) -> Image:
    frame = np.zeros((size_px, size_px, 3), np.uint8)
    height, width = image.shape[:2]
    top, left = (size_px - height) // 2, (size_px - width) // 2
    source = image[max(0, -top) : max(0, -top) + size_px, max(0, -left) : max(0, -left) + size_px]
    top, left = max(0, top), max(0, left)
    frame[top : top + source.shape[0], left : left + source.shape[1]] = source
    return frame


def _relight(bgr: Image, mask: Image, table: Callable[[Counts], Counts]) -> Image:
    """Each channel through the lookup table that ``table`` makes of its histogram inside the mask."""
    tables = np.empty((256, 1, 3), np.uint8)
    for channel in range(3):
        counts = cv2.calcHist([bgr], [channel], mask, [256], [0, 256]).ravel().astype(np.int64)
        tables[:, 0, channel] = np.clip(table(counts), 1, 255)
    return as_image(cv2.LUT(bgr, tables))


def _equal_shares(counts: Counts) -> Counts:
    """Levels spread evenly over 1..255 by rank."""
    below = np.cumsum(counts) - counts
    return np.asarray(1 + (254 * (2 * below + counts)) // (2 * counts.sum()), np.int64)


LEVELS = 80, 190
"""Where the 10th and 90th percentiles go: about where C-NMC's median cell has them."""


def _levels(counts: Counts) -> Counts:
    """A straight line that takes the 10th and 90th percentiles to fixed levels."""
    share = np.cumsum(counts) * 10
    low, high = int(np.searchsorted(share, counts.sum())), int(np.searchsorted(share, 9 * counts.sum()))
    span = max(high - low, 1)
    return np.asarray(LEVELS[0] + ((np.arange(256) - low) * (LEVELS[1] - LEVELS[0])) // span, np.int64)
