"""Stores results in a thread of its own, in the order of the frames."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Full, Queue
from time import monotonic, sleep
from types import TracebackType
from typing import Self

from bloodedge_device.frames import FrameResult
from bloodedge_device.health import Health, Level
from bloodedge_device.outputs.messages import frame_message, slide_message
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.store import (
    DamagedDatabaseError,
    DiskFullError,
    LockedError,
    ReadOnlyDiskError,
    StarvedError,
    Store,
)
from bloodedge_device.store.outbox import Draft
from bloodedge_device.timings import TIMINGS, Timings

log = logging.getLogger("bloodedge.device")

OTHER_WAITS = (StarvedError, ReadOnlyDiskError, LockedError)
"""What holds the storing back as a full disk does."""

WAITING = 16
"""Frames' results that may wait for the disk."""


@dataclass(frozen=True)
class _Work:
    """One frame's results; None for the end of a slide."""

    slide: CurrentSlide
    result: FrameResult | None
    actor: str = ""
    """Who ended the slide."""
    stored: threading.Event = field(default_factory=threading.Event)
    """Set once the end of the slide is stored."""


class Recorder:
    """Stores frames in a thread of its own, so that a disk's sync costs the pipeline nothing; ``with`` ends it.

    At most WAITING frames' results wait; a disk slower than that holds the pipeline back, and so does a full one, until
    it takes them. A database that turns out to be damaged is set aside and a new one begun.
    """

    def __init__(
        self,
        store: Store,
        began_s: float,
        health: Health | None = None,
        *,
        publish: bool = False,
        stored: Callable[[], None] = lambda: None,
        on_new_database: Callable[[CurrentSlide], None] = lambda _: None,
        ending: Callable[[], bool] = lambda: False,
        timings: Timings = TIMINGS,
    ) -> None:
        """began_s: the process' start, monotonic; publish: put messages into the outbox with the results.

        stored: called after each batch; on_new_database: called with the slide whose frames are being stored, to begin
        its rows again; ending: whether the daemon was told to end, while a full disk holds it back.
        """
        self._store, self._began_s = store, began_s
        self._health = health or Health()
        self._publish, self._stored, self._on_new_database, self._ending = publish, stored, on_new_database, ending
        self._timings = timings
        self._flush_at_s = monotonic() + self._timings.latency_stored_s
        self._news_at_s = monotonic() + self._timings.progress_logged_s
        self.stored_frames = self._cells = 0
        self._lost_crops_logged = False
        self._slide: CurrentSlide | None = None
        """Of the frames stored last."""
        self._ends_at_s: float | None = None
        self._error: BaseException | None = None
        self._waiting: Queue[_Work | None] = Queue(WAITING)
        self._thread = threading.Thread(target=self._store_all, name="store", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ends_at_s = monotonic() + self._timings.full_disk_wait_s
        self._waiting.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, slide: CurrentSlide, result: FrameResult) -> None:
        """Hand over one frame's results; raises the error of an earlier one."""
        self._hand_over(_Work(slide, result))

    def end(self, slide: CurrentSlide, actor: str = "daemon") -> threading.Event:
        """Store the end of a slide, after its last frame; gives what is set once it is stored."""
        work = _Work(slide, None, actor)
        self._hand_over(work)
        return work.stored

    def _hand_over(self, work: _Work) -> None:
        while True:
            if self._error is not None:
                raise self._error
            try:
                self._waiting.put(work, timeout=self._timings.full_disk_retry_s)
            except Full:
                continue
            return

    def _store_all(self) -> None:
        while True:
            try:
                batch = self._next_batch()
            except Empty:
                batch = None
            if batch is not None and not batch:
                return
            if self._error is None:  # after a failure nothing is stored, but the pipeline must not wait for ever
                try:
                    self._keep_in_place()
                    if batch:
                        self._persist(batch)
                except BaseException as error:  # raised in the pipeline's thread
                    self._error = error

    def _next_batch(self) -> list[_Work]:
        """All waiting results of one slide, at least one frame or its end; empty at the end of all work.

        One sync stores them, however slow the disk. Raises Empty when none came for a moment.
        """
        first = self._waiting.get(timeout=self._timings.database_check_s)
        batch: list[_Work] = [] if first is None else [first]
        while batch and batch[-1].result is not None:
            try:
                work = self._waiting.queue[0]
            except IndexError:
                break
            if work is None or work.slide is not batch[0].slide:
                break
            batch.append(self._waiting.get())  # type: ignore[arg-type]  # this thread alone takes
        return batch

    def _persist(self, batch: list[_Work]) -> None:
        slide, results = batch[0].slide, [work.result for work in batch if work.result is not None]
        self._slide = slide
        if results:
            self._persevere(slide, partial(self._store_batch, slide, results))
            self._persevere(slide, partial(self._store_latency, slide))
        if batch[-1].result is None:
            self._persevere(slide, partial(self._end_slide, slide, batch[-1].actor))
            batch[-1].stored.set()
        self._health.report("store", *_condition(self._store))
        self._stored()

    def _persevere(self, slide: CurrentSlide, step: Callable[[], None]) -> None:
        """Take a step, however long the disk is full; where the database is damaged, in a new one."""
        while True:
            try:
                step()
            except DiskFullError as error:
                self._await_room(error)
            except DamagedDatabaseError as error:
                self._begin_anew(slide, error)
            else:
                return

    def _begin_anew(self, slide: CurrentSlide, error: DamagedDatabaseError) -> None:
        log.warning("%s", error)
        self._store.begin_anew()
        self._persevere(slide, partial(self._on_new_database, slide))

    def _keep_in_place(self) -> None:
        """Write a database that was deleted or moved again."""
        while not self._store.is_in_place:
            self._health.report("store", Level.FAILED, _TAKEN_AWAY)
            log.warning("%s", _TAKEN_AWAY)
            try:
                self._store.put_back()
            except DiskFullError as error:
                self._await_room(error)
            except DamagedDatabaseError as error:
                if self._slide is None:
                    raise
                self._begin_anew(self._slide, error)
            else:
                log.warning("%s", _WRITTEN_AGAIN)
                self._health.report("store", *_condition(self._store))

    def _await_room(self, error: DiskFullError) -> None:
        if self._health.report("store", Level.FAILED, str(error) if isinstance(error, OTHER_WAITS) else _FULL):
            log.warning("%s", error)
        if self._ends_at_s is None and self._ending():
            self._ends_at_s = monotonic() + self._timings.full_disk_wait_s
        if self._ends_at_s is not None and monotonic() > self._ends_at_s:
            raise error
        sleep(self._timings.full_disk_retry_s)

    def _store_batch(self, slide: CurrentSlide, results: list[FrameResult]) -> None:
        messages = [frame_message(slide, r) for r in results if r.cells] if self._publish else []
        with slide.times.measure("store"):
            self._store.put_frames(slide.id, results, self._store.settings.crops, messages)
        now = monotonic()
        for result in results:
            slide.times.add("frame", now - result.capture.monotonic_s)
            if result.cells and not self._cells:
                log.info("First cell stored %.2f s after the start.", now - self._began_s)
            if result.problem:
                log.warning("Frame %d was rejected: %s", result.capture.index, result.problem)
            self.stored_frames += 1
            self._cells += len(result.cells)

    def _end_slide(self, slide: CurrentSlide, actor: str) -> None:
        messages: list[Draft] = [slide_message(slide, ended=True)] if self._publish else []
        self._store.end_slide(slide.id, slide.times, messages, actor)

    def _store_latency(self, slide: CurrentSlide) -> None:
        now = monotonic()
        if self._store.crops_lost and not self._lost_crops_logged:
            log.warning("The disk has no room for images of cells; results are stored without images.")
            self._lost_crops_logged = True
        if now >= self._flush_at_s:
            with suppress(DiskFullError):  # the rows are stored; latencies are tried again soon
                self._store.put_latency(slide.id, slide.times)
            self._flush_at_s = now + self._timings.latency_stored_s
        if now >= self._news_at_s:
            log.info("%d frames, %d cells.", self.stored_frames, self._cells)
            self._news_at_s = now + self._timings.progress_logged_s


_FULL = "The disk is full: nothing more is stored until some space is free. Stored results are intact."

_TAKEN_AWAY = "The database was deleted or moved while the daemon runs; it is written again from what is still open."
_WRITTEN_AGAIN = (
    "The database was deleted or moved while the daemon ran, and was written again with all that it held; find out why."
    " If the whole folder was moved, end the daemon and move it back, or make a new token."
)


def _condition(store: Store) -> tuple[Level, str]:
    if store.damaged is not None:
        return Level.WARNING, (
            f"The database was damaged and set aside in {store.damaged.name}; results since then are in a new one."
        )
    if store.was_taken_away:
        return Level.WARNING, _WRITTEN_AGAIN
    if not store.has_reserve:
        return Level.WARNING, "The disk is nearly full: results use the reserve; free some space."
    if store.crops_lost:
        return (
            Level.WARNING,
            f"{store.crops_lost} images of cells were not stored for lack of space; results were.",
        )
    return Level.OK, "Results are stored."
