"""The newest frames and their results, for people to look at; they cost nothing while nobody does."""

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from time import monotonic

import cv2

from bloodedge.imaging import Image
from bloodedge_device.frames import FrameResult

WATCHED_S = 5.0
"""Somebody watches when the newest frame was asked for within so many seconds."""
UNWATCHED_EVERY_S = 1.0
"""How often a frame is kept when nobody watches, so that whoever comes sees one at once."""
PICTURES = 4
"""Frames kept: a page asks for a frame's image just after it has learned of the frame."""
QUALITY = 80
LONGEST_SIDE = 1280
"""Larger frames are shown shrunk."""


@dataclass(frozen=True)
class Picture:
    """A frame to look at."""

    number: int
    """Counts the frames since the daemon's start."""
    result: FrameResult
    kept_s: float
    """Monotonic seconds."""


class Live:
    """Holds the newest frames; safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pictures: OrderedDict[int, tuple[Picture, Image | None]] = OrderedDict()
        self._number = 0
        self._watched_s = -WATCHED_S
        self._kept_s = -UNWATCHED_EVERY_S

    def put(self, bgr: Image | None, result: FrameResult) -> None:
        """A frame, uint8 (H, W, 3) BGR or None when it could not be read, went through the pipeline."""
        now = monotonic()
        self._number += 1
        if now - self._watched_s > WATCHED_S and now - self._kept_s < UNWATCHED_EVERY_S:
            return
        picture = Picture(self._number, result, now)
        copy = None if bgr is None else bgr.copy()
        with self._changed:
            self._kept_s = now
            self._pictures[picture.number] = (picture, copy)
            while len(self._pictures) > PICTURES:
                self._pictures.popitem(last=False)
            self._changed.notify_all()

    @property
    def frames(self) -> int:
        """Frames since the daemon's start."""
        return self._number

    def latest(self) -> Picture | None:
        """The newest frame kept."""
        with self._changed:
            return next(reversed(self._pictures.values()))[0] if self._pictures else None

    def wait(self, after: int, timeout_s: float) -> Picture | None:
        """The newest frame with a number above ``after``, waiting for one; None when the time is over."""
        end = monotonic() + timeout_s
        with self._changed:
            while True:
                self._watched_s = monotonic()
                if self._pictures and next(reversed(self._pictures)) > after:
                    return next(reversed(self._pictures.values()))[0]
                if (left := end - monotonic()) <= 0:
                    return None
                self._changed.wait(min(left, WATCHED_S / 2))

    def jpeg(self, number: int) -> bytes | None:
        """A kept frame as JPEG, its longest side at most LONGEST_SIDE pixels; None when it is gone."""
        with self._changed:
            self._watched_s = monotonic()
            bgr = self._pictures[number][1] if number in self._pictures else None
        if bgr is None:
            return None
        shrink = 1 / math.ceil(max(bgr.shape[:2]) / LONGEST_SIDE)  # by a whole factor: many times faster
        if shrink < 1:
            bgr = cv2.resize(bgr, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        assert ok
        return data.tobytes()
