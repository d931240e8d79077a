import os
import threading
from collections.abc import Callable
from itertools import islice

import cv2
import numpy as np
import pytest

from bloodedge_device.camera import v4l2
from bloodedge_device.camera.v4l2 import V4l2Camera
from bloodedge_device.frames import Frame
from bloodedge_device.settings.sections import CameraSettings


@pytest.fixture(scope="module")
def source() -> str:
    """The camera under test: BLOODEDGE_V4L2 names it, else the first one that is plugged in."""
    found = v4l2.devices()
    named = os.environ.get("BLOODEDGE_V4L2")
    if not named and not found:
        pytest.skip("no USB camera is plugged in")
    return named or str(found[0].path)


def take(camera: V4l2Camera, count: int) -> list[Frame]:
    frames = list(islice(camera.frames(threading.Event()), count))
    assert all(isinstance(frame, Frame) for frame in frames)
    return frames


def test_frames_are_in_colour_have_the_wanted_size_and_differ_by_their_noise(source: str) -> None:
    first, second = take(V4l2Camera(CameraSettings(kind="v4l2", source=source, size=(640, 480))), 2)
    assert first.bgr.shape == (480, 640, 3)
    assert not np.array_equal(first.bgr, second.bgr)


def test_the_camera_opens_again_after_it_was_closed(source: str) -> None:
    for _ in range(3):
        assert len(take(V4l2Camera(CameraSettings(kind="v4l2", source=source)), 1)) == 1


def test_exposure_and_white_balance_stay_as_measured(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = cv2.VideoCapture

    def remembered(*arguments: object) -> cv2.VideoCapture:
        opened.append(real(*arguments))
        return opened[-1]

    monkeypatch.setattr(cv2, "VideoCapture", remembered)
    frames = V4l2Camera(CameraSettings(kind="v4l2", source=source)).frames(threading.Event())
    controls = (cv2.CAP_PROP_EXPOSURE, cv2.CAP_PROP_GAIN, cv2.CAP_PROP_WB_TEMPERATURE, cv2.CAP_PROP_AUTO_EXPOSURE)
    seen = {tuple(opened[0].get(control) for control in controls) for _ in islice(frames, 60)}
    frames.close()
    assert len(seen) == 1


def test_a_camera_in_use_is_told_to_the_next(source: str, second_program: Callable[[str, str], str]) -> None:
    frames = V4l2Camera(CameraSettings(kind="v4l2", source=source)).frames(threading.Event())
    next(frames)
    complaint = second_program("v4l2", source)
    frames.close()
    assert "close the other program" in complaint
