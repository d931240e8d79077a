"""A slide as a whole is compared with held-out people's slides, people being the unit."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from bloodedge.decision.slide_verdict import (
    FEWEST_CELLS,
    FEWEST_PEOPLE,
    SURE,
    People,
    PeopleScores,
    ScoreCounts,
    SlideVerdict,
    count_scores,
    people_scores,
    score_bin,
    scores_lines,
    slide_verdict,
)

PATIENTS, HEALTHY = (1, 3, 6), (6, 3, 1)
"""Dirichlet parameters: people differ, with a concentration of 10."""


def drawn(
    patients: int, healthy: int, cells: int = 40, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """Blast probabilities, labels and people."""
    rng = np.random.default_rng(seed)
    rows, people = [], []
    for label, count, alpha in ((1, patients, PATIENTS), (0, healthy, HEALTHY)):
        for number in range(count):
            share = rng.dirichlet(alpha)
            rows.append(np.stack([rng.choice([0.1, 0.5, 0.9], cells, p=share), np.full(cells, label)]))
            people += [f"{label}-{number}"] * cells
    blast, labels = np.concatenate(rows, axis=1)
    return blast, labels.astype(np.int64), people


@pytest.fixture(scope="module")
def scores() -> PeopleScores:
    found = people_scores(*drawn(40, 30), "drawn people")
    assert found is not None
    return found


def verdict(scores: PeopleScores, low: int, middle: int, high: int) -> SlideVerdict:
    found = slide_verdict(scores, ScoreCounts(low=low, middle=middle, high=high))
    assert found is not None
    return found


def test_the_bins_meet_at_a_third_and_two_thirds() -> None:
    blast = [0.0, 0.33, 1 / 3, 0.5, 0.66, 2 / 3, 1.0]
    assert [score_bin(p) for p in blast] == ["low", "low", "middle", "middle", "middle", "high", "high"]
    assert count_scores(blast) == ScoreCounts(low=2, middle=3, high=2)


def test_likelihoods_are_those_of_the_dirichlet_multinomial_distribution() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 30, (20, 3)).astype(float)
    alpha = np.array([0.4, 2.0, 7.5])
    lone = People(alpha / alpha.sum(), np.array([alpha.sum()]), np.array([1.0]), 9)
    cells = counts.sum(axis=1)
    arranged = special.gammaln(cells + 1) - special.gammaln(counts + 1).sum(axis=1)
    expected = [stats.dirichlet_multinomial.logpmf(row.astype(int), alpha, int(row.sum())) for row in counts]
    assert lone.log_likelihoods(counts) + arranged == pytest.approx(expected, abs=1e-6)


def test_concentration_and_mean_come_from_the_people() -> None:
    rng = np.random.default_rng(1)
    rows = np.array([rng.multinomial(60, rng.dirichlet(PATIENTS)) for _ in range(300)]).astype(float)
    people = People.fit(rows)
    assert people.mean == pytest.approx(np.array(PATIENTS) / 10, abs=0.03)
    assert people.weights @ people.sizes == pytest.approx(10, rel=0.3)


def test_slides_of_either_kind_are_called_and_those_between_are_not(scores: PeopleScores) -> None:
    ill, well, between = (verdict(scores, *row) for row in ((1, 5, 44), (44, 5, 1), (17, 16, 17)))
    assert ill.figures.answer == "like patients"
    assert well.figures.answer == "like healthy people"
    assert between.figures.answer == "cannot tell"
    assert ill.figures.ratio is not None
    assert well.figures.ratio is not None
    assert ill.figures.ratio > SURE
    assert well.figures.ratio < 1 / SURE
    assert (ill.figures.patients, ill.figures.healthy) == (40, 30)


def test_more_high_scores_never_make_a_slide_less_like_patients(scores: PeopleScores) -> None:
    ratios = [verdict(scores, 30 - high, 10, high).figures.ratio for high in range(31)]
    assert ratios == sorted(ratios)


def test_no_ratio_says_more_than_the_number_of_people_can_show(scores: PeopleScores) -> None:
    assert verdict(scores, 0, 0, 5000).figures.ratio == pytest.approx(30)
    assert verdict(scores, 5000, 0, 0).figures.ratio == pytest.approx(1 / 40)
    few = people_scores(*drawn(FEWEST_PEOPLE, FEWEST_PEOPLE), "few")
    assert few is not None
    assert verdict(few, 0, 0, 5000).figures.ratio <= FEWEST_PEOPLE
    assert people_scores(*drawn(FEWEST_PEOPLE, FEWEST_PEOPLE - 1), "too few") is None


def test_the_ratio_levels_off_as_cells_are_added(scores: PeopleScores) -> None:
    """People of one class differ, so a thousand cells of one person say little more than a hundred."""
    few, some, many = (math.log(verdict(scores, n, 2 * n, 2 * n).figures.ratio or 0) for n in (2, 20, 200))
    assert abs(many - some) < abs(some - few) + 0.2
    assert abs(many - some) < 0.35 * abs(many)


def test_a_handful_of_cells_cannot_tell(scores: PeopleScores) -> None:
    found = verdict(scores, 0, 0, FEWEST_CELLS - 1)
    assert (found.figures.answer, found.figures.ratio) == ("cannot tell", None)
    assert found.sentences == ["A slide is compared with others from 5 cells on; this one has 4."]


def test_what_more_cells_would_do_is_foreseen(scores: PeopleScores) -> None:
    near, hopeless = verdict(scores, 2, 2, 3), verdict(scores, 68, 64, 68)
    assert near.figures.answer == hopeless.figures.answer == "cannot tell"
    assert near.figures.more_cells in {10, 20}
    assert "may settle it" in near.sentence
    assert hopeless.figures.more_cells is None
    assert "More cells are unlikely to settle it." in hopeless.sentence
    assert verdict(scores, 0, 5, 45).figures.more_cells is None  # it is called


def test_of_people_left_out_few_are_called_wrong(scores: PeopleScores) -> None:
    """At even odds, a slide five times as like one kind as the other is of the other once in six times at most."""
    assert [calls.cells for calls in scores.calls] == [20, 50, 200]
    for calls in scores.calls:
        assert calls.right + calls.wrong + calls.not_called == pytest.approx(1)
        assert calls.wrong / (calls.right + calls.wrong) < 1 / 6
    assert scores.calls[-1].right > 0.7


def test_the_ratio_is_right_on_people_never_seen(scores: PeopleScores) -> None:
    """Of new people's slides, as many of each kind, those called are called right five times in six or oftener."""
    rng = np.random.default_rng(5)
    rows = [rng.multinomial(50, rng.dirichlet(alpha)) for alpha in (PATIENTS, HEALTHY) for _ in range(400)]
    ratios = np.exp(scores.model.capped_log_ratios(rows))
    ill = np.repeat([True, False], 400)
    shares = [ill[(ratios > low) & (ratios <= high)].mean() for low, high in ((0, 0.2), (0.2, 1), (1, 5), (5, 99))]
    assert shares == sorted(shares)
    assert shares[0] < 1 / 6
    assert 1 / 6 < shares[1] < 0.6
    assert shares[2] > 0.4
    assert shares[3] > 5 / 6


