"""Frames from a folder of images, an image, a video file or a network stream."""

import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.imaging import read_image
from bloodedge.imaging.reading import MOST_PIXELS
from bloodedge.redact import PERCENT, redacted
from bloodedge.text import as_text, shown
from bloodedge_device.camera import Pace, frame_of
from bloodedge_device.camera.jpeg import JPEG_FORMATS, decode_jpeg, pixel_format
from bloodedge_device.frames import BadFrame, Capture, Frame
from bloodedge_device.settings.sections import CameraSettings, is_stream

UNDECODED = -1
"""CAP_PROP_FORMAT for frames as they lie in the file."""

COUNTED = {".avi", ".m4v", ".mov", ".mp4"}
"""Files that store their number of frames."""

MOST_UNREADABLE, MOST_OF_ANNOUNCED = 8, 1000
"""More unreadable frames in a row are the end; the second limit where a file announced further frames."""

PASSED_OVER = "the camera's process ended or hung over it twice; look at the file."

OPEN_WITHIN_MS = 10_000
"""Time for a stream to answer."""


class FolderCamera:
    """Images in the order of their paths; one that cannot be read is a BadFrame, not the end."""

    def __init__(
        self, settings: CameraSettings, folder: Path, images: list[Path], begin: int, *, pass_over: bool = False
    ) -> None:
        """pass_over: whether the first image is not to be read."""
        self.name = (
            f"replay of {len(images)} image{'s' if len(images) > 1 else ''} in {shown(as_text(folder.resolve().name))}"
        )
        self.live = settings.realtime
        self.ending = ""
        self._settings, self._folder, self._images, self._begin = settings, folder, images, begin
        self._pass_over = pass_over

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Every image once, or without end where the settings say ``loop``."""
        pace = Pace(self._settings.rate, stop)
        numbers = itertools.count(self._begin) if self._settings.loop else range(self._begin, len(self._images))
        for index in numbers:
            if not pace.wait():
                return
            yield self._read(index, self._images[index % len(self._images)])

    def _read(self, index: int, path: Path) -> Frame | BadFrame:
        start = monotonic()
        name = as_text(path.relative_to(self._folder).as_posix())
        if self._pass_over:
            self._pass_over = False
            return BadFrame(Capture.now(index, start, name), f"{name} was passed over: {PASSED_OVER}")
        try:
            bgr = read_image(path)
        except BloodedgeError as error:
            return BadFrame(Capture.now(index, start, name), str(error))
        return Frame(Capture.now(index, start, name), bgr, self._settings.um_per_px)


class VideoCamera:
    """Every frame of a video file; or a live stream.

    Motion JPEG frames, which cameras and microscope software write, are checked for damage. With other codecs, FFmpeg
    reports frames that it cannot decode, but not those that it filled from earlier frames.
    """

    def __init__(self, settings: CameraSettings, source: str, live: bool, begin: int = 0) -> None:
        """Open ``source``; raises UsageError when OpenCV cannot read a file, BloodedgeError when a stream is down."""
        self._settings, self._source, self._begin = settings, source, begin
        self._is_file = not is_stream(source)
        self.name = shown(f"replay of {as_text(Path(source).name) if self._is_file else redacted(source)}")
        self.live = live
        self.ending = ""
        self._capture: cv2.VideoCapture | None = self._open()

    def _open(self) -> cv2.VideoCapture:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "8")  # AV_LOG_FATAL: damaged frames are reported as rejected
        address = self._source if self._is_file else _lower_scheme(self._source)
        options = [] if self._is_file else [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_WITHIN_MS]
        with _name_in_utf8(address) as name:
            capture = cv2.VideoCapture(name, cv2.CAP_FFMPEG, options)
        size = capture.get(cv2.CAP_PROP_FRAME_WIDTH) * capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if size > MOST_PIXELS:
            raise UsageError(f"{redacted(self._source)} has frames of {size:,.0f} pixels; up to {MOST_PIXELS:,} work.")
        if not capture.isOpened():
            if self._is_file:
                raise UsageError(f"{self._source} cannot be read as a video; give an mp4, avi, mkv or mov file.")
            hint = f" Or {PERCENT}." if self._source.count("@") > 1 else ""
            raise BloodedgeError(
                f"The stream {redacted(self._source)} does not answer; check its URL and that it is on.{hint}"
            )
        if pixel_format(capture) in JPEG_FORMATS:
            capture.set(cv2.CAP_PROP_FORMAT, UNDECODED)
        return capture

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames until the file or stream ends; a file starts again where the settings say ``loop``.

        A damaged frame is a BadFrame, not the end.
        """
        pace = Pace(self._settings.rate if self._is_file else None, stop)
        index = 0
        while True:
            capture, self._capture = self._capture or self._open(), None
            first, announced = index, self._announced(capture)
            for readable, start in _grabbed(capture, announced, pace, self._begin - index):
                if index >= self._begin:
                    yield self._frame(index, start, capture if readable else None)
                index += 1
            capture.release()
            if stop.is_set():
                return
            self.ending = _ending(index - first, announced)
            if not (self._is_file and self._settings.loop) or index == first:
                return

    def _announced(self, capture: cv2.VideoCapture) -> int:
        """Number of frames that the file announces; 0 where OpenCV only guesses it from the duration."""
        exact = self._is_file and Path(self._source).suffix.lower() in COUNTED
        return max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) if exact else 0

    def _frame(self, index: int, start: float, capture: cv2.VideoCapture | None) -> Frame | BadFrame:
        """The grabbed frame; without a capture, one that could not be decoded."""
        source = f"frame {index}"
        try:
            image = self._decoded(capture, source)
        except BloodedgeError as error:
            return BadFrame(Capture.now(index, start, source), str(error))
        return frame_of(image, index, start, self._settings.um_per_px)

    def _decoded(self, capture: cv2.VideoCapture | None, source: str) -> NDArray[np.generic]:
        image: NDArray[np.generic] | None = None if capture is None else capture.retrieve()[1]
        if capture is not None and image is not None and capture.get(cv2.CAP_PROP_FORMAT) == UNDECODED:
            image = decode_jpeg(image.tobytes())
        if capture is None or image is None or image.size == 0:
            raise BloodedgeError(f"{source} is damaged: it cannot be decoded, or part of it is missing.")
        if self._is_file and 2 * image.shape[0] == capture.get(cv2.CAP_PROP_FRAME_HEIGHT):
            raise BloodedgeError(f"{source} is interlaced; save the video as progressive.")
        return image


