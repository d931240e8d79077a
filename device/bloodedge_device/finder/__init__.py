"""White cells in a full-field frame of a stained smear, each with a mask of the whole cell.

A frame is converted to optical density against its own empty field. Nuclei are where the density is that red cells,
measured in the same frame, do not have. Lobes are joined, touching nuclei separated, and the cell's outline round each
nucleus is the star-shaped curve with the most evidence.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from bloodedge.decision.thresholds import Reason
from bloodedge.imaging import Cell, Image, as_image, colour_8bit
from bloodedge_device.finder.edge import to_edge
from bloodedge_device.finder.light import Stain, stain_of
from bloodedge_device.finder.nuclei import Nucleus, find_nuclei, touches_border
from bloodedge_device.finder.outline import Silhouette, exclusive, filled, whole_cells
from bloodedge_device.finder.parameters import DEFAULT_UM_PER_PX, FinderParameters
from bloodedge_device.finder.scale import um_per_px_of
from bloodedge_device.frames import Box

__all__ = ["FinderParameters", "Found", "FoundCell", "Rejected", "estimate_um_per_px", "find_cells"]

_SCALE_SIDE_PX = 640
"""Frames are shrunk to about this side before their red cells are measured."""


@dataclass(frozen=True)
class FoundCell:
    """A white cell in a frame.

    box: (x, y, width, height) in the frame's pixels; mask: uint8 (height, width), 255 on the whole cell, nucleus and
    cytoplasm, and 0 elsewhere.
    """

    box: Box
    mask: Image
    nucleus_px: int
    area_px: int
    area_um2: float
    touches_border: bool
    """The frame's border cuts the cell: box and mask are the part inside."""
    completeness: float
    """Share of the cell inside the frame, 0..1, by its outline beyond the border."""
    nuclear_density: float
    """Mean optical density of nuclear stain in the nucleus."""
    focus: float
    """How steeply density falls at the nucleus's edge: optical density per micrometre, over the nucleus's own."""

    def crop(self, frame_bgr: Image, um_per_px: float) -> Cell:
        """The cell cut out of its frame, for ``bloodedge.imaging.network_input``."""
        x, y, width, height = self.box
        return Cell(frame_bgr[y : y + height, x : x + width].copy(), self.mask, um_per_px)

    @property
    def outline(self) -> list[list[int]]:
        """The mask's border as a polygon [[x, y], ...] in the frame's pixels."""
        contours, _ = cv2.findContours(self.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=self.box[:2])
        longest = max(contours, key=cv2.contourArea)
        return [[int(x), int(y)] for x, y in longest[:, 0]]


@dataclass(frozen=True)
class Rejected:
    """An object stained like a nucleus that is no white cell; box in the frame's pixels."""

    box: Box
    reason: Reason


@dataclass(frozen=True)
class Found:
    """A frame's cells and rejected objects; um_per_px is the scale that was used."""

    cells: tuple[FoundCell, ...]
    rejected: tuple[Rejected, ...]
    um_per_px: float


_DEFAULTS = FinderParameters()


def find_cells(bgr: Image, um_per_px: float | None = None, parameters: FinderParameters = _DEFAULTS) -> Found:
    """White cells in a frame, uint8 (H, W, 3) BGR, at ``um_per_px`` (None: from the frame's red cells).

    Raises BloodedgeError when the frame is no 8-bit colour image.
    """
    bgr = colour_8bit(bgr, "The frame")
    scale = um_per_px or estimate_um_per_px(bgr, parameters) or DEFAULT_UM_PER_PX
    shrink = max(1, round(parameters.work_um_per_px / scale))
    small = _shrunk(bgr, shrink)
    stain = stain_of(small)
    nuclei, refused = find_nuclei(stain, scale * shrink, parameters)
    rejected = [Rejected(_grown(r.box, shrink, bgr.shape), r.reason) for r in refused]
    cells = []
    traced = whole_cells(stain, nuclei, scale * shrink, parameters)
    outlines = exclusive([filled((points + 0.5) * shrink - 0.5, bgr.shape) for _, points in traced])
    silhouettes = [to_edge(outline, bgr, stain.light, scale, parameters) for outline in outlines]
    for (nucleus, _), silhouette in zip(traced, silhouettes, strict=True):
        cell = _cell(silhouette, nucleus, shrink, stain, scale, bgr.shape)
        if cell.area_um2 > parameters.cell_um2:
            rejected.append(Rejected(cell.box, Reason.TOO_LARGE))
        else:
            cells.append(cell)
    outside = (other for other in rejected if not any(_inside(other, cell) for cell in cells))
    return Found(tuple(cells), tuple(outside), scale)


