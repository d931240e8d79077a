"""Augmentation changes what another bench would change, and nothing else."""

import cv2
import numpy as np
import pytest

from bloodedge_train.augment import augment
from bloodedge_train.recipe import AugmentSpec

STILL = AugmentSpec(rotate=False, flip=False)
EVERYTHING = AugmentSpec(scale=0.15, shift=0.05, light=0.1, stain=0.2, colour=0.1, blur=1.5)


def disc(radius: int = 20, side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    cv2.circle(mask, (side // 2, side // 2), radius, 255, cv2.FILLED)
    rng = np.random.default_rng(0)
    return np.where(mask[:, :, None] > 0, rng.integers(60, 200, (side, side, 3)), 0).astype(np.uint8)


def test_shape_and_type_stay_and_the_original_is_untouched() -> None:
    image = disc()
    before = image.copy()
    for seed in range(20):
        changed = augment(image, EVERYTHING, np.random.default_rng(seed))
        assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)


def test_black_stays_black() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    for seed in range(20):
        assert not augment(black, EVERYTHING, np.random.default_rng(seed)).any()
        corners = augment(disc(8), EVERYTHING, np.random.default_rng(seed))
        assert not corners[:6].any()
        assert not corners[:, -6:].any()


def test_without_amplitudes_nothing_changes() -> None:
    assert np.array_equal(augment(disc(), STILL, np.random.default_rng(0)), disc())


def test_the_draw_decides() -> None:
    first, again, other = (augment(disc(), EVERYTHING, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_scale_changes_the_area_by_the_square_of_its_amplitude() -> None:
    spec = STILL.model_copy(update={"scale": 0.1})
    areas = [augment(disc(), spec, np.random.default_rng(s)).any(axis=2).sum() for s in range(200)]
    logs = np.log(np.array(areas) / disc().any(axis=2).sum()) / 2
    assert logs.std() == pytest.approx(0.1, rel=0.2)
    assert np.abs(logs).max() < 0.28  # draws are cut at 2.5 standard deviations


def test_a_flip_mirrors_half_of_the_cells() -> None:
    spec = STILL.model_copy(update={"flip": True})
    image = disc()
    flipped = 0
    for seed in range(100):
        changed = augment(image, spec, np.random.default_rng(seed))
        same, mirrored = np.array_equal(changed, image), np.array_equal(changed, image[:, ::-1])
        assert same or mirrored
        flipped += mirrored
    assert 35 <= flipped <= 65


def test_more_stain_darkens_by_the_law_of_beer_and_lambert() -> None:
    """The optical density of every grey level is multiplied by one factor."""
    spec = STILL.model_copy(update={"stain": 0.3})
    levels = np.arange(30, 250, dtype=np.uint8)[:, None, None].repeat(3, 2)
    changed = augment(np.ascontiguousarray(levels.repeat(220, 1)), spec, np.random.default_rng(3))[:, 0, 0]
    factor = np.log(changed / 255) / np.log(levels[:, 0, 0] / 255)
    assert factor[:150].std() < 0.02
    assert abs(factor.mean() - 1) > 0.02


def test_blur_only_smooths() -> None:
    spec = STILL.model_copy(update={"blur": 2.0})
    sharp = [cv2.Laplacian(augment(disc(), spec, np.random.default_rng(s)), cv2.CV_64F).var() for s in range(20)]
    assert max(sharp) <= cv2.Laplacian(disc(), cv2.CV_64F).var()
    assert min(sharp) < 0.3 * max(sharp)
