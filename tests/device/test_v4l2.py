"""The driver here answers as OpenCV 5's cap_v4l.cpp over uvcvideo does: no machine that runs tests has a camera."""

import logging
import threading
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.camera import v4l2
from bloodedge_device.camera.v4l2 import V4l2Camera
from bloodedge_device.frames import BadFrame, Frame
from bloodedge_device.settings.sections import CameraSettings

SIZES = ((640, 480), (320, 240), (160, 120))
MENU = {cv2.CAP_PROP_AUTO_EXPOSURE: {1, 3}, cv2.CAP_PROP_AUTO_WB: {0, 1}}


@dataclass
class Microscope:
    """A USB camera as its driver sees it."""

    formats: tuple[str, ...] = ("YUYV", "MJPG")
    controls: dict[int, float] = field(
        default_factory=lambda: {
            cv2.CAP_PROP_AUTO_EXPOSURE: 3,
            cv2.CAP_PROP_EXPOSURE: 156,
            cv2.CAP_PROP_GAIN: 10,
            cv2.CAP_PROP_AUTO_WB: 1,
            cv2.CAP_PROP_WB_TEMPERATURE: 4600,
        }
    )
    most_gain: float = 63
    plugged: bool = True
    busy: bool = False
    jpeg: bytes | None = None
    shape: tuple[int, ...] = (3,)
    failures: int = 0
    grabbed: int = 0
    opened: list["Driver"] = field(default_factory=list)


class Driver:
    """cv2.VideoCapture's V4L2 backend: a format or size that the camera lacks is replaced, and set() is true."""

    camera: Microscope

    def __init__(self, path: str, backend: int) -> None:
        assert backend == cv2.CAP_V4L2
        self.path, self.released = path, False
        self.fourcc, self.size, self._asked = self.camera.formats[0], SIZES[0], {}
        self.convert, self.buffers = True, 4
        self.camera.opened.append(self)

    def isOpened(self) -> bool:  # noqa: N802
        return not self.camera.busy

    def set(self, control: int, value: float) -> bool:
        if control == cv2.CAP_PROP_FOURCC:
            asked = int(value).to_bytes(4, "little").decode()
            self.fourcc = asked if asked in self.camera.formats else self.camera.formats[0]
        elif control in {cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT}:
            self._ask(control, int(value))
        elif control == cv2.CAP_PROP_CONVERT_RGB:
            self.convert = bool(value)
        elif control == cv2.CAP_PROP_BUFFERSIZE:
            self.buffers = max(2, int(value))
        else:
            return self._control(control, value)
        return True

    def _ask(self, control: int, value: int) -> None:
        self._asked[control] = value
        if len(self._asked) == 2:
            width, height = self._asked.pop(cv2.CAP_PROP_FRAME_WIDTH), self._asked.pop(cv2.CAP_PROP_FRAME_HEIGHT)
            # uvcvideo: the size that shares most of the wanted one's area
            self.size = min(
                SIZES, key=lambda s: s[0] * s[1] + width * height - 2 * min(s[0], width) * min(s[1], height)
            )

    def _control(self, control: int, value: float) -> bool:
        has = self.camera.controls
        if control not in has or value not in MENU.get(control, {value}):
            return False
        if control == cv2.CAP_PROP_EXPOSURE and has.get(cv2.CAP_PROP_AUTO_EXPOSURE, 1) != 1:
            return False  # EACCES while automatic
        if control == cv2.CAP_PROP_WB_TEMPERATURE and has.get(cv2.CAP_PROP_AUTO_WB):
            return False
        has[control] = min(value, self.camera.most_gain) if control == cv2.CAP_PROP_GAIN else value
        return True

    def get(self, control: int) -> float:
        if control == cv2.CAP_PROP_FOURCC:
            return int.from_bytes(self.fourcc.ljust(4).encode(), "little")
        known = {cv2.CAP_PROP_FRAME_WIDTH: self.size[0], cv2.CAP_PROP_FRAME_HEIGHT: self.size[1]}
        return float((known | self.camera.controls).get(control, -1.0))

    def grab(self) -> bool:
        camera = self.camera
        if not camera.plugged or self.released:
            return False
        if camera.failures:
            camera.failures -= 1
            return False
        camera.grabbed += 1
        if camera.controls.get(cv2.CAP_PROP_AUTO_EXPOSURE) == 3:
            camera.controls[cv2.CAP_PROP_EXPOSURE] = 200 + camera.grabbed % 7
        if camera.controls.get(cv2.CAP_PROP_AUTO_WB) == 1:
            camera.controls[cv2.CAP_PROP_WB_TEMPERATURE] = 5000 + camera.grabbed % 7
        return True

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        image = np.full((self.size[1], self.size[0], *self.camera.shape), 90, np.uint8)
        if self.fourcc != "MJPG":
            return True, image
        assert not self.convert, "OpenCV would hide that a JPEG is damaged"
        data = self.camera.jpeg if self.camera.jpeg is not None else cv2.imencode(".jpg", image)[1].tobytes()
        return True, np.frombuffer(data, np.uint8)[None]

    def release(self) -> None:
        self.released = True


