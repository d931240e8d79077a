"""The frame gate on rendered and real frames, as taken, defocused, dimmed and overexposed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from bloodedge.decision import Reason
from bloodedge.imaging import read_image
from bloodedge.simulation import FieldSpec, render_field
from bloodedge_device.gate import GateParameters, check


def blurred(bgr: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(bgr, (0, 0), sigma), np.uint8)


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


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("size", [(16, 16), (480, 640), (16, 2000)])
def test_a_frame_of_one_colour_never_passes_and_never_fails(size: tuple[int, int], level: int) -> None:
    result = check(np.full((*size, 3), level, np.uint8))
    assert result.reason is not None
    assert np.isfinite([result.focus, result.brightness, result.saturated]).all()


def test_thresholds_can_be_set() -> None:
    bgr = render_field(0).bgr
    assert check(bgr, GateParameters(focus=1.5)).reason is Reason.OUT_OF_FOCUS
    assert check(blurred(bgr, 4), GateParameters(focus=0)).reason is None


def test_real_frames_pass_and_the_same_blurred_or_dimmed_do_not(real_data: Path) -> None:
    frames = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[::8]
    frames += sorted((real_data / "chula" / "Dataset").glob("*.jpg"))[::2]
    for path in frames:
        bgr = read_image(path)
        assert check(bgr).reason is None, path.name
        assert check(blurred(bgr, 4)).reason is Reason.OUT_OF_FOCUS, path.name
        assert check((bgr // 5).astype(np.uint8)).reason is Reason.TOO_DARK, path.name
