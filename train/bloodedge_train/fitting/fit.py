"""Fitting a network: epochs of augmented batches, watched on validation, stopped in time, resumable after each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bloodedge.decision.thresholds import calibrated, require_probabilities
from bloodedge.errors import BloodedgeError
from bloodedge.metrics import auc
from bloodedge_train.fitting.checkpoint import Checkpoints, FitState
from bloodedge_train.fitting.feed import Feed
from bloodedge_train.fitting.step import Step
from bloodedge_train.recipe import FitSpec, Recipe

BatchDone = Callable[[int, int, int], None]
"""Called with (epoch from 0, batches done, batches of the epoch)."""
EpochDone = Callable[[int, dict[str, float]], None]
PREDICT_BATCH = 256


@dataclass(frozen=True)
class Samples:
    """Network inputs uint8 (N, *ImagingSpec.input_shape), their labels int64 (N,), and whose they are."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    groups: list[str]
    subjects: list[str]


def fit(
    network: Any,
    train: Samples,
    validation: Samples,
    recipe: Recipe,
    seed: int,
    checkpoints: Checkpoints,
    batch_done: BatchDone,
    epoch_done: EpochDone,
) -> FitState:
    """Fit until the recipe's last epoch or until validation stagnates; ends with the weights that the recipe keeps.

    Begins, or goes on from the newest of ``checkpoints``. Each epoch depends only on the checkpoint before it and on
    (seed, epoch). Raises BloodedgeError when the loss is no longer a number; the epochs before it are kept.
    """
    spec = recipe.fit
    _set_momentum(network, spec)
    step = Step(network, train.images, recipe)
    state = checkpoints.state() or FitState(learning_rate=spec.learning_rate)
    _enter_phase(step, spec, max(state.epochs_done - 1, 0))
    if state.epochs_done:
        checkpoints.restore(network, step.optimizer)
    while state.epochs_done < spec.epochs and state.stagnant < spec.stop_after:
        epoch = state.epochs_done
        if epoch == spec.warmup_epochs:
            _enter_phase(step, spec, epoch)
        step.optimizer.learning_rate.assign(state.learning_rate)
        _seed_layers(step, seed, epoch)
        loss, images_per_s = _fit_epoch(
            step, Feed(train.labels, train.groups, recipe, seed=seed, epoch=epoch), batch_done
        )
        figures = watch(network, validation) | {"loss": loss, "images_per_s": images_per_s}
        state = advance(state, spec, figures)
        averaged = state.epochs_done - spec.epochs // 2 if spec.keep == "average" else 0
        checkpoints.save(network, step.optimizer, state, averaged)
        epoch_done(epoch, state.history[-1])
    if spec.keep != "last":
        checkpoints.load_kept(network, spec.keep)
    return state


def _fit_epoch(step: Step, feed: Feed, batch_done: BatchDone) -> tuple[float, float]:
    """(loss, images per second) of one epoch; BloodedgeError when the loss is no longer a number."""
    start = perf_counter()
    loss = step.fit(
        feed,
        shuffle=False,  # the feed draws the order; Keras' own shuffling is not in the checkpoint
        initial_epoch=feed.epoch,
        epochs=feed.epoch + 1,
        verbose=0,
        callbacks=[_Batches(batch_done, feed.epoch, len(feed))],
    ).history["loss"][0]
    seconds = perf_counter() - start
    if not math.isfinite(loss):
        raise BloodedgeError(
            f"The loss was no longer a number in epoch {feed.epoch + 1}; the epochs before it are kept. "
            "Lower fit.learning_rate in the recipe and train into a new folder."
        )
    return loss, len(feed) * feed.spec.batch / seconds


def watch(model: Any, samples: Samples) -> dict[str, float]:
    """val_loss (cross-entropy), val_accuracy and val_auc; BloodedgeError when the network gives no probabilities.

    The AUC is of calibrated probabilities, as every later figure is: they tie cells of which a network is so sure that
    float32 has no room for the difference. Which temperature makes no difference to it.
    """
    probabilities = predict(model, samples.images)
    likelihood = np.clip(probabilities[np.arange(len(samples.labels)), samples.labels], 1e-7, 1)
    return {
        "val_loss": float(-np.log(likelihood).mean()),
        "val_accuracy": float((probabilities.argmax(axis=1) == samples.labels).mean()),
        "val_auc": auc(samples.labels, calibrated(probabilities, 1.0)[:, 1]) or 0.0,
    }


