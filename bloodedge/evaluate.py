"""Scoring a run or a bundle on cells that it never saw, the same way for the float model and for every artifact."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bloodedge.bench import measure_latency
from bloodedge.bundle import Bundle
from bloodedge.dataset import CellFile, Dataset, Progress, inputs, natural, read_dataset
from bloodedge.decision import Thresholds, calibrated
from bloodedge.engine import Engine, load_artifact, require
from bloodedge.errors import UsageError
from bloodedge.imaging import ImagingSpec
from bloodedge.manifest import Agreement, EngineName, Evaluation, Precision, SplitRecord, SubjectScore, read_run
from bloodedge.metrics import figures, interval, resampled_weights, subject_sums
from bloodedge.split import SplitSpec, recall

Floats = NDArray[np.float64]
PartName = Literal["auto", "train", "validation", "test", "shift", "all"]


def score(
    labels: Sequence[int] | NDArray[np.int64],
    blast: Floats,
    subjects: list[str],
    *,
    threshold: float = 0.5,
    leaky: bool = False,
) -> Evaluation:
    """Every figure with its 95 % interval over subjects.

    labels: (N,) 0 normal, 1 blast; blast: (N,) calibrated blast probabilities, 0..1; subjects: whose cell each is.
    """
    truth = np.asarray(labels, np.int64)
    sums = subject_sums(truth, blast, subjects, threshold)
    values = {name: _number(array[0]) for name, array in figures(sums).items()}
    replicates = figures(sums, resampled_weights(sums))
    lone = _of_one_person(sums.blast_share)
    intervals = {n: interval(a) for n, a in replicates.items() if values[n] is not None and n not in lone}
    confusion = sums.confusion.sum(axis=0).astype(int)
    return Evaluation.model_validate(
        {
            "cells": len(truth),
            "subjects": len(sums.subjects),
            **values,
            "ci95": {name: limits for name, limits in intervals.items() if limits is not None},
            "per_subject": _per_subject(sums.subjects, sums.confusion),
            "confusion": confusion.tolist(),
            "leaky": leaky,
        }
    )


def _of_one_person(blast_share: Floats) -> set[str]:
    """Figures without an interval because all the cells they speak of are one person's."""
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


DROPPED = ("accuracy", "weighted_f1", "auc")


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
    for name in DROPPED:
        points = 100 * (figures(ours)[name] - figures(theirs)[name])
        if np.isnan(points[0]):
            continue
        drop[name] = float(points[0])
        spread = interval(100 * (figures(ours, weights)[name] - figures(theirs, weights)[name]))
        if spread is not None:
            limits[name] = spread
    flips = int(((reference >= thresholds.blast) != (blast >= thresholds.blast)).sum())
    return Agreement(
        cells=len(reference),
        flips=flips,
        flip_rate=flips / len(reference),
        max_probability_difference=float(np.abs(reference - blast).max()),
        drop=drop,
        drop_ci95=limits,
    )


@dataclass(frozen=True)
class Classifier:
    """What is evaluated: an engine with all that its probabilities need to become figures."""

    name: str
    engine: Engine
    imaging: ImagingSpec
    temperature: float
    thresholds: Thresholds
    split: SplitRecord
    split_spec: SplitSpec
    fingerprint: str


def open_run(run: Path) -> Classifier:
    """A run folder's float model in Keras."""
    record = read_run(run)
    require("keras")
    from bloodedge.engine.keras import KerasEngine

    return Classifier(
        name=f"{record.name} (keras float32)",
        engine=KerasEngine(run),
        imaging=record.imaging,
        temperature=record.temperature,
        thresholds=record.thresholds,
        split=record.split,
        split_spec=SplitSpec.model_validate(record.recipe.get("split", {})),
        fingerprint=record.data.fingerprint,
    )


def open_bundle(path: Path, engine: EngineName, precision: Precision, threads: int) -> Classifier:
    """One artifact of a bundle in its own runtime."""
    with Bundle(path) as bundle:
        manifest = bundle.manifest
        loaded = load_artifact(bundle, manifest.artifact(engine, precision), threads)
    return Classifier(
        name=f"{manifest.name} ({engine} {precision})",
        engine=loaded,
        imaging=manifest.imaging,
        temperature=manifest.temperature,
        thresholds=manifest.thresholds,
        split=manifest.provenance.split,
        split_spec=SplitSpec.model_validate(manifest.provenance.recipe.get("split", {})),
        fingerprint=manifest.provenance.data_fingerprint,
    )


def choose_cells(classifier: Classifier, dataset: Dataset, part: PartName) -> tuple[list[CellFile], str]:
    """The cells to score and a phrase that says which they are.

    "auto" takes the test part of the data that the run was split on, and of any other data every cell whose subject
    was not seen in training or validation. Raises UsageError when nothing remains.
    """
    if part == "all":
        return dataset.unique, "every cell, those seen in training included"
    if part == "auto" and dataset.fingerprint != classifier.fingerprint:
        seen = {s for name in ("train", "validation") for s in classifier.split.parts[name].subjects}
        cells = [c for c in dataset.unique if not c.subject or c.subject not in seen]
        if not cells:
            raise UsageError(
                f"Every subject in {dataset.root} was seen in training; give other data, or score them with --part all."
            )
        return cells, "cells of subjects not seen in training"
    wanted = "test" if part == "auto" else part
    parts = recall(dataset, classifier.split, classifier.split_spec)
    if wanted not in parts:
        raise UsageError(f"This run has no {wanted} part; it has: {', '.join(parts)}.")
    return parts[wanted], f"the {wanted} part"


def evaluate(
    classifier: Classifier, data: Path, part: PartName = "auto", progress: Progress | None = None
) -> tuple[Evaluation, str]:
    """Figures with latency of ``classifier`` on ``data``, and a phrase that says on which cells."""
    dataset = read_dataset(data, progress)
    cells, which = choose_cells(classifier, dataset, part)
    images = inputs(cells, classifier.imaging, progress)
    blast = blast_probabilities(classifier.engine, images, classifier.temperature)
    leaky = classifier.split.leaky and dataset.fingerprint == classifier.fingerprint
    evaluation = score(
        [c.label for c in cells],
        blast,
        [c.subject or c.name for c in cells],
        threshold=classifier.thresholds.blast,
        leaky=leaky or part in {"all", "train"},
    )
    return evaluation.model_copy(update={"latency_ms": measure_latency(classifier.engine, images[0])}), which


def blast_probabilities(engine: Engine, images: NDArray[np.uint8], temperature: float) -> Floats:
    """Calibrated blast probabilities (N,) of network inputs uint8 (N, H, W, 3)."""
    return calibrated(engine.predict(images), temperature)[:, 1]


def default_threads() -> int:
    """Threads for an engine: all cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
