"""Three noise filters for a cell, applied first; they give the same bytes on every machine.

All see the cell alone: what surrounds it (black in a data set, plasma in a frame) first takes the colour of the
nearest pixel of the cell.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.imaging.cell import Image, as_image

Plane = NDArray[np.int32]

LEVELS = 2
"""Scales of the wavelet transform: details of 2 and 4 pixels. A third gains 0.1 dB at noise of standard deviation 6."""
REACH_PX = 5
"""No filter looks further than the wavelet's steps of 1 and 2 pixels, along both axes: 3 * sqrt(2)."""


def denoise(bgr: Image, mask: Image, kind: str) -> Image:
    """The cell without noise; bgr uint8 (h, w, 3), mask uint8 (h, w), 255 on the cell, outside which nothing is meant.

    kind: "gaussian", "median" (both 3x3) or "wavelet" (see ``wavelet``).
    """
    grown = _grown(bgr, mask)
    if kind == "gaussian":  # weights 1 2 1 along both axes, in fixed point: (sum + 8) // 16, without error
        return as_image(cv2.GaussianBlur(grown, (3, 3), 0, borderType=cv2.BORDER_REPLICATE))
    return as_image(cv2.medianBlur(grown, 3)) if kind == "median" else wavelet(grown, mask)


def _grown(bgr: Image, mask: Image) -> Image:
    """The cell with its surroundings, up to REACH_PX, in the colours of its nearest pixels (integer chamfer distances).

    Without this the filters would mix the background into the cell's rim.
    """
    outside = cv2.bitwise_not(mask)
    distance, labels = cv2.distanceTransformWithLabels(outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    inside = np.flatnonzero(mask)
    pixel_of_label = np.zeros(int(labels.max()) + 1, np.int64)
    pixel_of_label[labels.ravel()[inside]] = inside
    rim = np.flatnonzero((distance > 0) & (distance <= REACH_PX))
    pixels = bgr.reshape(-1, 3).copy()
    pixels[rim] = pixels[pixel_of_label[labels.ravel()[rim]]]
    return pixels.reshape(bgr.shape)


def wavelet(bgr: Image, mask: Image) -> Image:
    """Details of a Haar transform shrunk towards 0, channel by channel; the noise is estimated inside the mask.

    Soft thresholds (Donoho & Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81, 1994), one per
    band after BayesShrink (Chang, Yu & Vetterli, IEEE Trans. Image Process. 9, 2000), averaged over all shifts of the
    grid, which leaves no blocks (Coifman & Donoho, "Translation-invariant de-noising", 1995).
    """
    planes = [_shrunk(plane.astype(np.int32), mask, 1, None) for plane in cv2.split(bgr)]
    scale = 16**LEVELS
    rounded: Plane = (np.stack(planes, axis=2) + scale // 2) // scale
    return np.clip(rounded, 0, 255).astype(np.uint8)


def _shrunk(plane: Plane, mask: Image, level: int, noise: float | None) -> Plane:
    """16 ** (LEVELS + 1 - level) times the plane without noise: integers alone, nothing is rounded on the way.

    Each pixel is the corner of four blocks of 2x2 pixels, ``step`` apart; a block becomes the sums and differences
    that make up Haar's transform, and their inverse is averaged over the four blocks. noise: standard deviation of a
    sum of four pixels, None at the finest scale, where it is estimated.
    """
    step = 1 << (level - 1)
    padded: Plane = np.pad(plane, step, mode="edge")
    mask = np.pad(mask, ((step, 0), (step, 0)))
    upper, lower = _sum_and_difference(padded[:, :-step], padded[:, step:])
    total, down = _sum_and_difference(upper[:-step], upper[step:])
    across, diagonal = _sum_and_difference(lower[:-step], lower[step:])
    if noise is None:
        noise = _noise(diagonal, mask)
    depth = 4 * (LEVELS - level)
    down, across, diagonal = (_soft(band, _threshold(band, mask, noise)) << depth for band in (down, across, diagonal))
    if level < LEVELS:
        total = _shrunk(total, mask, level + 1, 2 * noise)
    upper, lower = _sum_and_difference(total, down)
    left, right = _sum_and_difference(across, diagonal)
    top_left, top_right = _sum_and_difference(upper, left)
    bottom_left, bottom_right = _sum_and_difference(lower, right)
    return np.asarray(
        top_left[step:, step:] + top_right[step:, :-step] + bottom_left[:-step, step:] + bottom_right[:-step, :-step]
    )


def _sum_and_difference(one: Plane, other: Plane) -> tuple[Plane, Plane]:
    return one + other, one - other


def _noise(diagonal: Plane, mask: Image) -> float:
    """Standard deviation of the noise in a band that holds little else, from its median absolute deviation."""
    return float(np.median(np.abs(diagonal[mask > 0]))) / 0.6745


def _threshold(band: Plane, mask: Image, noise: float) -> int:
    """BayesShrink's: noise variance over the standard deviation of what is not noise; all of the band if there is none.

    Sums of squares are exact (below 2**53), and so is each step's rounding: the result is the same on every machine.
    """
    energy = cv2.norm(band, cv2.NORM_L2SQR, mask) / cv2.countNonZero(mask)
    signal = math.sqrt(max(energy - noise * noise, 0.0))
    largest = 1 << 20
    return min(round(noise * noise / signal), largest) if signal else largest


def _soft(band: Plane, threshold: int) -> Plane:
    """Moved towards 0 by the threshold, and no further."""
    return band - np.clip(band, -threshold, threshold)
