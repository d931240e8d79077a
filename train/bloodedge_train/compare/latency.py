"""What the converted networks take on this machine, all measured in turns so that a slow spell hits them all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bloodedge.bench.latency import interleaved, percentiles
from bloodedge.bundle import Bundle
from bloodedge.bundle.evaluation_record import LatencyMs
from bloodedge.engine import Engine, installed, load_artifact
from bloodedge.machine import default_threads, hardware_name

ROUNDS = 40


@dataclass(frozen=True)
class Measured:
    """A latency of one cell and the machine that it was measured on."""

    latency_ms: LatencyMs
    machine: str


def measure(bundles: Sequence[Path]) -> dict[str, Measured]:
    """Latencies by "BUNDLE/engine/precision" of every artifact whose runtime is installed here.

    Networks of one input shape are timed in turns on one cell of noise: what it shows does not matter.
    """
    threads = default_threads()
    machine = f"{hardware_name()}, {threads} threads"
    engines: dict[tuple[int, ...], dict[str, Engine]] = {}
    for path in bundles:
        with Bundle(path) as bundle:
            shape = bundle.manifest.input.shape
            for artifact in bundle.manifest.artifacts:
                if installed(artifact.engine):
                    key = f"{path}/{artifact.engine}/{artifact.precision}"
                    engines.setdefault(shape, {})[key] = load_artifact(bundle, artifact, threads)
    found = {}
    for shape, alike in engines.items():
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        for key, times in interleaved(alike, noise, ROUNDS).items():
            found[key] = Measured(percentiles(times), machine)
    return found
