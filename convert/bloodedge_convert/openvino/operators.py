"""Time of an int8 network by operator.

OpenVINO reports each node's time. LiteRT's profiler cannot be reached from Python.
"""

from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge.config import Strict
from bloodedge.engine.openvino import settings, shared_core
from bloodedge_convert.job import Kind, file_names

RUNS, WARM_UP = 30, 5


class OperatorTime(Strict):
    """All nodes of one type together; times of one cell."""

    operator: str
    kernel: str
    """The chosen implementations by OpenVINO's names; the last part is the precision."""
    nodes: int
    ms: float
    """Median over runs."""


def by_operator(folder: Path, image: NDArray[np.uint8], threads: int) -> list[OperatorTime]:
    """The operators of OpenVINO int8, slowest first; nothing where there is no such artifact.

    image: a network input uint8 (H, W, 3).
    """
    path = folder / file_names(Kind(engine="openvino", precision="int8"))[0]
    if not path.is_file():
        return []
    network = shared_core().compile_model(path, "CPU", {**settings(threads), "PERF_COUNT": "YES"})
    request = network.create_infer_request()
    times: dict[str, list[float]] = defaultdict(list)
    nodes: dict[str, int] = {}
    kernels: dict[str, set[str]] = defaultdict(set)
    for number in range(WARM_UP + RUNS):
        request.infer([image[np.newaxis]])
        if number < WARM_UP:
            continue
        run: dict[str, list[float]] = defaultdict(list)
        for node in request.profiling_info:
            if node.real_time.total_seconds() > 0:
                run[node.node_type].append(1000 * node.real_time.total_seconds())
                kernels[node.node_type].add(node.exec_type)
        for name, found in run.items():
            times[name].append(sum(found))
            nodes[name] = len(found)
    rows = [
        OperatorTime(operator=name, kernel=", ".join(sorted(kernels[name])), nodes=nodes[name], ms=_median(found))
        for name, found in times.items()
    ]
    return sorted(rows, key=lambda row: -row.ms)


def _median(run_times: list[float]) -> float:
    """Median over all runs; a run in which a node was too quick for the clock counts as 0."""
    return float(np.median(run_times + [0.0] * (RUNS - len(run_times))))
