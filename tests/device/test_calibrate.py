"""``bloodedge device calibrate``: the scale, the thresholds, the profile, and the settings that use it."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import bloodedge_device.settings.read as settings_module
from bloodedge.cli import main
from bloodedge.decision.thresholds import Reason
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.finder.frame_gate import check
from bloodedge.simulation import FieldSpec, render_field
from bloodedge_device.calibration.measure import calibrate
from bloodedge_device.calibration.micrometer import period_px
from bloodedge_device.calibration.scale import RED_CELL_MEAN_UM, from_red_cells
from bloodedge_device.camera import Camera
from bloodedge_device.camera.open import open_camera
from bloodedge_device.settings import read_settings
from bloodedge_device.settings.camera_profile import CameraProfile, read_profile, write_profile
from bloodedge_device.settings.sections import CameraSettings


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_info:
        main(["device", "calibrate", *map(str, arguments)])
    return int(exit_info.value.code or 0)


def write_frames(folder: Path, frames: Sequence[NDArray[np.uint8]]) -> Path:
    folder.mkdir(exist_ok=True)
    for index, frame in enumerate(frames):
        cv2.imwrite(str(folder / f"{index:03}.png"), frame)
    return folder


def smear(folder: Path, number: int = 6, um_per_px: float = 0.1) -> Path:
    return write_frames(folder, [render_field(seed, FieldSpec(um_per_px=um_per_px)).bgr for seed in range(number)])


def through_focus(folder: Path, blurs_um: Sequence[float]) -> Path:
    return write_frames(folder, [render_field(7, FieldSpec(defocus_um=blur)).bgr for blur in blurs_um])


def replay(folder: Path) -> Camera:
    return open_camera(CameraSettings(kind="replay", source=str(folder)))


def micrometer(period: float, degrees: float, phase: float = 0) -> NDArray[np.uint8]:
    """Dark lines on a bright field, a tenth of the period wide, every fifth longer, in uneven light with noise."""
    height, width = 480, 640
    y, x = np.mgrid[:height, :width].astype(np.float64)
    angle = np.radians(degrees)
    across = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle) + phase
    along = -(x - width / 2) * np.sin(angle) + (y - height / 2) * np.cos(angle)
    index = np.rint(across / period)
    reach = np.where(index % 10 == 0, 220, np.where(index % 5 == 0, 180, 140))
    off = np.abs(across - index * period)
    line = np.clip(0.05 * period + 0.5 - off, 0, 1) * (np.abs(along) < reach)
    light = 210 * (1 - 0.15 * ((x - 200) / width) ** 2)
    noisy = cv2.GaussianBlur(light * (1 - 0.8 * line), (0, 0), 1.0)
    noisy += np.random.default_rng(int(phase * 10)).normal(0, 2, noisy.shape)
    return np.repeat(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("um_per_px", [0.07, 0.1, 0.14])
def test_red_cells_give_the_scale_within_five_per_cent(tmp_path: Path, um_per_px: float) -> None:
    scale = calibrate(replay(smear(tmp_path / "frames", 7, um_per_px)), 30).profile.scale
    assert scale.um_per_px == pytest.approx(um_per_px, rel=0.05)
    assert scale.source == "red cells"
    assert scale.interval is not None
    assert scale.interval[0] < um_per_px < scale.interval[1]


def test_the_red_cells_own_uncertainty_does_not_shrink_with_more_frames() -> None:
    spread = 0.1 * (1 + 0.05 * np.random.default_rng(0).standard_normal(400))
    few, many = from_red_cells(list(spread[:8])), from_red_cells(list(spread))
    for scale in (few, many):
        assert scale.systematic is not None
        assert scale.systematic == pytest.approx([scale.um_per_px * um / 7.5 for um in RED_CELL_MEAN_UM])
    widths = [scale.statistical[1] - scale.statistical[0] for scale in (few, many) if scale.statistical]
    assert widths[1] < 0.5 * widths[0]


@pytest.mark.parametrize(("period", "degrees"), [(61.3, 0), (61.3, 27), (23.7, 90), (40.4, -61)])
def test_a_micrometers_period_is_found_at_any_angle(period: float, degrees: float) -> None:
    assert period_px(micrometer(period, degrees)) == pytest.approx(period, rel=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_a_smear_or_an_empty_field_has_no_lines(seed: int) -> None:
    assert period_px(render_field(seed).bgr) is None
    noise = np.random.default_rng(seed).normal(200, 2, (480, 640, 3))
    assert period_px(noise.astype(np.uint8)) is None
    assert period_px(np.full((16 * (seed + 1), 16, 3), 200, np.uint8)) is None


def test_a_micrometer_gives_the_scale_and_leaves_the_gate_alone(tmp_path: Path) -> None:
    frames = write_frames(tmp_path / "frames", [micrometer(100 / 1.6, 27, phase) for phase in range(5)])
    profile = calibrate(replay(frames), 30, micrometer_um=10).profile
    assert profile.scale.um_per_px == pytest.approx(0.16, rel=0.01)
    assert profile.scale.frames == 5
    assert profile.scale.systematic is None
    assert profile.gate == type(profile.gate)()


def test_frames_without_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BloodedgeError, match="No frame shows evenly spaced lines"):
        calibrate(replay(smear(tmp_path / "frames", 2)), 30, micrometer_um=10)


def test_frames_without_red_cells_are_refused(tmp_path: Path) -> None:
    empty = write_frames(tmp_path / "frames", [np.full((480, 640, 3), 200, np.uint8)] * 6)
    with pytest.raises(BloodedgeError, match="measured in 0 frames, but 5 are needed"):
        calibrate(replay(empty), 30)


def test_a_sweep_sets_the_threshold_between_focus_and_blur(tmp_path: Path) -> None:
    sweep = through_focus(tmp_path / "sweep", [0.6, 0.45, 0.3, 0.12, 0.3, 0.45, 0.6])
    profile = calibrate(replay(smear(tmp_path / "frames")), 30, sweep=sweep).profile
    assert (profile.focus.source, profile.focus.best_frame) == ("sweep", "003.png")
    assert check(render_field(7, FieldSpec(defocus_um=0.12)).bgr, profile.gate).reason is None
    assert check(render_field(7, FieldSpec(defocus_um=0.45)).bgr, profile.gate).reason is Reason.OUT_OF_FOCUS


@pytest.mark.parametrize(
    ("blurs", "sentence"),
    [([0.6, 0.4, 0.2, 0.15, 0.3], "7 are needed"), ([0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.12], "no peak inside")],
)
def test_a_sweep_that_does_not_cross_the_focus_is_refused(tmp_path: Path, blurs: list[float], sentence: str) -> None:
    with pytest.raises(BloodedgeError, match=sentence):
        calibrate(replay(smear(tmp_path / "frames")), 30, sweep=through_focus(tmp_path / "sweep", blurs))


def test_the_frames_of_the_calibration_pass_its_gate(tmp_path: Path) -> None:
    calibration = calibrate(replay(smear(tmp_path / "frames")), 30)
    assert calibration.profile.focus.source == "frames"
    assert any("--focus-sweep" in warning for warning in calibration.warnings)
    for seed in range(6):
        assert check(render_field(seed).bgr, calibration.profile.gate).reason is None


def test_the_command_writes_a_profile_and_does_not_replace_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "camera.toml"
    assert run("simulated", "--out", target, "--frames", "6") == 0
    profile = read_profile(target)
    assert profile.frames == 6
    assert profile.scale.um_per_px == pytest.approx(0.15, rel=0.05)
    assert "a stage micrometer (--micrometer) measures it" in " ".join(capsys.readouterr().out.split())
    before = target.read_text()
    assert run("simulated", "--out", target, "--frames", "6") == 2
    assert "--force" in capsys.readouterr().err
    assert target.read_text() == before
    assert run("simulated", "--out", target, "--frames", "5", "--um-per-px", "0.2", "--force") == 0
    assert read_profile(target).scale.um_per_px == 0.2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--um-per-px", "0.1", "--micrometer", "10"], "remove one"),
        (["--frames", "3", "--um-per-px", "0.1"], "5 are needed"),
        (["--focus-sweep", "nowhere"], "is not a folder"),
    ],
)
def test_mistakes_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], sentence: str
) -> None:
    assert run("simulated", "--out", tmp_path / "camera.toml", *options) in (1, 2)
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert not (tmp_path / "camera.toml").exists()


@pytest.fixture
def profile(tmp_path: Path) -> CameraProfile:
    """A profile in camera.toml, beside the settings, whose camera has a name that needs quoting."""
    made = calibrate(replay(smear(tmp_path / "frames")), 30, um_per_px=0.123).profile
    made = made.model_copy(update={"camera": 'a "quoted" µ-camera\\1'})
    write_profile(made, tmp_path / "camera.toml")
    return made


def test_a_profile_comes_back_as_it_was_written(tmp_path: Path, profile: CameraProfile) -> None:
    assert read_profile(tmp_path / "camera.toml") == profile


def test_a_board_whose_settings_name_a_profile_can_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "device.toml"
    config.write_text('[camera]\nprofile = "camera.toml"\n')
    monkeypatch.setattr(settings_module, "BOARD_SETTINGS", config)
    frames = smear(tmp_path / "frames")
    assert run(frames, "--out", tmp_path / "camera.toml", "--um-per-px", "0.123") == 0
    assert read_settings(None).camera.um_per_px == 0.123


def test_settings_take_scale_and_gate_from_the_profile(tmp_path: Path, profile: CameraProfile) -> None:
    config = tmp_path / "device.toml"
    config.write_text('[camera]\nprofile = "camera.toml"\n')
    settings = read_settings(config)
    assert settings.camera.um_per_px == 0.123
    assert settings.gate == profile.gate


def test_what_the_settings_give_themselves_goes_before_the_profile(tmp_path: Path, profile: CameraProfile) -> None:
    config = tmp_path / "device.toml"
    config.write_text('[camera]\nprofile = "camera.toml"\num_per_px = 0.2\n[gate]\nfocus = 0.39\n')
    settings = read_settings(config)
    assert settings.camera.um_per_px == 0.2
    assert settings.gate == profile.gate.model_copy(update={"focus": 0.39})
    assert profile.gate.focus != 0.39


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "does not exist; make it"), ("[scale", "is damaged"), ("a = 1", "is damaged")]
)
def test_a_missing_or_damaged_profile_is_one_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "camera.toml").write_text(content)
    config = tmp_path / "device.toml"
    config.write_text('[camera]\nprofile = "camera.toml"\n')
    with pytest.raises(UsageError, match=sentence) as error:
        read_settings(config)
    assert "\n" not in str(error.value)
