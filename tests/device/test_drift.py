"""What people are told of a slide whose cells are unlike the reference people's."""

import numpy as np
import pytest

from bloodedge.decision.reference_people import ASPECTS, aspects_of, fit_reference
from bloodedge_device.slide.drift import drift

CELLS = 150


def cells(rng, count=CELLS, stain=0.0, area=1.0):
    """Figures, probabilities and areas of one person's cells; stain: added to the three channels' means."""
    figures = rng.normal(0.5, 0.05, (count, 41)) + rng.normal(0, 0.01, 41)
    figures[:, 5:8] += stain
    return figures, rng.beta(0.5, 0.5, count), area * rng.normal(120, 20, count)


@pytest.fixture(scope="module")
def reference():
    rng = np.random.default_rng(0)
    people = [aspects_of(*cells(rng)) for _ in range(20)]
    values = {aspect: np.concatenate([one[aspect] for one in people]) for aspect in ASPECTS}
    return fit_reference(values, [str(n) for n in range(20) for _ in range(CELLS)])


def found(reference, *slide):
    return {one.aspect: one for one in drift(reference, *slide)}


def test_a_slide_like_the_reference_has_not_drifted(reference):
    every = found(reference, *cells(np.random.default_rng(1)))
    assert set(every) == set(ASPECTS)
    for one in every.values():
        assert one.drifted is False
        assert "is like the reference people's" in one.sentence


def test_a_paler_stain_is_named_with_its_cure_and_nothing_else_is(reference):
    every = found(reference, *cells(np.random.default_rng(2), stain=0.2))
    assert [aspect for aspect, one in every.items() if one.drifted] == ["stain"]
    stain = every["stain"]
    assert stain.sentence == (
        f"The stain of these cells is unlike the reference people's: distance {stain.distance:.2f},"
        f" limit {stain.limit:.2f}; check stain and white balance."
    )
    assert stain.distance > stain.limit


def test_a_wrong_scale_shows_in_the_cells_size(reference):
    every = found(reference, *cells(np.random.default_rng(3), area=1.5))
    assert [aspect for aspect, one in every.items() if one.drifted] == ["area_um2"]
    assert "micrometres per pixel" in every["area_um2"].sentence


@pytest.mark.parametrize("count", [0, 49])
def test_too_few_cells_are_not_compared(reference, count):
    for one in found(reference, *cells(np.random.default_rng(4), count=count, stain=9)).values():
        assert one.drifted is None
        assert one.distance is None
        assert f"{count} of at least 50 cells" in one.sentence
