"""Cameras: each gives frames, in a process of its own where the daemon runs them (see ``supervised``)."""

import threading
from collections.abc import Iterator
from time import monotonic
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bloodedge.errors import BloodedgeError
from bloodedge.imaging import colour_8bit
from bloodedge_device.frames import BadFrame, Capture, Frame


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


def frame_of(image: NDArray[np.generic], index: int, start_s: float, um_per_px: float | None) -> Frame | BadFrame:
    """Frame number ``index`` from a camera's or a video's image, whose capture began at ``start_s`` (monotonic)."""
    source = f"frame {index}"
    try:
        bgr = colour_8bit(image, source)
    except BloodedgeError as error:
        return BadFrame(Capture.now(index, start_s, source), str(error))
    return Frame(Capture.now(index, start_s, source), bgr, um_per_px)


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
