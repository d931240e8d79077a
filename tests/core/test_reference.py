"""Drift means farther from the reference people than they are from one another."""

import numpy as np
import pytest
from scipy import stats

from bloodedge.config import validate
from bloodedge.decision.domain import describe
from bloodedge.decision.reference_people import ASPECTS, Reference, aspects_of, fit_reference
from bloodedge.errors import UsageError
from bloodedge.imaging import ImagingSpec
from bloodedge.simulation import golden_inputs


def person(rng, cells=120, shift=0.0):
    """One person's cells: people's means vary half as much as cells do."""
    return rng.normal(rng.normal(0, 0.5) + shift, 1, cells)


def reference_of(rng, people=40, cells=120):
    columns = [person(rng, cells) for _ in range(people)]
    values = np.concatenate(columns)
    return fit_reference(dict.fromkeys(ASPECTS, values), [f"P{n}" for n in range(people) for _ in range(cells)]), values


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    rng = np.random.default_rng(0)
    reference, values = reference_of(rng)
    for shift in (0, 0.3, 1.5, 9):
        sample = person(rng, shift=shift)
        expected = stats.ks_2samp(sample, values).statistic
        # A hundred quantiles stand for the reference: within a hundredth.
        assert reference.distance("stain", sample) == pytest.approx(expected, abs=0.01)


def test_many_cells_of_one_value_are_no_distance():
    rng = np.random.default_rng(1)
    sure = np.where(rng.random(4000) < 0.6, 1.0, rng.uniform(0.5, 1, 4000))
    reference = fit_reference(dict.fromkeys(ASPECTS, sure), [str(n % 20) for n in range(4000)])
    same = np.where(rng.random(1000) < 0.6, 1.0, rng.uniform(0.5, 1, 1000))
    assert reference.distance("confidence", same) == pytest.approx(stats.ks_2samp(same, sure).statistic, abs=0.01)
    assert reference.distance("confidence", np.ones(100)) == pytest.approx(0.4, abs=0.03)


def test_a_new_person_of_the_same_kind_seldom_drifts_and_a_shifted_one_does():
    rng = np.random.default_rng(2)
    reference, _ = reference_of(rng)
    same = np.mean([reference.drifted("area_um2", person(rng)) for _ in range(300)])
    shifted = np.mean([reference.drifted("area_um2", person(rng, shift=2.5)) for _ in range(100)])
    assert same <= 0.1
    assert shifted >= 0.9


def test_differences_between_people_widen_the_limit():
    rng = np.random.default_rng(3)
    alike = rng.normal(0, 1, (20, 200))
    unlike = alike + rng.normal(0, 1, (20, 1))
    limits = [
        fit_reference(dict.fromkeys(ASPECTS, cells.ravel()), [str(n) for n in range(20) for _ in range(200)])
        for cells in (alike, unlike)
    ]
    assert limits[0].aspects["focus"].limit < 0.15
    assert limits[1].aspects["focus"].limit > 0.4


def test_fewer_than_fifty_cells_decide_nothing():
    reference, _ = reference_of(np.random.default_rng(4))
    far = np.full(50, 99.0)
    assert reference.drifted("stain", far[:49]) is None
    assert reference.drifted("stain", far[:0]) is None
    assert reference.drifted("stain", far) is True


def test_people_with_few_cells_say_nothing_about_how_people_differ():
    rng = np.random.default_rng(5)
    assert reference_of(rng, people=4)[0] is None
    assert reference_of(rng, people=60, cells=10)[0] is None
    big = [str(n) for n in range(5) for _ in range(60)]
    values = rng.normal(size=310)
    reference = fit_reference(dict.fromkeys(ASPECTS, values), [*big, *["few"] * 10])
    assert (reference.people, reference.cells) == (5, 310)


def test_a_reference_survives_its_journey_in_a_bundle_and_a_damaged_one_is_refused():
    reference, _ = reference_of(np.random.default_rng(6))
    assert validate(Reference, reference.model_dump(mode="json"), "manifest.json") == reference
    damaged = reference.model_dump(mode="json")
    damaged["aspects"]["stain"]["quantiles"].pop()
    with pytest.raises(UsageError, match="quantiles"):
        validate(Reference, damaged, "manifest.json")


def test_stain_and_focus_follow_the_picture():
    images = golden_inputs(ImagingSpec(size_px=96, um_per_px=0.2), 4)
    blurred = [np.where(i.any(axis=2, keepdims=True), np.uint8(128), i) for i in images]
    figures, flat = np.array([describe(i) for i in images]), np.array([describe(i) for i in blurred])
    given = aspects_of(figures, [0.9, 0.2, 0.5, 1.0], [100, 110, 90, 80])
    assert given["confidence"] == pytest.approx([0.9, 0.8, 0.5, 1.0])
    assert given["area_um2"] == pytest.approx([100, 110, 90, 80])
    lit = [image[image.any(axis=2)].mean() / 255 for image in images]
    assert given["stain"] == pytest.approx(lit, abs=1e-3)
    assert np.all(aspects_of(flat, [0.5] * 4, [1] * 4)["focus"] < given["focus"] - 1)


def test_no_cells_have_no_aspects():
    assert all(len(values) == 0 for values in aspects_of([], [], []).values())
