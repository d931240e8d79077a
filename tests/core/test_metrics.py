"""Every figure against scikit-learn, a publication or a hand-worked example."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from bloodedge import metrics
from bloodedge.metrics import auc, figures, interval, kappa, resampled_weights, subject_sums, wilson


def scored(seed: int, count: int = 300) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, blast probabilities in steps of 0.05 (so with many ties) and subjects."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    blast = np.clip(np.rint(20 * (0.35 + 0.3 * labels + rng.normal(0, 0.25, count))) / 20, 0, 1)
    return labels, blast, [f"S{n}" for n in rng.integers(0, 9, count)]


def all_of(labels: np.ndarray, blast: np.ndarray, threshold: float) -> dict[str, float]:
    said = (blast >= threshold).astype(int)
    return {
        "accuracy": reference.accuracy_score(labels, said),
        "weighted_f1": reference.f1_score(labels, said, average="weighted", zero_division=0),
        "macro_f1": reference.f1_score(labels, said, average="macro", labels=[0, 1], zero_division=0),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, said),
        "precision": reference.precision_score(labels, said),
        "sensitivity": reference.recall_score(labels, said),
        "specificity": reference.recall_score(labels, said, pos_label=0),
        "f1": reference.f1_score(labels, said),
        "auc": reference.roc_auc_score(labels, blast),
        "pr_auc": reference.average_precision_score(labels, blast),
        "brier": reference.brier_score_loss(labels, blast),
    }


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.2, 0.5, 0.8]))
def test_figures_are_those_of_scikit_learn(seed: int, threshold: float) -> None:
    labels, blast, subjects = scored(seed)
    ours = figures(subject_sums(labels, blast, subjects, threshold))
    for name, value in all_of(labels, blast, threshold).items():
        assert ours[name][0] == pytest.approx(value, abs=1e-12), name


def test_a_subject_drawn_twice_counts_as_if_its_cells_stood_there_twice() -> None:
    labels, blast, subjects = scored(7)
    sums = subject_sums(labels, blast, subjects)
    weights = np.random.default_rng(1).integers(0, 4, len(sums.subjects)).astype(float)
    repeats = np.array([int(weights[sums.subjects.index(s)]) for s in subjects])
    again = np.repeat(labels, repeats), np.repeat(blast, repeats)
    ours = figures(sums, weights[None])
    for name, value in all_of(*again, 0.5).items():
        assert ours[name][0] == pytest.approx(value, abs=1e-12), name


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_weighed_subjects_give_the_weighted_figures_of_scikit_learn(seed: int) -> None:
    labels, blast, subjects = scored(seed)
    sums = subject_sums(labels, blast, subjects)
    weights = np.random.default_rng(seed).exponential(1, (3, len(sums.subjects)))
    ours = figures(sums, weights)
    for row, of_subject in enumerate(weights):
        w = of_subject[[sums.subjects.index(s) for s in subjects]]
        assert ours["pr_auc"][row] == pytest.approx(reference.average_precision_score(labels, blast, sample_weight=w))
        assert ours["auc"][row] == pytest.approx(reference.roc_auc_score(labels, blast, sample_weight=w))
        assert ours["brier"][row] == pytest.approx(reference.brier_score_loss(labels, blast, sample_weight=w))


def test_average_precision_is_the_same_in_one_go_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = subject_sums(*scored(11))
    weights = resampled_weights(sums, 50)
    at_once = figures(sums, weights)["pr_auc"]
    monkeypatch.setattr(metrics, "AT_ONCE", 1000)
    assert figures(sums, weights)["pr_auc"].tolist() == at_once.tolist()


def test_a_subject_counts_once_in_the_mean_over_subjects_however_many_cells_it_has() -> None:
    labels, blast = [1] * 10 + [0] * 2, [0.9] * 10 + [0.1, 0.9]
    sums = subject_sums(labels, blast, ["1"] * 10 + ["H1"] * 2)
    assert figures(sums)["mean_subject_accuracy"][0] == pytest.approx((1 + 0.5) / 2)
    assert figures(sums, np.array([[1.0, 3.0]]))["mean_subject_accuracy"][0] == pytest.approx((1 + 3 * 0.5) / 4)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, said = rng.integers(0, 2, 60), rng.integers(0, 2, 60)
    ours = kappa(reference.confusion_matrix(labels, said))
    assert ours == pytest.approx(reference.cohen_kappa_score(labels, said), abs=1e-12)


def test_kappa_of_one_class_alone_is_no_agreement_beyond_chance() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kappa([[5, 0], [0, 0]]) == 0


def test_auc_counts_ties_half_and_needs_both_classes() -> None:
    assert auc([0, 0, 1, 1], [0.1, 0.5, 0.5, 0.9]) == pytest.approx(3.5 / 4)
    assert auc([1, 1], [0.2, 0.3]) is None
    assert auc([], []) is None


def test_one_class_alone_gives_no_auc_and_no_invented_figure() -> None:
    ours = figures(subject_sums([1, 1, 1], [0.9, 0.8, 0.1], ["A", "A", "B"]))
    for name in ("auc", "pr_auc", "specificity"):
        assert np.isnan(ours[name][0])
    assert np.isnan(figures(subject_sums([0, 1], [0.1, 0.2], ["A", "B"]))["precision"][0])  # nothing was said a blast
    assert ours["sensitivity"][0] == pytest.approx(2 / 3)
    assert ours["macro_f1"][0] == pytest.approx(0.4)  # F1 of blasts 0.8, of normal cells 0


def test_expected_calibration_error_of_a_hand_worked_example() -> None:
    # Confidences 0.9 (right), 0.9 (wrong), 0.6 (right), 0.6 (right, said normal): bins (0.867, 0.933] and (0.533, 0.6].
    # |1 - 1.8| + |2 - 1.2| = 1.6 over four cells.
    labels, blast = [1, 0, 1, 0], [0.9, 0.9, 0.6, 0.4]
    ours = figures(subject_sums(labels, blast, ["A"] * 4))
    assert ours["ece"][0] == pytest.approx(0.4)
    assert "ece_before" not in ours


def test_the_calibration_error_before_the_temperature_is_that_of_the_probabilities_before_it() -> None:
    labels, blast = [1, 0, 1, 0], [0.9, 0.9, 0.6, 0.4]
    ours = figures(subject_sums(labels, [0.6, 0.6, 0.6, 0.4], ["A"] * 4, uncalibrated=blast))
    assert ours["ece_before"][0] == pytest.approx(0.4)
    assert ours["ece"][0] == pytest.approx(0.75 - 0.6)  # four confidences of 0.6, three right


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe, "Two-sided confidence intervals for the single proportion", Stat Med 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_newcombes(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_without_trials_a_share_can_be_anything() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_intervals_cover_the_truth_when_cells_of_a_person_are_alike() -> None:
    """A person's accuracy is Beta(6, 2): 0.75 on average over people, whatever the number of cells each."""
    rng = np.random.default_rng(2)
    covered = narrow = 0
    for _ in range(200):
        right = rng.random((30, 40)) < rng.beta(6, 2, (30, 1))
        labels = np.repeat(np.arange(30) % 2, 40)
        blast = np.where(right.ravel() == labels, 0.9, 0.1)
        sums = subject_sums(labels, blast, [str(s) for s in np.repeat(np.arange(30), 40)])
        low, high = interval(figures(sums, resampled_weights(sums, 300))["accuracy"]) or (1, 0)
        covered += low <= 0.75 <= high
        half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / right.size)
        narrow += abs(right.mean() - 0.75) <= half
    assert 0.88 <= covered / 200 <= 0.985
    assert narrow / 200 < 0.7  # intervals over cells, as if each were a person of its own, promise too much


