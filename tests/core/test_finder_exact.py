"""The finder's filters are right, and whole numbers throughout."""

import cv2
import numpy as np

from bloodedge.finder.exact import blurred, shrunk, squared_depths

RNG = np.random.default_rng(0)


def test_a_shrunken_image_holds_the_means_of_whole_squares():
    image = RNG.integers(0, 256, (41, 50, 3)).astype(np.uint8)
    means = image[:39, :48].reshape(13, 3, 16, 3, 3).mean(axis=(1, 3))
    assert shrunk(image, 3).shape == (13, 16, 3)
    assert np.abs(shrunk(image, 3) - means).max() <= 0.5
    assert shrunk(np.full((1, 50), 7, np.uint16), 4).shape == (1, 12)


def test_a_blur_is_a_gaussian_to_little_more_than_one_step_with_negative_values_too():
    levels = RNG.integers(-16000, 16000, (60, 70))
    for sigma in (0.6, 1.0, 2.7):
        gaussian = cv2.GaussianBlur(levels.astype(np.float64), (0, 0), sigma)
        assert np.abs(blurred(levels, sigma) - gaussian).max() < 1.5


def test_depths_are_the_squares_that_pythagoras_gives():
    mask = (RNG.random((30, 34)) < 0.97).astype(np.uint8)
    holes = np.argwhere(np.pad(mask, 1) == 0) - 1
    pixels = np.argwhere(np.ones_like(mask))
    nearest = np.square(pixels[:, np.newaxis] - holes[np.newaxis]).sum(axis=2).min(axis=1)
    assert np.array_equal(squared_depths(mask).ravel(), nearest)
