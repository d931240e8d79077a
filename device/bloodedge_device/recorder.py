"""Between the pipeline and the disk: results are stored by a thread of its own, in the order of the frames."""

import logging
import threading
from queue import Queue
from time import monotonic
from types import TracebackType
from typing import Self

from bloodedge_device.histogram import StageTimes
from bloodedge_device.pipeline import FrameResult
from bloodedge_device.store import Store

log = logging.getLogger("bloodedge.device")

FLUSH_EVERY_S = 2.0
"""How often latency histograms are stored; rows are stored with every frame."""

NEWS_EVERY_S = 10.0

WAITING = 16
"""Frames' results that may wait for the disk."""


class Recorder:
    """Stores frames in a thread of its own, so that a disk's sync costs the pipeline nothing; ``with`` ends it.

    At most WAITING frames' results wait; a disk slower than that holds the pipeline back.
    """

    def __init__(self, store: Store, slide: int, times: StageTimes, keep_crops: bool, began_s: float) -> None:
        self._store, self._slide, self._times, self._keep_crops, self._began_s = (
            store,
            slide,
            times,
            keep_crops,
            began_s,
        )
        self._flush_at_s = monotonic() + FLUSH_EVERY_S
        self._news_at_s = monotonic() + NEWS_EVERY_S
        self._frames = self._cells = 0
        self._told_of_lost_crops = False
        self._ended = False
        self._error: BaseException | None = None
        self._waiting: Queue[FrameResult | None] = Queue(WAITING)
        self._thread = threading.Thread(target=self._store_all, name="store", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._waiting.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, result: FrameResult) -> None:
        """Hand over one frame's results; raises what went wrong with an earlier one."""
        if self._error is not None:
            raise self._error
        self._waiting.put(result)

    def _store_all(self) -> None:
        while batch := self._next_batch():
            if self._error is None:  # nothing is stored after a failure, yet the pipeline must not wait for ever
                try:
                    self._store_batch(batch)
                except BaseException as error:  # raised in the pipeline's thread
                    self._error = error

    def _next_batch(self) -> list[FrameResult]:
        """Everything that waits, at least one frame; empty at the end. What a slow disk holds up, one sync stores."""
        batch: list[FrameResult] = []
        while not self._ended and (not batch or not self._waiting.empty()):
            result = self._waiting.get()
            if result is None:
                self._ended = True
            else:
                batch.append(result)
        return batch

    def _store_batch(self, batch: list[FrameResult]) -> None:
        with self._times.measure("store"):
            self._store.put_frames(self._slide, batch, self._keep_crops)
        now = monotonic()
        for result in batch:
            self._times.add("frame", now - result.capture.monotonic_s)
            if result.cells and not self._cells:
                log.info("First cell stored %.2f s after the start.", now - self._began_s)
            if result.problem:
                log.warning("Frame %d was rejected: %s", result.capture.index, result.problem)
            self._frames += 1
            self._cells += len(result.cells)
        self._now_and_then(now)

    def _now_and_then(self, now: float) -> None:
        if self._store.crops_lost and not self._told_of_lost_crops:
            log.warning("The disk has no room for images of cells; results are stored without them.")
            self._told_of_lost_crops = True
        if now >= self._flush_at_s:
            self._store.put_latency(self._slide, self._times)
            self._flush_at_s = now + FLUSH_EVERY_S
        if now >= self._news_at_s:
            log.info("%d frames, %d cells.", self._frames, self._cells)
            self._news_at_s = now + NEWS_EVERY_S
