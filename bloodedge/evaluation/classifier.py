"""What is evaluated: a run's float model or one artifact of a bundle."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge.bundle import Bundle
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.evaluation_record import Evaluation
from bloodedge.bundle.manifest import EngineName, Precision
from bloodedge.bundle.run_record import SplitRecord, read_metrics, read_run
from bloodedge.data.dataset import CNMC_LAYOUT
from bloodedge.data.fitted_pictures import FittedPictures, read_fitted_of_bundle, read_fitted_of_run
from bloodedge.data.split import SplitSpec
from bloodedge.decision.thresholds import LABELS, Thresholds, calibrated, require_probabilities
from bloodedge.engine import Engine, load_artifact, require
from bloodedge.imaging import ImagingSpec
from bloodedge.text import as_path

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Classifier:
    """An engine with all that turns its probabilities into figures."""

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
    """Its figures on its own validation part; None for a bundle, which does not store them."""
    layout: DataLayout = CNMC_LAYOUT
    """How the data were laid out that it was fitted to."""
    data: Path | None = None
    """Where they were; None for a bundle, which does not say it."""
    fitted: FittedPictures | None = None
    """The pictures that it was fitted to; None for an older model without them."""


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
        layout=record.data.layout,
        data=as_path(record.data.root),
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
        layout=manifest.provenance.data_layout,
        fitted=fitted,
    )


def blast_probabilities(engine: Engine, images: NDArray[np.uint8], temperature: float) -> Floats:
    """Calibrated blast probabilities (N,) of network inputs uint8 (N, *ImagingSpec.input_shape).

    Raises BloodedgeError when the network gives no probabilities for one.
    """
    outputs = engine.predict(images)
    require_probabilities(outputs, f"The {engine.name} network")
    return calibrated(outputs, temperature)[:, 1]
