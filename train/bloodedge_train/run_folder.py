"""A finished run's folder: model, figures, predictions, card, and last ``run.json``, which says that all is there."""

import csv
import datetime as dt
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bloodedge import __version__
from bloodedge.bench.latency import measure_latency
from bloodedge.bundle.data_layout import DataLayout
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.run_record import (
    CrossValidation,
    RunMetrics,
    RunRecord,
    SplitRecord,
    calibration_part,
)
from bloodedge.data.dataset import CNMC_LAYOUT, Dataset, read_input
from bloodedge.data.fitted_pictures import FITTED_FILE, FittedPictures
from bloodedge.data.split import Fold, Parts
from bloodedge.data.training_features import FEATURES_FILE
from bloodedge.decision.operating_point import OperatingPoint, choose_thresholds
from bloodedge.decision.thresholds import LABELS, Thresholds, calibrated
from bloodedge.engine.keras import KerasEngine
from bloodedge.evaluation.scoring import score
from bloodedge.files import write_beside, write_bytes, write_text
from bloodedge.machine import versions
from bloodedge_train import hardware, run_card
from bloodedge_train.fitted import Fitted, Scored
from bloodedge_train.fitting.temperature import fit_temperature
from bloodedge_train.heads.cache import default_folder
from bloodedge_train.recipe import Recipe

SCORED = ("validation", "test", "shift")
CHOSEN_ON = {
    "validation": "the validation part of the run's data",
    "inner": "the people of the training part, each called by a head fitted to none of their cells",
}
UNSEEN = ("shift", "inner", "folds")
"""Parts without anybody whom their network was fitted to, however the cells were split."""
FOLDS_FILE = "folds.keras"
MADE = (
    "model.keras",
    FOLDS_FILE,
    "figures",
    FITTED_FILE,
    FEATURES_FILE,
    "predictions.csv",
    "metrics.json",
    "MODEL_CARD.md",
)
"""Files of a finished run beside run.json."""
Floats = NDArray[np.float64]
Calibration = tuple[float, Thresholds, OperatingPoint | None]
"""Temperature, thresholds and, where people chose them, what they are expected to do."""


@dataclass(frozen=True)
class TrainOptions:
    """The options of ``bloodedge train``."""

    data: Path
    model: str
    recipe: Recipe
    weights: str
    fold: Fold | None
    seed: int
    out: Path
    resume: bool
    layout: DataLayout = CNMC_LAYOUT
    """How the data are laid out."""
    allow_unreadable: bool = False
    """Continue even if more than a tenth of the pictures cannot be used."""
    sensitivity: float | None = None
    """That the thresholds are chosen for, 0..1; with neither this nor a specificity, for even errors."""
    specificity: float | None = None
    all_people: int | None = None
    """Fit to everybody, and judge over so many folds; None holds people out for good."""
    cache: Path | None = field(default_factory=default_folder)
    """Where a head's features and the pictures' digests are kept for the next run; None keeps none."""


@dataclass(frozen=True)
class RunCells:
    """The cells of a run."""

    dataset: Dataset
    split: SplitRecord
    fitted: FittedPictures
    """Those that the network was fitted to."""
    parts: Parts


def write_run(options: TrainOptions, cells: RunCells, fitted: Fitted) -> RunMetrics:
    """Calibrate and judge a fitted network and write all but its checkpoint."""
    from bloodedge_train import figures

    scored = fitted.scored
    temperature, thresholds, point = calibrate(options, cells.dataset, calibration_part(scored), scored)
    blasts = {name: calibrated(part.outputs, temperature)[:, 1] for name, part in scored.items()}
    uncalibrated = {name: part.outputs[:, 1].astype(np.float64) for name, part in scored.items()}
    write_beside(options.out / "model.keras", fitted.network.save)
    if fitted.crossed:
        write_beside(options.out / FOLDS_FILE, fitted.crossed.network.save)
    metrics = _metrics(options, scored, blasts, uncalibrated, thresholds)
    record = _record(options, cells, fitted, temperature, thresholds, point, metrics.hardware)
    figures.draw_all(options.out / "figures", record, metrics, scored, blasts, uncalibrated)
    write_bytes(options.out / FITTED_FILE, cells.fitted.pack())
    if fitted.features:
        write_bytes(options.out / FEATURES_FILE, fitted.features.pack())
    write_text(options.out / "predictions.csv", _predictions(scored, blasts, uncalibrated))
    write_record(options.out / "metrics.json", metrics)
    write_text(options.out / "MODEL_CARD.md", run_card.model_card(record, metrics))
    write_record(options.out / "run.json", record)
    return metrics


