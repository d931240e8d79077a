"""The share of blasts among a slide's cells, corrected for a classifier that errs and refuses.

Of ``called`` cells, ``blasts`` were called blasts. With the share pi of blasts among all cells, the chance that a
called cell was called a blast is

    q(pi) = (pi c1 s + (1 - pi) c0 f) / (pi c1 + (1 - pi) c0)

where s and f are the chances that a called blast and a called normal cell are called a blast, and c1 and c0 the chances
that a blast and a normal cell are called at all (Rogan and Gladen, American Journal of Epidemiology 107:71, 1978, who
have no refusals: c1 = c0). Only the ratio of c1 to c0 matters, so a slide on which more of both classes is refused, for
its stain or its focus, does not look like one with another share.

The slide is of one person, and people differ: the four chances are those of a new person (``error_rates``). The
interval holds every share that the count does not contradict: P(at most so many blasts) and P(at least so many), over
the count and over people, are both above 2.5 %. It is Clopper and Pearson's where the classifier never errs (0 of 200:
up to 1.8 %), and Lang and Reiczigel's (Preventive Veterinary Medicine 113:13, 2014) is the same thought for rates that
differ by chance alone. Forman (Data Mining and Knowledge Discovery 17:164, 2008) shows why the correction matters most
where a class is rare.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from bloodedge.decision.error_rates import NewPerson, Rates

TAIL = 0.025
"""Chance on each side that is left outside the interval."""
TELLS_NOTHING = 0.8
"""An interval longer than this excludes next to nothing: the model cannot tell."""
EXPLAINED = 0.01
"""A count with less chance than this at the share that explains it best is unlike all that held-out people show."""
SHARES = np.sin(np.linspace(0, math.pi / 2, 181)) ** 2
"""Grid of shares on which the interval is searched, denser towards 0 and 1."""

Floats = NDArray[np.float64]
Limit = Literal["cells", "classifier", "nothing called"]


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
    """Whether the bundle has its classifier's error rates on held-out people."""

    @property
    def cannot_tell(self) -> bool:
        """Whether the interval excludes next to nothing, and more cells would not help."""
        return self.called is not None and self.endless[1] - self.endless[0] > TELLS_NOTHING

    @property
    def half_width(self) -> float:
        """Half of the interval's length."""
        return (self.high - self.low) / 2

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
    return _estimate(rates.new_person, blasts, called, effective)


@lru_cache(maxsize=1000)  # a page asks for the same estimate many times
def _estimate(new_person: NewPerson, blasts: int, called: int, effective: float) -> BlastShare:
    share, chance = blasts / called, _chance_of_blast(new_person)
    most, least = _explaining(share * effective, effective, len(chance))
    at_most, at_least = (chance <= most[:, None]).mean(axis=0), (chance >= least[:, None]).mean(axis=0)
    if explained := min(at_most[0], at_least[-1]) >= EXPLAINED:
        estimate, low, high = _inverted(at_most, at_least)
    else:
        estimate, low, high = _inverted(*_bounds(chance, share, effective))
    if estimate == 0:  # fewer than any share explains: these cells may be easier than any before
        high = max(high, float(np.quantile(most, 1 - TAIL)))
    if estimate == 1:
        low = min(low, float(np.quantile(least, TAIL)))
    inside = (blasts + 0.5) / (called + 1)  # no count shows that a chance is 0 or 1
    _, first, last = _inverted((chance <= inside).mean(axis=0), (chance >= inside).mean(axis=0))
    endless = (max(low, first), min(high, last)) if explained else (low, high)
    limit: Limit = "classifier" if (endless[1] - endless[0]) ** 2 > (high - low) ** 2 / 2 else "cells"
    return BlastShare(share, estimate, low, high, limit, endless)


@lru_cache(maxsize=8)
def _chance_of_blast(person: NewPerson) -> Floats:
    """q(pi) of each person drawn (rows) for each of SHARES (columns)."""
    blasts = np.outer(person.called_blasts, SHARES)
    normals = np.outer(person.called_normals, 1 - SHARES)
    called = np.maximum(blasts + normals, np.finfo(float).tiny)
    chance: Floats = (blasts * person.sensitivity[:, None] + normals * person.false_blasts[:, None]) / called
    return chance


def _bounds(chance: Floats, share: float, called: float) -> tuple[Floats, Floats]:
    """Bounds (shares,) of the two chances, where they are too small to be counted over the people drawn.

    P(at most b of n) is no more than exp(-n D), where D is the divergence of b / n from a larger chance q (Chernoff,
    Annals of Mathematical Statistics 23:493, 1952); each table is scaled to its largest, which its ratios do not show.
    """
    q = chance.clip(1e-9, 1 - 1e-9)
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

    A chance is divided by the chance at the share that explains the count best, as in CLs (Read, Journal of Physics G
    28:2693, 2002): a count that no share explains, as this person's cells are easier than any before, must not rule out
    every share.
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
    return float(SHARES[index] + part * (SHARES[index + 1] - SHARES[index]))
