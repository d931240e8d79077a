"""Temperature scaling and what is said of a cell."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloodedge.decision.thresholds import Reason, Thresholds, calibrated, decide, is_fault, require_probabilities
from bloodedge.errors import BloodedgeError, UsageError


def softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponent / exponent.sum(axis=1, keepdims=True)


def test_scaling_softmax_outputs_equals_scaling_the_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 1.5, (200, 2))
    assert np.allclose(calibrated(softmax(logits), 2.5), softmax(logits / 2.5), atol=1e-12)


@given(st.floats(0, 1), st.floats(0.25, 8))
def test_a_calibrated_probability_is_one_and_keeps_its_side(p: float, temperature: float) -> None:
    normal, blast = calibrated([[1 - p, p]], temperature)[0]
    assert normal + blast == pytest.approx(1)
    assert 0 < blast < 1
    assert (blast > normal) == (p > 1 - p) or abs(p - 0.5) < 1e-9 or max(p, 1 - p) * 1024 < 1


def test_an_int8_zero_does_not_become_certainty() -> None:
    assert calibrated([[1.0, 0.0]], 1.0)[0, 1] == pytest.approx(1 / 1025)


@pytest.mark.parametrize(
    ("probability", "said", "reason"),
    [
        (0.0, "normal", None),
        (0.35, "normal", None),
        (0.36, "uncertain", Reason.ABSTAIN_BAND),
        (0.5, "uncertain", Reason.ABSTAIN_BAND),
        (0.64, "uncertain", Reason.ABSTAIN_BAND),
        (0.65, "blast", None),
        (1.0, "blast", None),
    ],
)
def test_between_the_uncertain_bounds_the_device_abstains(probability: float, said: str, reason: Reason | None) -> None:
    assert decide(probability, Thresholds()) == (said, reason)


def test_without_a_band_every_cell_is_called() -> None:
    thresholds = Thresholds(blast=0.3, uncertain_low=0.3, uncertain_high=0.3)
    assert [decide(p, thresholds)[0] for p in (0.29, 0.3, 0.31)] == ["normal", "blast", "blast"]


def test_thresholds_out_of_order_are_refused() -> None:
    from bloodedge.config import validate

    with pytest.raises(UsageError, match="uncertain_low <= blast"):
        validate(Thresholds, {"blast": 0.2}, "thresholds")


NO_PROBABILITIES = [
    [np.nan, np.nan],
    [np.nan, 0.5],
    [np.inf, -np.inf],
    [0.0, np.inf],
    [-0.5, 1.5],
    [0.9, 0.9],
    [0.0, 0.0],
    [3.0, -2.0],
]


@pytest.mark.parametrize("output", NO_PROBABILITIES)
def test_an_output_that_is_no_probabilities_is_a_fault_and_never_a_class(output: list[float]) -> None:
    blast = calibrated([output], 1.3)[0, 1]
    assert decide(blast, Thresholds()) == ("uncertain", Reason.MODEL_FAULT)


@pytest.mark.parametrize("probability", [np.nan, np.inf, -np.inf, -0.01, 1.01])
def test_what_is_no_probability_is_uncertain_whatever_the_band(probability: float) -> None:
    for thresholds in (Thresholds(), Thresholds(blast=0.3, uncertain_low=0.3, uncertain_high=0.3)):
        assert decide(probability, thresholds) == ("uncertain", Reason.MODEL_FAULT)


def test_a_fault_touches_no_other_cell() -> None:
    outputs = np.array([[0.2, 0.8], [np.nan, np.nan], [0.7, 0.3]])
    assert is_fault(outputs).tolist() == [False, True, False]
    assert np.array_equal(calibrated(outputs, 2)[[0, 2]], calibrated(outputs[[0, 2]], 2))


@given(st.integers(0, 256), st.integers(-1, 1))
def test_int8_steps_are_no_fault(steps: int, rounding: int) -> None:
    output = [min(steps, 255) / 256, min(max(256 - steps + rounding, 0), 255) / 256]
    assert not is_fault([output])[0]


def test_faults_are_counted_in_the_error() -> None:
    require_probabilities(np.array([[0.5, 0.5]]), "The network")
    with pytest.raises(BloodedgeError, match="The network gave no probabilities for 2 of 3 cells"):
        require_probabilities(np.array([[np.nan, 0.5], [0.5, 0.5], [0.9, 0.9]]), "The network")
