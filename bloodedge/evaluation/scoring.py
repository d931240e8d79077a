"""Scoring a run or a bundle on cells that it never saw, the same way for the float model and for every artifact."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bloodedge.bench.latency import measure_latency
from bloodedge.bundle import Bundle
from bloodedge.bundle.manifest import (
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
from bloodedge.console import Progress
from bloodedge.data.dataset import (
    ONE_PERSON,
    UNNAMED,
    CellFile,
    Dataset,
    SubjectRule,
    check_readable,
    natural,
    owners,
    read_dataset,
)
from bloodedge.data.fitted_pictures import FITTED_PARTS, FittedPictures, read_fitted_of_bundle, read_fitted_of_run
from bloodedge.data.split import SplitSpec, recall
from bloodedge.decision.thresholds import LABELS, Thresholds, calibrated, require_probabilities
from bloodedge.engine import Engine, load_artifact, require
from bloodedge.errors import UsageError
from bloodedge.evaluation.ensemble import Ensemble, predict
from bloodedge.files import write_text
from bloodedge.imaging import ImagingSpec
from bloodedge.metrics import Sums, figures, interval, resampled_weights, subject_sums

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
    """95 % intervals over subjects of the figures that have a value and speak of more than one person."""
    if not _people_vary(sums):
        return {}
    replicates = figures(sums, resampled_weights(sums))
    lone = _of_one_person(sums.blast_share)
    intervals = {n: interval(a) for n, a in replicates.items() if values[n] is not None and n not in lone}
    return {name: limits for name, limits in intervals.items() if limits is not None}


def _people_vary(sums: Sums) -> bool:
    """Whether drawing people anew says anything: all are known, and one class at least has two."""
    mostly_blast = int((sums.blast_share >= 0.5).sum())
    return UNNAMED not in sums.subjects and max(mostly_blast, len(sums.subjects) - mostly_blast) > 1


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
    fitted: FittedPictures | None = None
    """The pictures that it was fitted to; None of one made before they were kept."""


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
        fitted=read_fitted_of_run(run, record),
    )


def open_bundle(path: Path, engine: EngineName, precision: Precision, threads: int) -> Classifier:
    """One artifact of a bundle in its own runtime."""
    with Bundle(path) as bundle:
        manifest = bundle.manifest
        loaded = load_artifact(bundle, manifest.artifact(engine, precision), threads)
        fitted = read_fitted_of_bundle(bundle)
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
        fitted=fitted,
    )


class Chosen(NamedTuple):
    """The cells to score."""

    cells: list[CellFile]
    which: str
    """A phrase that says which they are."""
    left_out: dict[str, str]
    """Name to reason of the readable pictures that could have been scored otherwise."""


class Scored(NamedTuple):
    """What ``evaluate`` found."""

    evaluation: Evaluation
    which: str
    """A phrase that says on which cells."""
    left_out: dict[str, str]
    """Name to reason of every picture in the folder that is not scored, those of other parts aside."""
    notes: list[str]
    """What limits the figures, in sentences."""


def choose_cells(model: Classifier | Ensemble, dataset: Dataset, part: PartName) -> Chosen:
    """The cells to score.

    "auto" takes the test part of the data that the run (or every run of an ensemble, split alike) was split on, and
    otherwise every cell whose subject no run has seen in training or validation. It leaves out pictures that a run was
    fitted to, whatever they are called now. Raises UsageError when nothing remains, or when a part is asked for by name
    that there is not.
    """
    ensemble = as_ensemble(model)
    if part == "all":
        return Chosen(dataset.unique, "every cell, those seen in training included", _repeated(dataset))
    same_data = all(member.fingerprint == dataset.fingerprint for member in ensemble.members)
    if part == "auto" and not (same_data and ensemble.split_alike):
        return _never_seen(ensemble, dataset)
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
    cells = parts[wanted]
    copies: dict[str, str] = {} if first.split.leaky or wanted in FITTED_PARTS else _copies(ensemble, cells)
    return Chosen([c for c in cells if c.name not in copies], f"the {wanted} part", copies)


SAME = "the same picture was used in training, whatever it is called here"
LIKE = "it shows the same cell as a picture used in training"
LIKE_SHARE = 0.05
"""A group of subjects with a larger share of cells that were used in training, and more than one, is taken for one that
was seen in training: by chance it is 0.005 of the cells (benchmarks/likeness.py)."""


def _never_seen(ensemble: Ensemble, dataset: Dataset) -> Chosen:
    """Cells of groups in no member's training or validation part; of unnamed cells, those that are in none."""
    cells = dataset.unique
    left_out = _repeated(dataset) | _copies(ensemble, cells)
    seen = _groups_seen(ensemble, dataset, FITTED_PARTS)
    seen |= _groups_of_copies(dataset, cells, left_out)
    names = set()
    if not all(c.subject for c in cells):
        for member in ensemble.members:
            if member.fingerprint == dataset.fingerprint:
                parts = recall(dataset, member.split, member.split_spec)
                names |= {c.name for part in FITTED_PARTS for c in parts[part]}
    for cell in cells:
        if cell.name in names:
            left_out[cell.name] = SAME
        elif dataset.group(cell) in seen:
            left_out.setdefault(cell.name, f"subject {cell.subject} was seen in training")
    kept = [c for c in cells if c.name not in left_out]
    if not kept:
        by = "this run" if len(ensemble.members) == 1 else "one of these runs"
        copied = sum(reason in {SAME, LIKE} for reason in left_out.values())
        raise UsageError(
            f"Every subject in {dataset.root} was seen in training by {by} ({copied} of {len(cells)} pictures are "
            "training pictures); give other data, or score them with --part all."
        )
    return Chosen(kept, "cells of subjects not seen in training", left_out)


