"""What a slide is said to hold, held against other people's formulas and against the truth of drawn people."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from bloodedge.decision.error_rates import Outcomes, Rates, count_outcomes
from bloodedge.decision.prevalence import BlastShare, blast_share

Chances = tuple[float, float]
"""(mean, number of prior cells) of a beta distribution over people."""


def people(number: int, called: float, blast: float, cells: int = 60) -> dict[str, Outcomes]:
    """People who are all alike."""
    answered = round(called * cells)
    said = round(blast * answered)
    outcome = Outcomes(blast=said, normal=answered - said, refused=cells - answered)
    return {str(person): outcome for person in range(number)}


NEVER_ERRS = Rates(blast=people(100, 1, 1, 2000), normal=people(100, 1, 0, 2000))


@pytest.mark.parametrize(("blasts", "called"), [(0, 200), (1, 200), (100, 200), (0, 20)])
def test_the_interval_of_a_classifier_that_never_errs_is_clopper_and_pearson_s(blasts: int, called: int) -> None:
    found = blast_share(NEVER_ERRS, blasts, called)
    exact = stats.binomtest(blasts, called).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.008)
    assert found.limited_by == "cells"


def test_no_blasts_of_200_still_leaves_what_the_count_allows() -> None:
    """1.8 % by Clopper and Pearson; whatever the classifier is worth, never less."""
    never = blast_share(NEVER_ERRS, 0, 200)
    assert never.corrected == 0
    assert 0.0175 < never.high < 0.02
    errs = blast_share(Rates(blast=people(9, 0.9, 0.9), normal=people(9, 0.9, 0.3)), 0, 200)
    assert errs.high > 0.0175


@pytest.mark.parametrize("share", [0.15, 0.6])
def test_of_many_people_who_are_all_alike_it_is_quapy_s_adjusted_count(share: float) -> None:
    from quapy.functional import solve_adjustment_binary

    rates = Rates(blast=people(50, 1, 0.85, 2000), normal=people(50, 1, 0.1, 2000))
    apparent = share * 0.85 + (1 - share) * 0.1
    adjusted = float(solve_adjustment_binary(np.array([1 - apparent, apparent]), 0.85, 0.1)[1])
    assert blast_share(rates, round(apparent * 50_000), 50_000).corrected == pytest.approx(adjusted, abs=0.012)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_of_many_people_who_are_all_alike_it_is_rogan_and_gladen_s_estimate(share: float) -> None:
    sensitivity, false_blasts, called = 0.9, 0.2, 100_000
    rates = Rates(blast=people(50, 1, sensitivity, 2000), normal=people(50, 1, false_blasts, 2000))
    apparent = share * sensitivity + (1 - share) * false_blasts
    assert blast_share(rates, round(apparent * called), called).corrected == pytest.approx(share, abs=0.012)


def test_what_one_class_is_refused_more_often_is_made_up_for() -> None:
    """Half of the cells are blasts; all of them and half of the normal ones are called, and rightly."""
    rates = Rates(blast=people(50, 1, 1, 2000), normal=people(50, 0.5, 0, 2000))
    found = blast_share(rates, 1000, 1500)
    assert found.called == pytest.approx(2 / 3)
    assert found.corrected == pytest.approx(0.5, abs=0.01)


def test_a_model_that_calls_everything_a_blast_cannot_tell() -> None:
    found = blast_share(Rates(blast=people(9, 1, 1), normal=people(9, 1, 1)), 180, 200)
    assert found.cannot_tell
    assert found.limited_by == "classifier"
    assert found.times_the_cells(0.05) == np.inf


def test_few_cells_are_told_from_a_poor_classifier() -> None:
    good = Rates(blast=people(40, 0.95, 0.98), normal=people(40, 0.95, 0.02))
    few = blast_share(good, 10, 20)
    assert few.limited_by == "cells"
    wanted = few.times_the_cells(0.08)
    assert 3 < wanted < 20
    assert blast_share(good, 10 * round(wanted), 20 * round(wanted)).half_width == pytest.approx(0.08, abs=0.02)
    poor = Rates(blast=people(6, 0.9, 0.8), normal=people(6, 0.6, 0.5))
    assert blast_share(poor, 700, 1000).limited_by == "classifier"


@pytest.mark.parametrize("rates", [None, Rates(blast=people(2, 1, 1), normal=people(9, 1, 0))])
def test_without_people_enough_nothing_is_corrected(rates: Rates | None) -> None:
    found = blast_share(rates, 50, 100)
    assert (found.called, found.corrected, found.low, found.high) == (0.5, None, 0, 1)
    assert not found.rates_known


def test_a_slide_on_which_nothing_was_called_says_nothing() -> None:
    found = blast_share(NEVER_ERRS, 0, 0)
    assert found == BlastShare(None, None, 0.0, 1.0, "nothing called")


def test_cells_of_one_frame_that_are_alike_count_for_fewer() -> None:
    alone, together = (blast_share(NEVER_ERRS, 50, 100, effective) for effective in (100, 25))
    assert together.high - together.low > 1.7 * (alone.high - alone.low)


def drawn_person(rng: np.random.Generator, called: Chances, blast: Chances) -> tuple[float, float]:
    one, other = (float(rng.beta(mean * size, (1 - mean) * size)) for mean, size in (called, blast))
    return one, other


BLASTS = ((0.9, 30.0), (0.9, 10.0))
NORMALS = ((0.8, 20.0), (0.2, 6.0))


def measured(rng: np.random.Generator, chances: tuple[Chances, Chances], number: int) -> dict[str, Outcomes]:
    found = {}
    for person in range(number):
        called, blast = drawn_person(rng, *chances)
        answered = int(rng.binomial(50, called))
        said = int(rng.binomial(answered, blast))
        found[str(person)] = Outcomes(blast=said, normal=answered - said, refused=50 - answered)
    return found


@pytest.mark.slow
def test_the_interval_holds_the_truth_on_people_who_were_not_measured() -> None:
    """Nineteen in twenty, over people and counts; an interval of the count alone holds it far more seldom."""
    rng = np.random.default_rng(0)
    held = by_count = 0
    slides = [share for share in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98) for _ in range(15)]
    for share in slides:
        rates = Rates(blast=measured(rng, BLASTS, 9), normal=measured(rng, NORMALS, 9))
        (c1, s), (c0, f) = drawn_person(rng, *BLASTS), drawn_person(rng, *NORMALS)
        apparent = (share * c1 * s + (1 - share) * c0 * f) / (share * c1 + (1 - share) * c0)
        blasts = int(rng.binomial(200, apparent))
        found = blast_share(rates, blasts, 200)
        held += found.low <= share <= found.high
        exact = stats.binomtest(blasts, 200).proportion_ci()
        by_count += exact.low <= share <= exact.high
    assert held >= 0.93 * len(slides)
    assert by_count < 0.6 * len(slides)


def test_outcomes_are_counted_by_person_and_true_class() -> None:
    rates = count_outcomes(
        ["A", "A", "A", "B", "B"], [1, 1, 0, 0, 0], ["blast", "uncertain", "normal", "blast", "normal"], "drawn"
    )
    assert rates == Rates(
        data="drawn",
        blast={"A": Outcomes(blast=1, normal=0, refused=1)},
        normal={"A": Outcomes(blast=0, normal=1, refused=0), "B": Outcomes(blast=1, normal=1, refused=0)},
    )
    assert rates.people == 2


def test_a_count_unlike_all_that_was_seen_is_still_told_with_its_limit() -> None:
    """No blast of 200 cells, though three in ten normal cells were called blasts of everybody before."""
    rates = Rates(blast=people(30, 0.9, 0.95), normal=people(30, 0.9, 0.3))
    found = blast_share(rates, 0, 200)
    assert (found.corrected, found.low) == (0, 0)
    assert 0.0175 < found.high < 0.04
    all_blasts = blast_share(Rates(blast=people(30, 0.9, 0.7), normal=people(30, 0.9, 0.05)), 200, 200)
    assert (all_blasts.corrected, all_blasts.high) == (1, 1)
    assert 0.96 < all_blasts.low < 0.9825


def test_rates_that_are_read_again_for_each_report_take_no_further_memory() -> None:
    rates = Rates(blast=people(9, 0.9, 0.9), normal=people(9, 0.9, 0.3)).model_dump_json()
    known = blast_share(Rates.model_validate_json(rates), 20, 100)
    tracemalloc.start()
    try:
        for _ in range(20):
            assert blast_share(Rates.model_validate_json(rates), 20, 100) is known
        assert tracemalloc.get_traced_memory()[0] < 100_000  # the people drawn take 64 kB
    finally:
        tracemalloc.stop()
