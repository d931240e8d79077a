"""Right and wrong calls as pictures, each with its predicted probability."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import LABELS
from bloodedge.imaging import first_view
from bloodedge_train.figures.drawing import GREY, RIGHT, WRONG

ACROSS = 8
INCHES = 10.0, 5.7
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """Cells of one true class, all called right or all called wrong."""

    label: int
    right: bool
    cells: NDArray[np.int64]
    """The surest calls first, at most ACROSS."""
    count: int
    """How many such cells there are."""


def choose(labels: NDArray[np.int64], blast: Floats, threshold: float) -> list[Row]:
    """Four rows: blasts called right, then wrong, normal cells called right, then wrong; the surest of each."""
    rows = []
    for label in (1, 0):
        for right in (True, False):
            called_blast = (label == 1) == right
            fits = (labels == label) & ((blast >= threshold) == called_blast)
            cells = np.flatnonzero(fits)
            order = np.argsort(-blast[cells] if called_blast else blast[cells], kind="stable")
            rows.append(Row(label, right, cells[order][:ACROSS], len(cells)))
    return rows


def paint(
    figure: Any,
    images: Mapping[int, NDArray[np.uint8]],
    subjects: list[str],
    blast: Floats,
    rows: list[Row],
    name: str,
) -> None:
    """Images and calls.

    images: uint8 network inputs of the rows' cells, whose first view is shown; subjects: of each cell, or ""; blast:
    (N,) predicted.
    """
    grid = figure.subplots(len(rows), ACROSS, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    for line, row in zip(grid, rows, strict=True):
        colour = RIGHT if row.right else WRONG
        for axes, cell in zip(line, row.cells, strict=False):
            _paint_cell(axes, first_view(images[int(cell)]), colour)
            axes.set_title(f"{subjects[cell]}  {blast[cell]:.2f}".strip(), fontsize=8, pad=3)
        title = f"{LABELS[row.label]}\ncalled {LABELS[row.label if row.right else 1 - row.label]}\n{row.count:,} cells"
        place = {"transform": line[0].transAxes, "ha": "right", "va": "center", "fontsize": 9}
        line[0].text(-0.12, 0.5, title, color=colour, weight="bold", **place)
        if not len(row.cells):
            line[0].text(0.9, 0.5, "none", color=GREY, **place)
    figure.suptitle(
        f"{name}: the surest calls, right (green) and wrong (orange); subject and predicted probability of blast"
    )


def _paint_cell(axes: Any, image: NDArray[np.uint8], colour: str) -> None:
    axes.imshow(image)
    axes.set_axis_on()
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set(color=colour, linewidth=1.5)
