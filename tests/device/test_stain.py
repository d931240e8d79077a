"""A slide's dyes are learned from its first cells, and only where they are wanted."""

import numpy as np
import pytest

from bloodedge.imaging import Cell, ImagingSpec
from bloodedge.imaging.optical_density import romanowsky
from bloodedge.imaging.restain import StainBasis
from bloodedge_device.finder.slide_stain import CELLS, SlideStain

REFERENCE = StainBasis.model_validate({"dyes": romanowsky()[:2].tolist(), "strength": (1.0, 1.0)})
TRAINED = ImagingSpec(stain=REFERENCE)


def cell(seed: int, turn: float = 0.0) -> Cell:
    rng = np.random.default_rng(seed)
    dyes = romanowsky()[:2] + turn * np.array([[-1, 1, 0.5], [1, -1, 0.5]])
    density = rng.uniform(0, 1, (6400, 2)) @ dyes
    bgr = np.rint(216 * 10 ** -density.reshape(80, 80, 3) - 1).astype(np.uint8)[:, :, ::-1].copy()
    return Cell(bgr, np.full((80, 80), 255, np.uint8), 0.1)


@pytest.mark.parametrize(
    ("imaging", "mode", "on"),
    [
        (ImagingSpec(), "auto", False),
        (TRAINED, "auto", True),
        (ImagingSpec(), "on", True),
        (TRAINED, "on", True),
        (ImagingSpec(), "off", False),
        (TRAINED, "off", False),
    ],
)
def test_auto_does_as_in_training(imaging, mode, on):
    slide = SlideStain(imaging, REFERENCE, mode)
    assert (slide.imaging.stain == REFERENCE) is on
    assert (slide.of(cell(0)).stain is not None) is on


def test_without_a_reference_nothing_is_brought_to_it():
    assert SlideStain(ImagingSpec(), None, "on").of(cell(0)).stain is None


def test_the_dyes_are_those_of_the_first_cells():
    slide = SlideStain(TRAINED, None, "auto")
    learned = [slide.of(cell(seed, turn=0.1)).stain for seed in range(CELLS)][-1]
    assert learned is not None
    assert learned.note is None
    assert slide.of(cell(99, turn=-0.1)).stain == learned
    assert np.array(learned.dyes) != pytest.approx(romanowsky()[:2], abs=0.02)
