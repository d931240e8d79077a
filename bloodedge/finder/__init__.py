"""White cells in a full-field frame of a stained smear, each with a mask of the whole cell.

A frame is converted to optical density against its own empty field. A small network proposes white cells and says
where each may end; what it is unsure of must differ in hue or density from what else is stained in the same frame. A
cell's outline is the star-shaped curve with the most evidence, drawn to where density falls.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import Reason
from bloodedge.finder.edge import to_edge
from bloodedge.finder.exact import shrunk
from bloodedge.finder.light import CODES, DENSITY_CODES, Floats, Stain, density_codes, light_at, stain_of
from bloodedge.finder.network import PixelNetwork, default_network
from bloodedge.finder.nuclei import dirt_or_dye, nucleus_in, refused_objects, surroundings, touches_border
from bloodedge.finder.outline import whole_cells
from bloodedge.finder.parameters import FinderParameters
from bloodedge.finder.scale import measured_scale
from bloodedge.finder.seeds import Seed
from bloodedge.finder.silhouette import Silhouette, exclusive, filled
from bloodedge.imaging import Box, Cell, Image, Light, as_image, colour_8bit

__all__ = ["FinderParameters", "Found", "FoundCell", "Rejected", "estimate_um_per_px", "find_cells"]


@dataclass(frozen=True)
class FoundCell:
    """A white cell in a frame.

    box: (x, y, width, height) in the frame's pixels; mask: uint8 (height, width), 255 on the whole cell, nucleus and
    cytoplasm, and 0 elsewhere.
    """

    box: Box
    mask: Image
    nucleus: Image
    """uint8 (height, width), 255 on the nucleus."""
    density: Image
    """uint8 (height, width, 3) BGR: optical density against the frame's empty field, 1 / DENSITY_CODES each."""
    light: Light
    """The empty field's levels at the cell, of which ``density`` is made."""
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
        return Cell(frame_bgr[y : y + height, x : x + width].copy(), self.mask, um_per_px, self.light)

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

    def central(self, shape: tuple[int, ...]) -> int | None:
        """Number of the cell in the middle of a picture of that shape (H, W, ...); None where there is none.

        Its box holds the picture's middle; of several, that whose own middle is nearest.
        """
        middle = shape[1] / 2, shape[0] / 2

        def from_middle(number: int) -> tuple[float, float]:
            x, y, width, height = self.cells[number].box
            return abs(x + width / 2 - middle[0]) / (width / 2), abs(y + height / 2 - middle[1]) / (height / 2)

        held = [number for number in range(len(self.cells)) if max(from_middle(number)) <= 1]
        return min(held, key=lambda number: max(from_middle(number)), default=None)


_DEFAULTS = FinderParameters()


def find_cells(
    bgr: Image,
    um_per_px: float | None = None,
    parameters: FinderParameters = _DEFAULTS,
    network: PixelNetwork | None = None,
) -> Found:
    """White cells in a frame, uint8 (H, W, 3) BGR, at ``um_per_px`` (None: from the frame's red cells).

    Raises BloodedgeError when the frame is no 8-bit colour image.
    """
    bgr = colour_8bit(bgr, "The frame")
    network = network or default_network()
    scale = um_per_px or measured_scale(bgr, parameters, network).um_per_px
    shrink = max(1, round(parameters.work_um_per_px / scale))
    small = shrunk(bgr, shrink)
    stain = stain_of(small)
    maps = network.maps(stain, scale * shrink).at(small.shape)
    traced, unlike = _judged(whole_cells(stain, maps, scale * shrink, parameters), stain, scale * shrink, parameters)
    rejected = [Rejected(_grown(silhouette.box, shrink, bgr.shape), Reason.NO_NUCLEUS) for silhouette in unlike]
    outlines = exclusive([filled((points + 0.5) * shrink - 0.5, bgr.shape) for points in traced])
    cells = []
    taken = np.zeros(small.shape[:2], np.uint8)
    for silhouette in unlike:
        _paint(taken, silhouette)
    for points, outline in zip(traced, outlines, strict=True):
        silhouette = to_edge(outline, bgr, stain.light, scale, parameters)
        x, y, width, height = silhouette.box
        light = light_at(stain.light, silhouette.box, bgr.shape)
        density = density_codes(bgr[y : y + height, x : x + width], light)
        cell = _cell(silhouette, density, light, bgr.shape, scale)
        if dirt_or_dye(density, cell.nucleus, parameters):
            rejected.append(Rejected(cell.box, Reason.NO_NUCLEUS))
        elif cell.area_um2 > parameters.cell_um2:
            rejected.append(Rejected(cell.box, Reason.TOO_LARGE))
        elif cell.area_um2 < parameters.least_cell_um2 * cell.completeness:
            rejected.append(Rejected(cell.box, Reason.TOO_SMALL))
        else:
            cells.append(cell)
        _paint(taken, filled(points, small.shape))
    refused = refused_objects(stain, taken, scale * shrink, parameters)
    rejected += [Rejected(_grown(r.box, shrink, bgr.shape), r.reason) for r in refused]
    return Found(tuple(cells), tuple(rejected), scale)


