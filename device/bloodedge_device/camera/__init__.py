"""Cameras: each gives frames, in a process of its own where the daemon runs them (see ``supervised``)."""

import threading
from collections.abc import Iterator
from time import monotonic
from typing import Protocol

from bloodedge_device.frames import BadFrame, Frame


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
