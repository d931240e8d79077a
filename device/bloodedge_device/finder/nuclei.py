"""Nuclei: where the nuclear stain is, which lobes form one nucleus, and which objects are no nuclei."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import Reason
from bloodedge.imaging import Image, as_image
from bloodedge_device.finder.light import Floats, Stain
from bloodedge_device.finder.parameters import FinderParameters
from bloodedge_device.frames import Box


@dataclass(frozen=True)
class Nucleus:
    """One nucleus, all its lobes: mask uint8 (h, w) 0/255 of the box's size, in a shrunken frame's pixels."""

    box: Box
    mask: Image
    cut: bool

    @property
    def area_px(self) -> int:
        """Pixels of the nucleus."""
        return int(cv2.countNonZero(self.mask))

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y): the mean of its pixels."""
        moments = cv2.moments(self.mask, binaryImage=True)
        return self.box[0] + moments["m10"] / moments["m00"], self.box[1] + moments["m01"] / moments["m00"]


@dataclass(frozen=True)
class Refused:
    """An object stained like a nucleus that is none, in a shrunken frame's pixels."""

    box: Box
    reason: Reason


def find_nuclei(stain: Stain, um_per_px: float, parameters: FinderParameters) -> tuple[list[Nucleus], list[Refused]]:
    """(nuclei, rejected objects) in a frame's stain at its scale."""
    smooth = cv2.GaussianBlur(stain.nuclear, (0, 0), max(0.6, 0.2 / um_per_px)).astype(np.float32)
    lobes = _lobes(smooth, stain, um_per_px, parameters)
    nuclei: list[Nucleus] = []
    refused: list[Refused] = []
    for group in _groups(lobes, um_per_px, parameters):
        for part in (p for g in _apart(group, um_per_px, parameters) for p in _split(g, um_per_px, parameters)):
            reason = _why_not(part, stain, um_per_px, parameters)
            if reason is None:
                nuclei.append(part)
            elif part.area_px * um_per_px**2 >= parameters.lobe_um2:
                refused.append(Refused(part.box, reason))
    return nuclei, refused


def _lobes(smooth: Floats, stain: Stain, um_per_px: float, parameters: FinderParameters) -> Image:
    """uint8 (H, W): 255 where an object's nuclear stain exceeds a share of the object's own deepest."""
    least = max(parameters.nuclear_density, parameters.nuclear_noise * stain.noise)
    stained = (smooth > least).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(stained, connectivity=8)
    lobes = np.zeros(smooth.shape, np.uint8)
    large = stats[1:, cv2.CC_STAT_AREA] * um_per_px**2 >= parameters.lobe_um2
    for label in 1 + np.flatnonzero(large):
        x, y, width, height = (int(v) for v in stats[label][:4])
        window = np.s_[y : y + height, x : x + width]
        inside = labels[window] == label
        values = smooth[window]
        deep = float(np.percentile(values[inside], 90))
        lobes[window][inside & (values > parameters.nuclear_share * deep)] = 255
    return lobes


def _groups(lobes: Image, um_per_px: float, parameters: FinderParameters) -> list[Nucleus]:
    """Groups of lobes that are closer than the lobe gap."""
    reach = disc(parameters.lobe_gap_um / 2 / um_per_px)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(lobes, reach), connectivity=8)
    groups = []
    for label in range(1, count):
        x, y, width, height = (int(v) for v in stats[label][:4])
        window = np.s_[y : y + height, x : x + width]
        group = _nucleus((labels[window] == label) & (lobes[window] > 0), (x, y))
        groups.append(replace(group, cut=touches_border(group.box, lobes.shape)))
    return groups