_MOST_CONTRAST = 8.0


def _judged(
    traced: list[tuple[Seed, Floats]], stain: Stain, um_per_px: float, parameters: FinderParameters
) -> tuple[list[Floats], list[Silhouette]]:
    """(outlines of white cells; what is too much like the rest of the frame to be one).

    The network proposes. The frame's own colours refuse: what the network is less sure of has to be darker than the
    red cells beside it.
    """
    silhouettes = [filled(points, stain.shape) for _, points in traced]
    proposed = np.zeros(stain.shape, np.uint8)
    for silhouette in silhouettes:
        _paint(proposed, silhouette)
    beside = surroundings(stain, proposed, um_per_px)
    kept: list[Floats] = []
    unlike: list[Silhouette] = []
    for (seed, points), silhouette in zip(traced, silhouettes, strict=True):
        if beside is None:
            enough = seed.odds >= parameters.alone_odds
        else:
            contrast = min(beside.contrast(_nuclear_steps(stain, silhouette, um_per_px)), _MOST_CONTRAST)
            enough = seed.odds + parameters.contrast_weight * contrast >= parameters.evidence
        if enough:
            kept.append(points)
        elif seed.odds >= parameters.alone_odds:
            unlike.append(silhouette)
    return kept, unlike


def _nuclear_steps(stain: Stain, cell: Silhouette, um_per_px: float) -> NDArray[np.int16]:
    """int16 (N, 3): density of a cell's nucleus, as in Stain."""
    x, y, width, height = cell.box
    steps = stain.steps[y : y + height, x : x + width]
    dark = np.clip((steps[:, :, 1] // 2 + steps[:, :, 2] // 2) // (CODES // DENSITY_CODES), 0, 255).astype(np.uint8)
    return steps[nucleus_in(dark, cell.mask, um_per_px) > 0]


def _paint(canvas: Image, cell: Silhouette) -> None:
    """255 on the cell."""
    x, y, width, height = cell.box
    window = canvas[y : y + height, x : x + width]
    cv2.bitwise_or(window, cell.mask, dst=window)


def estimate_um_per_px(
    bgr: Image, parameters: FinderParameters = _DEFAULTS, network: PixelNetwork | None = None
) -> float | None:
    """Micrometres per pixel of a frame from its red cells, 7.5 µm across; None when too few stand alone.

    Raises BloodedgeError when the frame is no 8-bit colour image.
    """
    return measured_scale(colour_8bit(bgr, "The frame"), parameters, network or default_network()).from_red_cells


def _grown(box: Box, factor: int, shape: tuple[int, ...]) -> Box:
    x, y, width, height = (factor * v for v in box)
    return x, y, min(width, shape[1] - x), min(height, shape[0] - y)


def _cell(cell: Silhouette, density: Image, light: Light, shape: tuple[int, ...], um_per_px: float) -> FoundCell:
    dark = as_image(cv2.add(density[:, :, 1] // 2, density[:, :, 2] // 2))
    nucleus = nucleus_in(dark, cell.mask, um_per_px)
    depth = 2 * cv2.mean(dark, mask=nucleus)[0] / DENSITY_CODES
    area = int(cv2.countNonZero(cell.mask))
    return FoundCell(
        box=cell.box,
        mask=cell.mask,
        nucleus=nucleus,
        density=density,
        light=light,
        nucleus_px=int(cv2.countNonZero(nucleus)),
        area_px=area,
        area_um2=area * um_per_px**2,
        touches_border=touches_border(cell.box, shape),
        completeness=cell.completeness,
        nuclear_density=float(depth),
        focus=_steepness(density[:, :, 1], nucleus, um_per_px) / max(float(depth), 1e-3),
    )


def _steepness(green: Image, nucleus: Image, um_per_px: float) -> float:
    """Mean slope of density across the nucleus's edge, per micrometre."""
    edge = cv2.morphologyEx(nucleus, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    across, down = (cv2.Scharr(green, cv2.CV_16S, *axes)[edge > 0].astype(np.float64) for axes in ((1, 0), (0, 1)))
    slopes = np.sqrt(across**2 + down**2) / (32 * DENSITY_CODES)
    return math.fsum(slopes) / max(1, len(slopes)) / um_per_px
