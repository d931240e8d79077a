import logging
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.camera import picamera
from bloodedge_device.camera.picamera import PiCamera, default_size, wants_still
from bloodedge_device.camera.supervised import SupervisedCamera
from bloodedge_device.frames import Frame
from bloodedge_device.settings.sections import CameraSettings
from support import picamera2_stand_in


@pytest.fixture(scope="module")
def stand_in() -> Iterator[ModuleType]:
    sys.modules["picamera2"] = picamera2_stand_in
    yield picamera2_stand_in
    del sys.modules["picamera2"]


@pytest.fixture
def sensor(stand_in: ModuleType):
    """The one camera on the board: a small sensor, so that frames are quick to make."""
    sensor = stand_in.Sensor(resolution=(640, 480))
    stand_in.BOARD[:] = [sensor]
    return sensor


def open_with(**settings: object) -> PiCamera:
    return PiCamera(CameraSettings.model_validate({"kind": "picamera", **settings}))


def take(camera: PiCamera, count: int = 1) -> list[Frame]:
    frames = list(islice(camera.frames(threading.Event()), count))
    assert all(isinstance(frame, Frame) for frame in frames)
    return frames


def light(sensor) -> tuple[float, ...]:
    metadata = sensor.opened[-1].expose()
    return (metadata["ExposureTime"], metadata["AnalogueGain"], *metadata["ColourGains"])


@pytest.mark.usefixtures("sensor")
def test_frames_have_the_wanted_size_and_the_colours_of_the_scene_as_blue_green_red() -> None:
    frame = take(open_with(size=(320, 240), um_per_px=0.1))[0]
    assert frame.bgr.shape == (240, 320, 3)
    assert frame.bgr[7, 9].tolist() == [40, 120, 200]
    assert frame.um_per_px == 0.1


@pytest.mark.usefixtures("sensor")
def test_more_frames_come_than_the_camera_has_buffers() -> None:
    assert [f.capture.index for f in take(open_with(), 50)] == list(range(50))


def test_the_camera_is_given_back_when_nobody_wants_more_frames(sensor) -> None:
    frames = open_with().frames(threading.Event())
    next(frames)
    frames.close()
    assert not sensor.opened[-1].is_open


def test_a_stopped_camera_gives_no_frame_and_is_given_back(sensor) -> None:
    stop = threading.Event()
    stop.set()
    assert list(open_with().frames(stop)) == []
    assert not sensor.opened[-1].is_open


def test_a_new_slide_measures_the_light_anew(sensor, stand_in: ModuleType) -> None:
    camera = open_with()
    take(camera)
    sensor.exposure_us = 400.0
    take(camera)
    assert len(sensor.opened) == 2
    assert light(sensor)[0] == pytest.approx(stand_in.AE_TARGET_US, rel=0.02)


@pytest.mark.parametrize("modern", [True, False])
def test_measured_light_is_held_when_the_lamp_changes(sensor, stand_in: ModuleType, modern: bool) -> None:
    sensor.modern = modern
    frames = open_with().frames(threading.Event())
    next(frames)
    held = light(sensor)
    expected = (stand_in.AE_TARGET_US, stand_in.AE_TARGET_GAIN, *stand_in.AWB_TARGET)
    assert held == pytest.approx(expected, rel=0.02)
    sensor.drift = 0.01
    list(islice(frames, 40))
    assert light(sensor) == pytest.approx(held, rel=0.001)


@pytest.mark.parametrize("modern", [True, False])
def test_given_exposure_gain_and_white_balance_are_used_as_they_are(
    sensor, modern: bool, caplog: pytest.LogCaptureFixture
) -> None:
    sensor.modern = modern
    with caplog.at_level(logging.WARNING, "bloodedge.device"):
        take(open_with(exposure_us=5000, gain=1.5, white_balance=(1.9, 2.1)), 3)
    assert light(sensor) == pytest.approx((5000, 1.5, 1.9, 2.1), rel=0.01)
    assert caplog.text == ""


@pytest.mark.parametrize("modern", [True, False])
def test_a_given_exposure_leaves_gain_and_white_balance_to_be_measured(
    sensor, stand_in: ModuleType, modern: bool
) -> None:
    sensor.modern = modern
    take(open_with(exposure_us=5000), 3)
    assert light(sensor) == pytest.approx((5000, stand_in.AE_TARGET_GAIN, *stand_in.AWB_TARGET), rel=0.02)


def test_no_frame_is_handed_out_before_the_light_is_held(sensor) -> None:
    frames = open_with(exposure_us=5000, gain=1.0, white_balance=(2.0, 2.0)).frames(threading.Event())
    next(frames)
    assert sensor.exposure_us == 5000
    assert sensor.gain == 1.0