def _repeated(dataset: Dataset) -> dict[str, str]:
    """Why readable files of the folder are no cell of its own."""
    kept = {cell.pixels_digest: cell.name for cell in dataset.unique}
    reasons = {}
    for cell in dataset.cells:
        first = kept.get(cell.pixels_digest)
        if first is None:
            reasons[cell.name] = "the same picture lies under both classes"
        elif first != cell.name:
            reasons[cell.name] = f"it is the same picture as {first}"
    return reasons


def _copies(ensemble: Ensemble, cells: Sequence[CellFile]) -> dict[str, str]:
    """The cells whose pictures a member was fitted to, with the reason."""
    found: dict[str, str] = {}
    for member in ensemble.members:
        if member.fitted is not None:
            same, like = member.fitted.copies(cells)
            found = dict.fromkeys(like, LIKE) | found | dict.fromkeys(same, SAME)
    return found


def _groups_of_copies(dataset: Dataset, cells: Sequence[CellFile], reasons: dict[str, str]) -> set[str]:
    """Groups that hold a training picture, or so many cells like them that they are people seen in training."""
    total = Counter(dataset.group(c) for c in cells)
    like = Counter(dataset.group(c) for c in cells if reasons.get(c.name) == LIKE)
    same = {dataset.group(c) for c in cells if reasons.get(c.name) == SAME}
    return same | {group for group, count in like.items() if count > max(1, LIKE_SHARE * total[group])}


def _groups_seen(ensemble: Ensemble, dataset: Dataset, parts: Sequence[str]) -> set[str]:
    """Groups of ``dataset`` of which a member's parts hold a subject."""
    seen = {
        s for m in ensemble.members for name in parts if name in m.split.parts for s in m.split.parts[name].subjects
    }
    return {dataset.groups[subject] for subject in seen if subject in dataset.groups}


def _leaky(ensemble: Ensemble, dataset: Dataset, cells: list[CellFile]) -> bool:
    """Whether a cell may be of a person that a member was fitted to; whose an unnamed cell is, nobody knows."""
    if _copies(ensemble, cells):
        return True
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
    subject_rule: SubjectRule | None = None,
    one_person: bool = False,
    allow_unreadable: bool = False,
) -> Scored:
    """Figures of ``model`` on ``data``.

    rescale: each cell is resized by it first, as if it were larger or smaller. views: 8 averages over a cell's flips
    and quarter turns. predictions: a CSV file that gets each cell's probability. subject_rule: whose a cell is, where
    its name does not say; one_person: all such cells are one person's. Latency is measured of a lone classifier with
    one view. Raises UsageError when more than a tenth of the pictures cannot be used, unless ``allow_unreadable``.
    """
    ensemble = as_ensemble(model)
    dataset = read_dataset(data, progress, (lambda _: ONE_PERSON) if one_person else subject_rule)
    check_readable(dataset, allow=allow_unreadable)
    cells, which, left_out = choose_cells(ensemble, dataset, part)
    predicted = predict(ensemble, cells, rescale=rescale, views=views, progress=progress)
    if predictions:
        write_text(predictions, predictions_csv(cells, predicted.blast))
    evaluation = score(
        [c.label for c in cells],
        predicted.blast,
        owners(cells),
        threshold=ensemble.threshold,
        leaky=_leaky(ensemble, dataset, cells),
        uncalibrated=predicted.uncalibrated,
        over_cells=set(owners(cells)) == {ONE_PERSON},
    )
    if len(ensemble.members) == 1 and views == 1:
        latency = measure_latency(ensemble.members[0].engine, predicted.example)
        evaluation = evaluation.model_copy(update={"latency_ms": latency})
    changes = [f"each cell {rescale:g} times as large"] * (rescale != 1) + [f"mean of {views} views"] * (views != 1)
    notes = _notes(ensemble, cells, evaluation)
    return Scored(evaluation, ", ".join([which, *changes]), dataset.unreadable | left_out, notes)


def _notes(ensemble: Ensemble, cells: Sequence[CellFile], evaluation: Evaluation) -> list[str]:
    """What limits the figures, in sentences."""
    notes = [
        f"{member.name} was made before training pictures were kept, so copies of them under other names are not found."
        for member in ensemble.members
        if member.fitted is None
    ]
    unnamed = sum(not c.subject for c in cells)
    if unnamed:
        notes.append(
            f"{unnamed} of {len(cells)} cells do not say whose they are, so no figure has an interval; name files "
            "UID_<subject>_<image>_<cell>_<all|hem>, or add --subject RULE, or --one-person."
        )
    elif set(owners(cells)) == {ONE_PERSON}:
        notes.append("All cells are one person's: intervals are over these cells and say nothing of other people.")
    elif not evaluation.ci95:
        notes.append("No class has cells of two people, so no figure has an interval: of new people it says nothing.")
    return notes


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
