"""The regressions of fine-tuning against the solver of training, and what slides gain."""

import numpy as np

from bloodedge.logistic.solver import Problems, solve
from bloodedge_convert.finetuning.losses import gained
from bloodedge_convert.finetuning.newton import Regression, path

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(200, 5))
LABELS = (FEATURES[:, 0] + RNG.normal(size=200) > 0).astype(np.int64)


def test_a_path_ends_where_the_solver_of_training_does() -> None:
    weights = np.full(200, 1 / 200)
    problem = Regression(FEATURES, LABELS, np.zeros(200), weights, np.ones(5))
    coefficients, biases = path(problem, np.array([1.0, 0.1]))
    columns = np.repeat(weights[:, None], 2, axis=1).astype(np.float32)
    expected = solve(Problems(FEATURES.astype(np.float32), LABELS, columns, np.array([1.0, 0.1])))
    np.testing.assert_allclose(coefficients, expected[0], atol=2e-3)
    np.testing.assert_allclose(biases, expected[1], atol=2e-3)


def test_a_cell_without_weight_is_not_seen() -> None:
    weights = np.where(np.arange(200) < 150, 1 / 150, 0)
    wrong = np.where(np.arange(200) < 150, LABELS, 1 - LABELS)
    found = [
        path(Regression(FEATURES, labels, np.zeros(200), weights, np.ones(5)), np.array([0.1]))
        for labels in (LABELS, wrong)
    ]
    np.testing.assert_array_equal(found[0][0], found[1][0])


def test_what_slides_gain_is_as_sure_as_slides_agree() -> None:
    labels, slides = np.repeat([0, 0, 1, 1], 5), np.repeat(["a", "b", "c", "d"], 5)
    before, after = np.zeros(20), np.where(labels == 1, 2.0, -2.0)
    mean, error = gained(before, after, labels, slides)
    assert mean > 0.5
    assert error == 0
    after[slides == "a"] = 2.0  # one slide is called wrong
    mean, error = gained(before, after, labels, slides)
    assert error > mean
