"""What is compared: one row per network and split."""

from typing import Literal

from bloodedge.bundle.evaluation_record import LatencyMs, SubjectScore
from bloodedge.bundle.manifest import EngineName, Precision
from bloodedge.config import Strict
from bloodedge_train.compare.collect import ScoredPart

FIGURES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "weighted_f1": "weighted F1",
    "auc": "AUC",
    "ece": "ECE",
    "mean_subject_accuracy": "mean subject accuracy",
}
"""Compared figures and how they are called; a blast is the positive class of precision, recall and F1."""
PAPER_FIGURES = ("accuracy", "precision", "recall", "f1")


class Estimate(Strict):
    """A figure with a range: 95 % over subjects, or, of a mean over folds, the lowest and the highest fold."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Versus(Strict):
    """A figure of the paper beside ours."""

    paper: float
    at_least: bool
    """The paper's figure is known as a lower bound only."""
    points: float | None
    """Ours minus the paper's, percentage points."""


class Converted(Strict):
    """One artifact of the row's bundle; its figures are of the test part."""

    engine: EngineName
    precision: Precision
    size_bytes: int
    accuracy: float
    weighted_f1: float
    flip_rate: float
    """Share of cells whose class differs from the float model's."""
    latency_ms: LatencyMs | None
    machine: str
    measured_now: bool
    """False for a latency stored at conversion."""


class Row(Strict):
    """A network under one recipe and split."""

    network: str
    label: str = ""
    """Its run's name or path, where its network has several rows; else empty."""
    data: str
    """Fingerprint of the data that it was fitted to and scored on."""
    scored_on: str
    """Equal for rows that were scored on the same cells of the same data."""
    recipe: str
    fitted_as: str
    """Equal for rows that were fitted alike: a digest of starting weights and recipe, its name and split left out."""
    runs: list[str]
    split: Literal["group", "image"]
    leaky: bool
    """Cells of one person are in training and in test."""
    part: ScoredPart
    """That the figures are of; "folds": of everybody, each person judged by a head fitted to others."""
    folds: list[int] | None
    of_folds: int | None
    cells: int
    subjects: int
    figures: dict[str, Estimate]
    """The run's; of several folds, the mean over them."""
    by_fold: list[dict[str, float | None]]
    pooled: dict[str, Estimate] | None
    """Of several folds: all their cells taken together; intervals over subjects where the runs kept predictions."""
    confusion: list[list[int]]
    """Rows: true normal, true blast; columns: called normal, called blast; summed over folds."""
    per_subject: dict[str, SubjectScore]
    worst_subject: str
    paper: dict[str, Versus]
    parameters: int
    macs: int | None
    size_px: int
    views: int
    """Of each cell, which the network sees at several scales."""
    float_bytes: int | None
    latency_ms: LatencyMs
    """Latency of the float model, batch 1, on ``hardware``."""
    hardware: str
    converted: list[Converted]
    histories: list[list[dict[str, float]]]

    @property
    def name(self) -> str:
        """The network, with the label where it has several rows."""
        return f"{self.network} ({self.label})" if self.label else self.network

    @property
    def split_label(self) -> str:
        """The split in words, labelled leaky where it is."""
        if self.part == "folds":
            return "all people, by folds"
        words = f"by {self.split}" + (", leaky" if self.leaky else "")
        return words if self.folds is None else f"{words}, {len(self.folds)} folds"
