"""Whether a whole slide is of another kind than the training cells, though some of its cells resemble them."""

import math
from functools import cache

FOREIGN_SHARE = 0.2
"""Of a slide's cells outside the domain, above which the rest are not to be trusted either: four times what held-out
cells show."""

SURELY = 0.01
"""Chance at which so many cells outside are no longer put down to luck."""

REMEMBERED = 200
"""Latest cells that are judged by, so that what changes on a long slide is seen."""


class SlideDomain:
    """Counts which cells of a slide lie inside the domain."""

    def __init__(self) -> None:
        self._outside: list[bool] = []

    def note(self, *, outside: bool) -> None:
        """Count a cell."""
        self._outside.append(outside)
        del self._outside[:-REMEMBERED]

    @property
    def foreign(self) -> bool:
        """Whether more than FOREIGN_SHARE of the slide's cells are outside, beyond chance (exact binomial test)."""
        return _chance(sum(self._outside), len(self._outside)) < SURELY


@cache
def _chance(outside: int, cells: int) -> float:
    """Chance of so many cells outside, or more, of a slide where FOREIGN_SHARE are."""
    p = FOREIGN_SHARE
    return sum(math.comb(cells, k) * p**k * (1 - p) ** (cells - k) for k in range(outside, cells + 1))
