"""A new head from a bench's cells and the release's, as different from the released one as slides held back ask for.

Two kinds are tried. The released head, moved: a bench shows all cells in another light, which moves their log-odds by
a constant, so the head gets the step from the release's cells to the bench's, along the direction that parts them
best. Where it has two rules its gate is opened as well: away from its own bench a head withholds that bench's rule,
whose colours mislead there, but mostly by a constant too, which the step takes away. And heads fitted to both at once
from nothing, for benches whose cells differ in more: in place of the released one, or beside it, where the gate still
gives the release's own cells to the head that knows them. Which, how penalised, and what the bench's cells weigh, is
chosen on slides of the bench and people of the release that are held back in turn.

A head from nothing is not begun from log-odds that are kept with the release's cells: each of those was made by a head
that knew all other people, and what is fitted to what they leave over tells of those whom it should not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bloodedge.data.training_features import TrainingFeatures
from bloodedge.logistic.basis import Basis, Noise
from bloodedge.logistic.rule import Linear, Rule
from bloodedge.metrics import auc
from bloodedge_convert.finetuning.losses import even, loss, losses
from bloodedge_convert.finetuning.newton import Regression, path

PENALTIES = (1.0, 0.3, 0.1, 0.03, 0.01)
"""Of a head from nothing."""
SHARES = (0.5, 0.2, 0.08)
"""Of the bench's cells in the loss; the release's weigh the rest."""
SHARE_BESIDE = 0.9
"""The same, of heads beside the released one, which need not know the release's cells."""
DIRECTIONS = 150
"""Of the features, in which a head may lie: those in which the cells differ most. 400 gain nothing."""
INT8_STRENGTH = 100.0
"""As ``int8_noise`` of a recipe's head."""
OPENED = (0.0, 0.5, 1.0)
"""Shares of what the released head's gate withholds, that a moved head adds."""
MOST_FOLDS = 5
FEW_SLIDES = 3
"""Of a class: of fewer, what differs between slides looks like what differs between the classes, and only the released
head is moved."""
MINORITY = 1 / 3
"""Of a slide's cells: a class with fewer of them does not make the slide one of that class, for they may be wrong
answers."""
GIVEN_UP = 0.2
"""Of the loss that the best head saves on the bench, at most, for not forgetting."""
STEP_PENALTY = 1e-5
"""Of the step from the release's cells to the bench's: every bench has one, seen in few cells."""
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
    withheld: Floats
    """(N,): what the released head's gate keeps from the log-odds of its own bench's rule."""
    own: Floats
    """(N,): probability that a cell is of the release's own bench, by that gate."""

    @classmethod
    def of_release(cls, kept: TrainingFeatures, line: float) -> "Source":
        """The release's own cells; line: the log-odds at its threshold."""
        log_odds, labels = kept.log_odds.astype(np.float64) - line, kept.labels.astype(np.int64)
        seen = kept.rule.withheld(kept.values), kept.rule.at_own_bench(kept.values)
        return cls(kept.values, log_odds, labels, kept.people, *seen)

    @classmethod
    def of_bench(
        cls, features: NDArray[np.float32], rule: Rule, line: float, labels: Ints, groups: NDArray[np.str_]
    ) -> "Source":
        """Cells to which the released rule was not fitted."""
        seen = rule.withheld(features), rule.at_own_bench(features)
        return cls(features, rule.log_odds(features) - line, labels, groups, *seen)

    def some(self, chosen: NDArray[np.bool_]) -> "Source":
        """Some of the cells."""
        return Source(**{name: values[chosen] for name, values in vars(self).items()})

    def opened(self, share: float) -> Floats:
        """Log-odds (N,) by the released head, with this share of what is withheld."""
        return self.log_odds + share * self.withheld

    def beside(self, log_odds: Floats) -> Floats:
        """Log-odds (N,), but of the release's own bench's cells by the released head."""
        return self.own * self.opened(1.0) + (1 - self.own) * log_odds