def _grabbed(capture: cv2.VideoCapture, announced: int, pace: Pace, skipped: int) -> Iterator[tuple[bool, float]]:
    """(whether the frame could be read, start of reading) of each frame, until none follows or the pace says stop.

    FFmpeg answers alike at the end and at a frame that it cannot decode: the difference is that a frame follows. The
    first ``skipped`` frames are not paced.
    """
    came = unreadable = 0
    while True:
        if came >= skipped and not pace.wait():
            return
        start = monotonic()
        while not capture.grab():
            unreadable += 1
            if unreadable > max(MOST_UNREADABLE, min(announced - came, MOST_OF_ANNOUNCED)):
                return
        for readable in (*[False] * unreadable, True):
            came += 1
            yield readable, start
        unreadable = 0


def _ending(came: int, announced: int) -> str:
    """A sentence about the end of a file that announced so many frames."""
    if came < announced:
        return (
            f"Only {came} of the {announced} announced frames came: the file is cut short or damaged, or its recorder"
            " dropped frames; compare it with its source."
        )
    return f"All {announced} announced frames came." if announced else ""


def _lower_scheme(address: str) -> str:
    """A stream's URL with its scheme in lower case, as FFmpeg needs it."""
    scheme, mark, rest = address.partition("://")
    return scheme.lower() + mark + rest


@contextmanager
def _name_in_utf8(source: str) -> Iterator[str]:
    """A name by which OpenCV can open ``source``: it crashes on a file name that is not UTF-8."""
    if as_text(source) == source:
        yield source
        return
    with Path(source).open("rb") as file:
        yield f"/dev/fd/{file.fileno()}"
