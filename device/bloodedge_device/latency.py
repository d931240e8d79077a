"""Latency percentiles in constant memory, however many months the daemon runs."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from bloodedge.bundle.evaluation_record import LatencyMs

RATIO = 1.02
"""Upper over lower edge of a bin: a percentile is the bin's geometric middle, at most 1 % off."""

SHORTEST_MS, LONGEST_MS = 1e-3, 1e6
"""From 1 microsecond to 1000 seconds; anything beyond counts in the first or last bin."""

BINS = math.ceil(math.log(LONGEST_MS / SHORTEST_MS) / math.log(RATIO))
_PER_BIN = 1 / math.log(RATIO)


class LatencyHistogram:
    """Counts of latencies in fixed bins, evenly spaced in their logarithm."""

    def __init__(self, counts: dict[int, int] | None = None) -> None:
        """counts: stored counts by bin; default: empty."""
        self._counts = [0] * BINS
        for index, count in (counts or {}).items():
            self._counts[index] = count
        self.count = sum(self._counts)

    def add(self, latency_ms: float) -> None:
        """Count one latency in milliseconds."""
        index = int(math.log(latency_ms / SHORTEST_MS) * _PER_BIN) if latency_ms > SHORTEST_MS else 0
        self._counts[min(index, BINS - 1)] += 1
        self.count += 1

    def percentile(self, percent: float) -> float:
        """The latency in milliseconds that ``percent`` of those counted do not exceed, within 1 %; NaN when empty."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100))
        below = 0
        for index, count in enumerate(self._counts):
            below += count
            if below >= rank:
                return SHORTEST_MS * math.exp((index + 0.5) / _PER_BIN)
        raise AssertionError

    def plus(self, other: "LatencyHistogram") -> "LatencyHistogram":
        """Both together, as they are now."""
        return LatencyHistogram(dict(enumerate(map(int.__add__, self._counts, other._counts))))

    def since(self, before: "LatencyHistogram") -> "LatencyHistogram":
        """Counts since ``before``, an earlier state of this histogram."""
        pairs = zip(self._counts, before._counts, strict=True)
        return LatencyHistogram({i: max(0, now - then) for i, (now, then) in enumerate(pairs)})

    def summary(self) -> LatencyMs:
        """p50, p95 and p99."""
        return LatencyMs(p50=self.percentile(50), p95=self.percentile(95), p99=self.percentile(99))

    def to_json(self) -> str:
        """The bins that are not empty, as ``{"bin": count}``."""
        return json.dumps({index: count for index, count in enumerate(self._counts) if count})

    @classmethod
    def from_json(cls, text: str) -> "LatencyHistogram":
        """A histogram from what ``to_json`` gave."""
        return cls({int(index): count for index, count in json.loads(text).items()})


STAGES = {
    "camera": "frame",
    "gate": "frame",
    "find": "frame",
    "overlap": "frame",
    "kind": "cell",
    "imaging": "cell",
    "inference": "cell",
    "domain": "cell",
    "decision": "cell",
    "store": "batch",
    "frame": "frame",
}
"""Each stage and what it is timed for; a batch is the frames that one sync stores, one unless the disk is slow.
``frame`` is the whole way, from capture to stored rows."""


def summed(some: Mapping[str, LatencyHistogram], more: Mapping[str, LatencyHistogram]) -> dict[str, LatencyHistogram]:
    """New histograms by stage, those of one stage added."""
    empty = LatencyHistogram()
    return {stage: some.get(stage, empty).plus(more.get(stage, empty)) for stage in {**some, **more}}


class StageTimes:
    """One histogram per stage."""

    def __init__(self) -> None:
        self.histograms = {stage: LatencyHistogram() for stage in STAGES}

    def add(self, stage: str, seconds: float) -> None:
        """Count a duration in seconds for a stage."""
        self.histograms[stage].add(seconds * 1000)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the duration of the block, even if it raises."""
        start = perf_counter()
        try:
            yield
        finally:
            self.add(stage, perf_counter() - start)
