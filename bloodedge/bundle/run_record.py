"""What ``bloodedge train`` stores beside a network: ``run.json`` and ``metrics.json``."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.json_records import parse_record
from bloodedge.bundle.other_formats import model_kind
from bloodedge.config import FileName, Strict
from bloodedge.decision.operating_point import OperatingPoint
from bloodedge.decision.thresholds import Thresholds
from bloodedge.errors import UsageError, quoted
from bloodedge.files import read_edited
from bloodedge.imaging import ImagingSpec

RUN_SCHEMA: Literal[1] = 1
CHOSEN_BY = ("validation", "inner")
"""Parts that chose something, such as the temperature, and so judge nothing."""


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
        """Whether cells of one subject may be in training and in test."""
        return self.kind == "image"


class DataRecord(Strict):
    """The data a run was fitted to."""

    root: FileName
    """The data folder at training; ``convert`` and ``evaluate`` take another one as an argument."""
    fingerprint: str
    """SHA-256 over the sorted (name, file digest) of every cell."""
    cells: int
    subjects: int
    rendered: bool = False
    """True for cells drawn by the simulated microscope."""
    layout: DataLayout = Field(default_factory=DataLayout)
    """How they were laid out; C-NMC's in older runs."""


class FittedRecord(Strict):
    """Digests of the pictures of the training and validation parts; see ``bloodedge.data.fitted_pictures``."""

    file: str
    pictures: int


class FeaturesRecord(Strict):
    """Features of training cells, to fine-tune by; see ``bloodedge.data.training_features``."""

    file: str
    cells: int
    people: int


class CrossValidation(Strict):
    """The folds by which a run was judged that was fitted to everybody; see ``bloodedge_train.head_run``."""

    file: str
    """A Keras network with the run's features and a head for each fold, float32 (N, folds, 2)."""
    folds: list[list[str]]
    """Groups that each fold's head was not fitted to."""


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
    recipe: dict[str, Any]
    imaging: ImagingSpec
    seed: int
    data: DataRecord
    split: SplitRecord
    fitted: FittedRecord | None = None
    """None in older runs."""
    features: FeaturesRecord | None = None
    """None in older runs, and where a whole network was fitted."""
    cross_validation: CrossValidation | None = None
    """None for a run that holds people out for good."""
    temperature: float
    thresholds: Thresholds
    operating_point: OperatingPoint | None = None
    """What the thresholds were chosen for; None where they are the usual ones, as in older runs."""
    backend: str
    hardware: str
    versions: dict[str, str]
    history: list[dict[str, float]]
    best_epoch: int

    removed: ClassVar = {"teachers": ...}


class RunMetrics(Strict):
    """``metrics.json``: the baseline that later figures are compared with."""

    parts: dict[str, Evaluation]
    """By part of the split. "inner": cells that a head was fitted to, each as called by a head that was fitted to none
    of its group. "folds": everybody's, where penalty, temperature and thresholds were chosen on others too."""
    ece_before_temperature: float
    """Expected calibration error of the ``calibration_part`` before the temperature was fitted."""
    latency_ms: LatencyMs
    """Batch 1, on the machine that trained."""
    hardware: str


def calibration_part(parts: Iterable[str]) -> str:
    """The part whose cells chose the temperature: validation, or "inner" in a run of a head."""
    return "inner" if "inner" in parts else "validation"


def judged_part(parts: Iterable[str]) -> str:
    """The part that judges a run: test, or "folds" where everybody was fitted to and each was held out once before."""
    return "folds" if "folds" in parts else "test"


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