def test_the_words_name_the_larger_side_first(scores: PeopleScores) -> None:
    said = verdict(scores, 0, 0, 5000).sentence
    assert said.startswith("As a whole: like patients' slides. Its 5,000 cells are 30 times as like patients' slides")
    assert "40 patients and 30 healthy people whom the network has not seen" in said
    assert "40 times as like healthy people's slides as patients' slides" in verdict(scores, 5000, 0, 0).sentence
    assert "diagnos" not in said


def test_the_card_has_each_person_and_what_becomes_of_slides(scores: PeopleScores) -> None:
    text = "\n".join(scores_lines(scores))
    counts = scores.patients["1-0"]
    assert f"| 1-0 | patient | {counts.low} | {counts.middle} | {counts.high} |" in text
    assert f"| 50 | {100 * scores.calls[1].right:.0f} % |" in text


def test_a_bundle_without_scores_has_no_verdict() -> None:
    assert slide_verdict(None, ScoreCounts(low=50)) is None


def test_people_with_any_blast_are_patients() -> None:
    blast, labels, people = drawn(6, 6)
    labels = np.where((labels == 1) & (np.arange(len(labels)) % 3 > 0), 0, labels)  # a patient has normal cells too
    found = people_scores(blast, labels, people, "mixed")
    assert found is not None
    assert (len(found.patients), len(found.healthy)) == (6, 6)
    assert PeopleScores.model_validate_json(found.model_dump_json()) == found


def test_scores_that_are_read_again_for_each_report_are_not_fitted_again(scores: PeopleScores) -> None:
    again = PeopleScores.model_validate_json(scores.model_dump_json())
    assert verdict(again, 40, 30, 30) is verdict(scores, 40, 30, 30)
