"""Rows from entries: folds gathered and pooled, the paper's figures and the converted networks beside them."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np

from bloodedge.bundle.evaluation_record import Evaluation, SubjectScore
from bloodedge.evaluation.scoring import score
from bloodedge.text import as_text
from bloodedge_train.compare.collect import Entry
from bloodedge_train.compare.latency import Measured
from bloodedge_train.compare.paper import Paper
from bloodedge_train.compare.rows import FIGURES, PAPER_FIGURES, Converted, Estimate, Row, Versus


def gather(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that are folds of one cross-validation together, every other one alone."""
    groups: dict[str, list[list[Entry]]] = {}
    for entry in entries:
        alike = groups.setdefault(_kind(entry), [])
        room = (
            group
            for group in alike
            if entry.split.fold is not None and entry.split.fold not in {e.split.fold for e in group}
        )
        group = next(room, None)
        if group is None:
            alike.append([entry])
        else:
            group.append(entry)
    return [sorted(g, key=lambda e: e.split.fold or 0) for alike in groups.values() for g in alike]


def _kind(entry: Entry) -> str:
    """What the folds of one cross-validation share."""
    split = entry.split
    return json.dumps(
        [entry.model, entry.recipe, entry.weights, entry.fingerprint, split.kind, split.seed, split.folds],
        sort_keys=True,
    )


def _fitted_as(entry: Entry) -> str:
    recipe = {key: value for key, value in entry.recipe.items() if key not in {"name", "about", "split"}}
    return hashlib.sha256(json.dumps([recipe, entry.weights], sort_keys=True).encode()).hexdigest()[:12]


def _scored_on(entries: Sequence[Entry]) -> str:
    cells = sorted({e.cells_digest for e in entries if e.cells_digest})
    return hashlib.sha256(json.dumps([entries[0].fingerprint, cells]).encode()).hexdigest()[:12]


def labelled(rows: Sequence[Row], paths: Sequence[Path]) -> list[Row]:
    """The rows, those of one network labelled by their runs, or by ``paths`` where runs have one name."""
    of_network = Counter(row.network for row in rows)
    runs = [row.runs[0] if len(row.runs) == 1 else f"{row.runs[0]} to {row.runs[-1]}" for row in rows]
    met = Counter(zip((row.network for row in rows), runs, strict=True))
    labels = [
        "" if of_network[row.network] == 1 else run if met[row.network, run] == 1 else as_text(path)
        for row, run, path in zip(rows, runs, paths, strict=True)
    ]
    return [row.model_copy(update={"label": label}) for row, label in zip(rows, labels, strict=True)]


def make_row(entries: Sequence[Entry], paper: Paper, measured: dict[str, Measured]) -> Row:
    """One row of a run, or of the folds of one cross-validation."""
    first = entries[0]
    folded = first.split.fold is not None
    by_fold = [{name: _figure(e.evaluation, name).value for name in FIGURES} for e in entries]
    together = _pool(entries)
    over_folds = {name: _over_folds([fold[name] for fold in by_fold]) for name in FIGURES}
    figures = over_folds if folded else together.figures
    return Row(
        network=first.model,
        data=first.fingerprint,
        scored_on=_scored_on(entries),
        recipe=str(first.recipe.get("name", "custom")),
        fitted_as=_fitted_as(first),
        runs=[e.name for e in entries],
        split=first.split.kind,
        leaky=first.evaluation.leaky,
        part=first.part,
        folds=[e.split.fold or 0 for e in entries] if folded else None,
        of_folds=first.split.folds,
        cells=sum(e.evaluation.cells for e in entries),
        subjects=len(together.per_subject),
        figures=figures,
        by_fold=by_fold,
        pooled=together.figures if folded else None,
        confusion=together.confusion,
        per_subject=together.per_subject,
        worst_subject=min(together.per_subject, key=lambda s: together.per_subject[s].accuracy),
        paper=_versus(first.model, figures, paper),
        parameters=first.parameters,
        macs=first.macs,
        size_px=first.size_px,
        views=first.views,
        float_bytes=first.float_bytes,
        latency_ms=first.latency_ms,
        hardware=first.hardware,
        converted=[c for e in entries for c in _converted(e, measured)],
        histories=[e.history for e in entries if e.history],
    )


def _over_folds(values: Sequence[float | None]) -> Estimate:
    known = [v for v in values if v is not None]
    if not known:
        return Estimate(value=None)
    return Estimate(value=mean(known), low=min(known), high=max(known))


def _versus(network: str, figures: dict[str, Estimate], paper: Paper) -> dict[str, Versus]:
    row = paper.networks.get(network)
    found = {}
    for name in PAPER_FIGURES:
        theirs = getattr(row, name, None)
        if row is not None and theirs is not None:
            ours = figures[name].value
            points = None if ours is None else 100 * (ours - theirs)
            found[name] = Versus(paper=theirs, at_least=name in row.at_least, points=points)
    return found


def _converted(entry: Entry, measured: dict[str, Measured]) -> list[Converted]:
    manifest = entry.manifest
    if manifest is None:
        return []
    rows = []
    for artifact in manifest.artifacts:
        now = measured.get(f"{entry.bundle}/{artifact.engine}/{artifact.precision}")
        rows.append(
            Converted(
                engine=artifact.engine,
                precision=artifact.precision,
                size_bytes=artifact.size_bytes,
                accuracy=artifact.evaluation.accuracy,
                weighted_f1=artifact.evaluation.weighted_f1,
                flip_rate=artifact.agreement.flip_rate,
                latency_ms=now.latency_ms if now else artifact.evaluation.latency_ms,
                machine=now.machine if now else manifest.provenance.hardware,
                measured_now=now is not None,
            )
        )
    return rows


def _figure(evaluation: Evaluation, name: str) -> Estimate:
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


def _pool(entries: Sequence[Entry]) -> Pooled:
    """The entries' cells pooled: scored again if all kept their predictions, else summed."""
    if len(entries) == 1:
        return _pooled(entries[0].evaluation)
    rows = [row for entry in entries for row in entry.predictions]
    if len(rows) < sum(entry.evaluation.cells for entry in entries):
        return _summed([entry.evaluation for entry in entries])
    labels, blast = [row.label for row in rows], np.array([row.blast for row in rows])
    return _pooled(score(labels, blast, [row.subject for row in rows], threshold=entries[0].threshold))


def _pooled(evaluation: Evaluation) -> Pooled:
    figures = {name: _figure(evaluation, name) for name in FIGURES}
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
