import threading
from datetime import UTC, datetime
from time import monotonic

import cv2
import numpy as np
import pytest

from bloodedge_device.frames import Capture, FrameResult
from bloodedge_device.snapshot import live
from bloodedge_device.snapshot.live import Live


def result(index: int) -> FrameResult:
    return FrameResult(Capture(index, datetime.now(UTC), 0.0, 0.001), (160, 120))


def picture(height: int = 120, width: int = 160) -> np.ndarray:
    """Smooth, as a smear out of focus is: what JPEG keeps well."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows * 200 / height, columns * 200 / width, np.full((height, width), 90)]).astype(np.uint8)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that Live takes for now; the test moves them."""
    now = [1000.0]
    monkeypatch.setattr(live, "monotonic", lambda: now[0])
    return now


def test_while_nobody_watches_one_frame_a_second_is_kept(clock: list[float]) -> None:
    frames = Live()
    kept = set()
    for index in range(300):  # 10 s at 30 frames a second
        clock[0] = 1000 + index / 30
        frames.put(picture(), result(index))
        latest = frames.latest()
        assert latest is not None
        kept.add(latest.number)
    assert len(kept) == 10
    assert frames.frames == 300


def test_while_somebody_watches_every_frame_is_kept(clock: list[float]) -> None:
    frames = Live()
    frames.put(picture(), result(0))
    for index in range(1, 90):
        clock[0] += 1 / 30
        assert frames.wait(after=index, timeout_s=0) is None
        frames.put(picture(), result(index))
        latest = frames.latest()
        assert latest is not None
        assert (latest.number, latest.result.capture.index) == (index + 1, index)


def test_who_stops_looking_stops_costing(clock: list[float]) -> None:
    frames = Live()
    frames.jpeg(1)
    clock[0] += live.WATCHED_S - 0.1
    frames.put(picture(), result(0))
    clock[0] += 0.2
    frames.put(picture(), result(1))
    latest = frames.latest()
    assert latest is not None
    assert latest.number == 1


def test_a_waiting_page_gets_the_next_frame_at_once() -> None:
    frames = Live()
    frames.put(picture(), result(0))
    threading.Timer(0.1, frames.put, (picture(), result(1))).start()
    start = monotonic()
    newer = frames.wait(after=1, timeout_s=10)
    assert newer is not None
    assert newer.number == 2
    assert monotonic() - start < 2


def test_a_wait_without_a_newer_frame_ends_in_time() -> None:
    frames = Live()
    frames.put(picture(), result(0))
    start = monotonic()
    assert frames.wait(after=1, timeout_s=0.2) is None
    assert 0.2 <= monotonic() - start < 2


def test_the_image_of_a_frame_is_that_frame_as_it_was() -> None:
    frames, bgr = Live(), picture()
    frames.put(bgr, result(0))
    bgr[:] = 0  # the camera's memory is used again
    data = frames.jpeg(1)
    assert data is not None
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert cv2.PSNR(shown, picture()) > 35


def test_a_large_frame_is_shown_shrunk_and_whole() -> None:
    frames = Live()
    frames.put(picture(1536, 2048), result(0))
    data = frames.jpeg(1)
    assert data is not None
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape == (768, 1024, 3)
    assert cv2.PSNR(shown, picture(768, 1024)) > 35


def test_a_frame_that_is_gone_or_could_not_be_read_has_no_image(clock: list[float]) -> None:
    frames = Live()
    for index in range(live.PICTURES + 1):
        clock[0] += 2
        frames.put(picture(), result(index))
    assert frames.jpeg(1) is None
    assert frames.jpeg(2) is not None
    assert frames.jpeg(99) is None
    frames.put(None, result(9))
    latest = frames.latest()
    assert latest is not None
    assert latest.result.capture.index == 9
    assert frames.jpeg(latest.number) is None


def test_before_the_first_frame_there_is_none() -> None:
    assert Live().latest() is None
