"""The frame gate on rendered and real frames, as taken, defocused, dimmed and overexposed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.decision.thresholds import Reason
from bloodedge.finder.frame_gate import GateParameters, check
from bloodedge.imaging import read_image
from bloodedge.simulation import FieldSpec, render_field


def blurred(bgr: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(bgr, (0, 0), sigma), np.uint8)


def moved(bgr: NDArray[np.uint8], px: int, degrees: float) -> NDArray[np.uint8]:
    """The mean of copies shifted along a line: what a moving stage leaves during one exposure."""
    height, width = bgr.shape[:2]
    total = np.zeros(bgr.shape)
    steps = np.linspace(-px / 2, px / 2, 4 * px + 1)
    for step in steps:
        shift = np.array([[1, 0, step * np.cos(np.radians(degrees))], [0, 1, -step * np.sin(np.radians(degrees))]])
        total += cv2.warpAffine(bgr, shift, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.rint(total / len(steps)).astype(np.uint8)


@pytest.mark.parametrize("light", ["warm", "neutral", "blue"])
def test_a_sharp_well_lit_frame_passes(light: str) -> None:
    for seed in range(3):
        assert check(render_field(seed, FieldSpec.model_validate({"light": light})).bgr).reason is None


def test_focus_falls_as_the_stage_moves_away() -> None:
    sweep = [check(render_field(0, FieldSpec(defocus_um=um)).bgr).focus for um in (0.15, 0.25, 0.4, 0.6)]
    assert sweep == sorted(sweep, reverse=True)
    assert check(render_field(0, FieldSpec(defocus_um=0.6)).bgr).reason is Reason.OUT_OF_FOCUS


def test_focus_does_not_depend_on_the_light() -> None:
    bgr = render_field(1).bgr
    assert check((bgr * 0.5).astype(np.uint8)).focus == pytest.approx(check(bgr).focus, rel=0.05)


def test_sensor_noise_does_not_pass_for_sharpness() -> None:
    soft = blurred(render_field(2).bgr, 4)
    noisy = np.clip(soft + np.random.default_rng(0).normal(0, 3, soft.shape), 0, 255).astype(np.uint8)
    assert check(noisy).reason is Reason.OUT_OF_FOCUS


def test_too_little_and_too_much_light_are_told_apart() -> None:
    bgr = render_field(0).bgr
    assert check((bgr // 5).astype(np.uint8)).reason is Reason.TOO_DARK
    assert check(np.clip(bgr.astype(int) + 120, 0, 255).astype(np.uint8)).reason is Reason.TOO_BRIGHT


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135])
def test_a_moving_stage_is_told_from_a_defocused_one(degrees: float) -> None:
    bgr = render_field(3).bgr
    assert check(moved(bgr, 12, degrees)).reason is Reason.MOTION_BLUR
    assert check(blurred(bgr, 4)).reason is Reason.OUT_OF_FOCUS


def test_isotropy_falls_as_the_stage_moves_further() -> None:
    bgr = render_field(4).bgr
    sweep = [check(moved(bgr, px, 45)).isotropy for px in (0, 4, 8, 16)]
    assert sweep == sorted(sweep, reverse=True)


def test_a_turned_frame_has_the_same_isotropy() -> None:
    bgr = moved(render_field(5, FieldSpec(width=480, height=480)).bgr, 9, 0)
    turned = np.ascontiguousarray(np.rot90(bgr))
    assert check(turned).isotropy == pytest.approx(check(bgr).isotropy, abs=0.1)


def test_a_sharp_frame_squeezed_to_another_shape_passes_and_still_shows_motion() -> None:
    for seed in range(3):
        wide = render_field(seed, FieldSpec(width=960, height=640)).bgr
        squeezed = np.asarray(cv2.resize(wide, (640, 640), interpolation=cv2.INTER_AREA), np.uint8)
        turned = np.ascontiguousarray(np.rot90(squeezed))
        for bgr in (squeezed, turned):
            assert check(bgr).reason is None
            assert check(bgr).isotropy > 0.5  # as in still frames of square pixels
            assert all(check(moved(bgr, 12, degrees)).reason is Reason.MOTION_BLUR for degrees in (0, 45, 90))


def test_a_white_balance_that_clips_the_empty_field_is_not_too_bright_and_clipped_cells_are() -> None:
    bgr = render_field(0).bgr.copy()
    field = bgr[:, :, 1] > 0.95 * np.percentile(bgr[:, :, 1], 90)
    assert field.mean() > 0.3
    bgr[:, :, 2][field] = 255
    assert check(bgr).reason is None
    bgr[:, :, 2][~field] = 255
    assert check(bgr).reason is Reason.TOO_BRIGHT


def test_a_frame_far_out_of_focus_shows_no_detail_of_rounding_or_of_its_borders(real_data: Path) -> None:
    for path in sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[::12]:
        for sigma in (12, 18, 30):
            assert check(blurred(read_image(path), sigma)).reason is not None, (path.name, sigma)


def test_sharp_frames_of_every_microscope_pass(real_data: Path) -> None:
    for pattern in ("leukaemia_fields/*.webp", "pbc/images/*_1*.webp", "wbc_masks/cellavision/*.webp"):
        for path in sorted(real_data.glob(pattern))[:24]:
            assert check(read_image(path)).reason is None, path.name


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("size", [(1, 1), (16, 16), (480, 640), (16, 2000)])
def test_a_frame_of_one_colour_never_passes_and_never_fails(size: tuple[int, int], level: int) -> None:
    result = check(np.full((*size, 3), level, np.uint8))
    assert result.reason is not None
    assert np.isfinite([result.focus, result.brightness, result.saturated, result.isotropy]).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(2, 2), (16, 16), (13, 640)])
def test_a_frame_too_small_to_judge_gives_finite_figures(size: tuple[int, int]) -> None:
    result = check(np.random.default_rng(0).integers(100, 200, (*size, 3)).astype(np.uint8))
    assert np.isfinite([result.focus, result.isotropy]).all()


def test_thresholds_can_be_set() -> None:
    bgr = render_field(0).bgr
    assert check(bgr, GateParameters(focus=1.5)).reason is Reason.OUT_OF_FOCUS
    assert check(blurred(bgr, 4), GateParameters(focus=0, motion=0)).reason is None
    assert check(bgr, GateParameters(motion=1.5)).reason is Reason.MOTION_BLUR


def test_real_frames_pass_and_the_same_blurred_or_dimmed_do_not(real_data: Path) -> None:
    frames = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[::8]
    frames += sorted((real_data / "chula" / "Dataset").glob("*.jpg"))[::2]
    for path in frames:
        bgr = read_image(path)
        assert check(bgr).reason is None, path.name
        assert check(blurred(bgr, 4)).reason is Reason.OUT_OF_FOCUS, path.name
        assert check((bgr // 5).astype(np.uint8)).reason is Reason.TOO_DARK, path.name


@pytest.mark.slow
def test_most_real_frames_that_moved_are_refused(real_data: Path) -> None:
    frames = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[::24]
    frames += sorted((real_data / "chula" / "Dataset").glob("*.jpg"))[::8]
    for px, least in ((6, 0.7), (12, 1.0)):
        refused = [check(moved(read_image(p), px, a)).reason is not None for p in frames for a in (0, 45, 90, 135)]
        assert np.mean(refused) >= least, px
