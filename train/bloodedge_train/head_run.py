"""A run of a head: features of every cell, a head fitted to the training people, and the whole network put together."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bloodedge.console import Progress
from bloodedge.data.dataset import CellFile, Dataset, inputs, natural
from bloodedge.data.training_features import TrainingFeatures
from bloodedge.engine.keras import load_keras
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.logistic.basis import int8_noise, int8_steps
from bloodedge.logistic.rule import Linear
from bloodedge_train.fitted import Crossed, Fitted, Scored, labels_of
from bloodedge_train.heads.backbone import Backbone, open_backbone, with_heads
from bloodedge_train.heads.cache import FeatureCache
from bloodedge_train.heads.features import (
    AT_BENCH,
    BY_CAMERA,
    SHOWN_CELLS,
    FeatureSpec,
    Way,
    features,
    int8_features,
    some_cells,
)
from bloodedge_train.heads.logistic import Bears, Head, Shown, fit_head, inner_folds
from bloodedge_train.recipe import HeadSpec, Recipe
from bloodedge_train.run_folder import Calibration, RunCells, TrainOptions, calibrate
from bloodedge_train.watcher import Watcher

OUTER = 1000
"""Added to the seed where the outer folds are dealt, so that they are not the inner ones."""
CHECKED = 16
TOLERANCE = 1e-3
"""Largest difference between the network's probability and the head's on the features that it was fitted to."""


@dataclass(frozen=True)
class Known:
    """What a head is fitted to."""

    features: NDArray[np.float32]
    """(N, D) of N cells."""
    bears: Bears


def open_features(options: TrainOptions, watcher: Watcher) -> Backbone:
    """The network whose features the head is fitted to; raises as ``open_backbone``, UsageError for ``--resume``."""
    if options.resume:
        raise UsageError("A head is fitted in seconds and has nothing to resume; leave out --resume.")
    with watcher.step("Loading Keras"):
        load_keras()
    recipe = options.recipe
    assert recipe.head is not None
    return open_backbone(options.model, recipe.imaging.size_px, recipe.head.depths, options.weights)


def fit_to(backbone: Backbone, options: TrainOptions, watcher: Watcher, cells: RunCells) -> Fitted:
    """Fit a head to the training people's features; raises UsageError when a class has too few of them."""
    recipe = options.recipe
    spec = recipe.head
    assert spec is not None
    train = cells.parts["train"]
    groups = [cells.dataset.group(cell) for cell in train]
    _name_mixed(train, groups, watcher)
    known = known_features(backbone, options, watcher, train, cells.dataset.group)
    with watcher.step("Fitting the head"):
        head = fit_head(known.features, labels_of(train), groups, spec, options.seed, known.bears)
    network = with_heads(backbone, [head], len(recipe.imaging.views))
    held_out = {name: part for name, part in cells.parts.items() if name != "train"}
    scored = {"inner": Scored(train, outputs(head.inner))}
    for name, part in held_out.items():
        found = _features(backbone, options, watcher, part, name)
        scored[name] = Scored(part, outputs(head.blast_probability(found)))
    crossed = None
    if options.all_people:
        with watcher.step("Judging by folds") as progress:
            scored["folds"], crossed = judge_over_folds(
                backbone, options, cells.dataset, known, scored["inner"], progress
            )
    _check_network(network, recipe, train[:CHECKED], head.blast_probability(known.features[:CHECKED]))
    history = [
        {"penalty": tried.penalty, "val_loss": tried.loss, "val_auc": tried.auc, "val_accuracy": tried.accuracy}
        for tried in head.choices
    ]
    best = [tried.penalty for tried in head.choices].index(head.penalty) + 1
    judged = scored["folds" if crossed else "inner"]
    kept = TrainingFeatures.of(
        known.features,
        judged.labels,
        groups,
        judged.outputs[:, 1].astype(np.float64),
        head.rule,
        [len(recipe.imaging.views) * width for width in backbone.widths],
        options.seed,
    )
    return Fitted(network, scored, history, best, f"penalty {head.penalty:g} of {len(history)}", crossed, kept)


