"""Scoring a run or a bundle on cells that it never saw, the same way for the float model and for every artifact."""

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bloodedge.bench import measure_latency
from bloodedge.bundle import Bundle
from bloodedge.console import Progress
from bloodedge.dataset import CellFile, Dataset, natural, read_dataset
from bloodedge.decision import LABELS, Thresholds, calibrated, require_probabilities
from bloodedge.engine import Engine, load_artifact, require
from bloodedge.ensemble import Ensemble, predict
from bloodedge.errors import UsageError
from bloodedge.files import write_text
from bloodedge.imaging import ImagingSpec
from bloodedge.manifest import (
    Agreement,
    EngineName,
    Evaluation,
    Precision,
    SplitRecord,
    SubjectScore,
    never_called,
    read_metrics,
    read_run,
)
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
    uncalibrated: Floats | None = None,
) -> Evaluation:
    """Every figure with its 95 % interval over subjects.

    labels: (N,) 0 normal, 1 blast; blast: (N,) calibrated blast probabilities, 0..1; subjects: whose cell each is;
    uncalibrated: (N,) blast probabilities before the temperature.
    """
    truth = np.asarray(labels, np.int64)
    sums = subject_sums(truth, blast, subjects, threshold, uncalibrated)
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
    for name in DROPPED:
        points = 100 * (figures(ours)[name] - figures(theirs)[name])
        if np.isnan(points[0]):
            continue
        drop[name] = float(points[0])
        spread = interval(100 * (figures(ours, weights)[name] - figures(theirs, weights)[name]))
        if spread is not None:
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
        mean_probability_difference_ci95=interval(weights @ summed / (weights @ cells)),
        never_called=never_called(theirs.confusion.sum(axis=0).tolist()),
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
    labels: tuple[str, ...] = LABELS
    validation: Evaluation | None = None
    """Its figures on its own validation part; a bundle does not hold them."""


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
        labels=tuple(record.labels),
        validation=read_metrics(run).parts.get("validation") if (run / "metrics.json").is_file() else None,
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
        labels=tuple(manifest.labels),
    )


def choose_cells(model: Classifier | Ensemble, dataset: Dataset, part: PartName) -> tuple[list[CellFile], str]:
    """The cells to score and a phrase that says which they are.

    "auto" takes the test part of the data that the run (or every run of an ensemble, split alike) was split on, and
    otherwise every cell whose subject no run has seen in training or validation. Raises UsageError when nothing
    remains, or when a part is asked for by name that there is not.
    """
    ensemble = as_ensemble(model)
    if part == "all":
        return dataset.unique, "every cell, those seen in training included"
    same_data = all(member.fingerprint == dataset.fingerprint for member in ensemble.members)
    if part == "auto" and not (same_data and ensemble.split_alike):
        return _never_seen(ensemble, dataset), "cells of subjects not seen in training"
    if not same_data:
        raise UsageError(
            f"{dataset.root} is not the data this run was fitted to (its files differ), so it has no {part} part; "
            "give the folder that was used for training, or leave out --part."
        )
    if not ensemble.split_alike:
        raise UsageError(
            f"The runs were split differently, so they have no {part} part in common; leave out --part to score the "
            "subjects that none of them has seen."
        )
    wanted = "test" if part == "auto" else part
    first = ensemble.members[0]
    parts = recall(dataset, first.split, first.split_spec)
    if wanted not in parts:
        raise UsageError(f"This run has no {wanted} part; it has: {', '.join(parts)}.")
    return parts[wanted], f"the {wanted} part"


