"""Fitting can be stopped anywhere and goes on as if it had not been."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from bloodedge.decision.thresholds import calibrated
from bloodedge.errors import BloodedgeError
from bloodedge.evaluation.scoring import score
from bloodedge.imaging import ImagingSpec
from bloodedge.metrics import auc
from bloodedge_train.fitting.checkpoint import Checkpoints, FitState
from bloodedge_train.fitting.fit import Samples, _set_momentum, advance, fit, kept_weights, predict, watch
from bloodedge_train.recipe import AugmentSpec, FitSpec, Recipe

SIDE = 32


class Killed(BaseException):
    """Stands for the end of the process."""


def network() -> Any:
    """What fitting asks of a network: a part named features, batch norm, dropout; compiled in a second."""
    from keras import layers

    keras.utils.set_random_seed(1)
    scaled = keras.Input((SIDE, SIDE, 3))
    x = layers.BatchNormalization()(layers.Conv2D(6, 3, 2, use_bias=False)(scaled))
    features = keras.Model(scaled, layers.ReLU()(x), name="features")
    image = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    x = layers.GlobalAveragePooling2D()(features(layers.Rescaling(1 / 127.5, offset=-1.0)(image)))
    return keras.Model(image, layers.Dense(2, activation="softmax")(layers.Dropout(0.4)(x)))


def samples(count: int, seed: int) -> Samples:
    """Blasts are brighter than normal cells."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = np.clip(rng.normal(100 + 40 * labels[:, None, None, None], 30, (count, SIDE, SIDE, 3)), 0, 255)
    subjects = [f"S{n % 6}" for n in range(count)]
    return Samples(images.astype(np.uint8), labels, subjects, subjects)


def recipe(**choices: Any) -> Recipe:
    spec = FitSpec.model_validate({"epochs": 5, "batch": 8, "learning_rate": 0.01, **choices})
    return Recipe(imaging=ImagingSpec(size_px=32), fit=spec, augment=AugmentSpec(light=0.1, mixup=0.3))


def run(folder: Path, chosen: Recipe, *, kill: tuple[int, int] | None = None) -> tuple[Any, FitState]:
    """Fit, or go on; with ``kill`` (epoch, batch) the process ends there."""
    model = network()

    def batch_done(epoch: int, done: int, _batches: int) -> None:
        if (epoch, done) == kill:
            raise Killed

    def epoch_done(_epoch: int, _row: dict[str, float]) -> None:
        pass

    parts = samples(64, 0), samples(32, 1)
    return model, fit(model, *parts, chosen, 7, Checkpoints(folder), batch_done, epoch_done)


RESUMED = {
    "average": recipe(keep="average", schedule="cosine"),
    "warm-up": recipe(keep="last", warmup_epochs=3, optimiser="adam"),
    "plateau": recipe(keep="best", monitor="loss", reduce_after=1, optimiser="sgd", sampling="class_balanced"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name != "average" else name for name in RESUMED]
)
def test_a_resumed_fit_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, name: str) -> None:
    unbroken, whole = run(tmp_path / "unbroken", RESUMED[name])
    for kill in ((1, 3), (3, 8)):
        with pytest.raises(Killed):
            run(tmp_path / "broken", RESUMED[name], kill=kill)
    resumed, again = run(tmp_path / "broken", RESUMED[name])
    for ours, theirs in zip(resumed.get_weights(), unbroken.get_weights(), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    drop = {"images_per_s"}
    history = [[{k: v for k, v in row.items() if k not in drop} for row in s.history] for s in (again, whole)]
    assert history[0] == history[1]
    assert whole.history[-1]["loss"] < whole.history[0]["loss"]


@pytest.mark.slow
def test_warm_up_leaves_the_features_as_they_were_and_then_frees_them(tmp_path: Path) -> None:
    begun = network().get_layer("features").get_weights()
    warm, _ = run(tmp_path / "warm", recipe(epochs=2, warmup_epochs=2, keep="last"))
    assert all(np.array_equal(a, b) for a, b in zip(begun, warm.get_layer("features").get_weights(), strict=True))
    free, _ = run(tmp_path / "free", recipe(epochs=3, warmup_epochs=2, keep="last"))
    assert not any(np.array_equal(a, b) for a, b in zip(begun, free.get_layer("features").get_weights(), strict=True))


def test_a_loss_that_is_no_number_stops_with_a_sentence_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, recipe(epochs=1, optimiser="sgd"))
    checkpoints, model = Checkpoints(tmp_path), network()
    before = checkpoints.state()
    with pytest.raises(BloodedgeError, match=r"no longer a number in epoch 2; .*Lower fit\.learning_rate"):
        run(tmp_path, recipe(optimiser="sgd", learning_rate=1.0, costs=(1e38, 1e38)))
    assert checkpoints.state() == before
    checkpoints.load_kept(model, "best")
    assert all(np.isfinite(w).all() for w in model.get_weights())


