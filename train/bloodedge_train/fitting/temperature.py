"""Temperature scaling: Guo et al., "On calibration of modern neural networks", ICML 2017."""

import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import calibrated

COOLEST, HOTTEST = 0.25, 8.0
USUAL = 1.3
"""The temperature that held-out people ask for, about: over five folds of C-NMC, twice, 1.0 to 1.4."""
BELIEF = 3.0
"""What ``USUAL`` weighs, in people with a squared deviation of one e-fold. A validation part has few people, and a few
who are called wrong would heat everybody: without this one fold came to 7.3, and the error of all folds' cells pooled
was 0.09 instead of 0.03 (docs/experiments.md in the source)."""


def fit_temperature(labels: NDArray[np.int64], probabilities: NDArray[np.float32], people: int) -> float:
    """The temperature that makes softmax outputs (N, classes) likeliest for ``labels`` (N,), from 0.25 to 8.

    Cells of ``people`` persons speak for no more than so many: their mean cross-entropy is weighed against how far the
    temperature is from the usual one. Both are unimodal in its logarithm.
    """
    from scipy.optimize import minimize_scalar

    def cost(log_temperature: float) -> float:
        p = calibrated(probabilities, float(np.exp(log_temperature)))[np.arange(len(labels)), labels]
        unusual = (log_temperature - np.log(USUAL)) ** 2
        return float(-np.log(np.maximum(p, 1e-12)).mean() + BELIEF / people * unusual)

    bounds = np.log(COOLEST), np.log(HOTTEST)
    return float(np.exp(minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x))
