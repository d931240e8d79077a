"""Intervals of a share of cells when the cells come in frames.

Cells of one frame are more alike than cells of different frames: blasts lie together, and focus and stain are shared.
An interval for independent cells is too narrow. Here frames are clusters: the ratio estimator's variance
(Cochran, Sampling Techniques, 3rd edition 1977, 6.4) gives the design effect, and Wilson's interval is taken of the
effective number of cells with Student's t in place of z (Korn and Graubard, Survey Methodology 24:193, 1998).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bloodedge.metrics import wilson

FEWEST_CLUSTERS = 10
"""Fewest frames for a slide to have enough cells: the variance between fewer is hardly known."""
Z = 1.959964


@dataclass(frozen=True)
class ClusteredShare:
    """A share of cells, counted by cluster (a frame, or a slide); clusters without cells are left out."""

    part: Sequence[int]
    """Counted cells of each cluster, such as blasts."""
    whole: Sequence[int]
    """Cells of each cluster, such as those called."""
    times: Sequence[int] | None = None
    """How many clusters each entry stands for; default: one."""

    @classmethod
    def of_frames(cls, frames: Counter[tuple[int, int]]) -> "ClusteredShare":
        """frames: how many frames had so many (blasts, called cells); those where no cell was called are left out."""
        alike = [(blasts, called, count) for (blasts, called), count in sorted(frames.items()) if called and count]
        return cls([row[0] for row in alike], [row[1] for row in alike], [row[2] for row in alike])

    @cached_property
    def trials(self) -> int:
        """All cells."""
        return int(self._weights @ np.asarray(self.whole, np.int64))

    @cached_property
    def successes(self) -> int:
        """All counted cells."""
        return int(self._weights @ np.asarray(self.part, np.int64))

    @cached_property
    def clusters(self) -> int:
        """Clusters that hold a cell."""
        return int(self._weights @ (np.asarray(self.whole, np.int64) > 0))

    @cached_property
    def _weights(self) -> NDArray[np.int64]:
        return np.ones(len(self.whole), np.int64) if self.times is None else np.asarray(self.times, np.int64)

    @property
    def share(self) -> float | None:
        """0..1; None without cells."""
        return self.successes / self.trials if self.trials else None

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson's interval, as if cells were independent; (0, 1) without cells."""
        return wilson(self.successes, self.trials)

    @cached_property
    def design_effect(self) -> float | None:
        """Variance of the share over that of as many independent cells, at least 1; None for fewer than 2 clusters.

        1 where the share is 0 or 1, which hides the clustering.
        """
        if self.clusters < 2 or self.share is None:
            return None
        alone = self.share * (1 - self.share) * self.trials
        if alone == 0:
            return 1.0
        residuals = np.asarray(self.part) - self.share * np.asarray(self.whole)
        between = self.clusters / (self.clusters - 1) * float(self._weights @ np.square(residuals))
        return max(1.0, between / alone)

    @property
    def effective_trials(self) -> float | None:
        """As many independent cells would be as informative; None for fewer than 2 clusters."""
        return None if self.design_effect is None else self.trials / self.design_effect

    @property
    def equivalent_trials(self) -> float | None:
        """Independent cells that would give as long an interval, Student's t included; None for fewer than 2 clusters.

        Korn and Graubard's effective sample size.
        """
        effective = self.effective_trials
        return None if effective is None else effective * (Z / student(self.clusters - 1)) ** 2

    @property
    def clustered_ci95(self) -> tuple[float, float] | None:
        """The interval to report, 0..1; None for fewer than 2 clusters."""
        effect = self.design_effect
        return None if effect is None else self._interval(self.trials / effect, self.clusters)

    def enough(self, half_width: float) -> bool:
        """Whether half of the clustered interval's length is at most ``half_width``, from FEWEST_CLUSTERS on.

        A sequential rule of fixed width (Chow and Robbins, Annals of Mathematical Statistics 36:457, 1965): looking
        after each frame costs little coverage, since Wilson's interval of a few cells is never short, not even of none.
        """
        interval = self.clustered_ci95
        if interval is None or self.clusters < FEWEST_CLUSTERS:
            return False
        return (interval[1] - interval[0]) / 2 <= half_width

    def cells_needed(self, half_width: float) -> int:
        """About how many further cells make it ``enough``, if they come as those before; 0 when it is.

        With fewer than 2 clusters, as if cells were independent; before the first cell, of a share of one half and one
        cell a frame.
        """
        assert half_width > 0
        if self.enough(half_width):
            return 0
        return max(1, self._first_enough(half_width) - self.trials)

    def _first_enough(self, half_width: float) -> int:
        """Fewest cells in all whose interval is short enough, by bisection."""
        a_frame = self.trials / self.clusters if self.clusters else 1.0

        def short(cells: int) -> bool:
            low, high = self._interval(cells / (self.design_effect or 1.0), max(2, math.floor(cells / a_frame)))
            return (high - low) / 2 <= half_width

        low, high = math.ceil(FEWEST_CLUSTERS * a_frame) - 1, math.ceil(FEWEST_CLUSTERS * a_frame)
        while not short(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if short(middle) else (middle, high)
        return high

    def _interval(self, effective: float, clusters: int) -> tuple[float, float]:
        """Wilson's interval of ``effective`` cells with Student's t."""
        share = 0.5 if self.share is None else self.share
        return wilson(share * effective, effective, student(clusters - 1))


def student(degrees: int) -> float:
    """97.5th percentile of Student's t, within 0.2 %, for 1 degree of freedom and more.

    The first two are exact; from 3 on the expansion 26.7.5 of Abramowitz and Stegun, Handbook of Mathematical
    Functions, 1964.
    """
    if degrees == 1:
        return math.tan(0.475 * math.pi)
    if degrees == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    terms = (
        (Z**3 + Z) / 4,
        (5 * Z**5 + 16 * Z**3 + 3 * Z) / 96,
        (3 * Z**7 + 19 * Z**5 + 17 * Z**3 - 15 * Z) / 384,
        (79 * Z**9 + 776 * Z**7 + 1482 * Z**5 - 1920 * Z**3 - 945 * Z) / 92160,
    )
    return Z + sum(term / float(degrees) ** power for power, term in enumerate(terms, start=1))
