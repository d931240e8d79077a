"""Runs without people held out for good: who sets the domain's limit, and which head judges a cell."""

from pathlib import Path

import numpy as np

from bloodedge.data.dataset import CellFile
from bloodedge_convert.cells.run_cells import Folds
from bloodedge_convert.cells.training_profile import hold_back
from bloodedge_convert.judge.measure import Sample


def cell(subject: str, label: int, number: int = 0) -> CellFile:
    return CellFile("", "", 1, 1.0, b"", None, f"{subject}_{number}.png", Path(), label, subject, "")


def test_some_groups_of_each_class_are_held_back_whole() -> None:
    cells = [
        cell(f"{'H' * (1 - label)}{person}", label, n) for label in (0, 1) for person in range(8) for n in range(3)
    ]
    parts = hold_back(cells, lambda one: one.subject)
    people = {name: {one.subject for one in part} for name, part in parts.items()}
    assert not people["train"] & people["validation"]
    assert {one.label for one in parts["validation"]} == {0, 1}
    assert len(people["validation"]) == 4
    assert sum(map(len, parts.values())) == len(cells)


def test_each_cell_is_judged_by_the_head_that_was_not_fitted_to_its_group() -> None:
    outputs = np.arange(3 * 2 * 2, dtype=np.float32).reshape(3, 2, 2)
    folds = Folds({"a": 1, "b": 0}, lambda one: one.subject)
    chosen = folds.choose(outputs, [cell("a", 1), cell("b", 0), cell("a", 1)])
    np.testing.assert_array_equal(chosen, [outputs[0, 1], outputs[1, 0], outputs[2, 1]])


def sigmoid(logit: float) -> list[float]:
    p = 1 / (1 + np.exp(-logit))
    return [1 - p, p]


def test_what_conversion_changes_is_added_to_the_judging_heads_log_odds() -> None:
    own, judging, artifact = (np.array([sigmoid(z)], np.float32) for z in (2.0, -0.3, 2.5))
    sample = Sample("cells", np.empty((1, 0)), [1], ["a"], judging, own)
    np.testing.assert_allclose(sample.carried(artifact), [sigmoid(-0.3 + 0.5)], atol=1e-5)
    np.testing.assert_allclose(sample.carried(own), judging, atol=1e-6)
    plain = Sample("cells", np.empty((1, 0)), [1], ["a"], own)
    assert plain.carried(artifact) is artifact