def calibrate(options: TrainOptions, dataset: Dataset, part: str, scored: dict[str, Scored]) -> Calibration:
    """The temperature and the thresholds that a part chooses; the usual thresholds where no people are held out."""
    chosen = scored[part]
    temperature = fit_temperature(chosen.labels, chosen.outputs, len(set(chosen.subjects)))
    if options.recipe.split.kind == "image":
        return temperature, Thresholds(), None
    groups = [dataset.group(cell) for cell in chosen.cells]
    goal = {"sensitivity": options.sensitivity, "specificity": options.specificity}
    blast = calibrated(chosen.outputs, temperature)[:, 1]
    thresholds, point = choose_thresholds(blast, chosen.labels, groups, CHOSEN_ON[part], **goal) or (Thresholds(), None)
    return temperature, thresholds, point


def _record(
    options: TrainOptions,
    cells: RunCells,
    fitted: Fitted,
    temperature: float,
    thresholds: Thresholds,
    point: OperatingPoint | None,
    machine: str,
) -> RunRecord:
    import keras

    from bloodedge_train.zoo.macs import count_macs

    return RunRecord(
        name=options.out.name,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        bloodedge=__version__,
        model=options.model,
        parameters=fitted.network.count_params(),
        macs=count_macs(fitted.network),
        labels=list(LABELS),
        weights=options.weights if options.weights in {"none", "imagenet"} else Path(options.weights).absolute().name,
        recipe=options.recipe.model_dump(),
        imaging=options.recipe.imaging,
        seed=options.seed,
        data=cells.dataset.record,
        split=cells.split,
        fitted=cells.fitted.record(),
        features=fitted.features and fitted.features.record(),
        cross_validation=fitted.crossed and CrossValidation(file=FOLDS_FILE, folds=fitted.crossed.folds),
        temperature=temperature,
        thresholds=thresholds,
        operating_point=point,
        backend=keras.backend.backend(),
        hardware=machine,
        versions=versions(hardware.RECORDED),
        history=fitted.history,
        best_epoch=fitted.best,
    )


def _metrics(
    options: TrainOptions,
    scored: dict[str, Scored],
    blasts: dict[str, Floats],
    uncalibrated: dict[str, Floats],
    thresholds: Thresholds,
) -> RunMetrics:
    """Figures of every held-out part; ``uncalibrated``: blast probabilities before the temperature."""
    leaky = options.recipe.split.kind == "image"
    parts = {
        name: score(
            scored[name].labels,
            blast,
            scored[name].subjects,
            threshold=thresholds.blast,
            leaky=leaky and name not in UNSEEN,
            uncalibrated=uncalibrated[name],
        )
        for name, blast in blasts.items()
    }
    chosen = calibration_part(parts)
    image = read_input(scored[chosen].cells[0], options.recipe.imaging)
    return RunMetrics(
        parts=parts,
        ece_before_temperature=parts[chosen].ece_before or 0.0,
        latency_ms=measure_latency(KerasEngine(options.out), image),
        hardware=hardware.accelerator(),
    )


def _predictions(scored: dict[str, Scored], blasts: dict[str, Floats], uncalibrated: dict[str, Floats]) -> str:
    """``predictions.csv``: every scored cell with its blast probability, before and after the temperature."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["part", "cell", "subject", "label", "blast_uncalibrated", "blast"])
    for part, blast in blasts.items():
        for cell, before, after in zip(scored[part].cells, uncalibrated[part], blast, strict=True):
            rows.writerow([part, cell.name, cell.subject, cell.label, f"{before:.6f}", f"{after:.6f}"])
    return out.getvalue()
