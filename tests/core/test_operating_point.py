"""Thresholds are chosen on held-out people, for even errors or for a wanted sensitivity or specificity."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.decision.operating_point import MOST_UNCERTAIN, choose_thresholds
from bloodedge.decision.thresholds import Thresholds

Floats = NDArray[np.float64]


def drawn(blast_people: int, normal_people: int, cells: int = 40) -> tuple[Floats, NDArray[np.int64], list[str]]:
    """Logits of blasts about 2 and of normal cells about 0, with a standard deviation of 1."""
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [blast_people * cells, normal_people * cells])
    logits = rng.normal(2.0 * labels, 1)
    people = [f"P{n // cells}" for n in range(len(labels))]
    return 1 / (1 + np.exp(-logits)), labels, people


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_by_default_the_errors_of_both_classes_are_even() -> None:
    """Of two normal distributions the line is half way, and 15.9 % of each class lies beyond it."""
    chosen = choose_thresholds(*drawn(200, 200), "drawn cells")
    assert chosen is not None
    thresholds, point = chosen
    assert logit(thresholds.blast) == pytest.approx(1, abs=0.1)
    assert point.sensitivity == pytest.approx(point.specificity, abs=0.02)
    assert point.sensitivity > 1 - 0.159
    assert 0.1 < point.uncertain_blasts < MOST_UNCERTAIN + 0.02
    assert 0.1 < point.uncertain_normals < MOST_UNCERTAIN + 0.02
    assert (point.cells, point.blast_people, point.normal_people) == (16000, 200, 200)


@pytest.mark.parametrize(("goal", "line"), [("sensitivity", 2 - 1.645), ("specificity", 1.645)])
def test_a_wanted_sensitivity_or_specificity_is_reached(goal: str, line: float) -> None:
    blast, labels, people = drawn(200, 200)
    chosen = choose_thresholds(blast, labels, people, "drawn cells", **{goal: 0.95})
    assert chosen is not None
    thresholds, point = chosen
    assert logit(thresholds.blast) == pytest.approx(line, abs=0.12)
    assert getattr(point, goal) >= 0.95
    assert f"a {goal} of 0.95" in point.describe()


def test_a_person_of_many_cells_weighs_hardly_more_than_others() -> None:
    blast, labels, people = drawn(30, 30)
    odd = np.full(20_000, 0.05)  # one patient whose blasts all look normal
    with_many = choose_thresholds([*blast, *odd], [*labels, *([1] * 20_000)], [*people, *(["odd"] * 20_000)], "cells")
    without = choose_thresholds(blast, labels, people, "cells")
    assert with_many is not None
    assert without is not None
    assert 0 < logit(without[0].blast) - logit(with_many[0].blast) < 0.3


def test_few_people_move_the_line_less() -> None:
    few, many = (choose_thresholds(*drawn(n, n), "cells") for n in (2, 100))
    assert few is not None
    assert many is not None
    assert 0.5 < few[0].blast < many[0].blast


def test_one_person_of_a_class_moves_nothing() -> None:
    assert choose_thresholds(*drawn(20, 1), "cells") is None


def test_classes_that_never_overlap_give_thresholds_between_them() -> None:
    labels = np.repeat([1, 0], 400)
    people = [f"P{n // 20}" for n in range(800)]
    chosen = choose_thresholds(np.where(labels, 0.999, 0.001), labels, people, "cells")
    assert chosen is not None
    assert isinstance(chosen[0], Thresholds)
    assert (chosen[1].sensitivity, chosen[1].specificity) == (1, 1)
    assert (chosen[1].uncertain_blasts, chosen[1].uncertain_normals) == (0, 0)
