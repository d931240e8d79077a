"""Batches show what the recipe says, and depend on seed and epoch alone."""

from typing import Any

import numpy as np
import pytest

from bloodedge_train.fitting.feed import Feed, order
from bloodedge_train.recipe import AugmentSpec, FitSpec, Recipe

LABELS = np.array([1] * 60 + [0] * 20)
GROUPS = ["A"] * 40 + ["B"] * 20 + ["H"] * 16 + ["J"] * 4
STILL = AugmentSpec(rotate=False, flip=False)


def shown(sampling: str, epoch_cells: int = 40_000) -> np.ndarray:
    spec = FitSpec(sampling=sampling, epoch_cells=epoch_cells)
    return order(LABELS, GROUPS, spec, np.random.default_rng(0))


def share(indices: np.ndarray, group: str) -> float:
    return float((np.array(GROUPS)[indices] == group).mean())


def test_natural_sampling_shows_every_cell_once_an_epoch() -> None:
    drawn = order(LABELS, GROUPS, FitSpec(), np.random.default_rng(0))
    assert sorted(drawn) == list(range(80))
    assert list(drawn) != sorted(drawn)


def test_longer_natural_epochs_begin_again() -> None:
    counts = np.bincount(shown("natural", 200), minlength=80)
    assert set(counts) == {2, 3}


def test_class_balanced_sampling_shows_both_classes_equally_often() -> None:
    drawn = shown("class_balanced")
    assert LABELS[drawn].mean() == pytest.approx(0.5, abs=0.01)
    assert share(drawn, "A") == pytest.approx(1 / 3, abs=0.01)  # 40 of the 60 blasts


def test_subject_balanced_sampling_shows_groups_as_the_root_of_their_cells() -> None:
    drawn = shown("subject_balanced")
    assert LABELS[drawn].mean() == pytest.approx(0.5, abs=0.01)
    root = np.sqrt([40, 20])
    assert share(drawn, "A") == pytest.approx(0.5 * root[0] / root.sum(), abs=0.01)
    assert share(drawn, "H") == pytest.approx(0.5 * 4 / (4 + 2), abs=0.01)


def feed(spec: FitSpec, augmentation: AugmentSpec = STILL, *, seed: int = 0, epoch: int = 0) -> Any:
    return Feed(LABELS, GROUPS, Recipe(fit=spec, augment=augmentation), seed=seed, epoch=epoch)


def test_a_batch_names_cells_with_their_own_targets() -> None:
    batches = feed(FitSpec(batch=16))
    assert len(batches) == 5
    for number in range(5):
        draws, targets, weights = batches[number]
        assert {len(values) for values in draws.values()} == {16}
        assert targets.shape == (16, 2)
        assert np.array_equal(targets.argmax(1), LABELS[draws["index"]])
        assert np.array_equal(weights, np.ones(16))


def test_an_epoch_smaller_than_a_batch_is_one_batch() -> None:
    batches = feed(FitSpec(batch=4096))
    assert len(batches) == 1
    assert len(batches[0][0]["index"]) == 80


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    spec, changes = FitSpec(batch=16, sampling="class_balanced"), AugmentSpec(light=0.3, mixup=0.4)

    def told(batch: Any) -> list[Any]:
        draws, targets, weights = batch
        return [*(draws[name] for name in sorted(draws)), targets, weights]

    first, again = feed(spec, changes, seed=3, epoch=2), feed(spec, changes, seed=3, epoch=2)
    for number in (4, 0, 2):  # in any order
        assert all(np.array_equal(a, b) for a, b in zip(told(first[number]), told(again[number]), strict=True))
    for other in (feed(spec, changes, seed=4, epoch=2), feed(spec, changes, seed=3, epoch=3)):
        assert not np.array_equal(first[0][0]["index"], other[0][0]["index"])


def test_class_weights_make_both_classes_count_alike() -> None:
    batches = feed(FitSpec(batch=80, class_weight=True))
    _, targets, weights = batches[0]
    assert weights[targets[:, 1] == 1].sum() == pytest.approx(weights[targets[:, 0] == 1].sum())
    assert weights.mean() == pytest.approx(1)


def test_a_dearer_mistake_weighs_more() -> None:
    _, targets, weights = feed(FitSpec(batch=80, costs=(3.0, 0.5)))[0]
    assert set(weights[targets[:, 0] == 1]) == {3.0}
    assert set(weights[targets[:, 1] == 1]) == {0.5}


def test_mixup_blends_targets_by_the_share_that_the_pictures_get() -> None:
    batches, plain = feed(FitSpec(batch=16), AugmentSpec(mixup=0.5), epoch=1), feed(FitSpec(batch=16), epoch=1)
    for number in range(5):
        draws, targets, _ = batches[number]
        share, labels = draws["share"][:, None], plain[number][1]
        assert np.allclose(targets, share * labels + (1 - share) * labels[::-1])
        assert np.allclose(targets.sum(1), 1)
