"""The interval of a share of blasts is honest about cells that come in frames."""

import numpy as np
import pytest
from scipy import stats

from bloodedge.metrics import wilson
from bloodedge_device.slide.interval import FEWEST_CLUSTERS, ClusteredShare, student


def beta_binomial(rng, share, icc, called):
    """Blasts of each frame whose own share varies so that two of its cells correlate by ``icc``."""
    spread = 1 / icc - 1
    return rng.binomial(called, rng.beta(share * spread, (1 - share) * spread, called.shape))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7, 9, 15, 29, 60, 200, 5000])
def test_student_s_t_is_that_of_scipy(degrees):
    assert student(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=2e-3)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_clustered_interval_covers_the_truth_where_wilson_s_alone_does_not(share):
    rng = np.random.default_rng(1)
    called = 2 + rng.poisson(10, (1500, 40))
    blasts = beta_binomial(rng, share, 0.1, called)
    plain = clustered = 0
    for part, whole in zip(blasts, called, strict=True):
        counted = ClusteredShare(part.tolist(), whole.tolist())
        low, high = counted.ci95
        plain += low <= share <= high
        low, high = counted.clustered_ci95
        clustered += low <= share <= high
    assert clustered / 1500 >= 0.92
    assert plain / 1500 < 0.88


def test_the_design_effect_of_equal_frames_is_that_of_kish():
    # Kish, Survey Sampling, 1965: 1 + (m - 1) ICC for m cells a frame.
    rng = np.random.default_rng(2)
    called = np.full((400, 40), 12)
    blasts = beta_binomial(rng, 0.4, 0.2, called)
    effects = [ClusteredShare(b.tolist(), c.tolist()).design_effect for b, c in zip(blasts, called, strict=True)]
    assert np.mean(effects) == pytest.approx(1 + 11 * 0.2, rel=0.05)


def test_a_hand_counted_slide():
    # share 12/24; residuals +2, -2, 0; variance 3/2 * 8 over 24 * 1/4.
    counted = ClusteredShare([6, 2, 4], [8, 8, 8])
    assert counted.share == 0.5
    assert counted.design_effect == pytest.approx(2)
    assert counted.effective_trials == pytest.approx(12)
    assert counted.ci95 == wilson(12, 24)
    assert counted.clustered_ci95 == pytest.approx(wilson(6, 12, float(stats.t.ppf(0.975, 2))), abs=1e-4)


def test_cells_alike_across_frames_are_not_worth_more_than_independent_ones():
    counted = ClusteredShare([5] * 20, [10] * 20)
    assert counted.design_effect == 1
    assert counted.clustered_ci95[0] <= counted.ci95[0]
    assert counted.clustered_ci95[1] >= counted.ci95[1]


def test_frames_without_cells_change_nothing():
    few = ClusteredShare([3, 1, 2], [5, 6, 4])
    many = ClusteredShare([3, 0, 1, 0, 2], [5, 0, 6, 0, 4])
    assert (few.share, few.design_effect, few.clustered_ci95) == (many.share, many.design_effect, many.clustered_ci95)


@pytest.mark.parametrize(("blasts", "called"), [([], []), ([0, 0], [0, 0]), ([4], [9]), ([4, 0], [9, 0])])
def test_fewer_than_two_frames_with_cells_have_no_clustered_interval(blasts, called):
    counted = ClusteredShare(blasts, called)
    assert counted.clustered_ci95 is None
    assert counted.design_effect is None
    assert not counted.enough(0.5)
    assert counted.cells_needed(0.1) > 0


@pytest.mark.parametrize("blasts", [0, 5])
def test_a_slide_of_one_class_only_still_has_a_width_and_can_be_enough(blasts):
    small, large = (ClusteredShare([blasts] * frames, [5] * frames) for frames in (12, 60))
    low, high = small.clustered_ci95
    assert high - low > 0.05
    assert not small.enough(0.02)
    assert large.enough(0.02)
    assert large.cells_needed(0.02) == 0


def test_few_frames_are_never_enough():
    counted = ClusteredShare([500] * (FEWEST_CLUSTERS - 1), [1000] * (FEWEST_CLUSTERS - 1))
    assert not counted.enough(0.05)
    assert 1 <= counted.cells_needed(0.05) <= 1000


def test_so_many_cells_as_were_said_to_be_needed_are_enough():
    rng = np.random.default_rng(4)
    called = np.full(15, 10)
    first = beta_binomial(rng, 0.4, 0.1, called)
    counted = ClusteredShare(first.tolist(), called.tolist())
    needed = counted.cells_needed(0.05)
    assert not counted.enough(0.05)
    # The same frames again and again: neither share nor design effect changes but for the correction of clusters.
    times = -(-(needed + 150) // 150)
    assert ClusteredShare(first.tolist() * (times + 1), [10] * 15 * (times + 1)).enough(0.05)
    assert not ClusteredShare(first.tolist() * (times - 1), [10] * 15 * (times - 1)).enough(0.05)


def test_stopping_as_soon_as_it_is_enough_keeps_the_coverage_and_stops_in_time():
    rng = np.random.default_rng(6)
    covered, frames_used = 0, []
    for _ in range(300):
        called = 1 + rng.poisson(5, 400)
        blasts = beta_binomial(rng, 0.3, 0.1, called)
        for frames in range(FEWEST_CLUSTERS, 400, 2):
            counted = ClusteredShare(blasts[:frames].tolist(), called[:frames].tolist())
            if counted.enough(0.06):
                break
        low, high = counted.clustered_ci95
        covered += low <= 0.3 <= high
        frames_used.append(frames)
    assert covered / 300 >= 0.92
    # 1.96**2 * 0.3 * 0.7 / 0.06**2 = 224 independent cells, 1.6 times as many of these, 6 a frame: 58.
    assert np.median(frames_used) == pytest.approx(58, rel=0.15)