def estimate_um_per_px(bgr: Image, parameters: FinderParameters = _DEFAULTS) -> float | None:
    """Micrometres per pixel of a frame from its red cells, 7.5 µm across; None when too few stand alone.

    Raises BloodedgeError when the frame is no 8-bit colour image.
    """
    bgr = colour_8bit(bgr, "The frame")
    shrink = max(1, round(max(bgr.shape[:2]) / _SCALE_SIDE_PX))
    small = um_per_px_of(stain_of(_shrunk(bgr, shrink)), parameters.nuclear_density)
    return None if small is None else small / shrink


def _shrunk(bgr: Image, factor: int) -> Image:
    if factor == 1:
        return bgr
    size = max(1, bgr.shape[1] // factor), max(1, bgr.shape[0] // factor)
    trimmed = bgr[: size[1] * factor, : size[0] * factor]
    return as_image(cv2.resize(trimmed, size, interpolation=cv2.INTER_AREA))


def _inside(rejected: Rejected, cell: FoundCell) -> bool:
    """Whether a rejected object is inside a cell: a granule or a loose lobe of it."""
    column = rejected.box[0] + rejected.box[2] // 2 - cell.box[0]
    row = rejected.box[1] + rejected.box[3] // 2 - cell.box[1]
    return 0 <= column < cell.box[2] and 0 <= row < cell.box[3] and bool(cell.mask[row, column])


def _grown(box: Box, factor: int, shape: tuple[int, ...]) -> Box:
    x, y, width, height = (factor * v for v in box)
    return x, y, min(width, shape[1] - x), min(height, shape[0] - y)


def _cell(
    cell: Silhouette, nucleus: Nucleus, shrink: int, stain: Stain, um_per_px: float, shape: tuple[int, ...]
) -> FoundCell:
    x, y, width, height = nucleus.box
    depth = cv2.mean(stain.nuclear[y : y + height, x : x + width], mask=nucleus.mask)[0]
    steepness = _steepness(stain, nucleus) / (shrink * um_per_px)
    area = int(cv2.countNonZero(cell.mask))
    return FoundCell(
        box=cell.box,
        mask=cell.mask,
        nucleus_px=min(area, nucleus.area_px * shrink**2),
        area_px=area,
        area_um2=area * um_per_px**2,
        touches_border=touches_border(cell.box, shape),
        completeness=cell.completeness,
        nuclear_density=float(depth),
        focus=steepness / max(float(depth), 1e-3),
    )


def _steepness(stain: Stain, nucleus: Nucleus) -> float:
    """Mean slope of density across the nucleus's edge, per pixel of the shrunken frame."""
    x, y, width, height = nucleus.box
    mask = cv2.copyMakeBorder(nucleus.mask, 2, 2, 2, 2, cv2.BORDER_CONSTANT)
    rows = np.clip(np.arange(y - 2, y + height + 2), 0, stain.green.shape[0] - 1)
    columns = np.clip(np.arange(x - 2, x + width + 2), 0, stain.green.shape[1] - 1)
    green = np.ascontiguousarray(stain.green[np.ix_(rows, columns)])
    edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    across, down = (cv2.Scharr(green, cv2.CV_32F, *axes) / 32 for axes in ((1, 0), (0, 1)))
    return float(cv2.mean(cv2.magnitude(across, down), mask=edge)[0])
