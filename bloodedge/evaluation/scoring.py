"""Scoring a run or a bundle on cells that it never saw, the same way for the float model and for every artifact."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle.evaluation_record import Evaluation, SubjectScore, never_called
from bloodedge.bundle.manifest import Agreement
from bloodedge.data.dataset import UNNAMED, natural
from bloodedge.decision.thresholds import Thresholds
from bloodedge.metrics import Sums, figures, interval, resampled_weights, subject_sums

Floats = NDArray[np.float64]


def score(
    labels: Sequence[int] | NDArray[np.int64],
    blast: Floats,
    subjects: list[str],
    *,
    threshold: float = 0.5,
    leaky: bool = False,
    uncalibrated: Floats | None = None,
    over_cells: bool = False,
) -> Evaluation:
    """Every figure with its 95 % interval over subjects, or over the cells where all are one person's.

    labels: (N,) 0 normal, 1 blast; blast: (N,) calibrated blast probabilities, 0..1; subjects: whose cell each is
    (``UNNAMED`` where that is not known, and then nothing has an interval); uncalibrated: (N,) blast probabilities
    before the temperature.
    """
    truth = np.asarray(labels, np.int64)
    sums = subject_sums(truth, blast, subjects, threshold, uncalibrated)
    values = {name: _number(array[0]) for name, array in figures(sums).items()}
    units = [str(n) for n in range(len(truth))]
    drawn = subject_sums(truth, blast, units, threshold, uncalibrated) if over_cells else sums
    intervals = _intervals(drawn, values)
    confusion = sums.confusion.sum(axis=0).astype(int)
    return Evaluation.model_validate(
        {
            "cells": len(truth),
            "subjects": len(sums.subjects),
            **values,
            "ci95": intervals,
            "per_subject": _per_subject(sums.subjects, sums.confusion),
            "confusion": confusion.tolist(),
            "leaky": leaky,
        }
    )


def _intervals(sums: Sums, values: dict[str, float | None]) -> dict[str, tuple[float, float]]:
    """95 % intervals over subjects, for figures that have a value and depend on more than one person."""
    if not _people_vary(sums):
        return {}
    replicates = figures(sums, resampled_weights(sums))
    lone = _of_one_person(sums.blast_share)
    intervals = {n: interval(a) for n, a in replicates.items() if values[n] is not None and n not in lone}
    return {name: limits for name, limits in intervals.items() if limits is not None}


def _people_vary(sums: Sums) -> bool:
    """Whether a bootstrap over people makes sense: all are known, and at least one class has two."""
    mostly_blast = int((sums.blast_share >= 0.5).sum())
    return UNNAMED not in sums.subjects and max(mostly_blast, len(sums.subjects) - mostly_blast) > 1


def _of_one_person(blast_share: Floats) -> set[str]:
    """Figures that depend on one person's cells alone, and so have no interval."""
    lone = set()
    if (blast_share > 0).sum() < 2:
        lone.add("sensitivity")
    if (blast_share < 1).sum() < 2:
        lone.add("specificity")
    return lone


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _per_subject(names: list[str], confusion: Floats) -> dict[str, SubjectScore]:
    rows = {}
    for name, counts in sorted(zip(names, confusion, strict=True), key=lambda row: natural(row[0])):
        normal, blast = counts.sum(axis=1)
        label = "mixed" if normal and blast else "blast" if blast else "normal"
        cells = int(counts.sum())
        rows[name] = SubjectScore(label=label, cells=cells, accuracy=float(np.trace(counts) / cells))
    return rows


DROPPED = ("accuracy", "weighted_f1", "auc", "balanced_accuracy")


def agree(
    reference: Floats,
    blast: Floats,
    labels: Sequence[int] | NDArray[np.int64],
    subjects: list[str],
    thresholds: Thresholds,
) -> Agreement:
    """An artifact's calibrated blast probabilities (N,) against the float model's ``reference`` on the same cells."""
    ours, theirs = (subject_sums(labels, p, subjects, thresholds.blast) for p in (reference, blast))
    weights = resampled_weights(ours)
    drop: dict[str, float] = {}
    limits: dict[str, tuple[float, float]] = {}
    people_vary = _people_vary(ours)
    for name in DROPPED:
        points = 100 * (figures(ours)[name] - figures(theirs)[name])
        if np.isnan(points[0]):
            continue
        drop[name] = float(points[0])
        spread = interval(100 * (figures(ours, weights)[name] - figures(theirs, weights)[name]))
        if spread is not None and people_vary:
            limits[name] = spread
    flips = int(((reference >= thresholds.blast) != (blast >= thresholds.blast)).sum())
    apart = np.abs(reference - blast)
    of_subject = np.searchsorted(ours.subjects, subjects)
    summed, cells = np.bincount(of_subject, apart), ours.confusion.sum(axis=(1, 2))
    return Agreement(
        cells=len(reference),
        flips=flips,
        flip_rate=flips / len(reference),
        max_probability_difference=float(apart.max()),
        mean_probability_difference=float(apart.mean()),
        mean_probability_difference_ci95=interval(weights @ summed / (weights @ cells)) if people_vary else None,
        never_called=never_called(theirs.confusion.sum(axis=0).tolist()),
        drop=drop,
        drop_ci95=limits,
    )
