"""What lies under the virtual microscope: real held-out cells in real fields, as a V4L2 camera gives them."""

import sys
from pathlib import Path

import cv2
import numpy as np

BENCHMARKS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BENCHMARKS))
import field  # noqa: E402

from bloodedge.data.dataset import read_dataset  # noqa: E402
from bloodedge.evaluation.classifier import open_bundle  # noqa: E402
from bloodedge.evaluation.ensemble import Ensemble  # noqa: E402
from bloodedge.evaluation.held_out import choose_cells  # noqa: E402

FIELDS = 12
WIDTH, HEIGHT = 640, 480
MARGIN_X, MARGIN_Y = 40, 48
"""Around each field, mirrored: the camera gives 720x576."""
RELEASED = BENCHMARKS.parent / "models" / "cells.bundle"


def fields(data: Path) -> bytes:
    """Frames of two cells each, BGR, one after the other."""
    classifier = open_bundle(RELEASED, "litert", "int8", 1)
    cells = choose_cells(Ensemble.of([classifier]), read_dataset(data / "cnmc"), "test")[0]
    cells = cells[:: len(cells) // (2 * FIELDS)]
    backgrounds = [one for one in field._backgrounds(data) if one[0].shape == (HEIGHT, WIDTH, 3)]
    frames = []
    for number in range(FIELDS):
        background, um_per_px = backgrounds[-1 - 3 * number]
        pasted = field._pasted(cells, [2 * number, 2 * number + 1], background, um_per_px)
        margins = (MARGIN_Y, MARGIN_Y, MARGIN_X, MARGIN_X)
        frames.append(cv2.copyMakeBorder(pasted.bgr, *margins, cv2.BORDER_REFLECT_101))
    return np.stack(frames).tobytes()
