"""A new head from a bench's cells: the released one, moved as far as cells of slides held back say that it helps.

The log-odds of a cell are those of the released head plus a change that is linear in its features. The change is fitted
to the bench's cells and to the release's own at once, penalised towards none; how much, and what the two weigh, is
chosen on slides of the bench and people of the release that are held back in turn. A cell of the release starts from
log-odds of a head that was not fitted to its person: so both halves of the loss are of people not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bloodedge.data.training_features import TrainingFeatures
from bloodedge.logistic.basis import Basis, Int8Noise
from bloodedge.logistic.solver import Problems, sigmoid, solve

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
BENCH_WEIGHT = 0.5
"""Of the bench's cells in the loss; the release's weigh the rest."""
DIRECTIONS = 400
"""Of the features, in which the change may lie: those in which the cells differ most."""
INT8_STRENGTH = 100.0
"""As ``int8_noise`` of a recipe's head."""
FEW_CELLS = 6.0
"""As ``decision.operating_point.CELLS``: of n cells a slide's weigh n / (n + FEW_CELLS) together."""
MOST_FOLDS = 5
STEP_SHARE = 1e-7
"""Of the penalty, for the step from the release's cells to the bench's: every bench has one, seen in few cells."""
RIDGE = 1.0
"""Added to the directions' variances before the step is sought in them."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Source:
    """Cells that the change is fitted to."""

    features: NDArray[np.float32]
    """(N, D)."""
    log_odds: Floats
    """(N,) by the released head, or by one like it that was not fitted to the cell's person; 0 where it is undecided,
    at the released threshold."""
    labels: Ints
    """(N,), 1 for a blast."""
    groups: NDArray[np.str_]
    """(N,): the slide or the person of each."""

    @classmethod
    def of_release(cls, kept: TrainingFeatures, line: float) -> "Source":
        """The release's own cells; line: the log-odds at its threshold."""
        return cls(kept.values, kept.log_odds.astype(np.float64) - line, kept.labels.astype(np.int64), kept.people)

    def some(self, chosen: NDArray[np.bool_]) -> "Source":
        """Some of the cells."""
        return Source(self.features[chosen], self.log_odds[chosen], self.labels[chosen], self.groups[chosen])


@dataclass(frozen=True, eq=False)
class Change:
    """What a new head adds to the released one."""

    scale: float
    """Of the released head's log-odds."""
    weights: Floats
    """(D,)."""
    bias: float
    penalty: float

    def log_odds(self, source: Source) -> Floats:
        """(N,) of the new head."""
        change = np.asarray(source.features @ self.weights.astype(np.float32), np.float64)
        return self.scale * source.log_odds + change + self.bias


@dataclass(frozen=True, eq=False)
class Fit:
    """A change, and what changes like it say of cells that they were not fitted to."""

    change: Change
    bench: Floats
    """Log-odds (N,) of the bench's cells, each by a change that was fitted to none of its slide."""
    release: Floats
    """The same of the release's cells and people."""


class Space:
    """Directions of the features in which changes are sought, from the release's cells and the bench's."""

    def __init__(self, release: Source, bench: Source, noise: Int8Noise | None) -> None:
        self.release, self.bench = release, bench
        self._basis = Basis(release.features, noise, INT8_STRENGTH)
        seen = self._basis.of(np.concatenate([release.features, bench.features]))
        values, vectors = np.linalg.eigh(seen @ seen.T)
        best = np.argsort(values)[::-1][: min(DIRECTIONS, len(values))]
        best = best[values[best] > 1e-6 * values.max()]
        self._directions = (seen.T @ (vectors[:, best] / np.sqrt(values[best]))).astype(np.float32)
        self.scores = (seen @ self._directions).astype(np.float32)
        """(release's cells and then the bench's, directions)."""

    def step(self, kept: NDArray[np.bool_]) -> tuple[Floats, float]:
        """(directions,) along which the release's cells differ from the bench's kept ones (N,) most, and the middle.

        Fisher's discriminant, the means' difference by the inverse of the variance within either; 1 long between means.
        """
        parts = self.scores[: len(self.release.labels)], self.scores[len(self.release.labels) :][kept]
        means = [part.mean(axis=0, dtype=np.float64) for part in parts]
        within = sum(np.cov(part.T) for part in parts) / 2
        apart = means[1] - means[0]
        direction = np.linalg.solve(within + RIDGE * np.eye(len(apart)), apart)
        direction /= max(float(direction @ apart), 1e-12)
        return direction, float(direction @ (means[0] + means[1]) / 2)

    def change(self, coefficients: Floats, bias: float, step: tuple[Floats, float], penalty: float) -> Change:
        """A change of coefficients: of the released head's log-odds, of the step, then of the directions."""
        weights = self._basis.raw(self._directions @ (coefficients[1] * step[0] + coefficients[2:]))
        bias -= float(coefficients[1]) * step[1] + float(self._basis.centre @ weights)
        return Change(1 + float(coefficients[0]), weights, bias, penalty)


