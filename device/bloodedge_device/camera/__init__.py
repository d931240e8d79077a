"""Cameras: each gives frames, in a process of its own where the daemon runs them (see ``supervised``)."""

import threading
from collections.abc import Iterator
from time import monotonic
from typing import Protocol

from bloodedge_device.frames import BadFrame, Frame


class Camera(Protocol):
    """A source of frames."""

    name: str
    """Its name in reports."""
    live: bool
    """Whether frames are dropped when they are not taken in time."""
    ending: str
    """A sentence about the end of a source that has ended, or empty."""

    def frames(self, stop: threading.Event) -> Iterator[Frame | BadFrame]:
        """Frames in the order of capture, until the source ends or ``stop`` is set."""
        ...


class Pace:
    """Limits a source to so many frames a second; None: no limit."""

    def __init__(self, rate: float | None, stop: threading.Event) -> None:
        self._interval_s = 1 / rate if rate else 0.0
        self._stop = stop
        self._next_s = monotonic()

    def wait(self) -> bool:
        """Wait until the next frame is due; False when the source should stop."""
        if self._interval_s:
            self._stop.wait(max(0.0, self._next_s - monotonic()))
            self._next_s = max(self._next_s + self._interval_s, monotonic())
        return not self._stop.is_set()