@pytest.fixture
def by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty /dev/v4l/by-id."""
    folder = tmp_path / "dev/v4l/by-id"
    folder.mkdir(parents=True)
    monkeypatch.setattr(v4l2, "BY_ID", folder)
    monkeypatch.setattr(v4l2, "SYSFS", tmp_path / "sys")
    monkeypatch.setattr(v4l2, "SETTLE_S", 0.0)
    monkeypatch.setattr(v4l2, "RETRY_S", 0.001)
    monkeypatch.setenv("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "10")
    return folder


def plug_in(by_id: Path, number: int, name: str) -> Path:
    """What udev and the kernel make of a camera: its image node, its metadata node, and its name."""
    for offset in (0, 1):
        node = by_id.parents[1] / f"video{number + offset}"
        node.touch()
        (by_id / f"usb-{name.replace(' ', '_')}_SN0001-video-index{offset}").symlink_to(node)
        sysfs = by_id.parents[2] / "sys" / node.name
        sysfs.mkdir(parents=True)
        (sysfs / "name").write_text(f"{name}\n")
    return by_id.parents[1] / f"video{number}"


@pytest.fixture
def microscope(by_id: Path, monkeypatch: pytest.MonkeyPatch) -> Microscope:
    camera = Microscope()
    plug_in(by_id, 0, "ToupCam UCMOS")
    monkeypatch.setattr(Driver, "camera", camera, raising=False)
    monkeypatch.setattr(cv2, "VideoCapture", Driver)
    return camera


def open_with(**settings: object) -> V4l2Camera:
    return V4l2Camera(CameraSettings.model_validate({"kind": "v4l2", **settings}))


def take(camera: V4l2Camera, count: int = 1) -> list[Frame | BadFrame]:
    return list(islice(camera.frames(threading.Event()), count))


@pytest.mark.parametrize("pixel_format", ["YUYV", "MJPG"])
def test_frames_have_the_wanted_size_and_colours(microscope: Microscope, pixel_format: str) -> None:
    frames = take(open_with(size=(320, 240), pixel_format=pixel_format, um_per_px=0.1), 5)
    assert [f.capture.index for f in frames] == [0, 1, 2, 3, 4]
    assert isinstance(frames[0], Frame)
    assert frames[0].bgr.shape == (240, 320, 3)
    assert frames[0].bgr.mean() == pytest.approx(90, abs=2)
    assert frames[0].um_per_px == 0.1
    assert microscope.opened[0].buffers == 2


@pytest.mark.usefixtures("microscope")
def test_without_a_size_the_whole_sensor_is_seen() -> None:
    frame = take(open_with())[0]
    assert isinstance(frame, Frame)
    assert frame.bgr.shape == (480, 640, 3)


def test_a_size_that_the_camera_lacks_is_refused_with_the_one_it_offers(microscope: Microscope) -> None:
    with pytest.raises(UsageError, match="no size 330x250 and offers 320x240"):
        open_with(size=(330, 250))
    assert microscope.opened[0].released


@pytest.mark.usefixtures("microscope")
def test_a_format_that_the_camera_lacks_is_refused_with_the_one_it_offers() -> None:
    with pytest.raises(UsageError, match="no pixel format NV12 and offers YUYV"):
        open_with(pixel_format="NV12")


def test_a_camera_that_sees_no_colours_is_refused(microscope: Microscope) -> None:
    microscope.formats = ("Y16", "GREY")
    with pytest.raises(UsageError, match=r"grey images \(Y16\)"):
        open_with()


def test_measured_light_is_held_from_the_first_frame_on(microscope: Microscope) -> None:
    frames = open_with().frames(threading.Event())
    next(frames)
    held = dict(microscope.controls)
    assert held[cv2.CAP_PROP_AUTO_EXPOSURE] == 1
    assert held[cv2.CAP_PROP_AUTO_WB] == 0
    assert 200 <= held[cv2.CAP_PROP_EXPOSURE] <= 206
    assert 5000 <= held[cv2.CAP_PROP_WB_TEMPERATURE] <= 5006
    list(islice(frames, 20))
    assert microscope.controls == held


def test_a_new_slide_measures_the_light_anew(microscope: Microscope) -> None:
    camera = open_with()
    take(camera)
    microscope.controls |= {cv2.CAP_PROP_EXPOSURE: 1, cv2.CAP_PROP_WB_TEMPERATURE: 2800}
    take(camera)
    assert microscope.controls[cv2.CAP_PROP_EXPOSURE] >= 200
    assert microscope.controls[cv2.CAP_PROP_WB_TEMPERATURE] >= 5000
    assert [driver.released for driver in microscope.opened] == [True, True]


def test_given_exposure_and_gain_are_used_as_they_are(microscope: Microscope) -> None:
    take(open_with(exposure_us=20_000, gain=31), 3)
    assert microscope.controls[cv2.CAP_PROP_EXPOSURE] == 200  # V4L2 counts in 100 µs
    assert microscope.controls[cv2.CAP_PROP_GAIN] == 31


def test_given_red_and_blue_balance_are_used_as_they_are(microscope: Microscope) -> None:
    microscope.controls |= {cv2.CAP_PROP_WHITE_BALANCE_RED_V: 0, cv2.CAP_PROP_WHITE_BALANCE_BLUE_U: 0}
    take(open_with(white_balance=(140, 118)), 3)
    assert microscope.controls[cv2.CAP_PROP_AUTO_WB] == 0
    assert microscope.controls[cv2.CAP_PROP_WHITE_BALANCE_RED_V] == 140
    assert microscope.controls[cv2.CAP_PROP_WHITE_BALANCE_BLUE_U] == 118


def test_what_the_driver_does_not_take_is_told(microscope: Microscope, caplog: pytest.LogCaptureFixture) -> None:
    del microscope.controls[cv2.CAP_PROP_AUTO_WB]
    with caplog.at_level(logging.WARNING, "bloodedge.device"):
        take(open_with(gain=100))
    assert "ToupCam UCMOS did not take gain = 100 and stays at 63" in caplog.text
    assert "did not take fixed white balance = 0 and has no such control" in caplog.text


def test_a_camera_with_every_control_draws_no_complaint(
    microscope: Microscope, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "bloodedge.device"):
        take(open_with(exposure_us=20_000))
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "640x480 pixels (YUYV) with exposure 20.0 ms and gain 10" in caplog.text
    assert microscope.opened[0].released


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "gap"])
def test_a_damaged_jpeg_is_a_bad_frame_and_the_next_one_is_read(microscope: Microscope, damage: str) -> None:
    rng = np.random.default_rng(1)
    whole = cv2.imencode(".jpg", rng.integers(0, 255, (480, 640, 3), np.uint8))[1].tobytes()
    damages = {"truncated": whole[: len(whole) // 2], "empty": b"", "noise": rng.bytes(5000)}
    damages["gap"] = whole[: len(whole) // 3] + whole[len(whole) // 2 :]  # as when USB packets are lost
    microscope.jpeg = damages[damage]
    frames = open_with(pixel_format="MJPG").frames(threading.Event())
    bad = next(frames)
    assert isinstance(bad, BadFrame)
    assert bad.problem == "frame 0 of ToupCam UCMOS is damaged."
    microscope.jpeg = whole + bytes(1000)  # some cameras pad with zeros
    good = next(frames)
    assert isinstance(good, Frame)
    assert good.capture.index == 1


def test_a_grey_frame_is_a_bad_frame(microscope: Microscope) -> None:
    microscope.shape = ()
    frame = take(open_with())[0]
    assert isinstance(frame, BadFrame)
    assert "grey" in frame.problem


def test_an_unplugged_camera_is_told_at_once_and_closed(microscope: Microscope, by_id: Path) -> None:
    frames = open_with(timeout_s=600).frames(threading.Event())
    next(frames)
    microscope.plugged = False
    next(by_id.glob("*index0")).unlink()
    with pytest.raises(BloodedgeError, match="stopped giving frames; check its cable"):
        next(frames)
    assert microscope.opened[0].released


def test_a_silent_camera_says_so_before_the_time_that_it_is_given(microscope: Microscope) -> None:
    frames = open_with(timeout_s=0.5).frames(threading.Event())
    next(frames)
    microscope.plugged = False
    with pytest.raises(BloodedgeError, match="stopped giving frames"):
        next(frames)


def test_a_few_failed_reads_are_not_the_end(microscope: Microscope) -> None:
    frames = open_with().frames(threading.Event())
    next(frames)
    microscope.failures = 3
    assert next(frames).capture.index == 1


def test_a_stopped_camera_gives_no_frame_and_is_closed(microscope: Microscope) -> None:
    stop = threading.Event()
    stop.set()
    assert list(open_with().frames(stop)) == []
    assert microscope.opened[0].released


def test_a_low_rate_gives_new_frames_and_not_those_that_waited_in_the_driver(microscope: Microscope) -> None:
    frames = open_with(rate=4).frames(threading.Event())
    next(frames)
    before = microscope.grabbed
    second = next(frames)
    assert microscope.grabbed - before > 2  # the driver's two buffers were emptied first
    assert second.capture.took_s < 1 / 4  # the wait does not count


def test_a_part_of_the_name_chooses_among_several_cameras(microscope: Microscope, by_id: Path) -> None:
    node = plug_in(by_id, 4, "HD Webcam")
    camera = open_with(source="hd_webcam")
    assert camera.name == "HD Webcam"
    assert Path(microscope.opened[0].path).resolve() == node


@pytest.mark.usefixtures("microscope")
def test_several_cameras_without_a_choice_are_listed(by_id: Path) -> None:
    plug_in(by_id, 4, "HD Webcam")
    with pytest.raises(UsageError, match=r"2 USB cameras .* usb-HD_Webcam_SN0001, usb-ToupCam_UCMOS_SN0001"):
        open_with()


@pytest.mark.usefixtures("microscope")
def test_a_name_that_no_camera_has_may_be_tried_again_and_lists_those_there() -> None:
    with pytest.raises(BloodedgeError, match=r'contains "leica".*usb-ToupCam_UCMOS_SN0001') as error:
        open_with(source="leica")
    assert not isinstance(error.value, UsageError)


def test_a_path_is_opened_as_it_is(microscope: Microscope, by_id: Path) -> None:
    node = plug_in(by_id, 8, "Other")
    open_with(source=str(node))
    assert microscope.opened[0].path == str(node)


@pytest.mark.usefixtures("by_id")
@pytest.mark.parametrize(
    ("source", "words"), [(None, "No USB camera is plugged in"), ("/dev/video77", "does not exist")]
)
def test_an_absent_camera_may_be_tried_again(source: str | None, words: str) -> None:
    with pytest.raises(BloodedgeError, match=words) as error:
        open_with(source=source)
    assert not isinstance(error.value, UsageError)


@pytest.mark.usefixtures("microscope")
def test_a_user_outside_the_group_video_is_told_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v4l2.os, "access", lambda *_: False)
    with pytest.raises(BloodedgeError, match="group video"):
        open_with()


def test_a_camera_in_use_may_be_tried_again(microscope: Microscope) -> None:
    microscope.busy = True
    with pytest.raises(BloodedgeError, match="close the other program") as error:
        open_with()
    assert not isinstance(error.value, UsageError)


@pytest.mark.usefixtures("by_id")
def test_a_node_that_is_no_camera_is_refused_by_opencv_itself(tmp_path: Path) -> None:
    node = tmp_path / "video9"
    node.touch()
    with pytest.raises(BloodedgeError, match=r"video9 \(.*\) cannot be opened"):
        open_with(source=str(node))


@pytest.mark.usefixtures("microscope")
def test_cameras_are_listed_by_name_without_their_metadata_nodes(by_id: Path) -> None:
    plug_in(by_id, 4, "HD Webcam")
    assert [(d.name, d.path.name) for d in v4l2.devices()] == [
        ("HD Webcam", "usb-HD_Webcam_SN0001-video-index0"),
        ("ToupCam UCMOS", "usb-ToupCam_UCMOS_SN0001-video-index0"),
    ]
