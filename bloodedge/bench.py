"""Latency of one network input at a time, measured the same way on the GPU host and on the board."""

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from bloodedge.engine import Engine
from bloodedge.manifest import LatencyMs

WARM_UP = 5


def percentiles(times_ms: list[float]) -> LatencyMs:
    """p50, p95 and p99 of measured latencies in milliseconds."""
    p50, p95, p99 = np.percentile(times_ms, [50, 95, 99])
    return LatencyMs(p50=float(p50), p95=float(p95), p99=float(p99))


def measure_latency(engine: Engine, image: NDArray[np.uint8], repeats: int = 60) -> LatencyMs:
    """Latency of ``engine.predict`` on one network input uint8 (H, W, 3), over ``repeats`` calls after a warm-up."""
    return percentiles(interleaved({"engine": engine}, image, repeats)["engine"])


def interleaved(engines: dict[str, Engine], image: NDArray[np.uint8], rounds: int) -> dict[str, list[float]]:
    """Latencies in milliseconds per engine, ``rounds`` of each, taken in turns so that a slow spell hits them all.

    image: uint8 (H, W, 3). The order turns round every other round, so that no engine always follows the same one.
    """
    batch = image[np.newaxis]
    for engine in engines.values():
        for _ in range(WARM_UP):
            engine.predict(batch)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds):
        for name in sorted(engines, reverse=bool(number % 2)):
            start = perf_counter()
            engines[name].predict(batch)
            times[name].append((perf_counter() - start) * 1000)
    return times