def test_the_interval_of_average_precision_covers_what_new_people_show() -> None:
    """Each person's cells are shifted alike; the truth is scikit-learn's figure over very many people."""
    rng = np.random.default_rng(3)

    def people(count: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
        labels = np.repeat(np.arange(count) % 2, 20)
        logit = 2 * labels - 1 + np.repeat(rng.normal(0, 1, count), 20) + rng.normal(0, 1, labels.size)
        return labels, 1 / (1 + np.exp(-logit)), [str(n) for n in np.repeat(np.arange(count), 20)]

    labels, blast, _ = people(20_000)
    truth = {
        "pr_auc": reference.average_precision_score(labels, blast),
        "brier": reference.brier_score_loss(labels, blast),
        "f1": reference.f1_score(labels, blast >= 0.5),
    }
    covered = dict.fromkeys(truth, 0)
    for _ in range(150):
        sums = subject_sums(*people(40))
        replicates = figures(sums, resampled_weights(sums, 300))
        for name, value in truth.items():
            low, high = interval(replicates[name]) or (1, 0)
            covered[name] += low <= value <= high
    for name, times in covered.items():
        assert 0.85 <= times / 150 <= 0.995, name


def test_every_replicate_keeps_both_classes_when_one_person_is_healthy() -> None:
    labels, blast = [1] * 20 + [0] * 3, np.linspace(0.9, 0.1, 23)
    sums = subject_sums(labels, blast, [str(n // 2) for n in range(20)] + ["H1"] * 3)
    assert interval(figures(sums, resampled_weights(sums, 200))["auc"]) is not None


def test_an_interval_of_figures_without_a_value_is_none() -> None:
    assert interval(np.array([0.1, np.nan])) is None
