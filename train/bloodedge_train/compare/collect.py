"""Reading runs and bundles into entries: one network, fitted once, with its held-out figures."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bloodedge.bundle import Bundle, is_bundle
from bloodedge.bundle.evaluation_record import Evaluation, LatencyMs
from bloodedge.bundle.manifest import Manifest
from bloodedge.bundle.run_record import SplitRecord, judged_part, read_metrics, read_run
from bloodedge.data.dataset import UNNAMED
from bloodedge.errors import UsageError

PartName = Literal["validation", "test", "shift"]
ScoredPart = Literal["validation", "test", "shift", "folds"]
"""A run fitted to everybody has no test part but "folds": each person judged by a head that was fitted to others."""


@dataclass(frozen=True)
class Prediction:
    """One scored cell of ``predictions.csv``."""

    subject: str
    label: int
    """0 normal, 1 blast."""
    blast: float
    """Calibrated probability, 0..1."""


@dataclass(frozen=True)
class Entry:
    """One network, fitted once."""

    path: Path
    """The run folder, or the bundle where that was given alone."""
    name: str
    model: str
    parameters: int
    macs: int | None
    size_px: int
    views: int
    recipe: dict[str, Any]
    """Its imaging in today's words, whichever version fitted it."""
    weights: str
    seed: int
    fingerprint: str
    split: SplitRecord
    threshold: float
    part: ScoredPart
    evaluation: Evaluation
    """Of ``part``."""
    latency_ms: LatencyMs
    """Latency of the float model, batch 1, on ``hardware``."""
    hardware: str
    float_bytes: int | None
    copies_left_out: bool
    """Whether copies of training pictures were left out of the held-out ones."""
    history: list[dict[str, float]] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    """Predictions of the compared part, where the run kept them."""
    bundle: Path | None = None
    manifest: Manifest | None = None

    @property
    def cells_digest(self) -> str | None:
        """Digest of the cells that ``evaluation`` is of; None where no record names them."""
        cells = self.split.parts.get("train" if self.part == "folds" else self.part)
        return cells.digest if cells else None


def collect(paths: Sequence[Path], part: PartName) -> tuple[list[Entry], list[str]]:
    """The networks in the run folders and bundles, each once, and a sentence for each that was left out.

    A bundle whose run is given as well is joined to it. Raises UsageError when a path is neither a finished run nor a
    bundle, or when nothing remains to compare.
    """
    for path in paths:
        _check(path)
    entries: list[Entry] = []
    left_out: list[str] = []
    for path in sorted(paths, key=is_bundle):  # runs first, for bundles to join
        if is_bundle(path):
            _add_bundle(entries, left_out, path, part)
        else:
            _add_run(entries, left_out, path, part)
    if not entries:
        raise UsageError(f"There is nothing to compare: {' '.join(left_out) or 'name runs or bundles.'}")
    return entries, left_out


def _check(path: Path) -> None:
    run = (path / "run.json").is_file()
    bundle = zipfile.is_zipfile(path) if path.is_file() else is_bundle(path)
    if not run and not bundle:
        raise UsageError(
            f"{path} is neither a finished run folder (no run.json) nor a bundle; "
            "make one with: bloodedge train, or bloodedge convert."
        )


def _add_run(entries: list[Entry], left_out: list[str], path: Path, part: PartName) -> None:
    record, metrics = read_run(path), read_metrics(path)
    scored: ScoredPart = "folds" if part == "test" and judged_part(metrics.parts) == "folds" else part
    if scored not in metrics.parts:
        left_out.append(f"{path} has no {part} part and is left out.")
        return
    model = path / "model.keras"
    entry = Entry(
        path=path,
        name=record.name,
        model=record.model,
        parameters=record.parameters,
        macs=record.macs,
        size_px=record.imaging.size_px,
        views=len(record.imaging.views),
        recipe=record.recipe | {"imaging": record.imaging.model_dump(mode="json")},
        weights=record.weights,
        seed=record.seed,
        fingerprint=record.data.fingerprint,
        split=record.split,
        threshold=record.thresholds.blast,
        part=scored,
        evaluation=metrics.parts[scored],
        latency_ms=metrics.latency_ms,
        hardware=metrics.hardware,
        float_bytes=model.stat().st_size if model.is_file() else None,
        copies_left_out=record.fitted is not None,
        history=[row for row in record.history if "epoch" in row],
        predictions=read_predictions(path / "predictions.csv", scored),
    )
    if any(_same(entry, other) and entry.evaluation == other.evaluation for other in entries):
        left_out.append(f"{path} is the same run as another one given and is left out.")
    else:
        entries.append(entry)


def _add_bundle(entries: list[Entry], left_out: list[str], path: Path, part: PartName) -> None:
    with Bundle(path) as bundle:
        manifest = bundle.manifest
    alone = _from_manifest(path, manifest)
    for place, entry in enumerate(entries):
        if _same(entry, alone):
            if entry.bundle:
                left_out.append(f"{path} is a second bundle of the run {entry.name} and is left out.")
            else:
                entries[place] = replace(entry, bundle=path, manifest=manifest)
            return
    if part == "test":
        entries.append(alone)
    else:
        left_out.append(f"{path} holds figures of the test part only and is left out; give its run folder as well.")


def _from_manifest(path: Path, manifest: Manifest) -> Entry:
    source, baseline = manifest.provenance, manifest.baseline
    return Entry(
        path=path,
        name=source.run,
        model=source.model,
        parameters=source.parameters,
        macs=None,
        size_px=manifest.imaging.size_px,
        views=len(manifest.imaging.views),
        recipe=source.recipe | {"imaging": manifest.imaging.model_dump(mode="json")},
        weights=source.weights,
        seed=source.split.seed,
        fingerprint=source.data_fingerprint,
        split=source.split,
        threshold=manifest.thresholds.blast,
        part="test" if "test" in source.split.parts else "folds",
        evaluation=baseline.evaluation,
        latency_ms=baseline.latency_ms,
        hardware=baseline.hardware,
        float_bytes=None,
        copies_left_out=manifest.fitted is not None,
        bundle=path,
        manifest=manifest,
    )


def _same(one: Entry, other: Entry) -> bool:
    """Whether two entries come from one run, by a bundle's provenance."""
    names = ("name", "model", "fingerprint", "split", "latency_ms")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def read_predictions(path: Path, part: str) -> list[Prediction]:
    """The rows of a run's ``predictions.csv`` that belong to ``part``; none where the run kept no such file."""
    if not path.is_file():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            return [
                Prediction(row["subject"] or UNNAMED, int(row["label"]), _probability(row["blast"]))
                for row in csv.DictReader(lines)
                if row["part"] == part
            ]
    except (KeyError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}); remove it or train again.") from error


def _probability(text: str) -> float:
    """A number from 0 to 1; ValueError for any other, NaN among them."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is no probability")
    return value
