"""A training run from a folder of cells to a finished run folder."""

import csv
import datetime as dt
import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge import __version__
from bloodedge.bench.latency import measure_latency
from bloodedge.bundle.json_records import write_record
from bloodedge.bundle.run_record import DataRecord, RunMetrics, RunRecord, SplitRecord
from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, Dataset, check_readable, inputs, owners, read_dataset
from bloodedge.data.fitted_pictures import FITTED_FILE, FittedPictures, held_out
from bloodedge.data.split import Fold, Parts, split
from bloodedge.decision.thresholds import LABELS, Thresholds, calibrated
from bloodedge.engine.keras import KerasEngine, load_keras
from bloodedge.errors import UsageError
from bloodedge.evaluation.scoring import score
from bloodedge.files import require_free, write_beside, write_bytes, write_text
from bloodedge.machine import versions
from bloodedge_train import hardware, run_card
from bloodedge_train.fitting.checkpoint import Checkpoints, FitState, Request
from bloodedge_train.fitting.temperature import fit_temperature
from bloodedge_train.recipe import Recipe

if TYPE_CHECKING:
    from bloodedge_train.fitting.fit import BatchDone, EpochDone, Samples

SCORED = ("validation", "test", "shift")
THRESHOLDS = Thresholds()
MADE = ("model.keras", "figures", FITTED_FILE, "predictions.csv", "metrics.json", "MODEL_CARD.md")
"""What a finished run leaves in its folder, beside run.json."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TrainOptions:
    """What ``bloodedge train`` was asked."""

    data: Path
    model: str
    recipe: Recipe
    weights: str
    fold: Fold | None
    seed: int
    out: Path
    resume: bool
    allow_unreadable: bool = False
    """Go on where more than a tenth of the pictures cannot be used."""


@dataclass(frozen=True)
class Watcher:
    """How a run tells people how far it is."""

    step: Callable[[str], AbstractContextManager[Progress]]
    """Opens a progress display for a named step."""
    fitting: Callable[[Recipe, int], AbstractContextManager[tuple["BatchDone", "EpochDone"]]]
    """Opens the display of the epochs, given the recipe and the epochs done before."""
    say: Callable[[str], None]


def train(options: TrainOptions, watcher: Watcher) -> RunMetrics:
    """Fit, calibrate and score a network; writes the run folder ``options.out``.

    Raises UsageError when the folder holds another run or the data cannot be split, BloodedgeError when fitting fails.
    """
    _check_folder(options)
    cv2.setNumThreads(1)  # whole images are shared out over threads instead
    with watcher.step("Reading cells") as progress:
        dataset = read_dataset(options.data, progress)
    for name, reason in dataset.unreadable.items():
        watcher.say(f"left out {name}: {reason}")
    check_readable(dataset, allow=options.allow_unreadable)
    parts, split_record = split(dataset, options.recipe.split, seed=options.seed, fold=options.fold)
    fitted = FittedPictures.of(parts)
    if not split_record.leaky:
        parts = held_out(parts, fitted, watcher.say)
    with watcher.step("Loading Keras"):
        load_keras()
    samples = {}
    for name in ("train", *SCORED):
        if parts.get(name):
            with watcher.step(f"Preparing {name} cells") as progress:
                samples[name] = _samples(dataset, parts[name], options.recipe, progress)
    model, state = _fit(options, watcher, dataset, samples)
    return _finish(options, dataset, split_record, fitted, parts, samples, model, state, watcher)


def _check_folder(options: TrainOptions) -> None:
    if (options.out / "run.json").is_file():
        raise UsageError(f"{options.out} holds a finished run; choose another folder with --out.")
    begun = Checkpoints(options.out).request() is not None
    if begun and not options.resume:
        raise UsageError(f"{options.out} holds an unfinished run; continue it with --resume or choose another --out.")
    if options.resume and not begun:
        raise UsageError(f"{options.out} holds no unfinished run to resume; leave out --resume to begin one.")
    if not begun:
        epochs = [path.relative_to(options.out).as_posix() for path in Checkpoints(options.out).epochs()]
        require_free(options.out, [*MADE, *epochs])


def _samples(dataset: Dataset, cells: list[CellFile], recipe: Recipe, progress: Progress) -> "Samples":
    from bloodedge_train.fitting.fit import Samples

    return Samples(
        images=inputs(cells, recipe.imaging, progress),
        labels=np.array([c.label for c in cells], np.int64),
        groups=[dataset.group(c) for c in cells],
        subjects=owners(cells),
    )


def _fit(
    options: TrainOptions,
    watcher: Watcher,
    dataset: Dataset,
    samples: dict[str, "Samples"],
) -> tuple[Any, FitState]:
    """The fitted network, float32 whatever it was fitted in, and how it went."""
    from bloodedge_train.fitting import fit as fitting

    recipe = options.recipe
    checkpoints = Checkpoints(options.out)
    _begin(options, dataset, checkpoints)
    hardware.spread(recipe.fit.batch)  # before any network is made
    precision = hardware.precision(recipe.fit.precision)
    network = _build(options, precision, "none" if checkpoints.state() else options.weights)
    checkpoints.begin(_request(options, dataset))
    begun = checkpoints.state()
    with watcher.fitting(recipe, begun.epochs_done if begun else 0) as (batch_done, epoch_done):
        state = fitting.fit(
            network,
            samples["train"],
            samples["validation"],
            recipe,
            options.seed,
            checkpoints,
            batch_done,
            epoch_done,
        )
    if precision == "float32":
        return network, state
    plain = _build(options, "float32", "none")
    plain.set_weights(network.get_weights())
    return plain, state


def _build(options: TrainOptions, precision: str, weights: str) -> Any:
    import keras

    from bloodedge_train import zoo

    keras.utils.set_random_seed(options.seed)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        return zoo.build(options.model, options.recipe.imaging.size_px, options.recipe.network, weights=weights)
    finally:
        keras.config.set_dtype_policy(before)


def _request(options: TrainOptions, dataset: Dataset) -> Request:
    return Request(
        model=options.model,
        recipe=options.recipe,
        weights=options.weights,
        folds=options.fold.count if options.fold else None,
        fold=options.fold.number if options.fold else None,
        seed=options.seed,
        data_fingerprint=dataset.fingerprint,
    )


def _begin(options: TrainOptions, dataset: Dataset, checkpoints: Checkpoints) -> None:
    """Raise UsageError when the folder was begun with something else."""
    before, request = checkpoints.request(), _request(options, dataset)
    if before is not None and before != request:
        changed = [n for n in Request.model_fields if getattr(before, n) != getattr(request, n)]
        raise UsageError(
            f"{options.out} was begun with another {' and another '.join(changed).replace('_', ' ')}; "
            "resume it as it was begun, or choose another --out."
        )


def _finish(
    options: TrainOptions,
    dataset: Dataset,
    split_record: SplitRecord,
    fitted: FittedPictures,
    parts: Parts,
    samples: dict[str, "Samples"],
    model: Any,
    state: FitState,
    watcher: Watcher,
) -> RunMetrics:
    """Calibrate, score, and write everything but the checkpoint; ``run.json`` comes last and says that all is there."""
    import keras

    from bloodedge_train import figures
    from bloodedge_train.fitting.fit import kept_weights, predict
    from bloodedge_train.zoo.macs import count_macs

    raw = {name: predict(model, samples[name].images) for name in SCORED if name in samples}
    validation = samples["validation"]
    temperature = fit_temperature(validation.labels, raw["validation"], len(set(validation.subjects)))
    blasts = {name: calibrated(probabilities, temperature)[:, 1] for name, probabilities in raw.items()}
    write_beside(options.out / "model.keras", model.save)
    uncalibrated = {name: probabilities[:, 1].astype(np.float64) for name, probabilities in raw.items()}
    metrics = _metrics(options, samples, blasts, uncalibrated)
    record = RunRecord(
        name=options.out.name,
        created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        bloodedge=__version__,
        model=options.model,
        parameters=model.count_params(),
        macs=count_macs(model),
        labels=list(LABELS),
        weights=options.weights if options.weights in {"none", "imagenet"} else Path(options.weights).name,
        recipe=options.recipe.model_dump(),
        imaging=options.recipe.imaging,
        seed=options.seed,
        data=_data_record(options, dataset),
        split=split_record,
        fitted=fitted.record(),
        temperature=temperature,
        thresholds=THRESHOLDS,
        backend=keras.backend.backend(),
        hardware=metrics.hardware,
        versions=versions(hardware.RECORDED),
        history=state.history,
        best_epoch=state.best_epoch,
    )
    auc = metrics.parts["validation"].auc
    if auc is not None:
        kept = kept_weights(state, options.recipe.fit)
        watcher.say(
            f"Kept: {kept}. Its validation AUC is {auc:.4f}, as on the model card; the lines above are of epochs."
        )
    watcher.say("Drawing figures")
    figures.draw_all(options.out / "figures", record, metrics, parts, samples, blasts, uncalibrated)
    write_bytes(options.out / FITTED_FILE, fitted.pack())
    write_text(options.out / "predictions.csv", _predictions(parts, blasts, uncalibrated))
    write_record(options.out / "metrics.json", metrics)
    write_text(options.out / "MODEL_CARD.md", run_card.model_card(record, metrics))
    write_record(options.out / "run.json", record)
    Checkpoints(options.out).remove()
    return metrics


def _metrics(
    options: TrainOptions, samples: dict[str, "Samples"], blasts: dict[str, Floats], uncalibrated: dict[str, Floats]
) -> RunMetrics:
    """Figures of every held-out part; ``uncalibrated``: blast probabilities before the temperature."""
    leaky, threshold = options.recipe.split.kind == "image", THRESHOLDS.blast
    parts = {
        name: score(
            samples[name].labels,
            blast,
            samples[name].subjects,
            threshold=threshold,
            leaky=leaky and name != "shift",
            uncalibrated=uncalibrated[name],
        )
        for name, blast in blasts.items()
    }
    return RunMetrics(
        parts=parts,
        ece_before_temperature=parts["validation"].ece_before or 0.0,
        latency_ms=measure_latency(KerasEngine(options.out), samples["validation"].images[0]),
        hardware=hardware.accelerator(),
    )


def _data_record(options: TrainOptions, dataset: Dataset) -> DataRecord:
    return DataRecord(
        root=str(options.data.resolve()),
        fingerprint=dataset.fingerprint,
        cells=len(dataset.unique),
        subjects=len(dataset.groups),
        rendered=dataset.rendered,
    )


def _predictions(parts: Parts, blasts: dict[str, Floats], uncalibrated: dict[str, Floats]) -> str:
    """``predictions.csv``: every scored cell with its blast probability, before and after the temperature."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["part", "cell", "subject", "label", "blast_uncalibrated", "blast"])
    for part, blast in blasts.items():
        for cell, before, after in zip(parts[part], uncalibrated[part], blast, strict=True):
            rows.writerow([part, cell.name, cell.subject, cell.label, f"{before:.6f}", f"{after:.6f}"])
    return out.getvalue()
