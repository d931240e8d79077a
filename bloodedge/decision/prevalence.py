"""The share of blasts among a slide's cells, corrected for a classifier that errs and refuses.

Of ``called`` cells, ``blasts`` were called blasts. With the share pi of blasts among all cells, the chance that a
called cell was called a blast is

    q(pi) = (pi c1 s + (1 - pi) c0 f) / (pi c1 + (1 - pi) c0)

where s and f are the chances that a called blast and a called normal cell are called a blast, and c1 and c0 the chances
that a blast and a normal cell are called at all (Rogan and Gladen, American Journal of Epidemiology 107:71, 1978, who
have no refusals: c1 = c0). Only the ratio of c1 to c0 matters, so a slide on which more of both classes is refused, for
its stain or its focus, is not taken for one of another share.

The slide is of one person, and people differ: the four chances are those of a new person, drawn from beta distributions
with one mode that are fitted to held-out people (beta-binomial; flat prior on the mean and on the root of the inverse
number of prior cells, Gelman et al., Bayesian Data Analysis, 3rd edition 2013, 5.3). The interval holds every share
that the count does not contradict: P(at most so many blasts) and P(at least so many), over the count and over people,
are both above 2.5 %. It is Clopper and Pearson's where the classifier never errs (0 of 200: up to 1.8 %), and Lang and
Reiczigel's (Preventive Veterinary Medicine 113:13, 2014) is the same thought for rates that differ by chance alone.
Forman (Data Mining and Knowledge Discovery 17:164, 2008) shows why the correction matters most where a class is rare.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from bloodedge.config import Strict

FEWEST_PEOPLE = 3
"""Of each class; fewer show nothing of how people differ."""
TAIL = 0.025
"""Chance on each side that is left outside the interval."""
TELLS_NOTHING = 0.8
"""An interval longer than this excludes next to nothing: the model cannot tell."""
EXPLAINED = 0.01
"""A count with less chance than this at the share that explains it best is unlike all that held-out people show."""
DRAWS = 2000
"""People drawn; a tail of TAIL then holds 50 of them."""
MOST_KEPT = 1000
_SHARES = np.sin(np.linspace(0, math.pi / 2, 181)) ** 2
"""Shares at which the interval is looked for, denser towards 0 and 1."""

Floats = NDArray[np.float64]
Limit = Literal["cells", "classifier", "nothing called"]


class Outcomes(Strict):
    """What was said of one person's cells of one true class; refused: uncertain or outside the domain."""

    blast: int = Field(ge=0)
    normal: int = Field(ge=0)
    refused: int = Field(ge=0)

    @property
    def called(self) -> int:
        """Cells that were called either."""
        return self.blast + self.normal


class Rates(Strict):
    """What is said of blasts and of normal cells, by person; people that the network was not fitted to."""

    data: str = ""
    """Which cells were looked at."""
    blast: dict[str, Outcomes]
    """Of true blasts."""
    normal: dict[str, Outcomes]
    """Of true normal cells."""

    @property
    def known(self) -> bool:
        """Whether both classes have people enough to show how people differ."""
        return min(_people(self.blast), _people(self.normal)) >= FEWEST_PEOPLE

    @property
    def people(self) -> int:
        """All whose cells were looked at."""
        return len(self.blast.keys() | self.normal.keys())

    @cached_property
    def new_person(self) -> "NewPerson":
        """What is known of a person not yet seen."""
        rng = np.random.default_rng(0)
        blasts, normals = list(self.blast.values()), list(self.normal.values())
        return NewPerson(
            called_blasts=_drawn([one.called for one in blasts], [_cells(one) for one in blasts], rng),
            called_normals=_drawn([one.called for one in normals], [_cells(one) for one in normals], rng),
            sensitivity=_drawn([one.blast for one in blasts], [one.called for one in blasts], rng),
            false_blasts=_drawn([one.blast for one in normals], [one.called for one in normals], rng),
        )


def count_outcomes(people: Sequence[str], labels: Sequence[int], said: Sequence[str], data: str = "") -> Rates:
    """The rates of N cells: whose each is, whether it is a blast (1) and what was said of it (see ``decide``)."""
    counts: dict[tuple[int, str], Counter[str]] = {}
    for person, label, one in zip(people, labels, said, strict=True):
        counts.setdefault((label, person), Counter())[one] += 1

    def of(true: int) -> dict[str, Outcomes]:
        return {
            person: Outcomes(blast=count["blast"], normal=count["normal"], refused=count["uncertain"])
            for (label, person), count in sorted(counts.items())
            if label == true
        }

    return Rates(data=data, blast=of(1), normal=of(0))


