"""Optical density: Beer-Lambert's table to the last bit, clear glass round the cell, the dyes behind the colours."""

import hashlib
from bisect import bisect_right

import numpy as np
import pytest

from bloodedge.imaging import CNMC_UM_PER_PX, Cell, ImagingSpec, network_input, optical_density


def test_the_table_is_beer_lamberts_law() -> None:
    """By hand: 170 * log10(255 / I) rounded, as 255 codes stand for a density of 1.5; no light counts as level 1."""
    table = optical_density.density_table()
    by_hand = {255: 0, 254: 0, 200: 18, 128: 51, 80: 86, 26: 169, 9: 247, 8: 255, 1: 255, 0: 255}
    assert {level: int(table[level]) for level in by_hand} == by_hand


def test_every_entry_is_rounded_right_by_whole_numbers() -> None:
    """Code k is reached when 1.5 * (k - 1/2) / 255 <= log10(255 / I): 10^(6k - 3) * I^1020 <= 255^1020."""
    steps = [10 ** (6 * k - 3) for k in range(1, 256)]
    for level in range(1, 256):
        assert optical_density.density_table()[level] == bisect_right(steps, 255**1020 // level**1020)


def test_the_table_is_the_same_on_every_machine() -> None:
    table = optical_density.density_table()
    assert (table.dtype, table.shape) == (np.uint8, (256,))
    assert (
        hashlib.sha256(table.tobytes()).hexdigest()
        == "3b1dbf2c15e86206febb4a25ffdfc3dc50daf5dcd7e508ca66ace1842a53d1b6"
    )
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1


def test_twice_the_dye_gives_twice_the_density() -> None:
    """A dye that lets 60 % through, laid over itself: 60 % of 60 %."""
    once, twice = (int(optical_density.density_table()[round(255 * through)]) for through in (0.6, 0.36))
    assert twice == pytest.approx(2 * once, abs=1)


def flat_cell(level: int, side: int = 61) -> Cell:
    y, x = np.mgrid[:side, :side]
    mask = np.where((x - side // 2) ** 2 + (y - side // 2) ** 2 <= (side // 2) ** 2, 255, 0).astype(np.uint8)
    return Cell(np.full((side, side, 3), level, np.uint8), mask, CNMC_UM_PER_PX)


@pytest.mark.parametrize("zoom", [1.0, 0.73, 0.5, 0.21, 1.4])
def test_the_rim_is_never_denser_than_the_cell(zoom: float) -> None:
    """Black beyond the mask means clear glass, not the densest dye: nothing but 0 may blend into the rim."""
    spec = ImagingSpec(size_px=96, um_per_px=CNMC_UM_PER_PX / zoom, colour="density")
    image = network_input(flat_cell(100), spec)
    assert image.max() == image[48, 48, 0] == optical_density.density_table()[100]
    assert not image[0].any()


def test_black_inside_the_cell_is_dense_and_black_round_it_is_not() -> None:
    cell = flat_cell(100)
    cell.bgr[30, 30] = 0
    image = network_input(cell, ImagingSpec(size_px=64, um_per_px=CNMC_UM_PER_PX, colour="density"))
    assert (image == 255).all(axis=2).sum() == 1
    assert not image[:, 0].any()


def test_channels_are_red_green_blue_as_in_an_rgb_input() -> None:
    cell = flat_cell(100)
    cell.bgr[:] = (200, 128, 26)  # blue, green, red
    spec = ImagingSpec(size_px=64, um_per_px=CNMC_UM_PER_PX, colour="density")
    assert network_input(cell, spec)[32, 32].tolist() == [169, 51, 18]


def test_dyes_laid_over_each_other_come_apart_again() -> None:
    """Densities add up; the published vectors have unit length to three digits."""
    mixture = 0.6 * np.array(optical_density.METHYLENE_BLUE) + 0.3 * np.array(optical_density.EOSIN)
    assert mixture @ optical_density.unmixing() == pytest.approx([0.6, 0.3, 0.0], abs=1e-3)
    basis = optical_density.romanowsky()
    assert basis[2] @ basis[:2].T == pytest.approx([0, 0], abs=1e-12)
    assert np.linalg.norm(basis, axis=1) == pytest.approx([1, 1, 1])


def test_methylene_blue_takes_out_red_and_eosin_takes_out_green() -> None:
    basis = optical_density.romanowsky()
    assert basis[:2].argmax(axis=1).tolist() == [0, 1]
