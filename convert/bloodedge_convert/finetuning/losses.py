"""How well log-odds fit cells, whose classes and slides count evenly."""

import numpy as np
from numpy.typing import NDArray

from bloodedge.logistic.solver import sigmoid

FEW_CELLS = 6.0
"""As ``decision.operating_point.CELLS``: of n cells a slide's weigh n / (n + FEW_CELLS) together."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def even(labels: Ints, groups: NDArray[np.str_]) -> Floats:
    """(N,), their sum 1: half for each class, and within a class nearly as much for each group; see FEW_CELLS."""
    weights = np.zeros(len(labels))
    for label in (0, 1):
        own = labels == label
        _, member, counts = np.unique(groups[own], return_inverse=True, return_counts=True)
        shares = 1 / (counts[member] + FEW_CELLS)
        weights[own] = shares / max(shares.sum(), 1e-12) / 2
    return weights


def loss(log_odds: Floats, labels: Ints, groups: NDArray[np.str_]) -> float:
    """Mean log loss, classes and groups weighted evenly."""
    return float(even(labels, groups) @ losses(log_odds, labels))


def losses(log_odds: Floats, labels: Ints) -> Floats:
    """Log loss of each cell (N,)."""
    return np.asarray(-np.log(np.maximum(_right(log_odds, labels), 1e-12)), np.float64)


def gained(before: Floats, after: Floats, labels: Ints, slides: NDArray[np.str_]) -> tuple[float, float]:
    """Mean log loss less than before, and its standard error over the slides of each class.

    before, after: log-odds (N,). A class weighs half, and within a class every slide as much.
    """
    less = losses(before, labels) - losses(after, labels)
    mean, variance = 0.0, 0.0
    for label in (0, 1):
        own = labels == label
        each = np.array([less[own & (slides == name)].mean() for name in np.unique(slides[own])])
        mean += float(each.mean()) / 2
        variance += float(each.var(ddof=1)) / len(each) / 4
    return mean, float(np.sqrt(variance))


def _right(log_odds: Floats, labels: Ints) -> Floats:
    """The probability that each cell's own class is given."""
    return sigmoid(np.where(labels == 1, log_odds, -log_odds))