@dataclass(frozen=True)
class NewPerson:
    """Chances of people not yet seen, float64 (DRAWS,) each, 0..1."""

    called_blasts: Floats
    """Of a blast, to be called at all."""
    called_normals: Floats
    sensitivity: Floats
    """Of a called blast, to be called a blast."""
    false_blasts: Floats
    """Of a called normal cell, to be called a blast."""

    @cached_property
    def estimates(self) -> dict[tuple[int, int, float], "BlastShare"]:
        """Estimates made before, by count: a page asks for the same one many times."""
        return {}

    @cached_property
    def said_blast(self) -> Floats:
        """q(pi) of each person (rows) for each of _SHARES (columns)."""
        blasts = np.outer(self.called_blasts, _SHARES)
        normals = np.outer(self.called_normals, 1 - _SHARES)
        called = np.maximum(blasts + normals, np.finfo(float).tiny)
        said: Floats = (blasts * self.sensitivity[:, None] + normals * self.false_blasts[:, None]) / called
        return said


@dataclass(frozen=True)
class BlastShare:
    """A slide's share of blasts, 0..1."""

    called: float | None
    """Among the called cells, as they were called; None when none was."""
    corrected: float | None
    """For the classifier's errors and refusals; None when nothing was called or the rates are not known."""
    low: float
    high: float
    """The 95 % interval of ``corrected``: the count, the frames' likeness, and how people differ."""
    limited_by: Limit
    """What makes the interval long."""
    endless: tuple[float, float] = (0.0, 1.0)
    """The interval that endlessly many cells of this kind would give."""
    rates_known: bool = True
    """Whether the bundle says how often its classifier errs on held-out people."""

    @property
    def cannot_tell(self) -> bool:
        """Whether the interval excludes next to nothing, and more cells would not help."""
        return self.called is not None and self.endless[1] - self.endless[0] > TELLS_NOTHING

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

    def within_reach(self, half_width: float) -> bool:
        """Whether more cells could bring half of the interval's length down to ``half_width``."""
        return (self.endless[1] - self.endless[0]) / 2 <= half_width

    def times_the_cells(self, half_width: float) -> float:
        """How many times as many cells would make the interval short enough, about; 1 when it is, inf out of reach.

        The count's part of the interval's length falls with the root of the number of cells, the classifier's stays.
        """
        if self.half_width <= half_width:
            return 1.0
        classifier = ((self.endless[1] - self.endless[0]) / 2) ** 2
        if classifier >= half_width**2:
            return math.inf
        return (self.half_width**2 - classifier) / (half_width**2 - classifier)


class ShareFigures(BaseModel):
    """The share of blasts on a slide, 0..1."""

    called: float | None = Field(description="Among the called cells, as called; null when none was")
    corrected: float | None = Field(
        description="Corrected for what the classifier gets wrong and refuses; null when it cannot be"
    )
    low: float = Field(description="Of the 95 % interval of corrected")
    high: float
    limited_by: Limit = Field(description="What makes the interval long: cells, classifier, or nothing called")
    truth: float | None = Field(description="As drawn by the simulated microscope; null for real cameras")


def blast_share(rates: Rates | None, blasts: int, called: int, effective: float | None = None) -> BlastShare:
    """The share of blasts on a slide where ``blasts`` of ``called`` cells were called blasts.

    effective: how many independent cells say as much as the called ones (default: as many).
    """
    if called == 0:
        return BlastShare(None, None, 0.0, 1.0, "nothing called", rates_known=rates is not None and rates.known)
    share = blasts / called
    if rates is None or not rates.known:
        return BlastShare(share, None, 0.0, 1.0, "classifier", rates_known=False)
    effective = float(called) if effective is None else effective
    made = rates.new_person.estimates
    if len(made) > MOST_KEPT:
        made.clear()
    key = blasts, called, effective
    if key not in made:
        made[key] = _estimate(rates.new_person, *key)
    return made[key]


def _estimate(new_person: NewPerson, blasts: int, called: int, effective: float) -> BlastShare:
    share, said = blasts / called, new_person.said_blast
    most, least = _explaining(share * effective, effective, len(said))
    at_most, at_least = (said <= most[:, None]).mean(axis=0), (said >= least[:, None]).mean(axis=0)
    if explained := min(at_most[0], at_least[-1]) >= EXPLAINED:
        estimate, low, high = _inverted(at_most, at_least)
    else:
        estimate, low, high = _inverted(*_bounds(said, share, effective))
    if estimate == 0:  # fewer than any share explains: these cells may be called better than anybody's before
        high = max(high, float(np.quantile(most, 1 - TAIL)))
    if estimate == 1:
        low = min(low, float(np.quantile(least, TAIL)))
    inside = (blasts + 0.5) / (called + 1)  # no count shows that a chance is 0 or 1
    _, first, last = _inverted((said <= inside).mean(axis=0), (said >= inside).mean(axis=0))
    endless = (max(low, first), min(high, last)) if explained else (low, high)
    limit: Limit = "classifier" if (endless[1] - endless[0]) ** 2 > (high - low) ** 2 / 2 else "cells"
    return BlastShare(share, estimate, low, high, limit, endless)


