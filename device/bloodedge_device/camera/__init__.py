"""Cameras: each gives frames, in a process of its own where the daemon runs them (see ``supervised``)."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

from bloodedge.imaging import Image
from bloodedge_device.settings import CameraSettings


@dataclass(frozen=True)
class SourceFile:
    """A file of a watched folder as it was when it was taken."""

    path: str
    """Absolute."""
    size: int
    modified_ns: int
    sha256: str
    """Of its pixels; empty where they could not be read."""


@dataclass(frozen=True)
class Capture:
    """When and where a frame was taken."""

    index: int
    """Counts from 0 in the order of capture; missing numbers were dropped."""
    captured_at: datetime
    """UTC."""
    monotonic_s: float
    """Seconds on the clock that never jumps, at the end of the capture."""
    took_s: float
    """Seconds that the capture (or reading and decoding) took."""
    source: str = ""
    """The file's name, where frames come from files."""
    dropped_before: int = 0
    """Frames captured since the one before and dropped because a newer one came."""
    file: SourceFile | None = None
    """What the frame was read from, where a folder is watched."""
    truth: tuple[int, int] | None = None
    """Blasts and normal cells that the frame shows, where a simulated microscope knows them."""

    @classmethod
    def now(cls, index: int, start_s: float, source: str = "") -> "Capture":
        """A capture that began at ``start_s`` on the monotonic clock and ends now."""
        end_s = monotonic()
        return cls(index, datetime.now(UTC), end_s, end_s - start_s, source)


@dataclass(frozen=True)
class Frame:
    """One camera image."""

    capture: Capture
    bgr: Image
    """uint8 (H, W, 3) BGR."""
    um_per_px: float | None
    """Micrometres per pixel; None when only the frame itself can tell."""


@dataclass(frozen=True)
class BadFrame:
    """A frame that could not be read."""

    capture: Capture
    problem: str
    """One sentence."""


class Camera(Protocol):
    """A source of frames."""

    name: str
    """What reports call it."""
    live: bool
    """Whether frames are lost when nobody takes them in time."""
    ending: str
    """What is to be said of a source that has ended; empty where nothing is."""

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames in the order of capture, until the source ends or ``stop`` is set."""
        ...


def open_camera(settings: CameraSettings, begin: int = 0, done: Iterable[SourceFile] = ()) -> Camera:
    """The camera that the settings name; what is replayed or simulated begins with frame number ``begin``.

    done: a watched folder's files that were taken before. Raises UsageError when it can never work, BloodedgeError when
    it is not there or busy.
    """
    match settings.kind:
        case "replay":
            from bloodedge_device.camera.replay import open_replay

            return open_replay(settings, begin, done)
        case "v4l2":
            from bloodedge_device.camera.v4l2 import V4l2Camera

            return V4l2Camera(settings)
        case "picamera":
            from bloodedge_device.camera.picamera import PiCamera

            return PiCamera(settings)
    from bloodedge_device.camera.simulated import SimulatedCamera

    return SimulatedCamera(settings, begin)


class Pace:
    """Holds a source to its rate: at most so many frames a second, or as fast as they come."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._interval_s = 1 / rate if rate else 0.0
        self._stop = stop
        self._next_s = monotonic()

    def wait(self) -> bool:
        """Wait for the next frame's turn; False when the source is to stop."""
        if self._interval_s:
            self._stop.wait(max(0.0, self._next_s - monotonic()))
            self._next_s = max(self._next_s + self._interval_s, monotonic())
        return not self._stop.is_set()
