"""A cell's mask ends where its stain does."""

import cv2
import numpy as np
import pytest

from bloodedge.finder.edge import to_edge
from bloodedge.finder.parameters import FinderParameters
from bloodedge.finder.silhouette import Silhouette

UM_PER_PX = 0.08
SIDE, RADIUS = 220, 70
LIGHT = np.full((120, 160, 3), 210, np.uint8)
PARAMETERS = FinderParameters()


def disc(radius: float, side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), round(radius), 255, cv2.FILLED)
    return mask


def frame(density: np.ndarray) -> np.ndarray:
    """What a camera sees of a map of density, the edges blurred by the optics."""
    level = 210 * 10 ** -cv2.GaussianBlur(density.astype(np.float32), (0, 0), 2)
    return np.repeat(np.rint(level).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)


def outlined(margin_um: float) -> Silhouette:
    """The cell with a margin of empty field."""
    mask = disc(RADIUS + margin_um / UM_PER_PX)
    x, y, width, height = cv2.boundingRect(mask)
    return Silhouette((x, y, width, height), mask[y : y + height, x : x + width].copy(), 1.0)


def edge_of(density: np.ndarray, outline: Silhouette, light: np.ndarray = LIGHT) -> np.ndarray:
    """The mask found, in the frame."""
    found = to_edge(outline, frame(density), light, UM_PER_PX, PARAMETERS)
    whole = np.zeros((SIDE, SIDE), np.uint8)
    x, y, width, height = found.box
    assert found.mask.shape == (height, width)
    whole[y : y + height, x : x + width] = found.mask
    return whole


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float(((one > 0) & (other > 0)).sum()) / float((one > 0).sum() + (other > 0).sum())


@pytest.mark.parametrize("density", [0.15, 0.4, 0.9])
@pytest.mark.parametrize("margin_um", [0.0, 0.3, 0.5])
def test_the_margin_of_an_outline_is_left_out(density, margin_um):
    cell = disc(RADIUS)
    assert dice(edge_of(density * (cell > 0), outlined(margin_um)), cell) > 0.98


def test_pale_cytoplasm_round_a_dark_nucleus_stays():
    cell = disc(RADIUS)
    density = np.where(disc(RADIUS - 25) > 0, 0.7, np.where(cell > 0, 0.12, 0.0))
    assert dice(edge_of(density, outlined(0.3)), cell) > 0.97


def test_a_clear_patch_inside_is_not_bitten_out():
    cell = disc(RADIUS)
    density = 0.5 * (cell > 0)
    density[SIDE // 2 - 8 : SIDE // 2 + 8, SIDE // 2 :] = 0
    found = edge_of(density, outlined(0.0))
    deep = round((PARAMETERS.edge_bite_um + 0.1) / UM_PER_PX)
    assert (found[disc(RADIUS - deep) > 0] > 0).all()


def test_what_lies_deep_in_an_outline_stays_even_where_nothing_is_stained():
    found = edge_of(np.zeros((SIDE, SIDE)), outlined(0.0))
    deep = round((PARAMETERS.edge_bite_um + 0.1) / UM_PER_PX)
    assert (found[disc(RADIUS - deep) > 0] > 0).all()


def test_an_outline_too_small_to_have_an_inside_stays_as_it_is():
    mask = disc(5)
    x, y, width, height = cv2.boundingRect(mask)
    small = Silhouette((x, y, width, height), mask[y : y + height, x : x + width].copy(), 1.0)
    assert to_edge(small, frame(0.5 * (mask > 0)), LIGHT, UM_PER_PX, PARAMETERS) is small


def test_the_light_where_the_cell_lies_is_what_counts():
    cell = disc(RADIUS)
    dim = LIGHT.copy()
    dim[:, :40] = 60  # the frame's left quarter
    assert (edge_of(0.4 * (cell > 0), outlined(0.3), dim) == edge_of(0.4 * (cell > 0), outlined(0.3))).all()
