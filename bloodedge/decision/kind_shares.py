"""Shares of kinds among a slide's leucocytes: exact limits, and corrected for what the kind network gets wrong.

Of ``n`` cells told to be leucocytes, ``b`` were told to be of kind k. Where x is the true share of k among leucocytes,
the chance that such a cell is told to be k is

    q(x) = (x B + (1 - x) b' + u') / (x A + (1 - x) a' + v')

where A is the chance that a cell of kind k is told to be any leucocyte, and B that it is told to be k; a' and b' are
the same of the other leucocytes in their own proportions, and v' and u' of what is no leucocyte, per leucocyte. Those
proportions come from the likeliest mixture (expectation maximisation, Dempster, Laird and Rubin, Journal of the Royal
Statistical Society B 39:1, 1977). Cells that were not named leave both sides, so that a stain under which less is named
changes no share. With one class against another this is Rogan and Gladen's estimator
(American Journal of Epidemiology 107:71, 1978).

The interval holds the count (Clopper and Pearson, Biometrika 26:404, 1934) and how few cells the network was judged on
(Dirichlet distributions round its confusions); without confusions it is Clopper and Pearson's. It does not hold that
the network may err otherwise under another stain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from bloodedge.config import Strict
from bloodedge.decision.kinds import COUNTED, Kind

TAIL = 0.025
"""Chance on each side that is left outside an interval."""
DRAWS = 1000
STEPS, SETTLED = 2000, 1e-9
"""Most steps of the mixture, and the change of a share at which it is settled."""

Floats = NDArray[np.float64]


class KindRates(Strict):
    """What the kind network told of cells that it was not fitted to."""

    data: str = ""
    """Which cells these are."""
    kinds: tuple[Kind, ...]
    """The true kinds; every leucocyte that is counted is among them, ``unknown`` is not."""
    confusion: tuple[tuple[int, ...], ...]
    """Cells by true kind (rows, as in ``kinds``) and told kind (columns, as in ``kinds``, then unknown).

    A kind of which no cell was judged, such as artefacts, is left out of the correction.
    """

    @model_validator(mode="after")
    def _fits(self) -> "KindRates":
        count = len(self.kinds)
        if len(set(self.kinds)) != count or Kind.UNKNOWN in self.kinds or not set(COUNTED) <= set(self.kinds):
            raise ValueError("kinds must name each counted kind, and none twice or unknown")
        if [len(row) for row in self.confusion] != [count + 1] * count:
            raise ValueError("confusion must have a row for each kind and a column more, for unknown")
        if any(min(row) < 0 for row in self.confusion) or not set(COUNTED) <= set(self.judged[0]):
            raise ValueError(
                "every counted kind in confusion must have cells that were named, and no count is negative"
            )
        return self

    @cached_property
    def judged(self) -> tuple[tuple[Kind, ...], tuple[tuple[int, ...], ...]]:
        """Kinds of which cells were judged and named, and their confusion; to be told another kind is to be unknown."""
        table = np.array(self.confusion)
        kept = [index for index, row in enumerate(self.confusion) if sum(row[:-1])]
        others = [index for index in range(len(self.kinds) + 1) if index not in kept]
        rows = np.column_stack([table[kept][:, kept], table[kept][:, others].sum(axis=1)])
        return tuple(self.kinds[index] for index in kept), tuple(tuple(int(n) for n in row) for row in rows)


@dataclass(frozen=True)
class KindShare:
    """A share of leucocytes, 0..1, with its 95 % interval."""

    share: float
    low: float
    high: float


@lru_cache(maxsize=10_000)
def exact_limits(part: int, whole: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % limits of a share, 0..1; (0, 1) without cells.

    They are those of Rümke's table (Rümke, Seminars in Hematology 1985), which CLSI H20 prints.
    """
    if whole == 0:
        return 0.0, 1.0
    return _lower(part, whole), 1 - _lower(whole - part, whole)


def _lower(part: int, whole: int) -> float:
    """The share at which P(at least ``part`` of ``whole``) is TAIL, by bisection."""
    if part == 0:
        return 0.0
    counts = np.arange(part, min(whole, part + 50 + round(12 * math.sqrt(whole))) + 1)  # more is next to impossible
    first = math.lgamma(whole + 1) - math.lgamma(part + 1) - math.lgamma(whole - part + 1)
    steps = np.log((whole - counts[:-1]) / (counts[:-1] + 1))
    log_choose = first + np.concatenate([[0.0], np.cumsum(steps)])
    low, high = 0.0, part / whole
    for _ in range(50):
        share = (low + high) / 2
        chance = np.exp(log_choose + counts * math.log(share) + (whole - counts) * math.log1p(-share)).sum()
        low, high = (share, high) if chance < TAIL else (low, share)
    return low