def judge_over_folds(
    backbone: Backbone,
    options: TrainOptions,
    dataset: Dataset,
    known: Known,
    inner: Scored,
    progress: Progress,
) -> tuple[Scored, Crossed]:
    """Everybody's cells, each scored by a head that was made, from penalty to thresholds, without its group.

    Each fold's head is brought to the run's temperature and threshold, so that these stand for the fold's own.
    inner: what chose the run's temperature and thresholds.
    """
    people, spec = inner.cells, options.recipe.head or HeadSpec()
    labels, groups = inner.labels, np.array([dataset.group(cell) for cell in people])
    ours = calibrate(options, dataset, "inner", {"inner": inner})
    folds = inner_folds(labels, groups.tolist(), options.all_people or 0, options.seed + OUTER)
    blasts, heads = np.empty(len(people)), []
    for fold in range(int(folds.max()) + 1):
        out = folds == fold
        others = groups[~out].tolist()
        head = fit_head(known.features[~out], labels[~out], others, spec, options.seed, known.bears)
        rest = Scored([cell for cell, held in zip(people, out, strict=True) if not held], outputs(head.inner))
        heads.append(_aligned(head, calibrate(options, dataset, "inner", {"inner": rest}), ours))
        blasts[out] = heads[-1].blast_probability(known.features[out])
        progress(fold + 1, int(folds.max()) + 1)
    held = [sorted(set(groups[folds == fold].tolist()), key=natural) for fold in range(len(heads))]
    network = with_heads(backbone, heads, len(options.recipe.imaging.views))
    return Scored(people, outputs(blasts)), Crossed(network, held)


def _aligned(head: Head, theirs: Calibration, ours: Calibration) -> Head:
    """The head whose calibrated log-odds pass our threshold, at our temperature, where they passed theirs at theirs."""
    (their_temperature, their_thresholds, _), (temperature, thresholds, _) = theirs, ours
    ratio = temperature / their_temperature
    shift = temperature * (_log_odds(thresholds.blast) - _log_odds(their_thresholds.blast))
    shifted = Linear(np.zeros_like(head.rule.any_bench.weights), shift)
    return replace(head, rule=head.rule.changed(ratio, shifted))


def _log_odds(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def known_features(
    backbone: Backbone,
    options: TrainOptions,
    watcher: Watcher,
    cells: list[CellFile],
    group: Callable[[CellFile], str],
) -> Known:
    """What a recipe's head is fitted to; group: who stays together."""
    found, head = _features(backbone, options, watcher, cells, "train"), options.recipe.head
    spec, cache = FeatureSpec(backbone, options.recipe.imaging), _cache(options, watcher)
    assert head is not None
    bears = Bears()
    if head.int8_noise:
        with watcher.step("What int8 changes in features") as progress:
            noise = int8_noise(*int8_features(cells, spec, cache, progress), head.int8_noise)
        steps = int8_steps(found, [spec.views * width for width in backbone.widths])
        bears = replace(bears, int8=noise, steps=steps)
    if head.camera_noise or head.bench_noise:
        bears = replace(bears, cameras=_shown(cells, spec, cache, watcher, group, BY_CAMERA))
    if head.bench_noise:
        bears = replace(bears, benches=_shown(cells, spec, cache, watcher, group, AT_BENCH))
    return Known(found, bears)


def _shown(
    cells: list[CellFile],
    spec: FeatureSpec,
    cache: FeatureCache | None,
    watcher: Watcher,
    group: Callable[[CellFile], str],
    way: Way,
) -> Shown:
    """Some of the cells, and the same in another way."""
    some = some_cells(cells, SHOWN_CELLS)
    with watcher.step(f"Features as another {way.name} has them") as progress:
        changed = features(some, spec, cache, progress, way)
    return Shown(features(some, spec, cache), changed, np.array([group(cell) for cell in some]))


def _features(
    backbone: Backbone, options: TrainOptions, watcher: Watcher, cells: list[CellFile], part: str
) -> NDArray[np.float32]:
    with watcher.step(f"Features of {part} cells") as progress:
        return features(cells, FeatureSpec(backbone, options.recipe.imaging), _cache(options, watcher), progress)


def _cache(options: TrainOptions, watcher: Watcher) -> FeatureCache | None:
    return FeatureCache(options.cache, watcher.say) if options.cache else None


def _name_mixed(cells: Sequence[CellFile], groups: Sequence[str], watcher: Watcher) -> None:
    """A sentence on people with cells of both classes."""
    labels = defaultdict(set)
    for cell, group in zip(cells, groups, strict=True):
        labels[group].add(cell.label)
    mixed = sorted(group for group, found in labels.items() if len(found) > 1)
    if mixed:
        watcher.say(f"{', '.join(mixed)} {'have' if len(mixed) > 1 else 'has'} cells of both classes; all are kept.")


def outputs(blasts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Blast probabilities (N,) as a network's outputs (N, 2)."""
    return np.stack([1 - blasts, blasts], axis=1).astype(np.float32)


def _check_network(network: Any, recipe: Recipe, cells: list[CellFile], expected: NDArray[np.float64]) -> None:
    """Raise BloodedgeError when the network put together does not give the head's probabilities."""
    outputs = np.asarray(network.predict_on_batch(inputs(cells, recipe.imaging)), np.float64)
    difference = float(np.abs(outputs[:, 1] - expected).max())
    if difference > TOLERANCE:
        raise BloodedgeError(
            f"The network differs from the head that was fitted by {difference:.2g} in probability; compute the "
            "features again with --no-cache, and report it if that does not help."
        )
