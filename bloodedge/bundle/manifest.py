"""Schemas of the two things that stages hand to each other: the run folder's ``run.json`` and the bundle's manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from bloodedge.bundle.other_formats import model_kind
from bloodedge.config import FileName, Strict
from bloodedge.decision.domain import Domain
from bloodedge.decision.prevalence import Rates
from bloodedge.decision.reference_people import Reference
from bloodedge.decision.thresholds import LABELS, Thresholds
from bloodedge.errors import BloodedgeError, UsageError, quoted
from bloodedge.files import read_edited, write_text
from bloodedge.imaging import ImagingSpec
from bloodedge.imaging.restain import StainBasis

RUN_SCHEMA: Literal[1] = 1
BUNDLE_SCHEMA: Literal[1] = 1

EngineName = Literal["litert", "openvino", "onnx", "keras"]
Precision = Literal["float32", "float16", "dynamic", "int8"]
"""Of the weights; "dynamic" stores them in int8 and computes activations in float32."""


class LatencyMs(Strict):
    """Percentiles of a latency in milliseconds."""

    p50: float
    p95: float
    p99: float


class SubjectScore(Strict):
    """One subject's part of an evaluation; ``label`` is its true class, or "mixed"."""

    label: str
    cells: int
    accuracy: float


class Evaluation(Strict):
    """Held-out figures; a blast is the positive class. A figure that one class alone cannot give is None.

    Those with a default came later: records stored before do not have them.
    """

    cells: int
    subjects: int
    accuracy: float
    weighted_f1: float
    macro_f1: float
    balanced_accuracy: float | None
    precision: float | None = None
    sensitivity: float | None
    """Recall of blasts."""
    specificity: float | None
    f1: float | None = None
    """Of blasts."""
    auc: float | None
    pr_auc: float | None = None
    """Average precision."""
    brier: float | None = None
    ece: float
    ece_before: float | None = None
    """Before the temperature."""
    mean_subject_accuracy: float | None = None
    ci95: dict[str, tuple[float, float]]
    """95 % intervals, bootstrapped over subjects."""
    per_subject: dict[str, SubjectScore]
    confusion: list[list[int]]
    """rows: true normal, true blast; columns: said normal, said blast."""
    latency_ms: LatencyMs | None = None
    leaky: bool = False
    """True when training and test cells may come from the same subject (a split by image)."""

    @property
    def never_called(self) -> str | None:
        """The class that cells are of and that none was called; None where both are called."""
        return never_called(self.confusion)

    @property
    def worst_subject(self) -> str:
        """Whose cells are called worst; of several equally bad ones, the one with most cells."""
        return min(self.per_subject, key=lambda name: (self.per_subject[name].accuracy, -self.per_subject[name].cells))


def never_called(confusion: Sequence[Sequence[float]]) -> str | None:
    """The class of a confusion matrix (true by said) that cells are of and that none was called."""
    said = [sum(column) for column in zip(*confusion, strict=True)]
    return next((label for label, row, n in zip(LABELS, confusion, said, strict=True) if sum(row) and not n), None)


class PartRecord(Strict):
    """One part of a split."""

    cells: int
    groups: list[str]
    subjects: list[str]
    digest: str
    """SHA-256 over the sorted names of the part's cells."""


class SplitRecord(Strict):
    """Which cells were used for what."""

    kind: Literal["group", "image"]
    seed: int
    folds: int | None = None
    fold: int | None = None
    parts: dict[str, PartRecord]
    """train, validation, test and, where a recipe keeps one, shift."""

    @property
    def leaky(self) -> bool:
        """Whether cells of one subject may stand on both sides."""
        return self.kind == "image"


class DataRecord(Strict):
    """The data a run was fitted to."""

    root: FileName
    """Where it lay; ``convert`` and ``evaluate`` take another place as an argument."""
    fingerprint: str
    """SHA-256 over the sorted (name, file digest) of every cell."""
    cells: int
    subjects: int
    rendered: bool = False
    """True for cells drawn by the simulated microscope."""


class FittedRecord(Strict):
    """Digests of the pictures of the training and validation parts; see ``bloodedge.data.fitted_pictures``."""

    file: str
    pictures: int


class RunRecord(Strict):
    """``run.json``: how a model came to be."""

    schema_version: Literal[1] = RUN_SCHEMA
    name: FileName
    created: str
    bloodedge: str
    model: str
    parameters: int
    labels: list[str]
    macs: int | None = None
    """Multiply-accumulates of one image."""
    weights: FileName
    teachers: list[FileName] = Field(default_factory=list)
    """Run folders that this network was distilled from."""
    recipe: dict[str, Any]
    imaging: ImagingSpec
    seed: int
    data: DataRecord
    split: SplitRecord
    fitted: FittedRecord | None = None
    """None in runs made before it was kept."""
    temperature: float
    thresholds: Thresholds
    backend: str
    hardware: str
    versions: dict[str, str]
    history: list[dict[str, float]]
    best_epoch: int


class RunMetrics(Strict):
    """``metrics.json``: the baseline that every later figure is held against."""

    parts: dict[str, Evaluation]
    ece_before_temperature: float
    """Expected calibration error on validation before the temperature was fitted."""
    latency_ms: LatencyMs
    """Batch 1, on the machine that trained."""
    hardware: str