@dataclass(frozen=True, eq=False)
class Change:
    """A new head, as what is added to the released one."""

    scale: float
    """Of the released head's log-odds: 1, or 0 for a head from nothing."""
    weights: Floats
    """(D,)."""
    bias: float
    opened: float = 0.0
    """Share of what the released head's gate withholds that is added to its log-odds first."""
    beside: bool = False
    """Whether the released head goes on telling the release's own cells; then the scale is 0."""

    def log_odds(self, source: Source) -> Floats:
        """(N,) of the new head."""
        change = np.asarray(source.features @ self.weights.astype(np.float32), np.float64)
        found = self.scale * source.opened(self.opened) + change + self.bias
        return source.beside(found) if self.beside else found

    def of(self, rule: Rule, line: float) -> Rule:
        """The new head in place of the released ``rule``; line: the log-odds at the released threshold."""
        by = Linear(self.weights, self.bias + (1 - self.scale) * line)
        return rule.beside(by) if self.beside else rule.opened(self.opened).changed(self.scale, by)


@dataclass(frozen=True, eq=False)
class Fit:
    """A new head, and what heads like it say of cells that they were not fitted to."""

    change: Change
    bench: Floats
    """Log-odds (N,) of the bench's cells, each by a head that was fitted to none of its slide."""
    release: Floats
    """The same of the release's cells and people."""


class Space:
    """Directions of the features in which heads are sought, from the release's cells and the bench's."""

    def __init__(self, release: Source, bench: Source, noise: Noise | None = None, steps: Floats | None = None) -> None:
        self.release, self.bench = release, bench
        self._basis = Basis(release.features, [noise] if noise else [], steps)
        seen = self._basis.of(np.concatenate([release.features, bench.features]))
        values, vectors = np.linalg.eigh(seen @ seen.T)
        best = np.argsort(values)[::-1][: min(DIRECTIONS, len(values))]
        best = best[values[best] > 1e-6 * values.max()]
        self._directions = (seen.T @ (vectors[:, best] / np.sqrt(values[best]))).astype(np.float32)
        self.scores = (seen @ self._directions).astype(np.float64)
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

    def change(self, coefficients: Floats, bias: float, step: tuple[Floats, float], trial: "Trial") -> Change:
        """A change of coefficients: of the step, then of the directions, where there are any."""
        directions = coefficients[0] * step[0]
        if len(coefficients) > 1:
            directions = directions + coefficients[1:]
        weights = self._basis.raw(self._directions @ directions)
        bias -= float(coefficients[0]) * step[1] + float(self._basis.centre @ weights)
        return Change(float(trial.moves), weights, bias, trial.opened, trial.beside)


@dataclass(frozen=True)
class Trial:
    """A way to a head."""

    share: float
    penalty: float | None = None
    """None: the released head is moved."""
    opened: float = 0.0
    beside: bool = False

    @property
    def moves(self) -> bool:
        """Whether the released head is moved."""
        return self.penalty is None


MOVED = tuple(Trial(0.5, opened=share) for share in OPENED)
FROM_NOTHING = tuple(Trial(share, penalty) for share in SHARES for penalty in PENALTIES)
BESIDE = tuple(Trial(share, penalty, beside=True) for share in (SHARE_BESIDE, *SHARES) for penalty in PENALTIES)


