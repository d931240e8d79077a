"""Frames from a folder of images, an image, a video file or a network stream."""

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import cv2

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import colour_8bit, read_image
from bloodedge.redact import PERCENT, address_fault, redacted
from bloodedge_device.camera import BadFrame, Camera, Capture, Frame, Pace
from bloodedge_device.settings import CameraSettings, is_stream

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def open_replay(settings: CameraSettings, begin: int = 0) -> Camera:
    """The replay camera for ``settings.source``, from frame number ``begin``.

    Raises UsageError when there is nothing to replay, BloodedgeError when a stream does not answer.
    """
    source = settings.source or ""
    if is_stream(source):
        if fault := address_fault(source):
            raise UsageError(fault)
        return VideoCamera(settings, source, live=True)
    path = Path(source)
    if path.is_dir():
        images = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
        if not images:
            raise UsageError(f"{path} holds no image (bmp, jpg, png, tif or webp); give a folder of frames.")
        return FolderCamera(settings, path, images, begin)
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give a folder of frames, a video file or a stream's address.")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return FolderCamera(settings, path.parent, [path], begin)
    return VideoCamera(settings, source, live=settings.realtime, begin=begin)


class FolderCamera:
    """Images in the order of their paths; one that cannot be read is a BadFrame, not the end."""

    def __init__(self, settings: CameraSettings, folder: Path, images: list[Path], begin: int) -> None:
        self.name = f"replay of {len(images)} image{'s' if len(images) > 1 else ''} in {folder.resolve().name}"
        self.live = settings.realtime
        self._settings, self._folder, self._images, self._begin = settings, folder, images, begin

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Every image once, or for ever when the settings say ``loop``."""
        pace = Pace(self._settings.rate, stop)
        numbers = itertools.count(self._begin) if self._settings.loop else range(self._begin, len(self._images))
        for index in numbers:
            if not pace.wait():
                return
            yield self._read(index, self._images[index % len(self._images)])

    def _read(self, index: int, path: Path) -> Frame | BadFrame:
        start = monotonic()
        name = path.relative_to(self._folder).as_posix()
        try:
            bgr = read_image(path)
        except BloodedgeError as error:
            return BadFrame(Capture.now(index, start, name), str(error))
        return Frame(Capture.now(index, start, name), bgr, self._settings.um_per_px)


class VideoCamera:
    """A video file, every frame of it; or a stream, which is live."""

    def __init__(self, settings: CameraSettings, source: str, live: bool, begin: int = 0) -> None:
        """Open ``source``; raises UsageError when OpenCV cannot read a file, BloodedgeError when a stream is away."""
        self._settings, self._source, self._begin = settings, source, begin
        self._is_file = not is_stream(source)
        self.name = f"replay of {Path(source).name if self._is_file else redacted(source)}"
        self.live = live
        self._capture: cv2.VideoCapture | None = self._open()

    def _open(self) -> cv2.VideoCapture:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        capture = cv2.VideoCapture(self._source, cv2.CAP_FFMPEG)
        if not capture.isOpened():
            if self._is_file:
                raise UsageError(f"{self._source} is not a video that can be read; give an mp4, avi, mkv or mov file.")
            hint = f" Or {PERCENT}." if self._source.count("@") > 1 else ""
            raise BloodedgeError(
                f"The stream {redacted(self._source)} does not answer; check its address and that it is on.{hint}"
            )
        return capture

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames until the file or stream ends; a file begins again when the settings say ``loop``."""
        pace = Pace(self._settings.rate if self._is_file else None, stop)
        index = 0
        while True:
            capture, self._capture = self._capture or self._open(), None
            first = index
            while index < self._begin and capture.grab():
                index += 1
            while pace.wait() and (frame := self._read(index, capture)) is not None:
                yield frame
                index += 1
            capture.release()
            if stop.is_set() or not (self._is_file and self._settings.loop) or index == first:
                return

    def _read(self, index: int, capture: cv2.VideoCapture) -> Frame | BadFrame | None:
        start = monotonic()
        ok, image = capture.read()
        if not ok:
            return None
        source = f"frame {index}"
        try:
            bgr = colour_8bit(image, source)
        except BloodedgeError as error:
            return BadFrame(Capture.now(index, start, source), str(error))
        return Frame(Capture.now(index, start, source), bgr, self._settings.um_per_px)
