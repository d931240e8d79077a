"""Where a cell ends, to the pixel: its outline, drawn at the scale of the search, with a margin of empty field left.

A network sees that margin: a bright rim of a few pixels moved the blast probability of one cell in eight across the
threshold, for light is levelled by what lies inside the mask. Density falls from the cell's to the field's over the
blur of the optics; the edge is where it has fallen to a share of what it is just inside, there: cytoplasm may be much
paler than the nucleus beside it.
"""

import cv2
import numpy as np

from bloodedge.finder.exact import squared_depths
from bloodedge.finder.light import DENSITY_CODES, Doubles, density_codes, light_at
from bloodedge.finder.parameters import FinderParameters
from bloodedge.finder.silhouette import Silhouette, trimmed
from bloodedge.imaging import Image, as_image

_LEAST_LEFT = 0.5
"""Smallest share of its outline that a cell fills; with less it is too faint to find its edge."""
_SPECK_UM = 0.1
"""Half the width of the thinnest threads of stain that belong to a cell."""


def to_edge(cell: Silhouette, bgr: Image, light: Image, um_per_px: float, parameters: FinderParameters) -> Silhouette:
    """The silhouette without the empty field between the cell's edge and its outline.

    bgr: the frame, uint8 (H, W, 3); light: its empty field, uint8 (rows, columns, 3) of a coarse grid.
    """
    x, y, width, height = cell.box
    codes = density_codes(bgr[y : y + height, x : x + width], light_at(light, cell.box, bgr.shape))
    density = as_image(cv2.extractChannel(codes, 1))
    depths = squared_depths(cell.mask)
    inside = as_image(depths > (parameters.edge_depth_um / um_per_px) ** 2)
    if not cv2.countNonZero(inside):
        return cell
    side = 2 * round(parameters.edge_depth_um / um_per_px) + 1
    summed = _sums(as_image(cv2.bitwise_and(density, density, mask=inside)), side)
    within = summed / np.maximum(_sums(inside, side), 1)
    dense = density > np.maximum(parameters.edge_share * within, DENSITY_CODES * parameters.edge_density)
    stained = (dense & (cell.mask > 0)) | (depths > (parameters.edge_bite_um / um_per_px) ** 2)
    mask = _largest(stained.astype(np.uint8), max(1, round(_SPECK_UM / um_per_px)))
    if cv2.countNonZero(mask) < _LEAST_LEFT * cv2.countNonZero(cell.mask):
        return cell
    return trimmed(mask, (x, y), cell.completeness)


def _sums(image: Image, side: int) -> Doubles:
    """Three box filters: nearly a Gaussian, at a cost that does not depend on its width; sums of whole numbers."""
    sums = np.asarray(image, np.float64)
    for _ in range(3):
        box = cv2.boxFilter(sums, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        sums = np.asarray(box, np.float64)
    return sums


def _largest(stained: Image, radius_px: int) -> Image:
    """The largest piece without threads and holes, uint8 0/255."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    contours, _ = cv2.findContours(
        cv2.morphologyEx(stained, cv2.MORPH_OPEN, disc), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    mask = np.zeros_like(stained)
    if contours:
        cv2.drawContours(mask, [max(contours, key=cv2.contourArea)], -1, 255, cv2.FILLED)
    return as_image(mask)
