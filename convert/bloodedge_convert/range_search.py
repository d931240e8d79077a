"""Ranges of activations for int8, chosen by how often each value occurs.

From the smallest value to the largest, one rare extreme costs all others their resolution: 256 steps reach from end to
end. These methods choose a narrower range; what lies outside it saturates:

percentile  keeps 99.99 % of the values, one of the percentiles of Wu et al. ("Integer quantization for deep learning
            inference", arXiv:2004.09602, 2020). Keeping much less cuts off a cell's rare features first.
mse         has the least squared error of rounding and saturation together (Banner et al., "Post training 4-bit
            quantization of convolutional networks for rapid deployment", NeurIPS 2019, on the histogram itself in place
            of a fitted Laplace distribution).
entropy     keeps most of the distribution, by Kullback-Leibler divergence (Migacz, "8-bit inference with TensorRT", GTC
            2017).

Zeros are not counted: 0 is one of the 256 values whatever the range, and after a ReLU most of a map is 0. Pixels that
repeat the one beside them are not counted either: a cell's black surroundings give one value per channel, and "entropy"
would choose the range by where these spikes fall between the steps.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bloodedge_convert.job import Method

BINS = 2**16
"""Bins of a histogram, enough for a range 1000 times too wide."""
STEPS = 255
"""Steps between the smallest and the largest int8 value."""
KEPT_SHARE = 0.9999
"""Share of the values that "percentile" keeps; half of the others lie beyond either end."""
MIN_VALUES = 10_000
"""A tensor with fewer values keeps its range: of these, 99.99 % leave out one."""
CANDIDATES = 128
"""Ends of ranges that are tried, each a few per cent nearer to 0 than the one before."""
BINS_PER_STEP = 4
"""Bins by which "entropy" measures what rounding one step takes away."""
MIN_SHARE = 1e-9
"""Stands, in "entropy", for the share of a bin that rounding empties."""

Floats = NDArray[np.float64]


class Histogram:
    """How often each value of a tensor occurs, in BINS equal bins over its calibrated range and 0."""

    def __init__(self, low: float, high: float) -> None:
        self._low, self._high = min(low, 0.0), max(high, 0.0)
        self._counts = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count ``values`` (..., W, C), without zeros and repeated pixels.

        Values outside the range, which other images may have, fall into the bins at its ends.
        """
        values = np.atleast_2d(values)
        counted = values != 0
        counted[..., 1:, :] &= values[..., 1:, :] != values[..., :-1, :]
        values = values[counted]
        bins = ((values - self._low) * (BINS / (self._high - self._low))).clip(0, BINS - 1).astype(np.int32)
        self._counts += np.bincount(bins, minlength=BINS)

    @property
    def values(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def search(self, method: Method) -> tuple[float, float] | None:
        """The range that ``method``, one of SEARCHES, chooses; None where fewer than MIN_VALUES were counted."""
        return SEARCHES[method](*self.occupied()) if self.values >= MIN_VALUES else None

    def occupied(self) -> tuple[Floats, Floats]:
        """(counts (bins,), edges (bins + 1,)) from the first bin with a value, or 0, to the last, or 0."""
        edges = np.linspace(self._low, self._high, BINS + 1)
        held = np.flatnonzero(self._counts)
        first = min(held[0], np.searchsorted(edges, 0.0, side="right") - 1)
        last = max(held[-1] + 1, np.searchsorted(edges, 0.0))
        return self._counts[first:last].astype(np.float64), edges[first : last + 1]


def _percentile(counts: Floats, edges: Floats) -> tuple[float, float]:
    """The narrowest range that holds 0, with at most half of ``1 - KEPT_SHARE`` of the values beyond either end."""
    below, tail = counts.cumsum(), (1 - KEPT_SHARE) / 2 * counts.sum()
    first, last = np.searchsorted(below, tail, side="right"), np.searchsorted(below, below[-1] - tail)
    return min(float(edges[first]), 0.0), max(float(edges[last + 1]), 0.0)


def _mse(counts: Floats, edges: Floats) -> tuple[float, float]:
    """The range with the least squared error; rounding adds a twelfth of a step squared for each value inside."""
    values = (edges[:-1] + edges[1:]) / 2
    lows, highs = 0 - _candidates(-edges[0]), _candidates(edges[-1])
    below, saturated_below = _beyond(-values[::-1], counts[::-1], -lows)
    above, saturated_above = _beyond(values, counts, highs)
    inside = counts.sum() - np.add.outer(below, above)
    step = np.subtract.outer(-lows, -highs) / STEPS
    error = inside * step**2 / 12 + np.add.outer(saturated_below, saturated_above)
    low, high = np.unravel_index(error.argmin(), error.shape)
    return float(lows[low]), float(highs[high])


def _candidates(end: float) -> Floats:
    """Distances from 0 at which a range may end, at most ``end``; 0 alone where no value lies on that side."""
    return np.geomspace(end, end / 1000, CANDIDATES) if end > 0 else np.zeros(1)


def _beyond(values: Floats, counts: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """For each of ``ends``: how many of ``values`` (ascending) exceed it, and the sum of their excesses squared."""
    sums = [np.append((counts * values**power)[::-1].cumsum()[::-1], 0.0) for power in range(3)]
    number, total, squares = (sum_[np.searchsorted(values, ends, side="right")] for sum_ in sums)
    return number, np.maximum(squares - 2 * ends * total + ends**2 * number, 0.0)


def _entropy(counts: Floats, edges: Floats) -> tuple[float, float]:
    """The range, cut at one distance from 0 on both sides, whose rounded distribution is nearest to that of the values.

    Unlike Migacz's, every candidate is divided into as many bins, so that their losses can be compared.
    """
    below = np.concatenate([[0.0], counts.cumsum()])
    best, chosen = np.inf, (float(edges[0]), float(edges[-1]))
    for reach in _candidates(max(-edges[0], edges[-1])):
        low, high = max(float(edges[0]), -float(reach)), min(float(edges[-1]), float(reach))
        cuts = np.linspace(low, high, STEPS * BINS_PER_STEP + 1)
        if cuts[1] - cuts[0] < edges[1] - edges[0]:
            break
        divergence = _divergence(np.interp(cuts, edges, below), float(below[-1]))
        if divergence < best:
            best, chosen = divergence, (low, high)
    return chosen


def _divergence(below: Floats, total: float) -> float:
    """Kullback-Leibler divergence of a rounded distribution from the one that saturates at the ends of its range.

    below: how many of ``total`` values lie below the edges of the range's bins; BINS_PER_STEP bins round to one value.
    """
    inside = np.diff(below)
    exact = inside / total
    exact[0] += below[0] / total
    exact[-1] += 1 - below[-1] / total
    steps = inside.reshape(STEPS, BINS_PER_STEP).mean(axis=1) / max(inside.sum(), 1.0)
    rounded = np.maximum(np.repeat(steps, BINS_PER_STEP), MIN_SHARE)
    return float(np.sum(exact * np.log(np.maximum(exact, MIN_SHARE) / rounded)))


SEARCHES: dict[Method, Callable[[Floats, Floats], tuple[float, float]]] = {
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}
"""How each method chooses a range, from a histogram's counts (bins,) and edges (bins + 1,)."""
