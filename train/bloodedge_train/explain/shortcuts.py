"""Shortcuts: how far cues that are no proof of disease predict the class, and how much of a network's skill they carry.

Cues are measured on the crop and weighed by a logistic regression on the run's training part; like the network, they
are then scored on people they never saw. Altered cells show what the network itself leans on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, owners, read_dataset
from bloodedge.data.pictures import in_threads
from bloodedge.data.split import recall
from bloodedge.evaluation.classifier import Classifier, blast_probabilities
from bloodedge.evaluation.scoring import agree, score
from bloodedge.imaging import Image, network_input
from bloodedge_train.explain.alterations import ALTERATIONS, boxed
from bloodedge_train.explain.cues import CUES, fit_logistic

Floats = NDArray[np.float64]

HELD_OUT = ("test", "shift")
BATCH = 64
UNALTERED, MODEL = "as it is", "model"

Limits = tuple[float, float]


@dataclass(frozen=True)
class CueScore:
    """How well one cue, or the model, predicts the class of cells of a held-out part."""

    part: str
    cue: str
    auc: float | None
    auc_ci95: Limits | None
    balanced_accuracy: float | None
    balanced_accuracy_ci95: Limits | None


@dataclass(frozen=True)
class AlteredScore:
    """The model's figures on altered cells of a held-out part, and their fall against the unaltered ones."""

    part: str
    alteration: str
    accuracy: float
    accuracy_ci95: Limits | None
    auc: float | None
    auc_ci95: Limits | None
    fall: dict[str, float]
    """accuracy, weighted_f1 and auc: unaltered minus altered, percentage points."""
    fall_ci95: dict[str, Limits]
    """Paired over subjects."""
    flip_rate: float
    """Share of cells whose class changes, 0..1."""


@dataclass(frozen=True)
class ShortcutAudit:
    """The shortcuts of a run's data, and how far its model takes them."""

    run: str
    leaky: bool
    """True when the run was split by image: cells of one person are in training and in test."""
    cells: dict[str, int]
    subjects: dict[str, int]
    """Number of people by part."""
    cues: list[CueScore]
    altered: list[AlteredScore]


def audit_shortcuts(classifier: Classifier, data: Path, progress: Progress | None = None) -> ShortcutAudit:
    """Cues and altered cells on the held-out parts of the run's own data.

    Raises UsageError when ``data`` is not what the run was fitted to.
    """
    parts = recall(read_dataset(data, progress, classifier.layout), classifier.split, classifier.split_spec)
    rules = fit_cues(parts["train"], progress)
    held = {name: parts[name] for name in HELD_OUT if name in parts}
    cues: list[CueScore] = []
    altered: list[AlteredScore] = []
    for name, cells in held.items():
        by_cue, blasts = _measure(classifier, rules, cells, progress)
        cues += [_cue(classifier, name, cue, cells, p) for cue, p in {MODEL: blasts[UNALTERED], **by_cue}.items()]
        altered += [_altered(classifier, name, each, cells, blasts) for each in ALTERATIONS]
    return ShortcutAudit(
        run=classifier.name,
        leaky=classifier.split.leaky,
        cells={name: len(cells) for name, cells in held.items()},
        subjects={name: len(set(owners(cells))) for name, cells in held.items()},
        cues=cues,
        altered=altered,
    )


def fit_cues(cells: Sequence[CellFile], progress: Progress | None = None) -> dict[str, Any]:
    """A logistic regression for each cue."""

    def one(file: CellFile) -> dict[str, list[float]]:
        cell = file.read()
        return {name: cue(cell) for name, cue in CUES.items()}

    measured = in_threads(one, cells, progress)
    labels = [cell.label for cell in cells]
    return {name: fit_logistic([row[name] for row in measured], labels) for name in CUES}


def _measure(
    classifier: Classifier, rules: dict[str, Any], cells: Sequence[CellFile], progress: Progress | None
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Blast probabilities (N,) by cue, and the model's by alteration."""

    def one(file: CellFile) -> tuple[list[list[float]], list[Image]]:
        cell = file.read()
        box = boxed(cell)
        inputs = [network_input(alter(box), classifier.imaging) for alter in ALTERATIONS.values()]
        return [cue(cell) for cue in CUES.values()], inputs

    by_cue: dict[str, list[Floats]] = {name: [] for name in CUES}
    by_alteration: dict[str, list[Floats]] = {name: [] for name in ALTERATIONS}
    for start in range(0, len(cells), BATCH):
        batch = in_threads(one, cells[start : start + BATCH])
        for at, name in enumerate(CUES):
            by_cue[name].append(rules[name].predict_proba([cues[at] for cues, _ in batch])[:, 1])
        for at, name in enumerate(ALTERATIONS):
            images = np.stack([inputs[at] for _, inputs in batch])
            by_alteration[name].append(blast_probabilities(classifier.engine, images, classifier.temperature))
        if progress:
            progress(start + len(batch), len(cells))
    return _joined(by_cue), _joined(by_alteration)


def _joined(pieces: dict[str, list[Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate(rows) for name, rows in pieces.items()}


def _score(classifier: Classifier, cells: Sequence[CellFile], blast: Floats, threshold: float) -> Evaluation:
    labels = [c.label for c in cells]
    return score(labels, blast, owners(cells), threshold=threshold, leaky=classifier.split.leaky)


def _cue(classifier: Classifier, part: str, cue: str, cells: Sequence[CellFile], blast: Floats) -> CueScore:
    threshold = classifier.thresholds.blast if cue == MODEL else 0.5
    found = _score(classifier, cells, blast, threshold)
    return CueScore(
        part, cue, found.auc, found.ci95.get("auc"), found.balanced_accuracy, found.ci95.get("balanced_accuracy")
    )


def _altered(
    classifier: Classifier, part: str, alteration: str, cells: Sequence[CellFile], blasts: dict[str, Floats]
) -> AlteredScore:
    found = _score(classifier, cells, blasts[alteration], classifier.thresholds.blast)
    labels = [c.label for c in cells]
    against = agree(blasts[UNALTERED], blasts[alteration], labels, owners(cells), classifier.thresholds)
    return AlteredScore(
        part=part,
        alteration=alteration,
        accuracy=found.accuracy,
        accuracy_ci95=found.ci95.get("accuracy"),
        auc=found.auc,
        auc_ci95=found.ci95.get("auc"),
        fall=against.drop,
        fall_ci95=against.drop_ci95,
        flip_rate=against.flip_rate,
    )
