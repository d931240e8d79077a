"""Features of training cells that a run and a bundle carry for fine-tuning."""

from collections.abc import Callable

import numpy as np
import pytest

from bloodedge.data.training_features import LEVELS, TrainingFeatures, in_turns
from bloodedge.errors import BloodedgeError
from bloodedge.logistic.rule import Linear, OwnBench, Rule

RNG = np.random.default_rng(0)
PEOPLE = ["1"] * 300 + ["2"] * 20 + ["H1"] * 80
LABELS = np.array([1] * 320 + [0] * 80)
FEATURES = RNG.normal(3, 2, (400, 7)).astype(np.float32)
WEIGHTS = RNG.normal(0, 0.1, 7).astype(np.float16).astype(np.float64)


RULES = [Rule(Linear(WEIGHTS, 0.5)), Rule(Linear(WEIGHTS, 0.5), OwnBench(Linear(-2 * WEIGHTS, 1), Linear(WEIGHTS, -1)))]


def kept(rule: Rule = RULES[0]) -> TrainingFeatures:
    blast = 1 / (1 + np.exp(-rule.log_odds(FEATURES)))
    return TrainingFeatures.of(FEATURES, LABELS, PEOPLE, blast, rule, [3, 4], seed=0)


@pytest.mark.parametrize("rule", RULES)
def test_features_come_back_to_half_a_step_with_the_head_that_made_the_log_odds(rule: Rule) -> None:
    back = TrainingFeatures.unpack(kept(rule).pack(), "features.npz")
    assert np.abs(back.values - FEATURES).max() <= np.ptp(FEATURES, axis=0).max() / LEVELS / 2 + 1e-5
    assert np.allclose(back.rule.log_odds(FEATURES), back.log_odds, atol=1e-3)
    assert back.record().model_dump() == {"file": "features.npz", "cells": 400, "people": 3}


def test_people_take_turns_and_both_classes_have_half() -> None:
    chosen = in_turns(LABELS, PEOPLE, 100, seed=0)
    counts = {name: int((np.array(PEOPLE)[chosen] == name).sum()) for name in ("1", "2", "H1")}
    assert counts == {"1": 30, "2": 20, "H1": 50}


def test_a_class_with_few_cells_leaves_its_places_to_the_other() -> None:
    assert len(in_turns(LABELS, PEOPLE, 390, seed=0)) == 390
    assert len(in_turns(LABELS, PEOPLE, 1000, seed=0)) == 400


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"PK" + data[5:], lambda _: b""])
def test_a_damaged_file_is_named(damage: Callable[[bytes], bytes]) -> None:
    with pytest.raises(BloodedgeError, match=r"cells.bundle: features.npz is damaged"):
        TrainingFeatures.unpack(damage(kept().pack()), "cells.bundle: features.npz")