def kept_weights(state: FitState, spec: FitSpec) -> str:
    """Which weights a fit ended with, in words."""
    first, last = spec.epochs // 2 + 1, state.epochs_done
    if spec.keep == "average" and last > first:
        return f"the mean of the weights of epochs {first} to {last}"
    if spec.keep == "last" or (spec.keep == "average" and last == first):
        return f"the weights of epoch {last}, the last one"
    return f"the weights of epoch {state.best_epoch}, the best one"


def predict(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class probabilities float32 (N, 2) in inference mode; BloodedgeError when the network gives none."""
    padding = -len(images) % PREDICT_BATCH  # one batch size only: every other would be compiled again
    padded = np.concatenate([images, np.zeros((padding, *images.shape[1:]), np.uint8)])
    outputs = np.asarray(model.predict(padded, batch_size=PREDICT_BATCH, verbose=0), np.float32)[: len(images)]
    require_probabilities(outputs, "The network in training")
    return outputs


def advance(state: FitState, spec: FitSpec, figures: dict[str, float]) -> FitState:
    """The state after an epoch with these figures: best epoch, stagnation, learning rate."""
    value = figures["val_auc"] if spec.monitor == "auc" else -figures["val_loss"]
    done = state.epochs_done + 1
    row = {"epoch": float(done), "learning_rate": state.learning_rate, **figures}
    improved = state.best is None or value > state.best
    stagnant = 0 if improved else state.stagnant + 1
    since_reduced = 0 if improved else state.since_reduced + 1
    rate = state.learning_rate
    if spec.schedule == "cosine":
        rate = spec.learning_rate * 0.5 * (1 + math.cos(math.pi * done / spec.epochs))
    elif since_reduced >= spec.reduce_after:
        rate, since_reduced = rate * spec.reduce_factor, 0
    return FitState(
        epochs_done=done,
        learning_rate=rate,
        best=value if improved else state.best,
        best_epoch=done if improved else state.best_epoch,
        stagnant=stagnant,
        since_reduced=since_reduced,
        history=[*state.history, row],
    )


OPTIMISERS: dict[str, Callable[[FitSpec], Any]] = {
    "adamw": lambda spec: keras.optimizers.AdamW(spec.learning_rate, weight_decay=spec.weight_decay),
    "adam": lambda spec: keras.optimizers.Adam(spec.learning_rate),
    "adamax": lambda spec: keras.optimizers.Adamax(spec.learning_rate),
    "sgd": lambda spec: keras.optimizers.SGD(spec.learning_rate, momentum=0.9),
}


def _set_momentum(network: Any, spec: FitSpec) -> None:
    """Give every batch norm, also in nested networks, the recipe's momentum."""
    for layer in network._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = spec.batch_norm_momentum


def _enter_phase(step: Step, spec: FitSpec, epoch: int) -> None:
    """Freeze the features in the warm-up epochs, their batch norms included, and free them after; a fresh optimiser."""
    step.network.get_layer("features").trainable = epoch >= spec.warmup_epochs
    step.compile(optimizer=OPTIMISERS[spec.optimiser](spec))
    step.optimizer.build(step.trainable_variables)


def _seed_layers(step: Step, seed: int, epoch: int) -> None:
    """Make dropout's draws depend on (seed, epoch) alone."""
    for number, layer in enumerate(step.network._flatten_layers()):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            draws = np.random.default_rng([seed, epoch, 2, number]).integers(0, 2**31, 2)
            generator.state.assign(draws.astype(generator.state.dtype))


class _Batches(keras.callbacks.Callback):  # type: ignore[misc]
    """Reports each batch to the progress bar."""

    def __init__(self, batch_done: BatchDone, epoch: int, batches: int) -> None:
        super().__init__()
        self._report: Callable[[int], None] = lambda done: batch_done(epoch, done, batches)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Keras' hook after each batch."""
        self._report(batch + 1)