def _apart(group: Nucleus, um_per_px: float, parameters: FinderParameters) -> list[Nucleus]:
    """Each piece of a group that may be a nucleus of its own, and the rest of its lobes together.

    Their outlines decide whether such neighbours are one cell (see ``outline.whole_cells``).
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(group.mask, connectivity=8)
    large = parameters.whole_nucleus_um2 / um_per_px**2
    whole = [k for k in range(1, count) if stats[k][cv2.CC_STAT_AREA] >= large and _compact(labels == k)]
    rest = (group.mask > 0) & ~np.isin(labels, whole)
    pieces = [labels == k for k in whole]
    if not whole:
        return [group]
    if rest.any():
        pieces.append(rest)
    return [_nucleus(piece, group.box[:2], cut=group.cut) for piece in pieces]


def _compact(inside: NDArray[np.bool_]) -> bool:
    """Whether a piece fills nine tenths of its convex hull."""
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return cv2.contourArea(contours[0]) >= 0.9 * cv2.contourArea(cv2.convexHull(contours[0]))


def touches_border(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box reaches the border of a frame of that shape."""
    x, y, width, height = box
    return x <= 0 or y <= 0 or x + width >= shape[1] or y + height >= shape[0]


def _nucleus(inside: NDArray[np.bool_], corner: tuple[int, int], *, cut: bool = False) -> Nucleus:
    """The nucleus of a boolean window at ``corner`` (x, y) of a frame."""
    mask = inside.astype(np.uint8) * 255
    x, y, width, height = cv2.boundingRect(mask)
    return Nucleus((corner[0] + x, corner[1] + y, width, height), mask[y : y + height, x : x + width], cut)


def disc(radius_px: float) -> Image:
    """A disc for OpenCV's morphology, uint8, with a radius of at least one pixel."""
    size = 2 * max(1, round(radius_px)) + 1
    return as_image(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def _split(nucleus: Nucleus, um_per_px: float, parameters: FinderParameters) -> list[Nucleus]:
    """Touching nuclei separated: each contains a large disc, and the neck between them is narrow."""
    padded = cv2.copyMakeBorder(nucleus.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    depth = np.asarray(cv2.distanceTransform(padded, cv2.DIST_L2, 5), np.float32)
    cores = _cores(depth, um_per_px, parameters)
    if cores.max() < 2:
        return [nucleus]
    # Every pixel of the nucleus goes to the core that reaches it first through the nucleus.
    markers = cores.astype(np.int32)
    markers[padded == 0] = cores.max() + 1
    relief = as_image(255 - np.clip(depth * (255 / depth.max()), 0, 255).astype(np.uint8))
    cv2.watershed(cv2.cvtColor(relief, cv2.COLOR_GRAY2BGR), markers)
    corner = nucleus.box[0] - 1, nucleus.box[1] - 1
    labels = range(1, int(cores.max()) + 1)
    parts = [_nucleus((markers == label) & (padded > 0), corner, cut=nucleus.cut) for label in labels]
    return [part for part in parts if part.area_px]


def _cores(depth: Floats, um_per_px: float, parameters: FinderParameters) -> NDArray[np.int32]:
    """int32 labels of the discs that stay apart when the neck between them is cut at a share of their own radius."""
    least = parameters.split_radius_um / um_per_px
    cores = np.zeros(depth.shape, np.int32)
    found = 0
    level = depth.max() * parameters.split_neck
    while level >= least * parameters.split_neck:
        count, labels = cv2.connectedComponents((depth > level).astype(np.uint8))
        deep = [k for k in range(1, count) if depth[labels == k].max() >= max(least, level / parameters.split_neck)]
        if len(deep) > found:
            cores[:] = 0
            for number, k in enumerate(deep, 1):
                cores[labels == k] = number
            found = len(deep)
        level *= 0.85
    return cores


def _why_not(nucleus: Nucleus, stain: Stain, um_per_px: float, parameters: FinderParameters) -> Reason | None:
    """Why an object is no nucleus of a white cell; None when it is one."""
    least = parameters.cut_nucleus_um2 if nucleus.cut else parameters.nucleus_um2
    if nucleus.area_px * um_per_px**2 < least:
        return Reason.TOO_SMALL
    padded = cv2.copyMakeBorder(nucleus.mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    if cv2.distanceTransform(padded, cv2.DIST_L2, 3).max() * um_per_px < parameters.core_radius_um:
        return Reason.RAGGED
    x, y, width, height = nucleus.box
    blue, green, red = cv2.mean(stain.density[y : y + height, x : x + width], mask=nucleus.mask)[:3]
    if blue > parameters.blue_share * (blue + green + red) or red > parameters.red_to_green * green:
        return Reason.NO_NUCLEUS
    return None
