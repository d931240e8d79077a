"""Many L2-penalised logistic regressions of the same features at once.

Folds and penalties differ, the features do not: each step multiplies them once by all coefficients and once by all
residuals, which takes a few times as long as for one regression. L-BFGS (Liu and Nocedal, Mathematical Programming 45,
1989) with a line search that needs no further multiplication, because logits are linear in the coefficients.
"""

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = TypeVar("Array", bound=NDArray[Any])

MEMORY = 10
MOST_STEPS = 500
TOLERANCE = 1e-4
"""Largest gradient of a solved regression, of a loss that begins at log 2."""
SEARCHES = 4


@dataclass(frozen=True)
class Problems:
    """K regressions; ``weights`` of a cell that a regression must not see are 0."""

    features: NDArray[np.float32]
    """(N, D)."""
    labels: NDArray[np.int64]
    """(N,) 0 or 1."""
    weights: NDArray[np.float32]
    """(N, K), each column's sum 1."""
    penalties: Floats
    """(K,) of half the squared coefficients, beside the weighted mean of the log loss."""


def solve(problems: Problems) -> tuple[Floats, Floats]:
    """Coefficients (D, K) and intercepts (K,)."""
    count = len(problems.penalties)
    solved = np.zeros((problems.features.shape[1] + 1, count))
    open_ = np.arange(count)
    state = _State(problems, open_)
    for _ in range(MOST_STEPS):
        done = np.abs(state.gradient).max(axis=0) <= TOLERANCE
        if done.any():
            solved[:, open_[done]] = state.at[:, done]
            open_ = open_[~done]
            state.keep(~done)
        if not len(open_):
            break
        state.step()
    else:
        solved[:, open_] = state.at
    return solved[:-1], solved[-1]


class _State:
    """The regressions that are not solved yet; the last row of coefficients is the intercept."""

    def __init__(self, problems: Problems, columns: NDArray[np.int64]) -> None:
        self.x, self.signs = problems.features, 1.0 - 2.0 * problems.labels[:, None].astype(np.float32)
        self.labels = problems.labels[:, None].astype(np.float32)
        self.weights, self.penalties = problems.weights, problems.penalties
        self.at = np.zeros((self.x.shape[1] + 1, len(columns)))
        self.logits = np.zeros((len(self.x), len(columns)), np.float32)
        self.gradient = self._gradient()
        self.moves: list[Floats] = []
        self.changes: list[Floats] = []

    def keep(self, kept: NDArray[np.bool_]) -> None:
        """Leave the others out."""
        for name in ("weights", "at", "logits", "gradient"):
            setattr(self, name, getattr(self, name)[:, kept])
        self.penalties = self.penalties[kept]
        self.moves, self.changes = ([pair[:, kept] for pair in pairs] for pairs in (self.moves, self.changes))

    def _logits(self, at: Floats) -> NDArray[np.float32]:
        coefficients = at.astype(np.float32)
        return np.asarray(self.x @ coefficients[:-1] + coefficients[-1], np.float32)

    def _gradient(self) -> Floats:
        residuals = self.weights * (sigmoid(self.logits) - self.labels)
        total = residuals.sum(axis=0, dtype=np.float64)
        return np.vstack([self.x.T @ residuals + self.penalties * self.at[:-1], total])

    def step(self) -> None:
        """One step of each regression along its own direction."""
        direction = self._direction()
        along = self._logits(direction)
        length = self._length(direction, along)
        move = length * direction
        self.at = self.at + move
        self.logits += (length * along).astype(np.float32)
        before, self.gradient = self.gradient, self._gradient()
        self.moves, self.changes = [*self.moves, move][-MEMORY:], [*self.changes, self.gradient - before][-MEMORY:]

    def _direction(self) -> Floats:
        """L-BFGS's two loops, for every column."""
        q, shares = -self.gradient, []
        for move, change in zip(reversed(self.moves), reversed(self.changes), strict=True):
            share = _dot(move, q) / _positive(_dot(move, change))
            q = q - share * change
            shares.append(share)
        if self.moves:
            q = q * _dot(self.moves[-1], self.changes[-1]) / _positive(_dot(self.changes[-1], self.changes[-1]))
        for move, change, share in zip(self.moves, self.changes, reversed(shares), strict=True):
            q = q + move * (share - _dot(change, q) / _positive(_dot(move, change)))
        return q

    def _length(self, direction: Floats, along: NDArray[np.float32]) -> Floats:
        """How far to go: a few of Newton's steps along the line, halved until the loss is less than it was."""
        linear = self.penalties * (self.at[:-1] * direction[:-1]).sum(axis=0)
        square = self.penalties * np.square(direction[:-1]).sum(axis=0)
        length = np.zeros(along.shape[1])
        for _ in range(SEARCHES):
            p = sigmoid(self.logits + length.astype(np.float32) * along)
            slope = (self.weights * (p - self.labels) * along).sum(axis=0, dtype=np.float64) + linear + length * square
            curve = (self.weights * p * (1 - p) * np.square(along)).sum(axis=0, dtype=np.float64) + square
            length = np.maximum(length - slope / _positive(curve), 0)
        here = self._loss(np.zeros_like(length), along)
        for _ in range(30):
            worse = self._loss(length, along) + length * linear + length**2 / 2 * square > here + 1e-7
            if not worse.any():
                break
            length = np.where(worse, length / 2, length)
        return length

    def _loss(self, length: Floats, along: NDArray[np.float32]) -> Floats:
        margins = self.signs * (self.logits + length.astype(np.float32) * along)
        return np.asarray((self.weights * np.logaddexp(0, margins)).sum(axis=0, dtype=np.float64))


def sigmoid(logits: Array) -> Array:
    """Probabilities of log-odds, in their own precision."""
    return cast("Array", 1 / (1 + np.exp(-np.clip(logits, -60, 60))))


def _dot(left: Floats, right: Floats) -> Floats:
    return np.asarray(np.einsum("dk,dk->k", left, right))


def _positive(values: Floats) -> Floats:
    return np.maximum(values, 1e-300)
