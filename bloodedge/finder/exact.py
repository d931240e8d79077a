"""Filters that give the same bytes on every processor.

OpenCV's floating-point filters add up in another order, or with fused products, on each processor, and a value that is
rounded or compared afterwards tips now and then. These work on whole numbers.
"""

from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

Whole = TypeVar("Whole", np.uint8, np.uint16)
Levels = NDArray[np.int32]
"""Whole numbers (H, W)."""

_ZERO = 1 << 15


def shrunk(image: NDArray[Whole], factor: int) -> NDArray[Whole]:
    """An image of whole numbers with means of ``factor`` times ``factor`` pixels; what is left over at its end is cut.

    With a factor that is no whole number OpenCV weighs in floating point.
    """
    if factor == 1:
        return image
    size = max(1, image.shape[1] // factor), max(1, image.shape[0] // factor)
    trimmed = image[: size[1] * factor, : size[0] * factor]
    return np.asarray(cv2.resize(trimmed, size, interpolation=cv2.INTER_AREA), image.dtype)


def resampled(image: NDArray[np.uint8], zoom: float) -> NDArray[np.uint8]:
    """An image at ``zoom`` times its size: means of 2x2 pixels while it shrinks by half or more, then bilinear."""
    while zoom <= 0.5 and min(image.shape[:2]) >= 2:
        image = shrunk(image, 2)
        zoom *= 2
    size = max(1, round(image.shape[1] * zoom)), max(1, round(image.shape[0] * zoom))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)


def blurred(levels: NDArray[Any], sigma_px: float) -> Levels:
    """Whole numbers (H, W) from -32768 to 32767 behind a Gaussian: OpenCV's filter of uint16 is bit-exact."""
    raised = (levels.astype(np.int32) + _ZERO).astype(np.uint16)
    return np.asarray(cv2.GaussianBlur(raised, (0, 0), sigma_px), np.int32) - _ZERO


def squared_depths(mask: NDArray[np.uint8]) -> Levels:
    """Squared distance in pixels of each pixel to the nearest that is 0 or beyond the border, whole numbers (H, W).

    OpenCV's distances differ in their last bits between processors, and with its small masks in more.
    """
    framed = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depths = cv2.distanceTransform(framed, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.rint(np.square(depths, dtype=np.float32)).astype(np.int32)
