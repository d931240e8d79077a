"""A cell's nucleus, and objects as dark as nuclei that are no white cells."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import Reason
from bloodedge.finder.exact import Levels, blurred, squared_depths
from bloodedge.finder.light import CODES, STAINED, Doubles, Stain
from bloodedge.finder.parameters import FinderParameters
from bloodedge.imaging import Box, Image, as_image

_LEAST_CONTRAST = 1.35
"""A nucleus is at least this many times as dark as the cytoplasm; with less the whole cell is nucleus."""
_MOST_OBJECTS = 300
_LEAST_SURROUNDINGS_UM2 = 40.0
"""About one red cell."""
_LEAST_DEVIATION = 0.01
"""Optical density."""


@dataclass(frozen=True)
class Refused:
    """An object as dark as a nucleus that is no white cell, in a shrunken frame's pixels."""

    box: Box
    reason: Reason


def nucleus_in(dark: Image, mask: Image, um_per_px: float) -> Image:
    """uint8 (h, w) 0/255: the nucleus of a cell, by Otsu's threshold (1979) of its own density.

    dark: uint8 (h, w), density; mask: uint8 (h, w), 255 on the cell.
    """
    side = 2 * round(0.2 / um_per_px) + 1
    smooth = as_image(cv2.blur(dark, (side, side)))
    values = smooth[mask > 0]
    level = _otsu(np.asarray(cv2.calcHist([smooth], [0], mask, [256], [0, 256]), np.float64).ravel())
    above = values > level
    if not above.any() or above.all():
        return mask.copy()
    if values[above].mean() < _LEAST_CONTRAST * max(1.0, values[~above].mean()):
        return mask.copy()
    return as_image(cv2.bitwise_and(mask, ((smooth > level) * np.uint8(255)).astype(np.uint8)))


def _otsu(counts: Doubles) -> int:
    """The level, of a histogram (256,), with the most variance between what is above it and the rest; the lowest such.

    OpenCV's differs between processors where several are alike.
    """
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(256))
    apart = sums * below[-1] - sums[-1] * below
    return int(np.argmax(apart**2 / np.maximum(below * (below[-1] - below), 1)))


def dirt_or_dye(density: Image, nucleus: Image, parameters: FinderParameters) -> bool:
    """Whether what passes for a nucleus, uint8 (h, w) above 0, is grey or bluer than nuclei are.

    density: uint8 (h, w, 3) BGR.
    """
    blue, green, red = cv2.mean(density, mask=nucleus)[:3]
    grey = min(blue, green, red) > parameters.grey_share * max(blue, green, red)
    return grey or red > parameters.red_to_green * green


@dataclass(frozen=True)
class Surroundings:
    """What is stained in a frame beside its white cells: median and robust deviation of each hue, optical density."""

    middle: Doubles
    deviation: Doubles

    def contrast(self, steps: NDArray[np.int16]) -> float:
        """By how many deviations a nucleus differs in the hue where it differs most; steps: (N, 3) as in Stain."""
        return float(((np.median(_hues(steps), axis=0) - self.middle) / self.deviation).max())


def surroundings(stain: Stain, cells: Image, um_per_px: float) -> Surroundings | None:
    """Of the frame without the cells, uint8 (H, W) above 0; None where too little is stained."""
    steps = stain.steps[::2, ::2]
    sample = steps[(steps[:, :, 1] > STAINED) & (cells[::2, ::2] == 0)]
    if 4 * len(sample) * um_per_px**2 < _LEAST_SURROUNDINGS_UM2:
        return None
    hues = _hues(sample)
    middle = np.median(hues, axis=0)
    deviation = 1.4826 * np.median(np.abs(hues - middle), axis=0)
    return Surroundings(middle, np.maximum(deviation, _LEAST_DEVIATION * CODES))


def _hues(steps: NDArray[np.int16]) -> NDArray[np.int16]:
    """(N, 3): green density, red density, and how much more of both than of blue; nuclei have more of one of them."""
    blue, green, red = steps.T
    return np.stack([green, red, (green + red) // 2 - blue], axis=1)


def refused_objects(stain: Stain, cells: Image, um_per_px: float, parameters: FinderParameters) -> list[Refused]:
    """Objects darker than this frame's red cells and outside of the cells, uint8 (H, W) above 0.

    Darker: above the median of the stained pixels by 2.5 robust deviations, and half-way to the frame's darkest.
    """
    dark = blurred(stain.dark, max(0.6, 0.2 / um_per_px))
    level = _darker_than_red_cells(dark, stain)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(((dark > level) & (cells == 0)).astype(np.uint8))
    areas = stats[:, cv2.CC_STAT_AREA] * um_per_px**2
    areas[0] = 0
    found = []
    for label in np.argsort(-areas, kind="stable")[:_MOST_OBJECTS]:
        if areas[label] < parameters.object_um2:
            break
        x, y, width, height = (int(v) for v in stats[label][:4])
        inside = (labels[y : y + height, x : x + width] == label).astype(np.uint8)
        found.append(Refused((x, y, width, height), _reason(inside, float(areas[label]), um_per_px, parameters)))
    return found


def _darker_than_red_cells(dark: Levels, stain: Stain) -> float:
    sample = dark[::3, ::3][stain.steps[::3, ::3, 1] > STAINED]
    if not len(sample):
        return float("inf")
    middle = float(np.median(sample))
    deviation = 1.4826 * float(np.median(np.abs(sample - middle)))
    return max(middle + 2.5 * deviation, (middle + float(np.percentile(sample, 99.5))) / 2)


def _reason(inside: Image, area_um2: float, um_per_px: float, parameters: FinderParameters) -> Reason:
    if area_um2 < parameters.small_object_um2:
        return Reason.TOO_SMALL
    if squared_depths(inside).max() * um_per_px**2 < parameters.core_radius_um**2:
        return Reason.RAGGED
    return Reason.NO_NUCLEUS


def touches_border(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box reaches the border of a frame of that shape."""
    x, y, width, height = box
    return x <= 0 or y <= 0 or x + width >= shape[1] or y + height >= shape[0]