def _bounds(said: Floats, share: float, called: float) -> tuple[Floats, Floats]:
    """Bounds (shares,) of the two chances, where they are too small to be counted over the people drawn.

    P(at most b of n) is no more than exp(-n D), where D is the divergence of b / n from a larger chance q (Chernoff,
    Annals of Mathematical Statistics 23:493, 1952); each table is scaled to its largest, which its ratios do not show.
    """
    q = said.clip(1e-9, 1 - 1e-9)
    divergence = -share * np.log(q) - (1 - share) * np.log(1 - q)
    if 0 < share < 1:
        divergence += share * math.log(share) + (1 - share) * math.log(1 - share)
    most = np.where(q > share, -called * divergence, 0.0)
    least = np.where(q < share, -called * divergence, 0.0)
    return np.exp(most - most.max()).mean(axis=0), np.exp(least - least.max()).mean(axis=0)


def _explaining(blasts: float, called: float, draws: int) -> tuple[Floats, Floats]:
    """X and Y (draws,): P(at most b of n) at chance q is P(X > q), and P(at least b of n) is P(Y < q).

    X is of the beta distribution (b + 1, n - b), Y of (b, n - b + 1) (Clopper and Pearson, Biometrika 26:404, 1934).
    """
    rng, normals = np.random.default_rng(1), called - blasts
    most = rng.beta(blasts + 1, normals, draws) if normals > 0 else np.ones(draws)
    least = rng.beta(blasts, normals + 1, draws) if blasts > 0 else np.zeros(draws)
    return most, least


def _inverted(at_most: Floats, at_least: Floats) -> tuple[float, float, float]:
    """(estimate, low, high): the share at which both chances are equal, and those that the count rules out.

    A chance is held against the chance at the share that explains the count best, as in CLs (Read, Journal of Physics
    G 28:2693, 2002): a count that no share explains, since this person's cells are called better than anybody's before,
    must not rule out every share.
    """
    high = _crossing(at_most - TAIL * at_most[0], last=True)
    low = 1 - _crossing((at_least - TAIL * at_least[-1])[::-1], last=True)
    estimate = _crossing(at_most - at_least, last=False)
    return min(max(estimate, low), high), low, high


def _crossing(values: Floats, *, last: bool) -> float:
    """Share at which ``values`` falls below 0, interpolated: its last crossing or its first; 1 when it never does."""
    above = np.flatnonzero(values > 0)
    if not len(above):
        return 0.0
    index = int(above[-1]) if last else int(np.argmax(np.append(values, -1.0) < 0)) - 1
    if index < 0:
        return 0.0
    if index == len(values) - 1:
        return 1.0
    part = values[index] / max(values[index] - values[index + 1], np.finfo(float).tiny)
    shares = _SHARES
    return float(shares[index] + part * (shares[index + 1] - shares[index]))


def _people(outcomes: Mapping[str, Outcomes]) -> int:
    """People of whom at least one cell was called."""
    return sum(one.called > 0 for one in outcomes.values())


def _cells(outcomes: Outcomes) -> int:
    return outcomes.called + outcomes.refused


def _drawn(successes: Sequence[int], trials: Sequence[int], rng: np.random.Generator) -> Floats:
    """Chances (DRAWS,) of new people, given how often it happened to those seen; see this file's docstring."""
    means = 1 / (1 + np.exp(-np.linspace(-7, 7, 113)))
    sizes = np.geomspace(2, 20_000, 21)
    mean, size = (axis.ravel() for axis in np.meshgrid(means, sizes, indexing="ij"))
    one_mode = np.minimum(mean, 1 - mean) * size >= 1
    mean, size = mean[one_mode], size[one_mode]
    weight = np.log(mean * (1 - mean)) - np.log(size) / 2  # priors, by the grid's even steps of logit and logarithm
    for happened, tried in zip(successes, trials, strict=True):
        if tried:
            a, b = mean * size, (1 - mean) * size
            weight += _log_rising(a, happened) + _log_rising(b, tried - happened) - _log_rising(size, tried)
    chance = np.exp(weight - weight.max())
    chosen = rng.choice(len(chance), DRAWS, p=chance / chance.sum())
    drawn: Floats = rng.beta((mean * size)[chosen], ((1 - mean) * size)[chosen])
    return drawn


def _log_rising(values: Floats, count: int) -> Floats:
    """Logarithm of value (value + 1) ... (value + count - 1), for each value."""
    return _log_gamma(values + count) - _log_gamma(values)


def _log_gamma(values: Floats) -> Floats:
    """Stirling's series from 8 on, to which smaller values are raised; within 1e-9."""
    raised = values + 8
    steps = np.log(np.prod(values[:, None] + np.arange(8), axis=1))
    series = 1 / (12 * raised) - 1 / (360 * raised**3) + 1 / (1260 * raised**5)
    logarithm: Floats = (raised - 0.5) * np.log(raised) - raised + math.log(2 * math.pi) / 2 + series - steps
    return logarithm
