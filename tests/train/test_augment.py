"""Augmentation changes what another bench would change, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge_train.fitting.augment import augment, draw
from bloodedge_train.recipe import AugmentSpec

SIDE = 64
STILL = AugmentSpec(rotate=False, flip=False)
EVERYTHING = AugmentSpec(scale=0.15, shift=0.05, light=0.1, stain=0.2, colour=0.1, contrast=0.2, blur=1.5, mixup=0.3)


def disc(radius: int = 20) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(mask, (SIDE // 2, SIDE // 2), radius, 255, cv2.FILLED)
    rng = np.random.default_rng(0)
    return np.where(mask[:, :, None] > 0, rng.integers(60, 200, (SIDE, SIDE, 3)), 0).astype(np.uint8)


def changed(image: np.ndarray, spec: AugmentSpec, count: int = 32, seed: int = 0, **options: bool) -> np.ndarray:
    """``count`` changed copies of ``image``."""
    draws = draw(spec, count, SIDE, np.random.default_rng(seed))
    return np.asarray(augment(np.stack([image] * count), draws, spec, **options))


def test_black_stays_black() -> None:
    assert not changed(np.zeros((SIDE, SIDE, 3), np.uint8), EVERYTHING).any()
    corners = changed(disc(8), EVERYTHING)
    assert (corners.shape, corners.dtype) == ((32, SIDE, SIDE, 3), np.uint8)
    assert corners.any()
    assert not corners[:, :6].any()
    assert not corners[:, :, -6:].any()


def test_the_views_of_a_cell_change_alike_and_are_mixed_with_the_same_views_of_its_partner() -> None:
    near, far = (np.stack([disc(radius)] * 8) for radius in (22, 12))
    far[::2] = 255 - far[::2]
    draws = draw(EVERYTHING, 8, SIDE, np.random.default_rng(3))
    both = np.asarray(augment(np.stack([near, far], axis=1), draws, EVERYTHING))
    assert (both.shape, both.dtype) == ((8, 2, SIDE, SIDE, 3), np.uint8)
    for view, images in enumerate((near, far)):
        assert np.array_equal(both[:, view], np.asarray(augment(images, draws, EVERYTHING)))


def test_without_amplitudes_nothing_changes() -> None:
    assert (changed(disc(), STILL) == disc()).all()


def test_the_draw_decides() -> None:
    first, again, other = (changed(disc(), EVERYTHING, seed=s) for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_cells_are_moved_as_opencv_moves_them() -> None:
    spec = AugmentSpec(scale=0.2, shift=0.1)
    smooth = cv2.GaussianBlur(disc(), (0, 0), 2)
    draws = draw(spec, 16, SIDE, np.random.default_rng(4))
    ours = np.asarray(augment(np.stack([smooth] * 16), draws, spec))
    for matrix, image in zip(draws["matrix"], ours, strict=True):
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        theirs = cv2.warpAffine(smooth, matrix.astype(np.float64), (SIDE, SIDE), flags=flags)
        assert np.abs(image.astype(int) - theirs).max() <= 2  # OpenCV's weights are 5-bit


def test_scale_changes_the_area_by_the_square_of_its_amplitude() -> None:
    areas = changed(disc(), STILL.model_copy(update={"scale": 0.1}), 200).any(axis=3).sum(axis=(1, 2))
    logs = np.log(areas / disc().any(axis=2).sum()) / 2
    assert logs.std() == pytest.approx(0.1, rel=0.2)
    assert np.abs(logs).max() < 0.28  # draws are cut at 2.5 standard deviations


def test_a_flip_mirrors_half_of_the_cells() -> None:
    image = disc()
    copies = changed(image, STILL.model_copy(update={"flip": True}), 100)
    same = (copies == image).all(axis=(1, 2, 3))
    mirrored = (copies == image[:, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 35 <= mirrored.sum() <= 65


def test_more_stain_darkens_by_the_law_of_beer_and_lambert() -> None:
    """The optical density of every grey level is multiplied by one factor."""
    ramp = np.linspace(30, 250, SIDE).astype(np.uint8)[:, None, None].repeat(SIDE, 1).repeat(3, 2)
    for copy in changed(ramp, STILL.model_copy(update={"stain": 0.3}), 8):
        factor = np.log(copy[:40, 0, 0] / 255) / np.log(ramp[:40, 0, 0] / 255)
        assert factor.std() < 0.02
    assert abs(factor.mean() - 1) > 0.02


def test_contrast_spreads_about_the_cells_mean() -> None:
    spec = STILL.model_copy(update={"contrast": 0.2})
    inside = disc() > 0
    copies = changed(disc(), spec).astype(float)
    means = [copy[inside].mean() for copy in copies]
    assert np.allclose(means, disc()[inside].mean(), atol=1.5)
    spread = np.array([copy[inside].std() for copy in copies]) / disc()[inside].std()
    assert spread.min() < 0.9
    assert spread.max() > 1.1


def test_blur_only_smooths() -> None:
    copies = changed(disc(), STILL.model_copy(update={"blur": 2.0}), 20)
    sharp = [cv2.Laplacian(copy, cv2.CV_64F).var() for copy in copies]
    assert max(sharp) <= 1.001 * cv2.Laplacian(disc(), cv2.CV_64F).var()
    assert min(sharp) < 0.3 * max(sharp)


def test_mixup_blends_each_cell_with_its_partner() -> None:
    spec = STILL.model_copy(update={"mixup": 0.5})
    cells = np.stack([np.full((SIDE, SIDE, 3), 10 * n, np.uint8) for n in range(16)])
    draws = draw(spec, 16, SIDE, np.random.default_rng(2))
    blended = np.asarray(augment(cells, draws, spec))
    share = draws["share"][:, None, None, None]
    assert (share >= 0.5).all()
    assert np.abs(share * cells + (1 - share) * cells[::-1] - blended).max() <= 0.51


OTHER_BACK_END = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from test_augment import EVERYTHING, changed, disc
print(json.dumps(changed(disc(), EVERYTHING, 4).tolist()))
"""


@pytest.mark.slow
def test_jax_changes_cells_as_tensorflow_does() -> None:
    pytest.importorskip("jax", reason="JAX is not installed (pip install -e '.[train]')")
    done = subprocess.run(
        [sys.executable, "-c", OTHER_BACK_END, str(Path(__file__).parent)],
        env=os.environ | {"KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = np.array(json.loads(done.stdout))
    assert np.abs(theirs - changed(disc(), EVERYTHING, 4).astype(int)).max() <= 1  # roundings of a half
