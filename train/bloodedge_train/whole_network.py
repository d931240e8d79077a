"""Fitting a whole network: its checkpoints, and what it says of held-out cells."""

from typing import TYPE_CHECKING, Any

import numpy as np

from bloodedge.data.dataset import Dataset, inputs, owners
from bloodedge.errors import UsageError
from bloodedge_train import hardware
from bloodedge_train.fitted import Fitted, Scored
from bloodedge_train.fitting.checkpoint import Checkpoints, Request
from bloodedge_train.run_folder import SCORED, RunCells, TrainOptions
from bloodedge_train.watcher import Watcher

if TYPE_CHECKING:
    from bloodedge_train.fitting.fit import Samples


def fit_network(options: TrainOptions, watcher: Watcher, cells: RunCells) -> Fitted:
    """Fit, or go on from a checkpoint; raises UsageError when the folder was begun with something else."""
    from bloodedge_train.fitting import fit as fitting

    recipe = options.recipe
    checkpoints = Checkpoints(options.out)
    _begin(options, cells.dataset, checkpoints)
    samples = _samples(options, watcher, cells)
    hardware.spread(recipe.fit.batch)  # before any network is made
    precision = hardware.precision(recipe.fit.precision)
    network = _build(options, precision, "none" if checkpoints.state() else options.weights)
    checkpoints.begin(_request(options, cells.dataset))
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
    if precision != "float32":
        plain = _build(options, "float32", "none")
        plain.set_weights(network.get_weights())
        network = plain
    scored = {
        name: Scored(cells.parts[name], fitting.predict(network, samples[name].images))
        for name in SCORED
        if name in samples
    }
    return Fitted(network, scored, state.history, state.best_epoch, fitting.kept_weights(state, recipe.fit))


def _samples(options: TrainOptions, watcher: Watcher, cells: RunCells) -> dict[str, "Samples"]:
    """Network inputs by part."""
    from bloodedge_train.fitting.fit import Samples

    samples = {}
    for name in ("train", *SCORED):
        if of_part := cells.parts.get(name):
            with watcher.step(f"Preparing {name} cells") as progress:
                samples[name] = Samples(
                    images=inputs(of_part, options.recipe.imaging, progress),
                    labels=np.array([c.label for c in of_part], np.int64),
                    groups=[cells.dataset.group(c) for c in of_part],
                    subjects=owners(of_part),
                )
    return samples


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
