"""Figures of several folds, over all their cells together."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from bloodedge.bundle.evaluation_record import Evaluation, SubjectScore
from bloodedge.evaluation.scoring import score
from bloodedge_train.compare.collect import Entry
from bloodedge_train.compare.rows import FIGURES, Estimate


def figure(evaluation: Evaluation, name: str) -> Estimate:
    """A figure of an evaluation with its interval; figures that older records lack are computed."""
    stored = "sensitivity" if name == "recall" else name
    value = getattr(evaluation, stored)
    if value is None:
        (_, alarms), (missed, hits) = evaluation.confusion
        value = {
            "precision": _share(hits, hits + alarms),
            "f1": _share(2 * hits, 2 * hits + alarms + missed),
            "mean_subject_accuracy": _mean_accuracy(evaluation.per_subject),
        }.get(name)
    low, high = evaluation.ci95.get(stored, (None, None))
    return Estimate(value=value, low=low, high=high)


@dataclass(frozen=True)
class Pooled:
    """The cells of several folds together."""

    figures: dict[str, Estimate]
    confusion: list[list[int]]
    per_subject: dict[str, SubjectScore]


def pool(entries: Sequence[Entry]) -> Pooled:
    """The entries' cells pooled: scored again if all kept their predictions, else summed."""
    if len(entries) == 1:
        return _pooled(entries[0].evaluation)
    rows = [row for entry in entries for row in entry.predictions]
    if len(rows) < sum(entry.evaluation.cells for entry in entries):
        return _summed([entry.evaluation for entry in entries])
    labels, blast = [row.label for row in rows], np.array([row.blast for row in rows])
    return _pooled(score(labels, blast, [row.subject for row in rows], threshold=entries[0].threshold))


def _pooled(evaluation: Evaluation) -> Pooled:
    figures = {name: figure(evaluation, name) for name in FIGURES}
    return Pooled(figures, evaluation.confusion, evaluation.per_subject)


def _summed(evaluations: Sequence[Evaluation]) -> Pooled:
    """Without predictions there is neither AUC, ECE nor an interval over subjects."""
    confusion = np.sum([e.confusion for e in evaluations], axis=0)
    subjects: dict[str, SubjectScore] = {}
    for evaluation in evaluations:
        for name, new in evaluation.per_subject.items():
            subjects[name] = _merged(subjects[name], new) if name in subjects else new
    normal, blasts = confusion.sum(axis=1)
    f1_normal, f1_blast = 2 * confusion.diagonal() / (confusion.sum(axis=0) + confusion.sum(axis=1)).clip(1)
    values = {
        "accuracy": confusion.trace() / confusion.sum(),
        "precision": _share(confusion[1, 1], confusion[:, 1].sum()),
        "recall": _share(confusion[1, 1], blasts),
        "f1": f1_blast,
        "weighted_f1": (normal * f1_normal + blasts * f1_blast) / confusion.sum(),
        "mean_subject_accuracy": _mean_accuracy(subjects),
    }
    figures = {name: Estimate(value=values.get(name)) for name in FIGURES}
    return Pooled(figures, confusion.tolist(), subjects)


def _mean_accuracy(subjects: dict[str, SubjectScore]) -> float:
    return mean(row.accuracy for row in subjects.values())


def _share(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _merged(one: SubjectScore, other: SubjectScore) -> SubjectScore:
    """Two folds' scores of one subject as one."""
    cells = one.cells + other.cells
    right = one.accuracy * one.cells + other.accuracy * other.cells
    return SubjectScore(label=one.label if one.label == other.label else "mixed", cells=cells, accuracy=right / cells)