def fit(space: Space, kept: NDArray[np.bool_], seed: int = 0) -> Fit:
    """The change fitted to the release's cells and those of the bench that are kept (N,); log-odds of the kept ones."""
    release, bench = space.release, space.bench.some(kept)
    scores = space.scores[np.concatenate([np.ones(len(release.labels), bool), kept])]
    step = space.step(kept)
    offsets = np.concatenate([release.log_odds, bench.log_odds]).astype(np.float32)
    labels = np.concatenate([release.labels, bench.labels])
    x = np.column_stack([offsets, scores @ step[0] - step[1], scores]).astype(np.float32)
    folds = np.concatenate([dealt(release.labels, release.groups, seed), dealt(bench.labels, bench.groups, seed)])
    ours = np.arange(len(labels)) >= len(release.labels)
    count, penalties = int(folds.max()) + 1, np.array(PENALTIES)
    columns = np.repeat([_weights(release, bench, folds != fold) for fold in range(count)], len(penalties), axis=0).T
    coefficients, biases = _solved(x, labels, columns, np.tile(penalties, count), offsets)
    found = np.empty((len(labels), len(penalties)))
    for fold in range(count):
        out, own = folds == fold, slice(fold * len(penalties), (fold + 1) * len(penalties))
        found[out] = offsets[out, None] + x[out] @ coefficients[:, own] + biases[own]
    best = _simplest(found[ours], bench)
    everything = _weights(release, bench, np.ones(len(labels), bool))[:, None]
    final, bias = _solved(x, labels, everything, penalties[best : best + 1], offsets)
    change = space.change(final[:, 0], float(bias[0]), step, PENALTIES[best])
    return Fit(change, found[ours, best], found[~ours, best])


def _simplest(log_odds: Floats, bench: Source) -> int:
    """The largest of the penalties whose loss is within a standard error, over slides, of the least.

    log_odds: (N, penalties) of cells held back. Few slides make a small penalty look good by chance (Hastie, Tibshirani
    and Friedman, The Elements of Statistical Learning, 2nd edition 2009, 7.10).
    """
    weights = even(bench.labels, bench.groups)[:, None]
    losses = -weights * np.log(np.maximum(_right(log_odds, bench.labels[:, None]), 1e-12))
    best = int(losses.sum(axis=0).argmin())
    names, owner = np.unique(bench.groups, return_inverse=True)
    for number in reversed(range(len(PENALTIES))):
        more = np.bincount(owner, losses[:, number] - losses[:, best])
        if number == best or more.sum() <= np.sqrt(len(names) * more.var()):
            return number
    return best


def _weights(release: Source, bench: Source, chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(N,) of the release's cells and then the bench's; 0 for those not chosen (N,)."""
    parts = []
    for source, own, share in (
        (release, chosen[: len(release.labels)], 1 - BENCH_WEIGHT),
        (bench, chosen[len(release.labels) :], BENCH_WEIGHT),
    ):
        weights = np.zeros(len(own))
        weights[own] = share * even(source.labels[own], source.groups[own])
        parts.append(weights)
    return np.concatenate(parts).astype(np.float32)


def _solved(
    x: NDArray[np.float32], labels: Ints, weights: NDArray[np.float32], penalties: Floats, offsets: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    each = np.repeat(offsets[:, None], len(penalties), axis=1)
    shares = np.ones(x.shape[1])
    shares[1] = STEP_SHARE
    return solve(Problems(x, labels, weights, penalties, shares, each))


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
    return -float(even(labels, groups) @ np.log(np.maximum(_right(log_odds, labels), 1e-12)))


def _right(log_odds: Floats, labels: Ints) -> Floats:
    """The probability that each cell's own class is given."""
    return sigmoid(np.where(labels == 1, log_odds, -log_odds))


def dealt(labels: Ints, groups: Sequence[str] | NDArray[np.str_], seed: int, most: int = MOST_FOLDS) -> Ints:
    """(N,): a fold for each cell, the same for all of a group; groups with many cells of a class first, in turns."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    share = np.bincount(owner, labels) / np.bincount(owner)
    order = np.lexsort((np.random.default_rng(seed).random(len(names)), share >= 0.5))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % min(most, len(names))
    return np.asarray(fold[owner])
