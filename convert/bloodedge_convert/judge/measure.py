"""An artifact's figures on cells, beside the float model's."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.manifest import Agreement, Artifact
from bloodedge.bundle.run_record import RunRecord
from bloodedge.decision.domain import Domain
from bloodedge.decision.error_rates import Rates
from bloodedge.decision.thresholds import calibrated
from bloodedge.engine import Engine, load_bytes
from bloodedge.engine.golden import Comparison, compare
from bloodedge.evaluation.filmed import Filmed
from bloodedge.evaluation.scoring import agree, score
from bloodedge.files import sha256
from bloodedge_convert.job import Kind, Method, Report, file_names
from bloodedge_convert.judge.checks import check, check_answers, ports
from bloodedge_convert.judge.gate import Limits, complaint

TEST_PART = "the test part of the run's data"
FOLDS_PART = "everybody's cells, each judged by a head fitted to nobody of its group"
FLOOR = 1 / 1024
"""Smallest probability that is told from 0, as in ``calibrated``: int8 outputs have no smaller ones."""
BLOCK = 32
"""Cells predicted between two progress reports."""


@dataclass(frozen=True)
class Sample:
    """Cells on which artifacts are compared with the float model."""

    what: str
    """Their name in progress reports."""
    images: NDArray[np.uint8]
    """(N, *ImagingSpec.input_shape), RGB."""
    labels: list[int]
    subjects: list[str]
    reference: NDArray[np.float32]
    """The float model's softmax outputs (N, classes)."""
    own: NDArray[np.float32] | None = None
    """The same where ``reference`` is of other float networks, those that were fitted to nobody of a cell's group."""

    def carried(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """An artifact's softmax outputs (N, classes), as those of its ``reference``'s network would be.

        What conversion changes in a cell's logits is the same, about, for a head fitted to all but its group.
        """
        if self.own is None:
            return outputs
        logits = [np.log(np.maximum(p, FLOOR)) for p in (outputs, self.own, self.reference)]
        raised = np.exp(logits[0] - logits[1] + logits[2])
        return np.asarray(raised / raised.sum(axis=1, keepdims=True), np.float32)


@dataclass(frozen=True)
class GoldenSet:
    """Rendered cells and the float model's outputs for them, which the bundle carries."""

    images: NDArray[np.uint8]
    reference: NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """An artifact that was made, with its figures."""

    kind: Kind
    method: Method | None
    """How int8 was made; None for other precisions."""
    files: list[Path]
    evaluation: Evaluation
    """On the held-out cells."""
    agreement: Agreement
    golden: Comparison
    rates: Rates | None

    def complaint(self, limits: Limits) -> str | None:
        """What is over which limit; None when the artifact passes the gate."""
        return complaint(self.kind, self.agreement, self.golden.max_probability_difference, limits)

    def artifact(self) -> Artifact:
        """Its entry in the manifest."""
        names = [f"artifacts/{path.name}" for path in self.files]
        return Artifact(
            engine=self.kind.engine,
            precision=self.kind.precision,
            method=self.method,
            file=names[0],
            weights_file=names[1] if len(names) > 1 else None,
            sha256=sha256(self.files[0]),
            size_bytes=sum(path.stat().st_size for path in self.files),
            evaluation=self.evaluation,
            agreement=self.agreement,
            rates=self.rates,
        )

    def timed(self, latency: LatencyMs) -> Self:
        """The same with its latency among its figures."""
        return replace(self, evaluation=self.evaluation.model_copy(update={"latency_ms": latency}))


@dataclass(frozen=True)
class Judge:
    """Compares the artifacts in ``folder`` with the float model of the run ``record``."""

    folder: Path
    record: RunRecord
    held_out: Sample
    trial: Sample
    """Validation cells, by which an int8 method is chosen."""
    golden: GoldenSet
    threads: int
    report: Report
    filmed: Filmed | None = None
    """Cells on which error rates are counted."""
    as_filmed: Sample | None = None
    """The same cells with the outputs of the float networks that judge them, where the run was fitted to everybody."""
    domain: Domain | None = None

    def files(self, kind: Kind) -> list[Path]:
        """An artifact's files."""
        return [self.folder / name for name in file_names(kind)]

    def load(self, kind: Kind) -> Engine:
        """An artifact, ready to run; BloodedgeError if it cannot be a faithful conversion."""
        files = self.files(kind)
        model, weights = files[0].read_bytes(), files[1].read_bytes() if len(files) > 1 else None
        check(
            kind,
            ports(kind, model, weights),
            sum(path.stat().st_size for path in files),
            shape=self.record.imaging.input_shape,
            classes=len(self.record.labels),
            parameters=self.record.parameters,
        )
        return load_bytes(kind.engine, model, weights, self.threads)

    def measure(self, kind: Kind, method: Method) -> Candidate:
        """Run the held-out and the golden cells through an artifact."""
        engine, sample, record = self.load(kind), self.held_out, self.record
        reference, blast = self._blast(kind, engine, sample)
        threshold = record.thresholds.blast
        return Candidate(
            kind=kind,
            method=method if kind.precision == "int8" else None,
            files=self.files(kind),
            evaluation=score(sample.labels, blast, sample.subjects, threshold=threshold, leaky=record.split.leaky),
            agreement=agree(reference, blast, sample.labels, sample.subjects, record.thresholds),
            golden=compare(engine, self.golden.images, self.golden.reference, record.temperature, threshold),
            rates=self._rates(kind, engine),
        )

    def _rates(self, kind: Kind, engine: Engine) -> Rates | None:
        """Error rates by person; None where no person was held out."""
        if self.record.split.leaky or self.filmed is None or not self.filmed.held_out:
            return None
        outputs = self._outputs("Cells as filmed", kind, engine, self.filmed.images)
        outputs = self.as_filmed.carried(outputs) if self.as_filmed else outputs
        blast = calibrated(outputs, self.record.temperature)[:, 1]
        data = FOLDS_PART if self.record.cross_validation else TEST_PART
        return self.filmed.rates(blast, self.domain, self.record.thresholds, data)

    def float_model(self, sample: Sample) -> Evaluation:
        """The float model's figures on some cells."""
        blast = calibrated(sample.reference, self.record.temperature)[:, 1]
        leaky, threshold = self.record.split.leaky, self.record.thresholds.blast
        return score(sample.labels, blast, sample.subjects, threshold=threshold, leaky=leaky)

    def compare_on_trial(self, kind: Kind) -> tuple[Agreement, float]:
        """An artifact and the float model on the trial cells, and the mean distance of their blast probabilities."""
        sample = self.trial
        reference, blast = self._blast(kind, self.load(kind), sample)
        distance = float(np.abs(reference - blast).mean())
        return agree(reference, blast, sample.labels, sample.subjects, self.record.thresholds), distance

    def _blast(self, kind: Kind, engine: Engine, sample: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Calibrated blast probabilities (N,): the float model's and the artifact's."""
        both = (sample.reference, sample.carried(self._outputs(sample.what, kind, engine, sample.images)))
        reference, blast = (calibrated(outputs, self.record.temperature)[:, 1] for outputs in both)
        return reference, blast

    def _outputs(self, what: str, kind: Kind, engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """An artifact's softmax outputs (N, classes); BloodedgeError when they are not probabilities."""
        parts = []
        for start in range(0, len(images), BLOCK):
            parts.append(engine.predict(images[start : start + BLOCK]))
            done = min(start + BLOCK, len(images))
            self.report(f"{what}: {kind.engine} {kind.precision}", done, len(images))
        outputs = np.concatenate(parts)
        check_answers(kind, outputs)
        return outputs
