"""Penalised logistic regressions of few features by Newton's method, each from where the one before it ended."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge.logistic.solver import sigmoid

MOST_STEPS = 30
HALVINGS = 12
TOLERANCE = 1e-5
"""Largest gradient of a solved regression, of a loss that begins at log 2."""
INTERCEPT = 1e-9
"""Penalty of the intercept, without which cells of one class alone have no solution."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Regression:
    """Cells whose log-odds are ``offsets`` plus something linear in ``features``."""

    features: Floats
    """(N, D)."""
    labels: NDArray[np.int64]
    """(N,) 0 or 1."""
    offsets: Floats
    """(N,)."""
    weights: Floats
    """(N,), their sum 1; 0 for a cell that must not be seen."""
    shares: Floats
    """(D,), of the penalty that each coefficient has."""


def path(problem: Regression, penalties: Floats) -> tuple[Floats, Floats]:
    """Coefficients (D, K) and intercepts (K,), by penalties of half the squared coefficients, the largest first."""
    seen = problem.weights > 0
    x = np.column_stack([problem.features[seen], np.ones(int(seen.sum()))])
    found, at = np.empty((x.shape[1], len(penalties))), np.zeros(x.shape[1])
    for number, penalty in enumerate(penalties):
        cost = np.append(penalty * problem.shares, INTERCEPT)
        at = _solved(x, problem.labels[seen], problem.offsets[seen], problem.weights[seen], cost, at)
        found[:, number] = at
    return found[:-1], found[-1]


def _solved(x: Floats, labels: NDArray[np.int64], offsets: Floats, weights: Floats, cost: Floats, at: Floats) -> Floats:
    """(D + 1,) from ``at`` on: Newton's steps, each halved until the loss is no more than it was."""
    signs = 1.0 - 2.0 * labels

    def loss(where: Floats, logits: Floats) -> float:
        return float(weights @ np.logaddexp(0, signs * logits) + cost @ np.square(where) / 2)

    logits = offsets + x @ at
    here = loss(at, logits)
    for _ in range(MOST_STEPS):
        p = sigmoid(logits)
        gradient = x.T @ (weights * (p - labels)) + cost * at
        if np.abs(gradient).max() <= TOLERANCE:
            break
        curvature = (x * (weights * p * (1 - p))[:, None]).T @ x + np.diag(cost)
        step = -np.linalg.solve(curvature, gradient)
        for _ in range(HALVINGS):
            there = at + step
            logits = offsets + x @ there
            if (after := loss(there, logits)) <= here + 1e-12:
                break
            step /= 2
        at, here = there, after
    return at
