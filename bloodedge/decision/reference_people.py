"""The reference for drift: how people's cells vary, and how far people are from one another.

Drift is measured by the Kolmogorov-Smirnov distance between a slide's cells and the reference people's, in four
aspects. One person's cells never vary like all people's together, so a slide has drifted only if it is farther from the
reference people than they are from one another.
"""

import math
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from bloodedge.config import Strict
from bloodedge.decision.domain import FIGURES, FINEST_TEXTURES, MEANS

Aspect = Literal["confidence", "area_um2", "stain", "focus"]
ASPECTS: tuple[Aspect, ...] = get_args(Aspect)
"""confidence: the larger of a cell's two calibrated probabilities, 0.5..1; area_um2: of the cell; stain: mean of its
three channels' means, 0..1; focus: mean logarithm of its finest detail."""

FEWEST_PEOPLE = 5
"""Fewer do not show how people differ."""
FEWEST_CELLS = 50
"""Of a person or a slide; the distance of fewer is mostly chance."""
LIMIT_QUANTILE = 0.95
CHANCE = 1.36
"""5 % point of Kolmogorov's distribution: what chance adds to the distance of n cells, times the root of n (Smirnov,
"Table for estimating the goodness of fit of empirical distributions", Ann. Math. Statist. 19:279, 1948)."""
_LEVELS = np.linspace(0, 1, 101)

Floats = NDArray[np.float64]
_Side = Literal["left", "right"]
_SIDES: tuple[_Side, ...] = get_args(_Side)


class AspectReference(Strict):
    """One aspect of the reference people's cells."""

    quantiles: tuple[float, ...] = Field(min_length=101, max_length=101)
    """Quantiles over all cells, from 0 to 100 % in steps of 1 %."""
    limit: float = Field(ge=0, le=1)
    """LIMIT_QUANTILE over people of each one's distance from all the others'."""


class Reference(Strict):
    """How the reference people's cells are spread."""

    aspects: dict[Aspect, AspectReference]
    people: int
    """Those with FEWEST_CELLS or more, whom the limits are of."""
    cells: int
    """All people's."""

    def distance(self, aspect: Aspect, values: ArrayLike) -> float:
        """Largest difference, 0..1, of the shares of ``values`` (N,), N > 0, and of the reference below a value."""
        return _distance(np.array(self.aspects[aspect].quantiles), np.asarray(values, np.float64))

    def drifted(self, aspect: Aspect, values: ArrayLike) -> bool | None:
        """Whether ``values`` (N,) are beyond the limit by more than chance; None for fewer than FEWEST_CELLS."""
        count = len(np.asarray(values))
        if count < FEWEST_CELLS:
            return None
        return self.distance(aspect, values) - CHANCE / math.sqrt(count) > self.aspects[aspect].limit


def fit_reference(values: Mapping[Aspect, ArrayLike], people: list[str]) -> Reference | None:
    """The reference of cells whose ``people`` (N names) are known.

    values: of each of ASPECTS, float (N,), as ``aspects_of`` gives. None when fewer than FEWEST_PEOPLE have
    FEWEST_CELLS or more: the cells of people with fewer count, but say nothing about how people differ.
    """
    _, person, counts = np.unique(np.asarray(people, str), return_inverse=True, return_counts=True)
    enough = np.flatnonzero(counts >= FEWEST_CELLS)
    if len(enough) < FEWEST_PEOPLE:
        return None
    columns = {aspect: np.asarray(values[aspect], np.float64) for aspect in ASPECTS}
    return Reference(
        aspects={aspect: _fitted(column, person, enough) for aspect, column in columns.items()},
        people=len(enough),
        cells=len(person),
    )


def _fitted(column: Floats, person: NDArray[np.intp], enough: NDArray[np.intp]) -> AspectReference:
    apart = [_distance(_quantiles(column[person != number]), column[person == number]) for number in enough]
    limit = float(np.quantile(apart, LIMIT_QUANTILE))
    return AspectReference(quantiles=tuple(_quantiles(column).tolist()), limit=limit)


def aspects_of(figures: ArrayLike, blast_probability: ArrayLike, area_um2: ArrayLike) -> dict[Aspect, Floats]:
    """Each of ASPECTS, (N,), of N cells.

    figures: (N, 41), of ``bloodedge.decision.domain.describe``; blast_probability: (N,), calibrated; area_um2: (N,).
    """
    described = np.asarray(figures, np.float64).reshape(-1, FIGURES)
    blast = np.asarray(blast_probability, np.float64)
    return {
        "confidence": np.maximum(blast, 1 - blast),
        "area_um2": np.asarray(area_um2, np.float64),
        "stain": described[:, MEANS].mean(axis=1),
        "focus": described[:, FINEST_TEXTURES].mean(axis=1),
    }


def _quantiles(values: Floats) -> Floats:
    return np.asarray(np.quantile(values, _LEVELS), np.float64)


def _distance(quantiles: Floats, values: Floats) -> float:
    """Of Kolmogorov and Smirnov; exact where many values are the same, as confidences near 1 are."""
    ordered = np.sort(values)
    apart = 0.0
    for side in _SIDES:
        ours = np.searchsorted(ordered, ordered, side) / len(ordered)
        apart = max(apart, float(np.abs(ours - _share_below(quantiles, ordered, side)).max()))
    return apart


def _share_below(quantiles: Floats, values: Floats, side: _Side) -> Floats:
    """Share of the reference below each value (side left) or not above it (right)."""
    index = np.searchsorted(quantiles, values, side)
    low, high = np.clip(index - 1, 0, 99), np.clip(index, 1, 100)
    width = quantiles[high] - quantiles[low]
    within = np.divide(values - quantiles[low], width, out=np.zeros_like(values), where=width > 0)
    share = _LEVELS[low] + np.clip(within, 0, 1) / 100
    return np.where(index == 0, 0.0, np.where(index == len(quantiles), 1.0, share))