def corrected_share(rates: KindRates, told: Mapping[Kind, int], group: Sequence[Kind]) -> KindShare | None:
    """The share of a group of counted kinds among all leucocytes; told: cells by told kind, unknown or not.

    None where no cell was told to be a leucocyte.
    """
    kinds, confusion = rates.judged
    return _corrected(kinds, confusion, tuple(told.get(kind, 0) for kind in kinds), frozenset(group))


@lru_cache(maxsize=1000)  # a page asks for the same estimate many times
def _corrected(
    kinds: tuple[Kind, ...], confusion: tuple[tuple[int, ...], ...], named: tuple[int, ...], group: frozenset[Kind]
) -> KindShare | None:
    counted = np.array([kind in COUNTED for kind in kinds])
    inside = np.array([kind in group for kind in kinds])
    cells = np.array(named, np.float64)
    whole, part = int(cells[counted].sum()), int(cells[inside].sum())
    if whole == 0:
        return None
    mixture = _mixture(confusion, named)
    of_leucocytes = mixture / max(float(mixture[counted].sum()), 1e-12)
    share = float(of_leucocytes[inside].sum())
    own = _even(of_leucocytes * inside, inside)
    others = _even(of_leucocytes * (counted & ~inside), counted & ~inside)
    strange = of_leucocytes * ~counted
    chances = _drawn_chances(confusion)
    any_leucocyte = chances[:, :, :-1][:, :, counted].sum(axis=2)
    in_group = chances[:, :, :-1][:, :, inside].sum(axis=2)
    a, b = any_leucocyte @ own, in_group @ own
    rest_a, rest_b = any_leucocyte @ others, in_group @ others
    strange_a, strange_b = any_leucocyte @ strange, in_group @ strange
    rng = np.random.default_rng(1)

    def solved(q: Floats | float) -> Floats:
        slope = (b - rest_b) - q * (a - rest_a)
        slope = np.where(np.abs(slope) < 1e-12, 1e-12, slope)
        return np.asarray(((q * (rest_a + strange_a) - rest_b - strange_b) / slope).clip(0, 1))

    most = rng.beta(part + 1, whole - part, DRAWS) if part < whole else 1.0
    least = rng.beta(part, whole - part + 1, DRAWS) if part else 0.0
    low, high = float(np.quantile(solved(least), TAIL)), float(np.quantile(solved(most), 1 - TAIL))
    return KindShare(share, min(low, share), max(high, share))


def _mixture(confusion: tuple[tuple[int, ...], ...], named: tuple[int, ...]) -> Floats:
    """The true shares (kinds,) that make the named cells (kinds,) likeliest, and weigh what is seldom named more."""
    rates = np.array(confusion, np.float64)
    rates /= rates.sum(axis=1, keepdims=True)
    is_named = rates[:, :-1].sum(axis=1)
    told, chances = np.array(named, np.float64), rates[:, :-1] / is_named[:, np.newaxis]
    shares = np.full(len(named), 1 / len(named))
    for _ in range(STEPS):
        new = shares * (chances @ (told / np.maximum(shares @ chances, 1e-300))) / told.sum()
        settled = float(np.abs(new - shares).max()) < SETTLED
        shares = new
        if settled:
            break
    weighed = shares / is_named
    return np.asarray(weighed / weighed.sum())


def _even(shares: Floats, among: NDArray[np.bool_]) -> Floats:
    """Shares that add to 1; even ones where all are 0."""
    total = float(shares.sum())
    return shares / total if total > 1e-9 else among / max(int(among.sum()), 1)


@lru_cache(maxsize=8)
def _drawn_chances(confusion: tuple[tuple[int, ...], ...]) -> Floats:
    """Chances (DRAWS, true kinds, told kinds) that the confusions are compatible with."""
    rng = np.random.default_rng(0)
    prior = 1 / len(confusion[0])
    return np.stack([rng.dirichlet(np.array(row) + prior, DRAWS) for row in confusion], axis=1)
