"""Where a cell is called a blast, normal or uncertain, chosen on people that the network was not fitted to.

Both classes weigh the same, and so do people: the cells of a person with n of them weigh n / (n + CELLS) together, for
the first few cells say most of what a person says. PRIOR_PEOPLE imagined people of each class, placed evenly about a
probability of 0.5, keep the choice near 0.5 where few people were seen.
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.decision.thresholds import Thresholds

Goal = Literal["even errors", "sensitivity", "specificity"]
MOST_UNCERTAIN = 0.15
"""Of either class's cells, the largest share in the abstain band."""
CELLS = 6.0
PRIOR_PEOPLE = 1.0
"""Chosen on out-of-fold scores of C-NMC: thresholds of three to twelve people of a class, judged on the others. Two and
more leave errors uneven where the probabilities are off; fewer leave more errors."""
PRIOR_LOGIT = 1.5
"""Of an imagined person's typical blast; a normal cell's is its negative."""
SMOOTHING = 0.2
"""Width in logits of the logistic distribution that each cell's score is spread over."""
FEWEST_PEOPLE = 2
LOGITS = np.linspace(-6, 6, 601)

Floats = NDArray[np.float64]


class OperatingPoint(Strict):
    """What thresholds were chosen for, on whom, and what they gave there."""

    goal: Goal
    target: float | None = Field(default=None, gt=0, lt=1)
    """The sensitivity or specificity asked for."""
    data: str
    """Which cells they were chosen on."""
    cells: int
    blast_people: int
    normal_people: int
    sensitivity: float
    """Of the cells that are called, on those people, people weighted evenly."""
    specificity: float
    uncertain_blasts: float
    """Share of the blasts in the abstain band."""
    uncertain_normals: float

    def describe(self) -> str:
        """A sentence or two for a model card."""
        wanted = "even errors of the two classes" if self.target is None else f"a {self.goal} of {self.target:g}"
        who = (
            f"{self.blast_people} people with blasts and {self.normal_people} with normal cells, people weighted evenly"
        )
        uncertain = (
            f"{100 * self.uncertain_blasts:.0f} % of the blasts and {100 * self.uncertain_normals:.0f} % of the normal"
        )
        return (
            f"The thresholds were chosen for {wanted}, on {self.data}: {self.cells:,} cells of {who}."
            f" Of the cells called there, sensitivity is {self.sensitivity:.3f} and specificity {self.specificity:.3f};"
            f" {uncertain} cells are uncertain. Figures on these people flatter."
        )


def choose_thresholds(
    blast: ArrayLike,
    labels: ArrayLike,
    people: Sequence[str],
    data: str,
    *,
    sensitivity: float | None = None,
    specificity: float | None = None,
) -> tuple[Thresholds, OperatingPoint] | None:
    """Thresholds for even errors, or for a sensitivity or specificity (0..1) of all cells, and how they were chosen.

    blast: (N,) calibrated blast probabilities of cells that the network was not fitted to; labels: (N,), 1 for a blast;
    people: whose each cell is; data: what the cells are. The band takes off both classes' errors in one
    ratio and holds MOST_UNCERTAIN of either class at most. None without
    ``enough_people``.
    """
    p, y = np.asarray(blast, np.float64), np.asarray(labels, np.int64)
    names = np.asarray(people, str)
    if not enough_people(y, people):
        return None
    blasts, normals = (_Side.of(p[y == label], names[y == label], label) for label in (1, 0))
    missed, alarms = blasts.below, 1 - normals.below
    if sensitivity is not None:
        at = _crossing(missed - (1 - sensitivity))
    elif specificity is not None:
        at = _crossing((1 - specificity) - alarms)
    else:
        at = _crossing(missed - alarms)
    low, high = _band(missed, alarms, at)
    thresholds = Thresholds(blast=_chance(at), uncertain_low=_chance(low), uncertain_high=_chance(high))
    goal: Goal = (
        "sensitivity" if sensitivity is not None else "specificity" if specificity is not None else "even errors"
    )
    return thresholds, OperatingPoint(
        goal=goal,
        target=sensitivity if sensitivity is not None else specificity,
        data=data,
        cells=len(p),
        blast_people=blasts.people,
        normal_people=normals.people,
        sensitivity=blasts.called_right(thresholds),
        specificity=normals.called_right(thresholds),
        uncertain_blasts=blasts.uncertain(thresholds),
        uncertain_normals=normals.uncertain(thresholds),
    )


