"""Whether a whole slide is unlike the training cells, though some of its cells resemble them."""

import math
from functools import cache

OUTSIDE_SHARE = 0.2
"""With more than this share of its cells outside the domain, a slide's other cells cannot be trusted either: four times
the share among held-out cells."""

SURELY = 0.01
"""Level of significance of the test."""

REMEMBERED = 200
"""Latest cells that the test looks at, so that a change on a long slide is noticed."""


class SlideDomain:
    """Counts the slide's cells outside the domain."""

    def __init__(self) -> None:
        self._outside: list[bool] = []

    def note(self, *, outside: bool) -> None:
        """Count a cell."""
        self._outside.append(outside)
        del self._outside[:-REMEMBERED]

    @property
    def is_outside(self) -> bool:
        """Whether more than OUTSIDE_SHARE of the slide's cells are outside, beyond chance (exact binomial test)."""
        return _chance(sum(self._outside), len(self._outside)) < SURELY


@cache
def _chance(outside: int, cells: int) -> float:
    """Chance of at least so many cells outside where OUTSIDE_SHARE are."""
    p = OUTSIDE_SHARE
    return sum(math.comb(cells, k) * p**k * (1 - p) ** (cells - k) for k in range(outside, cells + 1))