class InputSpec(Strict):
    """What an artifact takes."""

    height: int
    width: int
    channels: Literal[3] = 3
    dtype: Literal["uint8"] = "uint8"
    colour: Literal["RGB"] = "RGB"


class Agreement(Strict):
    """An artifact against the float model on the same held-out cells."""

    cells: int
    flips: int
    flip_rate: float
    """Share of cells whose class changes, 0..1."""
    max_probability_difference: float
    mean_probability_difference: float | None = None
    """Of calibrated blast probabilities, 0..1; None in records stored before it was kept."""
    mean_probability_difference_ci95: tuple[float, float] | None = None
    """Over subjects."""
    never_called: str | None = None
    """The class that the artifact calls no cell, though cells are of it."""
    drop: dict[str, float]
    """Baseline metric minus artifact metric, percentage points."""
    drop_ci95: dict[str, tuple[float, float]]
    """Paired over subjects."""


class Artifact(Strict):
    """One converted network of the bundle."""

    engine: EngineName
    precision: Precision
    method: str | None = None
    """How int8 was made, as in ``bloodedge convert --int8-method``."""
    file: str
    weights_file: str | None = None
    sha256: str
    size_bytes: int
    """All of the artifact's files."""
    evaluation: Evaluation
    agreement: Agreement
    rates: Rates | None = None
    """What it says of held-out people's cells as a camera shows them, by person; None in bundles made before, and where
    the split is leaky."""


class Baseline(Strict):
    """The float model as measured at training."""

    hardware: str
    backend: str
    latency_ms: LatencyMs
    evaluation: Evaluation


class Golden(Strict):
    """The self-test: rendered inputs with the float model's outputs. Bounds were measured at conversion."""

    file: str = "golden.npz"
    inputs: int
    max_flips: dict[str, int]
    """Flips against the float model that an artifact ("litert/int8") showed at conversion; more is a fault."""
    max_probability_difference: dict[str, float]
    """Likewise, the largest probability difference seen at conversion."""


class Provenance(Strict):
    """Where the bundle comes from."""

    run: FileName
    model: str
    parameters: int
    recipe: dict[str, Any]
    weights: str
    data_fingerprint: str
    rendered: bool
    split: SplitRecord
    calibration_cells: int
    calibration_digest: str
    converted: str
    hardware: str
    versions: dict[str, str]


class Manifest(Strict):
    """``manifest.json`` of a bundle."""

    schema_version: Literal[1] = BUNDLE_SCHEMA
    serial: int = Field(ge=0)
    """Seconds since 1970 at conversion: a later conversion has the larger serial."""
    name: FileName
    labels: list[str]
    input: InputSpec
    imaging: ImagingSpec
    temperature: float = Field(gt=0)
    thresholds: Thresholds
    domain: Domain | None = None
    """Where the training cells lie; None where there were too few."""
    stain: StainBasis | None = None
    """The training cells' dyes."""
    reference: Reference | None = None
    """How the cells of people that the network was not fitted to look and are answered; None where they are too few."""
    caveats: list[str] = Field(default_factory=list)
    """Sentences that stand above the model's figures: what the gate was told to let through."""
    artifacts: list[Artifact]
    left_out: dict[str, str] = Field(default_factory=dict)
    """Artifacts not in the bundle ("litert/int8") and why."""
    baseline: Baseline
    golden: Golden
    fitted: FittedRecord | None = None
    """None in bundles made before it was kept."""
    provenance: Provenance
    files: dict[str, str]
    """SHA-256 of every file but manifest.json and signature.json."""

    def artifact(self, engine: str, precision: str) -> Artifact:
        """The artifact for an engine and precision; raises UsageError naming those there are."""
        for artifact in self.artifacts:
            if (artifact.engine, artifact.precision) == (engine, precision):
                return artifact
        there = ", ".join(f"{a.engine} {a.precision}" for a in self.artifacts)
        raise UsageError(f'Bundle "{self.name}" has no {engine} {precision} model; it has: {there}.')


Record = TypeVar("Record", RunRecord, RunMetrics, Manifest)


def parse_record(kind: type[Record], text: str | bytes, source: str) -> Record:
    """A stored record; raises BloodedgeError when it is damaged, or of a schema this version does not know."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"] == ("schema_version",):
            raise BloodedgeError(
                f"{source} has schema version {first['input']}, which this bloodedge does not know; upgrade bloodedge."
            ) from error
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise BloodedgeError(f"{source} is damaged ({where}: {first['msg']}); make it again.") from error


def read_run(run: Path) -> RunRecord:
    """``run.json`` of a run folder; raises UsageError when the folder is not one."""
    path = run / "run.json"
    if not path.is_file():
        kind = model_kind(run) if run.exists() else None
        what = f"{run} is {kind}, not a finished run folder" if kind else f"{run} is not a finished run folder"
        raise UsageError(f"{what} (no run.json); make one with: bloodedge train")
    return parse_record(RunRecord, read_edited(path), str(path))


def read_metrics(run: Path) -> RunMetrics:
    """``metrics.json`` of a run folder."""
    path = run / "metrics.json"
    if not path.is_file():
        raise UsageError(
            f"{run} has no metrics.json; finish it with: bloodedge train DATA --out {quoted(run)} --resume"
        )
    return parse_record(RunMetrics, read_edited(path), str(path))


def write_record(path: Path, record: Strict) -> None:
    """Store a record as indented JSON, whole or not at all."""
    write_text(path, record.model_dump_json(indent=2) + "\n")