class _Together:
    """The release's cells and some of the bench's."""

    def __init__(self, space: Space, kept: NDArray[np.bool_], seed: int) -> None:
        self.space, self.release, self.bench = space, space.release, space.bench.some(kept)
        parts = self.release, self.bench
        self.step = space.step(kept)
        scores = space.scores[np.concatenate([np.ones(len(self.release.labels), bool), kept])]
        self.x = np.column_stack([scores @ self.step[0] - self.step[1], scores])
        self.labels = np.concatenate([part.labels for part in parts])
        self.released = {share: np.concatenate([part.opened(share) for part in parts]) for share in OPENED}
        self.folds = np.concatenate([dealt(part.labels, part.groups, seed) for part in parts])
        self.ours = np.arange(len(self.labels)) >= len(self.release.labels)
        self._from_nothing: dict[float, dict[float, tuple[Floats, float]]] = {}
        """By share and penalty: see ``from_nothing``."""

    def solved(self, chosen: NDArray[np.bool_], trial: Trial, penalties: Sequence[float]) -> tuple[Floats, Floats]:
        """Coefficients (D, K) and intercepts (K,), fitted to the cells chosen (N,); of a moved head the step alone."""
        weights = np.zeros(len(chosen))
        for own, part, much in ((~self.ours, self.release, 1 - trial.share), (self.ours, self.bench, trial.share)):
            some = chosen[own]
            weights[own & chosen] = much * even(part.labels[some], part.groups[some])
        if trial.moves:
            alone = Regression(self.x[:, :1], self.labels, self.released[trial.opened], weights, np.ones(1))
            return path(alone, np.array([STEP_PENALTY]))
        shares = np.append(STEP_PENALTY, np.ones(self.x.shape[1] - 1))
        nothing = np.zeros(len(chosen))
        return path(Regression(self.x, self.labels, nothing, weights, shares), np.array(penalties))

    def held(self, trial: Trial, penalties: Sequence[float] = ()) -> Floats:
        """Log-odds (N, K), each by a head that was not fitted to the cell's slide or person."""
        found = np.empty((len(self.labels), max(len(penalties), 1)))
        start = self.released[trial.opened] if trial.moves else np.zeros(len(self.labels))
        for fold in range(int(self.folds.max()) + 1):
            out = self.folds == fold
            coefficients, biases = self.solved(~out, trial, penalties)
            found[out] = start[out, None] + self.x[out, : len(coefficients)] @ coefficients + biases
        return found

    def from_nothing(self, trial: Trial) -> tuple[Floats, float]:
        """Calibrated log-odds (N,) of cells held back, and what calibrated them."""
        assert trial.penalty is not None
        if trial.share not in self._from_nothing:
            columns = self.held(trial, PENALTIES).T
            factors = [self.calibrated(column) for column in columns]
            calibrated = ((factor * column, factor) for column, factor in zip(columns, factors, strict=True))
            self._from_nothing[trial.share] = dict(zip(PENALTIES, calibrated, strict=True))
        found, factor = self._from_nothing[trial.share][trial.penalty]
        if trial.beside:
            found = np.concatenate([self.release.beside(found[~self.ours]), self.bench.beside(found[self.ours])])
        return found, factor

    def change(self, trial: Trial) -> Change:
        """The head fitted to all cells."""
        penalties = () if trial.penalty is None else tuple(p for p in PENALTIES if p >= trial.penalty)
        coefficients, biases = self.solved(np.ones(len(self.labels), bool), trial, penalties)
        return self.space.change(coefficients[:, -1], float(biases[-1]), self.step, trial)

    def calibrated(self, log_odds: Floats) -> float:
        """What log-odds (N,) of cells held back are to be multiplied by."""
        weights = np.concatenate([even(part.labels, part.groups) / 2 for part in (self.release, self.bench)])
        nothing = np.zeros(len(log_odds))
        one = Regression(log_odds[:, None], self.labels, nothing, weights, np.ones(1))
        return float(np.clip(path(one, np.array([1e-6]))[0][0, 0], 0.1, 1.0))


