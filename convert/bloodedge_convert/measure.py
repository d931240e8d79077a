"""What an artifact is worth: its figures on held-out cells, beside the float model's, and its latency."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge.bench import interleaved, percentiles
from bloodedge.decision import calibrated
from bloodedge.engine import Engine, load_bytes
from bloodedge.evaluate import agree, score
from bloodedge.files import sha256
from bloodedge.golden import Comparison, compare
from bloodedge.manifest import Agreement, Artifact, Evaluation, LatencyMs, RunRecord
from bloodedge_convert.checks import check, ports
from bloodedge_convert.job import Kind, Report, file_names

ROUNDS = 60
BLOCK = 32
"""Cells predicted between two progress reports."""


@dataclass(frozen=True)
class HeldOut:
    """The cells that artifacts are judged on, and the float model's softmax outputs for them."""

    images: NDArray[np.uint8]
    """(N, H, W, 3) RGB."""
    labels: list[int]
    subjects: list[str]
    reference: NDArray[np.float32]
    """(N, classes)."""
    golden: NDArray[np.uint8]
    """(G, H, W, 3) RGB, rendered."""
    golden_reference: NDArray[np.float32]
    """(G, classes)."""


@dataclass(frozen=True)
class Measured:
    """One artifact with all that the gate and the manifest need."""

    kind: Kind
    engine: Engine
    files: list[Path]
    evaluation: Evaluation
    agreement: Agreement
    golden: Comparison

    def artifact(self, latency: LatencyMs) -> Artifact:
        """Its entry in the manifest."""
        names = [f"artifacts/{path.name}" for path in self.files]
        return Artifact(
            engine=self.kind.engine,
            precision=self.kind.precision,
            file=names[0],
            weights_file=names[1] if len(names) > 1 else None,
            sha256=sha256(self.files[0]),
            size_bytes=sum(path.stat().st_size for path in self.files),
            evaluation=self.evaluation.model_copy(update={"latency_ms": latency}),
            agreement=self.agreement,
        )


def measure(kind: Kind, folder: Path, record: RunRecord, held_out: HeldOut, threads: int, report: Report) -> Measured:
    """Check one artifact of ``folder``, run the held-out cells through it, compare; BloodedgeError if it is broken."""
    files = [folder / name for name in file_names(kind)]
    model, weights = files[0].read_bytes(), files[1].read_bytes() if len(files) > 1 else None
    check(
        kind,
        ports(kind, model, weights),
        sum(path.stat().st_size for path in files),
        size_px=record.imaging.size_px,
        classes=len(record.labels),
        parameters=record.parameters,
    )
    engine = load_bytes(kind.engine, model, weights, threads)
    blast = calibrated(_predict(kind, engine, held_out.images, report), record.temperature)[:, 1]
    reference = calibrated(held_out.reference, record.temperature)[:, 1]
    return Measured(
        kind=kind,
        engine=engine,
        files=files,
        evaluation=score(
            held_out.labels,
            blast,
            held_out.subjects,
            threshold=record.thresholds.blast,
            leaky=record.split.leaky,
        ),
        agreement=agree(reference, blast, held_out.labels, held_out.subjects, record.thresholds),
        golden=compare(engine, held_out.golden, held_out.golden_reference, record.temperature, record.thresholds.blast),
    )


def _predict(kind: Kind, engine: Engine, images: NDArray[np.uint8], report: Report) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(images), BLOCK):
        parts.append(engine.predict(images[start : start + BLOCK]))
        report(f"Held-out cells: {kind.engine} {kind.precision}", min(start + BLOCK, len(images)), len(images))
    return np.concatenate(parts)


def latencies(measured: list[Measured], image: NDArray[np.uint8], report: Report) -> dict[str, LatencyMs]:
    """Latency of one cell for each artifact, by its kind's name; artifacts of one engine are timed in turns.

    image: uint8 (H, W, 3).
    """
    result: dict[str, LatencyMs] = {}
    engines = sorted({one.kind.engine for one in measured})
    for number, engine in enumerate(engines, 1):
        same = {str(one.kind): one.engine for one in measured if one.kind.engine == engine}
        result |= {name: percentiles(times) for name, times in interleaved(same, image, ROUNDS).items()}
        report("Latency of one cell", number, len(engines))
    return result
