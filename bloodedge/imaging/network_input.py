"""The one preprocessing: a cell becomes the network's input, by integer arithmetic and bit-exact filters alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from typing import Annotated, Any, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from bloodedge.config import Strict
from bloodedge.errors import BloodedgeError
from bloodedge.imaging.cell import CNMC_UM_PER_PX, SOURCE_LIGHT, Cell, Image, Light, as_image
from bloodedge.imaging.denoise import denoise

Counts = NDArray[np.int64]

View = Literal["physical", "canonical"]
"""A scale at which the network sees a cell. physical: every cell at ``um_per_px``; canonical: every cell resampled to
``area_fraction`` of the frame."""


def _each_once(views: tuple[View, ...]) -> tuple[View, ...]:
    if not views:
        message = "views: name at least one, physical or canonical"
        raise ValueError(message)
    if len(set(views)) < len(views):
        message = f'views: "{views[0]}" is there twice; name each view once'
        raise ValueError(message)
    return views


class ImagingSpec(Strict):
    """How a cell becomes network input; every stage applies the one that the run folder or bundle carries."""

    size_px: int = Field(default=160, ge=32, le=1024)
    um_per_px: float = Field(default=2 * CNMC_UM_PER_PX, gt=0.01, lt=2)
    views: Annotated[tuple[View, ...], AfterValidator(_each_once)] = ("physical",)
    """The network sees the cell once at each of these scales. Figures of the training domain and pictures of a cell are
    those of the first view."""
    area_fraction: float = Field(default=0.45, gt=0.05, lt=0.9)
    light: Literal["as_is", "relit", "levelled", "equalised"] = "as_is"
    """relit: each channel as if the empty field were at SOURCE_LIGHT; a cell whose field is not known stays as it is.
    levelled: each channel's 10th and 90th percentiles inside the mask are moved to fixed levels. equalised: each
    channel's histogram inside the mask is flattened."""
    trim_um: float = Field(default=0.0, ge=0, le=1)
    """Width of the rim that is left out, with every pixel that it reaches into: each lens blurs the field's light into
    it otherwise."""
    denoise: Literal["none", "gaussian", "median", "wavelet"] = "none"
    """A filter of the cell before anything else (see ``bloodedge.imaging.denoise``)."""

    removed: ClassVar = {"colour": "rgb", "stain": None}

    @model_validator(mode="before")
    @classmethod
    def _scale_became_views(cls, values: Any) -> Any:
        """Older versions had one view, under the key ``scale``."""
        if not isinstance(values, dict) or "scale" not in values:
            return values
        if "views" in values:
            message = "scale is the older name of views; leave it out and keep views"
            raise ValueError(message)
        return {key: value for key, value in values.items() if key != "scale"} | {"views": [values["scale"]]}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one network input: (size_px, size_px, 3), or (views, size_px, size_px, 3) for more than one view."""
        frame = (self.size_px, self.size_px, 3)
        return frame if len(self.views) == 1 else (len(self.views), *frame)


def network_input(cell: Cell, spec: ImagingSpec) -> Image:
    """The cell as network input: uint8 ``spec.input_shape``, RGB, 0 outside the mask.

    In each view the cell's bounding box is centred; what reaches beyond the frame is cut. Raises BloodedgeError for an
    empty mask.
    """
    cell = replace(cell, mask=_trimmed(cell.mask, ceil(spec.trim_um / cell.um_per_px)))
    x, y, width, height = cv2.boundingRect(cell.mask)
    if width == 0:
        raise BloodedgeError("The cell's mask is empty; nothing can be classified.")
    mask = cell.mask[y : y + height, x : x + width]
    bgr = cell.bgr[y : y + height, x : x + width]
    if spec.denoise != "none":
        bgr = denoise(bgr, mask, spec.denoise)
    if spec.light == "relit":
        bgr = bgr if cell.light is None else _relit(bgr, cell.light)
    elif spec.light != "as_is":
        bgr = _relight(bgr, mask, _levels if spec.light == "levelled" else _equal_shares)
    cut = as_image(cv2.bitwise_and(bgr, bgr, mask=mask))
    halves = [cut]
    frames = [_centred(_resample(halves, _zoom(cell, spec, view)), spec.size_px) for view in spec.views]
    frames = [as_image(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) for frame in frames]
    return frames[0] if len(frames) == 1 else np.stack(frames)


def in_words(shape: Sequence[int]) -> str:
    """The shape of one network input for people: "64x64 px" or "2 views of 64x64 px"."""
    *views, height, width, _ = shape
    frame = f"{width}x{height} px"
    return f"{views[0]} views of {frame}" if views else frame


def first_view(image: Image) -> Image:
    """The first view uint8 (H, W, 3) of one network input uint8 (H, W, 3) or (views, H, W, 3)."""
    return image if image.ndim == 3 else image[0]


def _zoom(cell: Cell, spec: ImagingSpec, view: View) -> float:
    if view == "physical":
        return cell.um_per_px / spec.um_per_px
    return float(np.sqrt(spec.area_fraction * spec.size_px**2 / cell.area_px))


def _resample(halves: list[Image], zoom: float) -> Image:
    """``halves[0]`` scaled by ``zoom``: exact 2x2 means while it shrinks by half or more, then bit-exact bilinear.

    halves: each half as large as the one before it; those that are missing are appended, for the next view to use.
    """
    times = 0
    while zoom <= 0.5:
        zoom, times = 2 * zoom, times + 1
    while len(halves) <= times:
        halves.append(_halved(halves[-1]))
    image = halves[times]
    if zoom == 1:
        return image
    size = max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom))
    return as_image(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT))


def _halved(image: Image) -> Image:
    """Exact means of 2x2 pixels; odd sides get a black line."""
    height, width = image.shape[:2]
    even = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT)
    return as_image(cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _centred(image: Image, size_px: int) -> Image:
    frame = np.zeros((size_px, size_px, 3), np.uint8)
    height, width = image.shape[:2]
    top, left = (size_px - height) // 2, (size_px - width) // 2
    source = image[max(0, -top) : max(0, -top) + size_px, max(0, -left) : max(0, -left) + size_px]
    top, left = max(0, top), max(0, left)
    frame[top : top + source.shape[0], left : left + source.shape[1]] = source
    return frame


def _trimmed(mask: Image, rim_px: int) -> Image:
    """Without its rim; a mask that is nothing but rim stays as it is."""
    if rim_px == 0:
        return mask
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim_px + 1, 2 * rim_px + 1))
    inner = as_image(cv2.erode(mask, disc, borderType=cv2.BORDER_CONSTANT, borderValue=[0]))
    return inner if inner.any() else mask


def _relit(bgr: Image, light: Light) -> Image:
    """As if the empty field were at SOURCE_LIGHT."""
    levels, field = np.arange(256)[:, np.newaxis, np.newaxis], np.maximum(light, 1)
    tables = np.clip((levels * SOURCE_LIGHT + field // 2) // field, np.minimum(levels, 1), 255)
    return as_image(cv2.LUT(bgr, tables.astype(np.uint8)))


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
