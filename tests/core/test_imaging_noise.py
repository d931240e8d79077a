"""Denoising: noise goes, edges stay, and what lies round the cell never gets into it."""

import hashlib

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.imaging import CNMC_UM_PER_PX, Cell, ImagingSpec, network_input
from bloodedge.imaging.denoise import denoise, wavelet
from bloodedge.simulation import render_cell

Pixels = NDArray[np.uint8]
KINDS = ("gaussian", "median", "wavelet")


def disc(side: int = 96) -> Pixels:
    """255 inside the circle that fills the frame, by integer arithmetic."""
    y, x = np.mgrid[:side, :side]
    return np.where((2 * x + 1 - side) ** 2 + (2 * y + 1 - side) ** 2 <= side**2, 255, 0).astype(np.uint8)


def pattern(side: int = 96) -> Pixels:
    """A rough picture made of integers alone, uint8 (side, side, 3)."""
    y, x = np.mgrid[:side, :side]
    return np.stack([60 + (x * 7 + y * x * 13 + y * y) % (19 + k) + x // 2 for k in range(3)], -1).astype(np.uint8)


def windows(picture: Pixels) -> NDArray[np.int64]:
    """The nine pixels of every 3x3 window inside the picture, (h - 2, w - 2, 9, 3)."""
    return (
        np.lib.stride_tricks.sliding_window_view(picture, (3, 3), (0, 1))
        .reshape(picture.shape[0] - 2, picture.shape[1] - 2, 3, 9)
        .swapaxes(2, 3)
        .astype(np.int64)
    )


def test_gaussian_and_median_are_what_integer_arithmetic_gives() -> None:
    picture, whole = pattern(), np.full((96, 96), 255, np.uint8)
    weights = np.array([1, 2, 1, 2, 4, 2, 1, 2, 1])[:, None]
    expected = (windows(picture) * weights).sum(axis=2) + 8
    assert np.array_equal(denoise(picture, whole, "gaussian")[1:-1, 1:-1], expected // 16)
    assert np.array_equal(denoise(picture, whole, "median")[1:-1, 1:-1], np.median(windows(picture), axis=2))


def spun(plane: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """Haar shrinkage by its textbook form: the orthonormal decimated transform of each of 16 shifts, then their mean.

    The thresholds are BayesShrink's over the coefficients of all shifts.
    """
    haar = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2

    def forward(p: NDArray[np.float64]) -> NDArray[np.float64]:
        corners = np.stack([p[::2, ::2], p[::2, 1::2], p[1::2, ::2], p[1::2, 1::2]])
        return np.tensordot(haar, corners, 1)

    def backward(bands: NDArray[np.float64]) -> NDArray[np.float64]:
        corners = np.tensordot(haar.T, bands, 1)
        p = np.empty((2 * bands.shape[1], 2 * bands.shape[2]))
        p[::2, ::2], p[::2, 1::2], p[1::2, ::2], p[1::2, 1::2] = corners
        return p

    shifts = [(y, x) for y in range(4) for x in range(4)]
    first = {shift: forward(np.roll(plane, shift, (0, 1))) for shift in shifts}
    second = {shift: forward(first[shift][0]) for shift in shifts}

    def shrink(levels: dict[tuple[int, int], NDArray[np.float64]]) -> None:
        for band in (1, 2, 3):
            energy = np.mean([level[band] ** 2 for level in levels.values()])
            threshold = noise**2 / np.sqrt(energy - noise**2) if energy > noise**2 else np.inf
            for level in levels.values():
                level[band] = np.sign(level[band]) * np.maximum(np.abs(level[band]) - threshold, 0)

    shrink(first)
    shrink(second)
    total = np.zeros_like(plane)
    for shift in shifts:
        first[shift][0] = backward(second[shift])
        total += np.roll(backward(first[shift]), (-shift[0], -shift[1]), (0, 1))
    return total / len(shifts)


def test_wavelet_shrinkage_is_that_of_a_haar_transform_averaged_over_all_shifts() -> None:
    y, x = np.mgrid[:64, :64]
    clean = 120 + 60 * np.sin(2 * np.pi * x / 64) + 40 * ((y // 32) % 2)
    noisy = np.clip(np.rint(clean + np.random.default_rng(0).normal(0, 8, clean.shape)), 0, 255)
    right = noisy - np.roll(noisy, -1, 1)
    noise = float(np.median(np.abs(right - np.roll(right, -1, 0)) / 2)) / 0.6745
    assert noise == pytest.approx(8, rel=0.05)
    # The textbook form takes the picture as periodic, so here it repeats; the mask holds one period.
    tiles, mask = np.tile(noisy, (2, 2)).astype(np.uint8), np.zeros((128, 128), np.uint8)
    mask[32:96, 32:96] = 255
    ours = np.roll(wavelet(np.dstack([tiles] * 3), mask)[32:96, 32:96, 0], (32, 32), (0, 1))
    difference = np.abs(ours - spun(noisy, noise))
    # Of a byte's rounding 1/2; of whole-numbered thresholds 3 bands * (1/2) / 4 at the finer scale, / 16 at the other.
    assert difference.max() <= 0.5 + 1.5 / 4 + 1.5 / 16


def test_a_picture_without_noise_comes_back_untouched() -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    picture[:, 21:] = 200  # odd column: an edge inside the blocks of every scale
    picture[40:, 21:] = 33
    mask = disc(64)
    assert np.array_equal(wavelet(picture, mask), picture)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_goes(kind: str) -> None:
    cell = render_cell("blast", 3)
    noise = np.random.default_rng(1).normal(0, 6, cell.bgr.shape)
    noisy = np.clip(np.rint(cell.bgr + noise), 0, 255).astype(np.uint8)
    inside = cell.mask > 0

    def error(picture: Pixels) -> float:
        return float(((picture.astype(float) - cell.bgr)[inside] ** 2).mean())

    assert error(denoise(noisy, cell.mask, kind)) < error(noisy) / 2


def test_wavelets_keep_an_edge_that_a_gaussian_blurs() -> None:
    clean = np.full((64, 64, 3), 90, np.uint8)
    clean[:, 32:] = 200
    noisy = np.clip(np.rint(clean + np.random.default_rng(2).normal(0, 5, clean.shape)), 0, 255).astype(np.uint8)
    whole = np.full((64, 64), 255, np.uint8)
    steps = {k: np.diff(denoise(noisy, whole, k)[:, 31:33].astype(float), axis=1).mean() for k in KINDS}
    assert steps["wavelet"] == pytest.approx(110, abs=8)
    assert steps["gaussian"] == pytest.approx(55, abs=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", [1, 2, 3, 5, 96])
def test_what_lies_round_the_cell_never_gets_into_it(kind: str, side: int) -> None:
    mask = disc(side)
    flat = np.full((side, side, 3), 120, np.uint8)
    rough = pattern(side)
    results = []
    for around in (0, 225):
        flat[mask == 0] = rough[mask == 0] = around
        assert (denoise(flat, mask, kind)[mask > 0] == 120).all()
        results.append(denoise(rough, mask, kind)[mask > 0])
    assert np.array_equal(*results)


@pytest.mark.parametrize("kind", KINDS)
def test_the_background_stays_black_and_the_cell_its_size(kind: str) -> None:
    bgr, mask = np.full((120, 130, 3), 225, np.uint8), np.zeros((120, 130), np.uint8)
    bgr[12:108, 20:116], mask[12:108, 20:116] = pattern(), disc()
    cell = Cell(bgr, mask, CNMC_UM_PER_PX)
    image = network_input(cell, ImagingSpec(size_px=96, um_per_px=CNMC_UM_PER_PX, denoise=kind))
    assert np.array_equal(image.any(axis=2), disc() > 0)
    plain = network_input(cell, ImagingSpec(size_px=96, um_per_px=CNMC_UM_PER_PX))
    assert not np.array_equal(image, plain)


def test_the_same_cell_gives_the_same_bytes_on_every_machine() -> None:
    """Recorded on x86-64 with AVX-512; gaussian and median follow from integer arithmetic (above)."""
    cv2.setNumThreads(1)
    once = wavelet(pattern(), disc())
    cv2.setNumThreads(-1)
    assert np.array_equal(once, wavelet(pattern(), disc()))
    assert (
        hashlib.sha256(once.tobytes()).hexdigest() == "7d70470a03aab02e3eef7b4f79d518590ce093090a560070e222334f25876876"
    )
