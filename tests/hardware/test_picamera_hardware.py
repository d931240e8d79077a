import os
import threading
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from bloodedge.errors import BloodedgeError
from bloodedge_device.camera import picamera
from bloodedge_device.camera.picamera import PiCamera
from bloodedge_device.frames import Frame
from bloodedge_device.settings.sections import CameraSettings


@pytest.fixture(scope="module")
def source() -> str:
    """The camera under test: BLOODEDGE_PICAMERA is its number, else 0."""
    pytest.importorskip("picamera2", reason="needs picamera2 (apt install python3-picamera2)")
    number = os.environ.get("BLOODEDGE_PICAMERA", "0")
    if int(number) >= len(picamera.devices()):
        pytest.skip(f"no camera {number} on the ribbon cable")
    return number


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, ...]]:
    """Exposure, gain and colour gains of every frame, as libcamera reports them."""
    seen: list[tuple[float, ...]] = []
    real = PiCamera._request

    def remembered(self: PiCamera, camera: object) -> object:
        request = real(self, camera)
        seen.append(picamera._light_of(request.get_metadata()))
        return request

    monkeypatch.setattr(PiCamera, "_request", remembered)
    return seen


def take(count: int, **settings: object) -> list[Frame]:
    camera = PiCamera(CameraSettings.model_validate({"kind": "picamera", **settings}))
    frames = list(islice(camera.frames(threading.Event()), count))
    assert all(isinstance(frame, Frame) for frame in frames)
    return frames


def test_frames_have_the_default_size_and_differ_by_their_noise(source: str) -> None:
    first, second = take(2, source=source)
    assert min(first.bgr.shape[:2]) >= 480
    assert first.bgr.shape[2] == 3
    assert not np.array_equal(first.bgr, second.bgr)


def test_frames_have_the_wanted_size(source: str) -> None:
    assert take(1, source=source, size=(1280, 960))[0].bgr.shape == (960, 1280, 3)


def test_stills_are_taken_at_a_low_rate(source: str) -> None:
    assert len(take(2, source=source, rate=1.0)) == 2


def test_light_stays_as_measured(source: str, metadata: list[tuple[float, ...]]) -> None:
    take(60, source=source)
    exposures = [light[0] for light in metadata[-50:]]
    gains = np.array([light[1:] for light in metadata[-50:]])
    assert max(exposures) - min(exposures) <= 0.01 * max(exposures)
    assert np.ptp(gains, axis=0) == pytest.approx(np.zeros(3), abs=0.02)


def test_given_light_is_used_as_it_is(source: str, metadata: list[tuple[float, ...]]) -> None:
    take(5, source=source, exposure_us=8000, gain=2.0, white_balance=(2.0, 1.5))
    assert metadata[-1] == pytest.approx((8000, 2.0, 2.0, 1.5), rel=0.02)


def test_the_camera_opens_again_after_it_was_closed(source: str) -> None:
    for _ in range(3):
        assert len(take(1, source=source)) == 1


def test_a_camera_in_use_is_told_to_the_next(source: str, second_program: Callable[[str, str], str]) -> None:
    frames = PiCamera(CameraSettings(kind="picamera", source=source)).frames(threading.Event())
    next(frames)
    complaint = second_program("picamera", source)
    frames.close()
    assert "close the other program" in complaint


@pytest.mark.usefixtures("source")
def test_a_camera_that_is_not_connected_is_told() -> None:
    with pytest.raises(BloodedgeError, match="no camera 9"):
        take(1, source="9")
