"""The temperature that was put in is found again."""

import numpy as np
import pytest

from bloodedge_train.fitting.temperature import COOLEST, HOTTEST, USUAL, fit_temperature


def softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.5])
def test_a_known_temperature_is_recovered(temperature: float) -> None:
    """Labels are drawn from softmax(logits / T), and the network says softmax(logits)."""
    rng = np.random.default_rng(0)
    spread = min(temperature, 1.5)  # outputs below 1/1024 are cut, so keep most above
    logits = np.stack([np.zeros(40_000), rng.normal(0, spread, 40_000)], 1)
    labels = (rng.random(40_000) < softmax(logits / temperature)[:, 1]).astype(np.int64)
    assert fit_temperature(labels, softmax(logits).astype(np.float32), 40_000) == pytest.approx(temperature, rel=0.08)


def test_certain_and_always_right_stays_in_the_allowed_range() -> None:
    labels = np.array([0, 1] * 20)
    sure = np.where(np.eye(2)[labels] == 1, 0.99, 0.01).astype(np.float32)
    assert fit_temperature(labels, sure, 10**9) == pytest.approx(COOLEST, rel=0.01)
    assert fit_temperature(1 - labels, sure, 10**6) == pytest.approx(HOTTEST, rel=0.01)


def test_few_people_move_the_temperature_less_than_many() -> None:
    """A network that is sure and wrong of every second cell asks for the hottest there is."""
    labels = np.array([0, 1] * 200)
    sure = np.tile(np.array([[0.999, 0.001]], np.float32), (400, 1))
    one, ten, many = (fit_temperature(labels, sure, people) for people in (1, 10, 10**6))
    assert many == pytest.approx(HOTTEST, rel=0.01)
    assert USUAL < one < ten < many