def test_batch_norm_gets_the_recipes_momentum_however_deep_it_lies() -> None:
    model = network()
    _set_momentum(model, FitSpec(batch_norm_momentum=0.91))
    norms = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    assert [x.momentum for x in norms] == [0.91]


def test_figures_on_validation_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

    model, cells = network(), samples(300, 2)
    probabilities = predict(model, cells.images)
    assert probabilities.shape == (300, 2)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    figures = watch(model, cells)
    assert figures["val_loss"] == pytest.approx(log_loss(cells.labels, probabilities[:, 1]), rel=1e-4)
    assert figures["val_auc"] == pytest.approx(roc_auc_score(cells.labels, probabilities[:, 1]))
    assert figures["val_accuracy"] == pytest.approx(accuracy_score(cells.labels, probabilities.argmax(1)))


def after(spec: FitSpec, values: list[float]) -> FitState:
    state = FitState(learning_rate=spec.learning_rate)
    for value in values:
        state = advance(state, spec, {"val_auc": value, "val_loss": value})
    return state


def test_the_best_epoch_and_the_stagnation_since_are_counted() -> None:
    state = after(FitSpec(monitor="auc"), [0.7, 0.9, 0.8, 0.9])
    assert (state.epochs_done, state.best_epoch, state.best, state.stagnant) == (4, 2, 0.9, 2)
    state = after(FitSpec(monitor="loss"), [0.7, 0.9, 0.6])
    assert (state.best_epoch, state.best, state.stagnant) == (3, -0.6, 0)


def test_a_plateau_lowers_the_learning_rate_each_time_it_lasts() -> None:
    spec = FitSpec(learning_rate=0.1, reduce_after=2, reduce_factor=0.5)
    rates = [after(spec, [0.9] + [0.8] * n).learning_rate for n in range(6)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def test_a_cosine_ends_at_zero() -> None:
    spec = FitSpec(learning_rate=0.1, epochs=4, schedule="cosine")
    rates = [after(spec, [0.9] * n).learning_rate for n in range(1, 5)]
    assert rates == pytest.approx([0.1 * 0.5 * (1 + math.cos(math.pi * n / 4)) for n in range(1, 5)])
    assert rates[-1] == pytest.approx(0)


def test_a_fit_that_learns_nothing_more_stops_early(tmp_path: Path) -> None:
    _, state = run(tmp_path, recipe(epochs=30, stop_after=2, learning_rate=1e-9))
    assert state.epochs_done < 30
    assert state.stagnant == 2


def test_outputs_that_are_no_probabilities_stop_the_fit_with_a_sentence() -> None:
    model, parts = network(), samples(8, 0)
    head = model.layers[-1]
    head.set_weights([np.full_like(weight, np.nan) for weight in head.get_weights()])
    with pytest.raises(BloodedgeError, match="gave no probabilities for 8 of 8 cells"):
        watch(model, parts)


def test_the_watched_auc_is_the_one_that_is_reported_at_the_end_also_of_a_network_that_is_very_sure() -> None:
    """Two cells of 1e-9 and 3e-9 are both a normal one of 1.0 in float32: ties, where raw outputs would rank them."""
    parts = samples(40, 0)
    blast = np.where(parts.labels == 1, 3e-9, 1e-9)
    blast[1:10:2] = 0.8  # of blasts

    class Sure:
        def predict(self, images: np.ndarray, **_: object) -> np.ndarray:
            padded = np.full(len(images), 0.5)
            padded[: len(blast)] = blast
            return np.stack([1 - padded, padded], axis=1)

    for temperature in (0.5, 1.0, 3.0):
        probabilities = calibrated(predict(Sure(), parts.images), temperature)[:, 1]
        reported = score(parts.labels, probabilities, parts.subjects).auc
        assert watch(Sure(), parts)["val_auc"] == pytest.approx(reported)
    assert auc(parts.labels, blast) == 1
    assert reported == pytest.approx(5 / 20 + 15 / 20 / 2)


@pytest.mark.parametrize(
    ("keep", "epochs", "done", "words"),
    [
        ("average", 16, 16, "the mean of the weights of epochs 9 to 16"),
        ("average", 16, 9, "the weights of epoch 9, the last one"),
        ("average", 16, 8, "the weights of epoch 3, the best one"),
        ("average", 1, 1, "the weights of epoch 1, the last one"),
        ("best", 16, 16, "the weights of epoch 3, the best one"),
        ("last", 16, 16, "the weights of epoch 16, the last one"),
    ],
)
def test_which_weights_a_run_ends_with_is_told(keep: str, epochs: int, done: int, words: str) -> None:
    state = FitState(learning_rate=0.1, epochs_done=done, best_epoch=3)
    assert kept_weights(state, recipe(keep=keep, epochs=epochs).fit) == words