def _never_seen(ensemble: Ensemble, dataset: Dataset) -> list[CellFile]:
    """Cells of groups in no member's training or validation part; of unnamed cells, those that are in none."""
    groups = _groups_seen(ensemble, dataset, ("train", "validation"))
    names = set()
    if not all(c.subject for c in dataset.unique):
        for member in ensemble.members:
            if member.fingerprint == dataset.fingerprint:
                parts = recall(dataset, member.split, member.split_spec)
                names |= {c.name for part in ("train", "validation") for c in parts[part]}
    cells = [c for c in dataset.unique if dataset.group(c) not in groups and c.name not in names]
    if not cells:
        by = "this run" if len(ensemble.members) == 1 else "one of these runs"
        raise UsageError(
            f"Every subject in {dataset.root} was seen in training by {by}; give other data, or score them with "
            "--part all."
        )
    return cells


def _groups_seen(ensemble: Ensemble, dataset: Dataset, parts: Sequence[str]) -> set[str]:
    """Groups of ``dataset`` of which a member's parts hold a subject."""
    seen = {
        s for m in ensemble.members for name in parts if name in m.split.parts for s in m.split.parts[name].subjects
    }
    return {dataset.groups[subject] for subject in seen if subject in dataset.groups}


def _leaky(ensemble: Ensemble, dataset: Dataset, cells: list[CellFile]) -> bool:
    """Whether a cell may be of a person that a member was fitted to; whose an unnamed cell is, nobody knows."""
    groups = _groups_seen(ensemble, dataset, ("train",))
    own = any(member.fingerprint == dataset.fingerprint for member in ensemble.members)
    return any(dataset.group(c) in groups if c.subject else own for c in cells)


def evaluate(
    model: Classifier | Ensemble,
    data: Path,
    part: PartName = "auto",
    progress: Progress | None = None,
    *,
    rescale: float = 1.0,
    views: Literal[1, 8] = 1,
    predictions: Path | None = None,
) -> tuple[Evaluation, str]:
    """Figures of ``model`` on ``data``, and a phrase that says on which cells.

    rescale: each cell is resized by it first, as if it were larger or smaller. views: 8 averages over a cell's flips
    and quarter turns. predictions: a CSV file that gets each cell's probability. Latency is measured of a lone
    classifier with one view.
    """
    ensemble = as_ensemble(model)
    dataset = read_dataset(data, progress)
    cells, which = choose_cells(ensemble, dataset, part)
    predicted = predict(ensemble, cells, rescale=rescale, views=views, progress=progress)
    if predictions:
        write_text(predictions, predictions_csv(cells, predicted.blast))
    evaluation = score(
        [c.label for c in cells],
        predicted.blast,
        [c.subject or c.name for c in cells],
        threshold=ensemble.threshold,
        leaky=_leaky(ensemble, dataset, cells),
        uncalibrated=predicted.uncalibrated,
    )
    if len(ensemble.members) == 1 and views == 1:
        latency = measure_latency(ensemble.members[0].engine, predicted.example)
        evaluation = evaluation.model_copy(update={"latency_ms": latency})
    changes = [f"each cell {rescale:g} times as large"] * (rescale != 1) + [f"mean of {views} views"] * (views != 1)
    return evaluation, ", ".join([which, *changes])


def predictions_csv(cells: Sequence[CellFile], blast: Floats) -> str:
    """A table cell,subject,label,blast , a row for each cell: label 1 is a blast, blast its calibrated probability."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("cell", "subject", "label", "blast"))
    rows.writerows((c.name, c.subject, c.label, f"{p:.6f}") for c, p in zip(cells, blast, strict=True))
    return text.getvalue()


def as_ensemble(model: Classifier | Ensemble) -> Ensemble:
    """A lone classifier as an ensemble of one."""
    return model if isinstance(model, Ensemble) else Ensemble((model,), (1.0,))


def blast_probabilities(engine: Engine, images: NDArray[np.uint8], temperature: float) -> Floats:
    """Calibrated blast probabilities (N,) of network inputs uint8 (N, H, W, 3).

    Raises BloodedgeError when the network gives no probabilities for one.
    """
    outputs = engine.predict(images)
    require_probabilities(outputs, f"The {engine.name} network")
    return calibrated(outputs, temperature)[:, 1]


def default_threads() -> int:
    """Threads for an engine: all cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
