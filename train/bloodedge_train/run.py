"""A training run: cells read and split, a network fitted, and its run folder written."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from bloodedge.bundle.run_record import RunMetrics
from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, Dataset, check_readable, inputs, owners, read_dataset
from bloodedge.data.fitted_pictures import FittedPictures, held_out
from bloodedge.data.split import split
from bloodedge.decision.operating_point import FEWEST_PEOPLE, enough_people
from bloodedge.engine.keras import load_keras
from bloodedge.errors import UsageError
from bloodedge.files import require_free
from bloodedge_train import hardware
from bloodedge_train.fitting.checkpoint import Checkpoints, FitState, Request
from bloodedge_train.recipe import Recipe
from bloodedge_train.run_folder import MADE, SCORED, RunCells, TrainOptions, write_run

if TYPE_CHECKING:
    from bloodedge_train.fitting.fit import BatchDone, EpochDone, Samples


@dataclass(frozen=True)
class Watcher:
    """How a run reports its progress."""

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
    cv2.setNumThreads(1)  # instead, threads work on whole images
    with watcher.step("Reading cells") as progress:
        dataset = options.recipe.split.grouped(read_dataset(options.data, progress))
    for name, reason in dataset.unreadable.items():
        watcher.say(f"left out {name}: {reason}")
    check_readable(dataset, allow=options.allow_unreadable)
    for names in dataset.same_person:
        watcher.say(f"subjects {', '.join(names)} are one person in C-NMC and stay in one part")
    cells = _prepare(options, dataset, watcher)
    model, state = _fit(options, watcher, cells)
    watcher.say("Scoring the network and drawing figures")
    metrics = write_run(options, cells, model, state)
    Checkpoints(options.out).remove()
    auc = metrics.parts["validation"].auc
    if auc is not None:
        from bloodedge_train.fitting.fit import kept_weights

        kept = kept_weights(state, options.recipe.fit)
        watcher.say(
            f"Kept: {kept}. Its validation AUC is {auc:.4f}, as on the model card; the lines above are of epochs."
        )
    return metrics


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


def _prepare(options: TrainOptions, dataset: Dataset, watcher: Watcher) -> RunCells:
    """The split, and the network inputs of each part; held-out copies of training pictures are left out."""
    parts, record = split(dataset, options.recipe.split, seed=options.seed, fold=options.fold)
    fitted = FittedPictures.of(parts)
    if not record.leaky:
        parts = held_out(dataset, parts, fitted, watcher.say)
    with watcher.step("Loading Keras"):
        load_keras()
    samples = {}
    for name in ("train", *SCORED):
        if parts.get(name):
            with watcher.step(f"Preparing {name} cells") as progress:
                samples[name] = _samples(dataset, parts[name], options.recipe, progress)
    _check_goal(options, samples["validation"])
    return RunCells(dataset, record, fitted, parts, samples)


def _check_goal(options: TrainOptions, validation: "Samples") -> None:
    """Raise UsageError when the thresholds cannot be chosen for what was asked."""
    if options.sensitivity is None and options.specificity is None:
        return
    if options.recipe.split.kind == "image":
        raise UsageError("--sensitivity and --specificity need held-out people; leave them out, or split by group.")
    if not enough_people(validation.labels, validation.groups):
        raise UsageError(
            f"--sensitivity and --specificity need {FEWEST_PEOPLE} or more people of each class in the validation part;"
            " leave them out, or add people."
        )


def _samples(dataset: Dataset, cells: list[CellFile], recipe: Recipe, progress: Progress) -> "Samples":
    from bloodedge_train.fitting.fit import Samples

    return Samples(
        images=inputs(cells, recipe.imaging, progress),
        labels=np.array([c.label for c in cells], np.int64),
        groups=[dataset.group(c) for c in cells],
        subjects=owners(cells),
    )


def _fit(options: TrainOptions, watcher: Watcher, cells: RunCells) -> tuple[Any, FitState]:
    """The fitted network, float32 whatever it was fitted in, and how it went."""
    from bloodedge_train.fitting import fit as fitting

    recipe = options.recipe
    checkpoints = Checkpoints(options.out)
    _begin(options, cells.dataset, checkpoints)
    hardware.spread(recipe.fit.batch)  # before any network is made
    precision = hardware.precision(recipe.fit.precision)
    network = _build(options, precision, "none" if checkpoints.state() else options.weights)
    checkpoints.begin(_request(options, cells.dataset))
    begun = checkpoints.state()
    with watcher.fitting(recipe, begun.epochs_done if begun else 0) as (batch_done, epoch_done):
        state = fitting.fit(
            network,
            cells.samples["train"],
            cells.samples["validation"],
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
        imaging, network = options.recipe.imaging, options.recipe.network
        return zoo.build(options.model, imaging.size_px, network, views=len(imaging.views), weights=weights)
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
