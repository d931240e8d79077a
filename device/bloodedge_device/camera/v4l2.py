"""A USB microscope through Video4Linux: opened by a name that stays, light measured once and then held."""

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError, UsageError, quoted
from bloodedge_device.camera import frame_of
from bloodedge_device.camera.jpeg import JPEG_FORMATS, decode_jpeg, pixel_format
from bloodedge_device.frames import BadFrame, Capture, Frame
from bloodedge_device.settings.sections import CameraSettings

log = logging.getLogger("bloodedge.device")

BY_ID = Path("/dev/v4l/by-id")
SYSFS = Path("/sys/class/video4linux")

CAPTURE_NODE = "-video-index0"
"""udev's ending for the node that gives images; a camera's other nodes give metadata."""

AUTO_EXPOSURE, MANUAL_EXPOSURE, APERTURE_PRIORITY = 0, 1, 3
"""V4L2_CID_EXPOSURE_AUTO; USB cameras call their automatic exposure "aperture priority"."""

EXPOSURE_UNIT_US = 100
"""V4L2_CID_EXPOSURE_ABSOLUTE counts in 100 microseconds."""

GREY_FORMATS = {"GREY", "Y10", "Y12", "Y16"}

LARGEST = (16384, 16384)
"""Drivers answer with the nearest size that they have."""

SETTLE_S = 1.0
SETTLE_FRAMES = 5
"""Least time and frames for automatic exposure and white balance before they are held."""

RETRY_S = 0.1


@dataclass(frozen=True)
class Device:
    """A camera that is plugged in."""

    name: str
    """The camera's own name."""
    path: Path
    """Below /dev/v4l/by-id, which does not depend on the order of plugging in."""


def devices() -> list[Device]:
    """The USB cameras that are plugged in, in the order of their paths."""
    return [Device(_name(path), path) for path in sorted(BY_ID.glob(f"*{CAPTURE_NODE}"))]