def enough_people(labels: ArrayLike, people: Sequence[str]) -> bool:
    """Whether FEWEST_PEOPLE have blasts (label 1) and as many normal cells."""
    y, names = np.asarray(labels), np.asarray(people, str)
    return min(len(np.unique(names[y == label])) for label in (0, 1)) >= FEWEST_PEOPLE


class _Side:
    """The cells of one class."""

    def __init__(self, blast: Floats, label: int, weights: Floats, people: int) -> None:
        self.blast, self.label, self.weights, self.people = blast, label, weights, people
        logits = np.log(np.clip(blast, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(blast, 1e-6, 1 - 1e-6))
        spread = _logistic((LOGITS[:, np.newaxis] - logits) / SMOOTHING) @ weights
        prior = _logistic(LOGITS - (PRIOR_LOGIT if label else -PRIOR_LOGIT))
        self.below: Floats = (spread + PRIOR_PEOPLE * prior) / (weights.sum() + PRIOR_PEOPLE)
        """Share of the cells with a score below each of LOGITS, the imagined people's included."""

    @classmethod
    def of(cls, blast: Floats, names: NDArray[np.str_], label: int) -> "_Side":
        _, person, counts = np.unique(names, return_inverse=True, return_counts=True)
        return cls(blast, label, 1 / (counts[person] + CELLS), len(counts))

    def called_right(self, thresholds: Thresholds) -> float:
        """Weighted share of the called cells that are called what they are."""
        called = ~self._in_band(thresholds)
        right = (self.blast >= thresholds.blast) == self.label
        return float(self.weights[called & right].sum() / max(self.weights[called].sum(), np.finfo(float).tiny))

    def uncertain(self, thresholds: Thresholds) -> float:
        """Weighted share in the band."""
        return float(self.weights[self._in_band(thresholds)].sum() / self.weights.sum())

    def _in_band(self, thresholds: Thresholds) -> NDArray[np.bool_]:
        return (self.blast > thresholds.uncertain_low) & (self.blast < thresholds.uncertain_high)


def _band(missed: Floats, alarms: Floats, at: float) -> tuple[float, float]:
    """The widest band round the logit ``at`` with at most MOST_UNCERTAIN of either class.

    Its width is that in which the logarithms of both classes' errors fall alike, so that their ratio stays.
    """
    log_missed, log_alarms = np.log(missed), np.log(alarms)
    first, second = (float(np.interp(at, LOGITS, errors)) for errors in (log_missed, log_alarms))
    best = at, at
    for factor in np.linspace(0, 4, 401)[1:]:
        low, high = _both(log_missed, log_alarms, first - factor, second - factor)
        blasts, normals = (
            float(np.interp(high, LOGITS, np.exp(errors)) - np.interp(low, LOGITS, np.exp(errors)))
            for errors in (log_missed, log_alarms)
        )
        if max(blasts, -normals) > MOST_UNCERTAIN or not LOGITS[0] < low <= high < LOGITS[-1]:
            break
        best = low, high
    return best


def _both(log_missed: Floats, log_alarms: Floats, first: float, second: float) -> tuple[float, float]:
    """The logits at which the logarithms of the two errors are ``first`` and ``second``."""
    return float(np.interp(first, log_missed, LOGITS)), float(np.interp(-second, -log_alarms, LOGITS))


def _crossing(rising: Floats) -> float:
    """The logit at which a rising figure crosses 0."""
    return float(np.interp(0.0, rising, LOGITS))


def _logistic(values: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)), np.float64)


def _chance(logit: float) -> float:
    return round(1 / (1 + math.exp(-logit)), 4)