def fit(space: Space, kept: NDArray[np.bool_], most_forgotten: float, seed: int = 0) -> Fit:
    """The head fitted to the release's cells and those of the bench that are kept (N,); log-odds of the kept ones.

    most_forgotten: points of AUC or balanced accuracy that the release's cells may lose, if there is a head like that.
    """
    together = _Together(space, kept, seed)
    bench = together.bench
    trial, column = _moved(together, most_forgotten)
    trials, found, factors = [trial], [column], [1.0]
    if _slides_of_a_class(bench) >= FEW_SLIDES:
        for trial in (*FROM_NOTHING, *(BESIDE if space.release.own.any() else ())):
            column, factor = together.from_nothing(trial)
            trials, found, factors = [*trials, trial], [*found, column], [*factors, factor]
    lost = [forgotten(space.release, column[~together.ours]) for column in found]
    best = _choose(np.column_stack([column[together.ours] for column in found]), np.array(lost), bench, most_forgotten)
    change = together.change(trials[best])
    if not trials[best].moves:
        change = replace(change, weights=factors[best] * change.weights, bias=factors[best] * change.bias)
    return Fit(change, found[best][together.ours], found[best][~together.ours])


def _slides_of_a_class(bench: Source) -> int:
    """Slides of the class that fewer are of."""
    _, owner = np.unique(bench.groups, return_inverse=True)
    share = np.bincount(owner, bench.labels) / np.bincount(owner)
    return int(min((share >= MINORITY).sum(), (share <= 1 - MINORITY).sum()))


def _moved(together: _Together, most_forgotten: float) -> tuple[Trial, Floats]:
    """The moved head with the least loss on the bench's cells held back, and its log-odds (N,) of all.

    One that forgets too much is taken only where all do.
    """
    release, bench, ours = together.release, together.bench, together.ours
    columns = [together.held(trial)[:, 0] for trial in MOVED]
    costs = [
        (forgotten(release, column[~ours]) > most_forgotten, loss(column[ours], bench.labels, bench.groups))
        for column in columns
    ]
    best = costs.index(min(costs))
    return MOVED[best], columns[best]


def forgotten(release: Source, log_odds: Floats) -> float:
    """Points of AUC or of balanced accuracy, whichever is more, that the release's cells lose by log-odds (N,)."""

    def figures(values: Floats) -> Floats:
        right = [float(((values >= 0) == label)[release.labels == label].mean()) for label in (0, 1)]
        return np.array([auc(release.labels, values) or 0.5, sum(right) / 2])

    return 100 * float((figures(release.log_odds) - figures(log_odds)).max())


def _choose(log_odds: Floats, lost: Floats, bench: Source, most_forgotten: float) -> int:
    """The trial with the least loss on the bench; the first where it is as good, another where that forgets too much.

    log_odds: (N, trials) of cells held back. As good: within a standard error, over slides, of the least loss (Hastie,
    Tibshirani and Friedman, The Elements of Statistical Learning, 2nd edition 2009, 7.10). Of those that save nearly as
    much as the best, see GIVEN_UP, the best that does not forget is taken, else the one that forgets least.
    """
    each = even(bench.labels, bench.groups)[:, None] * losses(log_odds, bench.labels[:, None])
    total = each.sum(axis=0)
    best = int(total.argmin())
    names, owner = np.unique(bench.groups, return_inverse=True)
    more = np.array([np.bincount(owner, column) for column in (each - each[:, [best]]).T])
    error = np.sqrt(len(names) * more.var(axis=1))
    kept = lost <= most_forgotten
    if kept[0] and total[0] - total[best] <= error[0]:
        return 0
    released = loss(bench.log_odds, bench.labels, bench.groups)
    near = total - total[best] <= GIVEN_UP * max(released - total[best], 0.0)
    cost, among = (total, near & kept) if (near & kept).any() else (lost, near)
    return int(np.where(among, cost, np.inf).argmin())


def dealt(labels: Ints, groups: Sequence[str] | NDArray[np.str_], seed: int, most: int = MOST_FOLDS) -> Ints:
    """(N,): a fold for each cell, the same for all of a group; groups with many cells of a class first, in turns."""
    names, owner = np.unique(np.asarray(groups), return_inverse=True)
    share = np.bincount(owner, labels) / np.bincount(owner)
    order = np.lexsort((np.random.default_rng(seed).random(len(names)), share >= 0.5))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % min(most, len(names))
    return np.asarray(fold[owner])
