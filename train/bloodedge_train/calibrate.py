"""Temperature scaling: Guo et al., "On calibration of modern neural networks", ICML 2017."""

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision import calibrated

COOLEST, HOTTEST = 0.25, 8.0


def fit_temperature(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> float:
    """The temperature that makes softmax outputs (N, classes) likeliest for ``labels`` (N,), from 0.25 to 8.

    Cross-entropy is unimodal in the temperature, so the range is narrowed by golden sections of its logarithm.
    """
    golden = (np.sqrt(5) - 1) / 2
    low, high = np.log(COOLEST), np.log(HOTTEST)

    def cost(log_temperature: float) -> float:
        p = calibrated(probabilities, float(np.exp(log_temperature)))[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(p, 1e-12)).mean())

    for _ in range(40):
        left, right = high - golden * (high - low), low + golden * (high - low)
        if cost(left) < cost(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))
