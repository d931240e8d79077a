"""A frame with its cells outlined, for a person to judge."""

import cv2
import numpy as np

from bloodedge.finder import Found
from bloodedge.imaging import Image

_WHOLE, _CUT, _REJECTED = (60, 200, 0), (230, 120, 0), (0, 140, 255)
"""BGR: green, blue, orange."""


def outlined(bgr: Image, found: Found) -> Image:
    """A copy of a frame uint8 (H, W, 3) with its cells outlined.

    Green: whole cells; blue: cells that the border cuts; orange boxes: rejected objects, with the reason.
    """
    picture = bgr.copy()
    size = max(picture.shape[:2]) / 640
    line = max(1, round(1.5 * size))
    for rejected in found.rejected:
        x, y, width, height = rejected.box
        cv2.rectangle(picture, (x, y), (x + width, y + height), _REJECTED, max(1, line // 2))
        _write(picture, rejected.reason.replace("_", " "), (x, y - 3), _REJECTED, size)
    for cell in found.cells:
        colour = _CUT if cell.touches_border else _WHOLE
        cv2.polylines(picture, [np.array(cell.outline, np.int32)], isClosed=True, color=colour, thickness=line)
        _write(picture, f"{cell.area_um2:.0f} um2", (cell.box[0], cell.box[1] - 3), colour, size)
    return picture


def _write(picture: Image, text: str, place: tuple[int, int], colour: tuple[int, int, int], size: float) -> None:
    scale, thickness = 0.4 * size, max(1, round(size))
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    x = min(max(0, place[0]), max(0, picture.shape[1] - width))
    y = max(height + 1, place[1])
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness + 2, cv2.LINE_AA)
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)