def test_light_that_never_settles_is_held_all_the_same_and_told(
    sensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(picamera, "SETTLE_S", 0.0)
    sensor.drift = 0.05
    with caplog.at_level(logging.WARNING, "bloodedge.device"):
        frames = open_with().frames(threading.Event())
        next(frames)
    assert "still adapting" in caplog.text
    first_us = sensor.exposure_us
    list(islice(frames, 20))
    assert sensor.exposure_us == first_us


def test_a_camera_that_heeds_no_control_is_told_of(sensor, caplog: pytest.LogCaptureFixture) -> None:
    sensor.deaf = True
    with caplog.at_level(logging.WARNING, "bloodedge.device"):
        take(open_with(exposure_us=100))
    assert "does not hold exposure 100" in caplog.text


def test_a_cable_that_comes_loose_is_told_and_the_camera_closed(sensor) -> None:
    frames = open_with().frames(threading.Event())
    next(frames)
    sensor.frames_left = 0
    with pytest.raises(BloodedgeError, match="stopped giving frames; check its ribbon cable"):
        next(frames)
    assert not sensor.opened[-1].is_open


def test_a_camera_that_another_program_uses_may_be_tried_again(sensor) -> None:
    sensor.busy = True
    with pytest.raises(BloodedgeError, match="close the other program") as error:
        open_with()
    assert not isinstance(error.value, UsageError)


def test_a_board_without_a_camera_may_be_tried_again(stand_in: ModuleType) -> None:
    stand_in.BOARD.clear()
    with pytest.raises(BloodedgeError, match="No camera answers") as error:
        open_with()
    assert not isinstance(error.value, UsageError)


@pytest.mark.usefixtures("sensor")
def test_a_number_that_no_camera_has_is_answered_with_those_there() -> None:
    with pytest.raises(BloodedgeError, match=r"no camera 3.*0 \(imx477\)"):
        open_with(source="3")


def test_without_picamera2_the_cure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(UsageError, match="apt install python3-picamera2"):
        open_with()


@pytest.mark.parametrize(
    "raised",
    [
        "ValueError('numpy.dtype size changed, may indicate binary incompatibility')",
        "AttributeError('_ARRAY_API not found')",
        "ImportError('numpy.core.multiarray failed to import')",
    ],
)
def test_a_picamera2_built_for_another_numpy_can_never_work_and_the_cure_is_told(
    raised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picamera2.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "picamera2", raising=False)
    with pytest.raises(UsageError, match="python3 -m pip install simplejpeg into bloodedge") as error:
        open_with()
    assert "built for another numpy" in str(error.value)


@pytest.mark.parametrize("raised", ["ValueError('no such format')", "AttributeError('Transform')"])
def test_what_else_keeps_picamera2_from_loading_is_not_blamed_on_numpy(
    raised: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picamera2.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "picamera2", raising=False)
    with pytest.raises(UsageError, match=r"picamera2 cannot be loaded \((no such format|Transform)\)") as error:
        open_with()
    assert "simplejpeg" not in str(error.value)


@pytest.mark.timeout(60)
def test_the_daemon_does_not_try_a_picamera2_again_that_cannot_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picamera2.py").write_text("raise ValueError('numpy.dtype size changed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    camera = SupervisedCamera(CameraSettings(kind="picamera"))
    try:
        with pytest.raises(UsageError, match="pip install simplejpeg"):
            camera.wait_until_open(threading.Event())
        assert camera.restarts == 0
    finally:
        camera.close()


@pytest.mark.parametrize("size", [(321, 240), (642, 480)])
def test_a_size_that_the_sensor_lacks_is_refused_and_the_camera_given_back(sensor, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="at most 640x480"):
        open_with(size=size)
    assert not sensor.opened[-1].is_open


def test_a_size_that_libcamera_changes_is_refused_with_the_one_it_offers(sensor) -> None:
    sensor.gives = (304, 240)
    with pytest.raises(UsageError, match="no size 320x240 and offers 304x240"):
        open_with(size=(320, 240))


def test_too_little_memory_is_told_with_its_cure(sensor) -> None:
    sensor.no_memory = True
    with pytest.raises(BloodedgeError, match=r"smaller camera\.size"):
        open_with()
    assert not sensor.opened[-1].is_open


@pytest.mark.usefixtures("sensor")
@pytest.mark.parametrize(("key", "value", "least"), [("exposure_us", 30, "31"), ("gain", 0.5, "1")])
def test_an_exposure_or_gain_out_of_the_sensors_range_is_refused(key: str, value: float, least: str) -> None:
    with pytest.raises(UsageError, match=rf"camera\.{key} is {value:g}, but .* takes {least} to"):
        open_with(**{key: value})


def test_a_monochrome_sensor_is_refused(sensor) -> None:
    sensor.colour = False
    with pytest.raises(UsageError, match="monochrome"):
        open_with()


def test_a_long_exposure_is_not_cut_off_by_the_frame_rate(sensor) -> None:
    open_with(exposure_us=500_000)
    assert sensor.opened[-1].config["controls"]["FrameDurationLimits"][1] >= 500_000


# The full-field binned modes of the boards' cameras, from Raspberry Pi's camera documentation.
@pytest.mark.parametrize(
    ("sensor_px", "binned"),
    [
        ((4056, 3040), (2028, 1520)),
        ((3280, 2464), (1640, 1232)),
        ((4608, 2592), (2304, 1296)),
        ((2592, 1944), (1296, 972)),
    ],
)
def test_the_default_size_is_the_sensors_own_binned_mode(sensor_px: tuple[int, int], binned: tuple[int, int]) -> None:
    assert default_size(sensor_px) == binned


def test_the_global_shutter_sensor_which_cannot_bin_is_read_whole() -> None:
    assert default_size((1456, 1088)) == (1456, 1088)


def test_stills_are_taken_where_video_would_be_poorer(sensor) -> None:
    whole = (4056, 3040)
    assert not wants_still((2028, 1520), whole, None)
    assert wants_still((2028, 1520), whole, 1.0)
    assert wants_still(whole, whole, None)
    open_with(rate=0.5)
    assert sensor.opened[-1].config["use_case"] == "still"
    open_with(rate=5)
    assert sensor.opened[-1].config["use_case"] == "video"


def test_the_cameras_of_a_board_are_listed_by_number(stand_in: ModuleType) -> None:
    stand_in.BOARD[:] = [stand_in.Sensor(model="imx477"), stand_in.Sensor(model="imx219")]
    assert picamera.devices() == ["imx477", "imx219"]
