"""Pictures of what a network looked at."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bloodedge.files import write_bytes
from bloodedge.imaging import Image, as_image
from bloodedge_train.explain.evidence import Explained, Look

PANEL, GAP, LINE = 300, 10, 24
"""Side of a panel, space about it and height of a line of text, px."""
WHITE, PALE = (255, 255, 255), (175, 175, 175)


def draw(found: Look, explained: Explained) -> Image:
    """The cell, the evidence on it and over the whole frame, a row for each view, and the verdict: uint8 BGR."""
    titles = "as the network sees it", f"evidence for {explained.explained}", "the same, whole frame"
    rows = len(found.views)
    height = rows * (PANEL + GAP) + 4 * LINE
    sheet = np.zeros((height, 3 * PANEL + 4 * GAP, 3), np.uint8)
    for row in range(rows):
        top = LINE + 4 + row * (PANEL + GAP)
        for column, (title, panel) in enumerate(zip(titles, _panels(found, row), strict=True)):
            left = GAP + column * (PANEL + GAP)
            sheet[top : top + PANEL, left : left + PANEL] = panel
            if row == 0:
                _write(sheet, title, left, LINE - 6, PALE)
        if rows > 1:
            _write(sheet, found.views[row], 2 * GAP, top + PANEL - GAP, PALE)
    below = LINE + rows * (PANEL + GAP) - GAP
    _write(sheet, _verdict(explained), GAP, below + LINE + 4, WHITE, 0.62)
    _write(sheet, _shares(explained, "frames" if rows > 1 else "frame"), GAP, below + 2 * LINE + 2, WHITE)
    _write(sheet, Path(explained.image).name, GAP, below + 3 * LINE, PALE)
    return sheet


def _panels(found: Look, view: int) -> tuple[Image, Image, Image]:
    """One view of the cell, the evidence on it and that over the whole frame, each enlarged to a panel, BGR."""
    size = (PANEL, PANEL)
    bgr = cv2.cvtColor(found.image[view], cv2.COLOR_RGB2BGR)
    cell = as_image(cv2.resize(bgr, size, interpolation=cv2.INTER_CUBIC))
    smooth = cv2.resize(found.mask[view], size, interpolation=cv2.INTER_LINEAR)
    mask = as_image(np.where(smooth > 127, 255, 0))
    levels = 255 * found.heat[view] / max(float(found.heat.max()), 1e-12)
    heat = cv2.applyColorMap(as_image(np.rint(levels)), cv2.COLORMAP_INFERNO)
    heat = cv2.resize(heat, size, interpolation=cv2.INTER_LINEAR)
    grey = cv2.cvtColor(cv2.cvtColor(cell, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    blended = cv2.addWeighted(grey, 0.45, heat, 0.75, 0)
    over = as_image(np.where(mask[:, :, None] > 0, blended, 0))
    outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    for panel in (over, heat):
        cv2.drawContours(panel, outline, -1, WHITE, 1, cv2.LINE_AA)
    return cell, over, as_image(heat)


def _verdict(explained: Explained) -> str:
    verdict = "uncertain, blast" if explained.said == "uncertain" else explained.said
    return f"{verdict} {1 - explained.blast if verdict == 'normal' else explained.blast:.2f}"


def _shares(explained: Explained, frame: str) -> str:
    if explained.on_cell is None or explained.on_border is None:
        return f"nothing speaks for {explained.explained}"
    return (
        f"on the cell {explained.on_cell:.0%} of the evidence (it fills {explained.cell_share:.0%} of the {frame}), "
        f"on its border {explained.on_border:.0%} ({explained.border_share:.0%})"
    )


FONT = cv2.FONT_HERSHEY_SIMPLEX


def _write(sheet: Image, text: str, left: int, baseline: int, colour: tuple[int, int, int], size: float = 0.5) -> None:
    """Write a line, cut to fit the sheet."""
    room = sheet.shape[1] - left - GAP
    while cv2.getTextSize(text, FONT, size, 1)[0][0] > room:
        text = text.rstrip(".")[:-1] + "..."
    cv2.putText(sheet, text, (left, baseline), FONT, size, colour, 1, cv2.LINE_AA)


def montage(tiles: Sequence[Image]) -> Image:
    """The pictures of many cells side by side, two to a row where there are several: uint8 BGR."""
    columns = min(2, len(tiles))
    empty = [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    every = [*tiles, *empty]
    return as_image(np.vstack([np.hstack(every[at : at + columns]) for at in range(0, len(every), columns)]))


def write_png(path: Path, image: Image) -> None:
    """Store a picture, whole or not at all."""
    _, data = cv2.imencode(".png", image)
    write_bytes(path, data.tobytes())
