"""Red cells that touch a white cell are left out of it, by the frame's own colours."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge.finder import find_cells
from bloodedge.finder.light import CODES, Stain
from bloodedge.finder.neighbours import neighbours
from bloodedge.finder.network import PER_UNIT, ZERO, Maps
from bloodedge.imaging import read_image

SHAPE = (120, 160)
CELL, TOUCHING = ((60, 60), 25), ((103, 60), 20)
OTHERS = [((20, 20), 16), ((140, 20), 16), ((20, 100), 16), ((140, 105), 12)]
NUCLEUS, CYTOPLASM, RED_CELL = (0.3, 0.7, 0.6), (0.1, 0.25, 0.2), (0.5, 0.3, 0.05)
EDGE_ODDS = -2.0


def disc(middle: tuple[int, int], radius: int) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    cv2.circle(mask, middle, radius, 1, cv2.FILLED)
    return mask > 0


def smear(red_cell: tuple[float, float, float]) -> Stain:
    """A white cell that touches a red one, among other red cells; colours are density in blue, green, red."""
    density = np.zeros((*SHAPE, 3), np.float32)
    for place in (TOUCHING, *OTHERS):
        density[disc(*place)] = red_cell
    density[disc(*CELL)] = CYTOPLASM
    density[disc(CELL[0], 17)] = NUCLEUS
    light = np.full((120, 160, 3), 230, np.uint8)
    return Stain(light, np.rint(cv2.GaussianBlur(density, (0, 0), 0.8) * CODES).astype(np.int16), round(0.3 * CODES))


def unsure() -> Maps:
    """A network that takes the nearest third of the touching red cell for part of the white one."""
    odds = np.where(disc(CELL[0], 38), 1.0, -8.0)
    odds[disc(*CELL)] = 6.0
    code = np.clip(ZERO + PER_UNIT * odds, 0, 255).astype(np.uint8)
    return Maps(code, code)


def test_the_piece_of_a_red_cell_is_found_and_nothing_of_the_white_cell():
    beside = neighbours(smear(RED_CELL), unsure(), 0.2, EDGE_ODDS)
    piece = disc(TOUCHING[0], 17) & disc(CELL[0], 38) & ~disc(CELL[0], 28)
    assert piece.sum() > 100
    assert beside[piece].all()
    assert not beside[disc(CELL[0], 23)].any()


def test_red_cells_of_the_cytoplasm_s_colour_are_no_reason_to_cut_it():
    beside = neighbours(smear(CYTOPLASM), unsure(), 0.2, EDGE_ODDS)
    assert not beside[disc(CELL[0], 23)].any()


def test_a_frame_without_red_cells_has_no_neighbours():
    assert not neighbours(smear((0.0, 0.0, 0.0)), unsure(), 0.2, EDGE_ODDS).any()


@pytest.mark.parametrize(("number", "least"), [(1, 0.93), (50, 0.97), (53, 0.9), (55, 0.95)])
def test_a_cell_wedged_between_red_cells(real_data: Path, number: int, least: float):
    picture = real_data / "wbc_masks" / "cellavision" / f"{number:03d}.webp"
    truth = np.asarray(cv2.imread(str(picture.with_suffix(".png")), cv2.IMREAD_GRAYSCALE)) > 64
    found = find_cells(read_image(picture), 0.09)
    cell = found.cells[found.central(truth.shape) or 0]
    mask = np.zeros(truth.shape, bool)
    x, y, width, height = cell.box
    mask[y : y + height, x : x + width] = cell.mask > 0
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > least


@pytest.mark.parametrize("name", ["ERB_103778", "ERB_554438"])
def test_a_late_erythroblast_whose_cytoplasm_is_as_a_red_cell_s_is_still_found(real_data: Path, name: str):
    bgr = read_image(real_data / "pbc" / "images" / f"{name}.webp")
    found = find_cells(bgr, 0.103)
    assert found.central(bgr.shape) is not None
