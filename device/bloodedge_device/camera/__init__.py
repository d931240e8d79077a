"""Cameras: each gives frames; a live one gives the newest and counts those that nobody had time for."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from time import monotonic
from typing import Protocol

from bloodedge.imaging import Image
from bloodedge_device.settings import CameraSettings


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

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames in the order of capture, until the source ends or ``stop`` is set."""
        ...


def open_camera(settings: CameraSettings) -> Camera:
    """The camera that the settings name; raises UsageError when it cannot be opened."""
    if settings.kind == "replay":
        from bloodedge_device.camera.replay import open_replay

        return open_replay(settings)
    from bloodedge_device.camera.simulated import SimulatedCamera

    return SimulatedCamera(settings)


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


def newest_frames(camera: Camera, stop: threading.Event) -> Iterator[Frame | BadFrame]:
    """A live camera's frames, captured in a thread of their own: whoever asks gets the newest one not yet seen.

    A frame that a newer one replaced is counted in the newer one's ``dropped_before``. Memory holds one waiting frame.
    """
    slot = _Slot()
    thread = threading.Thread(target=slot.fill, args=(lambda: camera.frames(stop),), name="camera", daemon=True)
    thread.start()
    while (frame := slot.take(stop)) is not None:
        yield frame


class _Slot:
    """Holds the newest frame until it is taken."""

    def __init__(self) -> None:
        self._frame: Frame | BadFrame | None = None
        self._dropped = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def fill(self, frames: Callable[[], Iterator[Frame | BadFrame]]) -> None:
        """Put every frame into the slot; runs in the capture thread."""
        try:
            for frame in frames():
                with self._changed:
                    if self._frame is not None:
                        self._dropped += 1
                    self._frame = frame
                    self._changed.notify()
        except BaseException as error:  # handed to the thread that takes, which raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()

    def take(self, stop: threading.Event) -> Frame | BadFrame | None:
        """The newest frame, waiting for one; None when the camera has ended or ``stop`` is set."""
        with self._changed:
            while self._frame is None and not self._ended and not stop.is_set():
                self._changed.wait(timeout=0.1)
            if stop.is_set():
                return None
            if self._frame is None:
                if self._error is not None:
                    raise self._error
                return None
            frame, self._frame = self._frame, None
            capture = replace(frame.capture, dropped_before=self._dropped)
            self._dropped = 0
            return replace(frame, capture=capture)
