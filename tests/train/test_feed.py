"""Batches show what the recipe says, and depend on seed and epoch alone."""

from typing import Any

import numpy as np
import pytest

from bloodedge_train.feed import Feed, draw
from bloodedge_train.recipe import AugmentSpec, FitSpec

LABELS = np.array([1] * 60 + [0] * 20)
GROUPS = ["A"] * 40 + ["B"] * 20 + ["H"] * 16 + ["J"] * 4
STILL = AugmentSpec(rotate=False, flip=False)


def shown(sampling: str, epoch_cells: int = 40_000) -> np.ndarray:
    spec = FitSpec(sampling=sampling, epoch_cells=epoch_cells)
    return draw(LABELS, GROUPS, spec, np.random.default_rng(0))


def share(indices: np.ndarray, group: str) -> float:
    return float((np.array(GROUPS)[indices] == group).mean())


def test_natural_sampling_shows_every_cell_once_an_epoch() -> None:
    order = draw(LABELS, GROUPS, FitSpec(), np.random.default_rng(0))
    assert sorted(order) == list(range(80))
    assert list(order) != sorted(order)


def test_longer_natural_epochs_begin_again() -> None:
    counts = np.bincount(shown("natural", 200), minlength=80)
    assert set(counts) == {2, 3}


def test_class_balanced_sampling_shows_both_classes_equally_often() -> None:
    order = shown("class_balanced")
    assert LABELS[order].mean() == pytest.approx(0.5, abs=0.01)
    assert share(order, "A") == pytest.approx(1 / 3, abs=0.01)  # 40 of the 60 blasts


def test_subject_balanced_sampling_shows_groups_as_the_root_of_their_cells() -> None:
    order = shown("subject_balanced")
    assert LABELS[order].mean() == pytest.approx(0.5, abs=0.01)
    root = np.sqrt([40, 20])
    assert share(order, "A") == pytest.approx(0.5 * root[0] / root.sum(), abs=0.01)
    assert share(order, "H") == pytest.approx(0.5 * 4 / (4 + 2), abs=0.01)


def feed(spec: FitSpec, augmentation: AugmentSpec = STILL, *, seed: int = 0, epoch: int = 0) -> Any:
    images = np.arange(80, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    return Feed(images, LABELS, GROUPS, spec, augmentation, seed=seed, epoch=epoch)


def test_a_batch_holds_cells_with_their_own_targets() -> None:
    batches = feed(FitSpec(batch=16))
    assert len(batches) == 5
    for number in range(5):
        images, targets, weights = batches[number]
        assert (images.dtype, images.shape, targets.shape) == (np.uint8, (16, 8, 8, 3), (16, 2))
        assert np.array_equal(targets.argmax(1), LABELS[images[:, 0, 0, 0]])
        assert np.array_equal(weights, np.ones(16))


def test_an_epoch_smaller_than_a_batch_is_one_batch() -> None:
    batches = feed(FitSpec(batch=4096))
    assert len(batches) == 1
    assert len(batches[0][0]) == 80


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    spec, changes = FitSpec(batch=16, sampling="class_balanced"), AugmentSpec(light=0.3, mixup=0.4)
    first, again = feed(spec, changes, seed=3, epoch=2), feed(spec, changes, seed=3, epoch=2)
    for number in (4, 0, 2):  # in any order, as threads take them
        assert all(np.array_equal(a, b) for a, b in zip(first[number], again[number], strict=True))
    for other in (feed(spec, changes, seed=4, epoch=2), feed(spec, changes, seed=3, epoch=3)):
        assert not np.array_equal(first[0][0], other[0][0])


def test_class_weights_make_both_classes_count_alike() -> None:
    batches = feed(FitSpec(batch=80, class_weight=True))
    _, targets, weights = batches[0]
    assert weights[targets[:, 1] == 1].sum() == pytest.approx(weights[targets[:, 0] == 1].sum())
    assert weights.mean() == pytest.approx(1)


def test_mixup_blends_pictures_and_targets_alike() -> None:
    batches = feed(FitSpec(batch=16), AugmentSpec(rotate=False, flip=False, mixup=0.5), epoch=1)
    plain = feed(FitSpec(batch=16), epoch=1)
    for number in range(5):
        images, targets, _ = batches[number]
        cells, labels, _ = plain[number]
        shares = [
            s for s in np.linspace(0.5, 1, 501) if np.allclose(s * labels + (1 - s) * labels[::-1], targets, atol=2e-3)
        ]
        assert shares
        blended = shares[0] * cells.astype(float) + (1 - shares[0]) * cells[::-1]
        if 0.501 < shares[0] < 0.999:
            assert np.abs(blended - images).max() <= 1.5
        assert np.allclose(targets.sum(1), 1)