class V4l2Camera:
    """A USB camera; exposure, gain and white balance stay as given, or as measured when it is opened."""

    live = True
    ending = ""

    def __init__(self, settings: CameraSettings) -> None:
        """Open the camera.

        Raises BloodedgeError while it is unplugged or in use, UsageError where the settings cannot work with it.
        """
        self._settings = settings
        self._path = _path_of(settings.source)
        self.name = _name(self._path)
        self._capture: cv2.VideoCapture | None = self._open()

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames without end; raises BloodedgeError when the camera gives no more."""
        capture, self._capture = self._capture or self._open(), None
        try:
            yield from self._read(capture, stop)
        finally:
            capture.release()

    def _open(self) -> cv2.VideoCapture:
        _check_node(self._path)
        # OpenCV waits 10 s for a frame by default, longer than the daemon waits for this camera.
        os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(max(1, int(self._settings.timeout_s / 4)))
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        capture = cv2.VideoCapture(str(self._path), cv2.CAP_V4L2)
        if not capture.isOpened():
            raise BloodedgeError(
                f"{self.name} ({self._path}) cannot be opened; close the other program that uses it, or plug it in "
                "again."
            )
        try:
            self._set_format(capture)
            self._hold_light(capture)
        except BloodedgeError:
            capture.release()
            raise
        return capture

    def _set_format(self, capture: cv2.VideoCapture) -> None:
        """Pixel format, then size, then as few buffers as the driver has; read back, for OpenCV reports success."""
        asked = self._settings.pixel_format
        if asked:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*asked))
        width, height = self._settings.size or LARGEST
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, height)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._check_format(asked, pixel_format(capture))
        self._check_size(_size(capture))
        if pixel_format(capture) in JPEG_FORMATS:
            # OpenCV returns what it can of a damaged frame; only the bytes show the damage.
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)

    def _check_format(self, asked: str | None, got: str) -> None:
        if asked and got != asked:
            raise UsageError(
                f"{self.name} has no pixel format {asked} and offers {got}; set camera.pixel_format to that, or to "
                f"another that v4l2-ctl --list-formats-ext --device {quoted(self._path)} lists."
            )
        if got in GREY_FORMATS:
            raise UsageError(
                f"{self.name} gives grey images ({got}), but stained cells need colour; set camera.pixel_format to a "
                "colour format, or use another camera."
            )

    def _check_size(self, got: tuple[int, int]) -> None:
        asked = self._settings.size
        if asked and got != asked:
            raise UsageError(
                f"{self.name} has no size {asked[0]}x{asked[1]} and offers {got[0]}x{got[1]}; set camera.size to "
                f"that, or to another that v4l2-ctl --list-formats-ext --device {quoted(self._path)} lists."
            )

    def _hold_light(self, capture: cv2.VideoCapture) -> None:
        """Set the light that the settings give, let the camera measure the rest, then hold all."""
        self._set_given(capture)
        self._let_measure(capture)
        self._settle(capture)
        self._hold_measured(capture)
        log.info(
            "%s gives %dx%d pixels (%s) with exposure %.1f ms and gain %g, held.",
            self.name,
            *_size(capture),
            pixel_format(capture),
            capture.get(cv2.CAP_PROP_EXPOSURE) * EXPOSURE_UNIT_US / 1000,
            capture.get(cv2.CAP_PROP_GAIN),
        )

    def _set_given(self, capture: cv2.VideoCapture) -> None:
        settings = self._settings
        if settings.exposure_us is not None:
            self._set(capture, cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL_EXPOSURE, "manual exposure")
            units = max(1, round(settings.exposure_us / EXPOSURE_UNIT_US))
            self._set(capture, cv2.CAP_PROP_EXPOSURE, units, "exposure in 100 µs")
        if settings.gain is not None:
            self._set(capture, cv2.CAP_PROP_GAIN, round(settings.gain), "gain")
        if settings.white_balance is not None:
            red, blue = settings.white_balance
            self._set(capture, cv2.CAP_PROP_AUTO_WB, 0, "fixed white balance")
            self._set(capture, cv2.CAP_PROP_WHITE_BALANCE_RED_V, round(red), "red balance")
            self._set(capture, cv2.CAP_PROP_WHITE_BALANCE_BLUE_U, round(blue), "blue balance")

    def _let_measure(self, capture: cv2.VideoCapture) -> None:
        if self._settings.exposure_us is None and not capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, APERTURE_PRIORITY):
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, AUTO_EXPOSURE)
        if self._settings.white_balance is None:
            capture.set(cv2.CAP_PROP_AUTO_WB, 1)

    def _settle(self, capture: cv2.VideoCapture) -> None:
        never = threading.Event()
        end_s = monotonic() + SETTLE_S
        taken = 0
        while (monotonic() < end_s or taken < SETTLE_FRAMES) and self._grab(capture, never):
            taken += 1

    def _hold_measured(self, capture: cv2.VideoCapture) -> None:
        exposure, gain = capture.get(cv2.CAP_PROP_EXPOSURE), capture.get(cv2.CAP_PROP_GAIN)
        kelvin = capture.get(cv2.CAP_PROP_WB_TEMPERATURE)
        if self._settings.exposure_us is None:
            self._set(capture, cv2.CAP_PROP_AUTO_EXPOSURE, MANUAL_EXPOSURE, "manual exposure")
            self._set_if_known(capture, cv2.CAP_PROP_EXPOSURE, exposure, "exposure in 100 µs")
        if self._settings.gain is None:
            self._set_if_known(capture, cv2.CAP_PROP_GAIN, gain, "gain")
        if self._settings.white_balance is None:
            self._set(capture, cv2.CAP_PROP_AUTO_WB, 0, "fixed white balance")
            self._set_if_known(capture, cv2.CAP_PROP_WB_TEMPERATURE, kelvin, "white balance in kelvin")

    def _set_if_known(self, capture: cv2.VideoCapture, control: int, value: float, what: str) -> None:
        if value >= 0:  # -1: the camera lacks this control
            self._set(capture, control, value, what)

    def _set(self, capture: cv2.VideoCapture, control: int, value: float, what: str) -> None:
        taken = capture.set(control, value)
        got = capture.get(control)
        if not taken or got != value:
            has = "has no such control" if got < 0 else f"stays at {got:g}"
            log.warning("%s did not take %s = %g and %s: cells may look different.", self.name, what, value, has)

    def _grab(self, capture: cv2.VideoCapture, stop: threading.Event) -> bool:
        """Take the next frame from the driver's queue, undecoded; False once ``stop`` is set."""
        end_s = monotonic() + self._settings.timeout_s / 2
        while not stop.is_set():
            if capture.grab():
                return True
            if monotonic() >= end_s or not self._path.exists():
                raise BloodedgeError(f"{self.name} ({self._path}) stopped giving frames; check its cable.")
            stop.wait(RETRY_S)
        return False

    def _read(self, capture: cv2.VideoCapture, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        interval_s = 1 / self._settings.rate if self._settings.rate else 0.0
        due_s = start_s = monotonic()
        index = 0
        while self._grab(capture, stop):
            now_s = monotonic()
            if now_s >= due_s:  # earlier frames are thrown away: waiting would leave old ones in the queue
                due_s = max(due_s + interval_s, now_s)
                yield self._retrieve(capture, index, start_s)
                index += 1
            start_s = monotonic()

    def _retrieve(self, capture: cv2.VideoCapture, index: int, start_s: float) -> Frame | BadFrame:
        source = f"frame {index}"
        image: NDArray[np.generic] | None = capture.retrieve()[1]
        if image is not None and pixel_format(capture) in JPEG_FORMATS:
            image = decode_jpeg(image.tobytes())
        if image is None or image.size == 0:
            return BadFrame(Capture.now(index, start_s, source), f"{source} of {self.name} is damaged.")
        return frame_of(image, index, start_s, self._settings.um_per_px)


def _path_of(source: str | None) -> Path:
    """The node of a source: a path, part of a name below by-id, or None for the only camera."""
    if source and source.startswith("/"):
        return Path(source)
    here = devices()
    found = [d for d in here if source is None or source.lower() in d.path.name.lower()]
    if len(found) == 1:
        return found[0].path
    names = ", ".join(_short(d.path) for d in found or here)
    if found:
        raise UsageError(f"{len(found)} USB cameras are plugged in; set camera.source to part of one's name: {names}.")
    if not here:
        raise BloodedgeError(
            "No USB camera is plugged in; check its cable, or set camera.source to its /dev/video device."
        )
    raise BloodedgeError(
        f'No USB camera\'s name contains "{source}"; plug it in, or set camera.source to one of: {names}.'
    )


def _short(path: Path) -> str:
    return path.name.removesuffix(CAPTURE_NODE)


def _name(path: Path) -> str:
    """What the camera calls itself, else its node's name."""
    try:
        return (SYSFS / path.resolve().name / "name").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return _short(path)


def _check_node(path: Path) -> None:
    if not path.exists():
        raise BloodedgeError(f"{path} does not exist; plug the camera in (bloodedge device doctor lists cameras).")
    if not os.access(path, os.R_OK | os.W_OK):
        raise BloodedgeError(
            f"This user may not use {path}; add it to the group video (sudo usermod --append --groups video USER) "
            "and log in again."
        )


def _size(capture: cv2.VideoCapture) -> tuple[int, int]:
    return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
