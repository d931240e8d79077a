"""The one writer of a state folder: one transaction per batch of frames, durable once it returns."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import make_private
from bloodedge.redact import redacted
from bloodedge.sqlite_rescue import FileId, file_id, write_again
from bloodedge_device.frames import FrameResult
from bloodedge_device.latency import StageTimes
from bloodedge_device.settings.sections import StoreSettings
from bloodedge_device.slide.review import Review, Sampling
from bloodedge_device.store import audit_log
from bloodedge_device.store.crops import lacks_files, remove_oldest, remove_partial, with_mask, write_crops
from bloodedge_device.store.database import (
    CROPS,
    DATABASE,
    MEGABYTE,
    DiskFullError,
    ReadOnlyDiskError,
    StarvedError,
    database_errors,
    is_damaged,
    is_read_only,
    open_for_reading,
    open_for_writing,
    set_aside,
    set_aside_database,
)
from bloodedge_device.store.frame_rows import crop_name, forget_crops, insert, put_frame, recall
from bloodedge_device.store.lock import lock_state
from bloodedge_device.store.outbox import Draft, Message
from bloodedge_device.store.reserve import Reserve
from bloodedge_device.store.retention import (
    SET,
    TRUSTED,
    newest_doubtful,
    remove_expired,
    remove_set_aside,
    run_clocks,
)
from bloodedge_device.store.slide_counts import count, first_to_keep, last_frame

FILES_TO_START = 20
"""The lock, SQLite's files, the command line's socket and some more."""

REMOVED_AT_ONCE = 500
"""Most images removed in one call, so that other work is not held up."""

MOST_ANEW, ANEW_SPAN_S = 3, 3600.0
"""The daemon gives up on a disk that damages more new databases than this within an hour."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class RunInfo:
    """One row of ``runs``."""

    started: datetime
    ready_ms: float
    """From the start of the process to ready."""
    bundle_name: str
    bundle_serial: int
    engine: str
    engine_reason: str
    runtime: str
    precision: str
    threads: int
    hardware: str
    camera: str
    golden: dict[str, Any]
    manifest: str
    """JSON."""
    clock_synchronised: bool | None = None
    """None when the system does not report it."""
    kind_rates: str | None = None
    """JSON: how often the network that tells kinds errs; None where that is not known."""
    differential_cells: int | None = None
    """Leucocytes to be counted on a slide."""


class Store:
    """The one writer of a state folder; safe to use from several threads."""

    def __init__(self, state: Path, settings: StoreSettings | None = None, most_waiting: int = 200_000) -> None:
        """Open the state folder for writing, making what is missing; a damaged database is set aside.

        most_waiting: messages kept for the broker. Raises StateInUseError when another daemon writes there, and
        BloodedgeError when the folder cannot be written or the database is another program's or newer than this
        version.
        """
        self.state = state
        self.settings = settings or StoreSettings()
        self.crops = state / CROPS
        self.crops_lost = 0
        """Images not kept because the disk was full; their results were."""
        self.messages_lost = 0
        """Messages dropped because more than ``most_waiting`` waited."""
        self.damaged: Path | None = None
        """Where a damaged database was set aside since the start."""
        self.was_taken_away = False
        """Whether the database was deleted or moved since the start, and written again."""
        self._file: FileId = None
        self._most_waiting = most_waiting
        self._writing = threading.RLock()
        self._anew_at_s: list[float] = []
        self._removed: list[str] = []
        """Deleted images that rows still name."""
        self._reserve = Reserve(state, self.settings.reserve_mb)
        self._lock = lock_state(state)
        try:
            self._removed += remove_oldest(self.crops, 0, FILES_TO_START, FILES_TO_START)
            with database_errors(state):
                make_private(state / DATABASE)
                if is_damaged(state):
                    self.damaged = set_aside(state)
                self._open()
            remove_partial(self.crops)
            self._reserve.restore()
        except BaseException:
            self._lock.close()
            raise
        if self.damaged is not None:
            self.note("daemon", "damaged database set aside", {"folder": self.damaged.name})

    def _open(self) -> None:
        self._database = open_for_writing(self.state)
        self._file = file_id(self.state / DATABASE)
        self._waiting = int(self._database.execute("SELECT count(*) FROM outbox").fetchone()[0])
        self._slide, self._rows = 0, dict[int, int]()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done inside is stored, or nothing; a transaction inside another is part of it."""
        with self._writing, database_errors(self.state):
            inside_another = self._database.in_transaction
            if inside_another:
                yield self._database
                return
            self._database.execute("BEGIN IMMEDIATE")
            counts = self._waiting, self.messages_lost
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                self._waiting, self.messages_lost = counts
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def at_once(self, steps: Callable[[], Result]) -> Result:
        """Run ``steps``, which calls this class, in one transaction; returns what it returns.

        On a full disk it runs again once there is room; raises DiskFullError where none can be made.
        """

        def together() -> Result:
            with self._transaction():
                return steps()

        return self._with_room(together)

    def _with_room(self, step: Callable[[], Result]) -> Result:
        """Run a step; while the disk is full, make room and run it again."""
        while True:
            try:
                return step()
            except DiskFullError as error:
                if type(error) is not DiskFullError or not self._make_room():
                    raise

    def _make_room(self) -> bool:
        """Delete the oldest images, else the reserve; False where neither freed any space."""
        return bool(self._remove_oldest(max(2, self.settings.reserve_mb) * MEGABYTE)) or self._reserve.release()

    def begin_run(self, run: RunInfo) -> int:
        """Store what runs; returns its id."""
        values = {**vars(run), "started": run.started.isoformat(), "golden": json.dumps(run.golden)}
        values["camera"] = redacted(run.camera)
        with self._transaction() as database:
            return insert(database, "runs", values)

    def end_run(self, run: int) -> None:
        """Store that a run ended without a crash."""
        with self._transaction() as database:
            database.execute("UPDATE runs SET finished = ? WHERE id = ?", (_now(), run))

    def begin_slide(self, run: int, label: str) -> int:
        """Begin a slide; returns its id."""
        with self._transaction() as database:
            return insert(database, "slides", {"run": run, "label": label, "started": _now()})

    def label_slide(self, slide: int, label: str, actor: str) -> None:
        """Change a slide's label; UsageError when there is no such slide."""
        with self._transaction() as database:
            if not database.execute("UPDATE slides SET label = ? WHERE id = ?", (label, slide)).rowcount:
                raise UsageError(f"There is no slide {slide}.")
            self.note(actor, "slide labelled", {"slide": slide, "label": label})

    def end_slide(self, slide: int, times: StageTimes, messages: Sequence[Draft] = (), actor: str = "daemon") -> None:
        """Store that a slide ended, with its last latencies."""
        with self._transaction() as database:
            self.put_latency(slide, times)
            self.post(messages)
            database.execute("UPDATE slides SET finished = ? WHERE id = ?", (_now(), slide))
            self.note(actor, "slide ended", {"slide": slide})

    def keep_counts(self, is_over: Callable[[], bool] = lambda: False) -> int:
        """Count the slides that have ended, the newest first, and keep their counts; returns how many.

        Frames can be stored meanwhile. is_over: asked many times a second whether to leave the rest for later.
        """
        kept = 0
        while not is_over():
            with open_for_reading(self.state) as database:
                if (slide := first_to_keep(database)) is None or (found := count(database, slide, is_over)) is None:
                    break
            counts, last = found
            with self._transaction() as database:
                if last_frame(database, slide) == last:  # none of its frames came late
                    database.execute("INSERT OR REPLACE INTO slide_counts VALUES (?, ?)", (slide, counts))
                    kept += 1
        return kept

    def put_latency(self, slide: int, times: StageTimes) -> None:
        """Replace a slide's stored latency histograms."""
        rows = [(slide, stage, histogram.to_json()) for stage, histogram in times.histograms.items() if histogram.count]
        with self._transaction() as database:
            database.executemany("INSERT OR REPLACE INTO latency (slide, stage, histogram) VALUES (?, ?, ?)", rows)

    def put_frames(
        self, slide: int, results: Sequence[FrameResult], keep_crops: bool, messages: Sequence[Draft] = ()
    ) -> None:
        """Store frames, their cells and the messages about them in one transaction.

        They survive a power cut once this returns; images are on disk before the rows that name them. When the disk has
        no room for images, results are kept without them. Raises DiskFullError when it has no room for results either,
        after the oldest images and the reserve were deleted, and, nothing stored, ReadOnlyDiskError while it is
        read-only, LockedError while another program locks the database, and StarvedError while no file can be opened.
        """
        kept = keep_crops and self._put_crops(slide, results)
        self._with_room(lambda: self._put_rows(slide, results, kept, messages))

    def _put_rows(self, slide: int, results: Sequence[FrameResult], kept: bool, messages: Sequence[Draft]) -> None:
        with self._writing:
            rows = dict(self._rows) if slide == self._slide else {}  # a failed transaction must not change them
            with self._transaction() as database:
                # Late frames of a slide that was thought to have ended: it is counted again.
                database.execute("DELETE FROM slide_counts WHERE slide = ?", (slide,))
                for result in results:
                    put_frame(database, slide, result, kept, rows)
                    if result.recalls:
                        recall(database, slide)
                self.post(messages)
                forget_crops(database, self._removed)
            self._slide, self._rows, self._removed = slide, rows, []

    def _put_crops(self, slide: int, results: Sequence[FrameResult]) -> bool:
        crops = {
            crop_name(slide, result, number): with_mask(cell.crop, cell.mask)
            for result in results
            for number, cell in enumerate(result.cells)
        }
        if lacks_files(self.state, len(crops) + FILES_TO_START):  # else the newest images would be lost, not the oldest
            with self._writing:
                self._removed += remove_oldest(self.crops, 0, REMOVED_AT_ONCE, len(crops) + 2 * FILES_TO_START)
        try:
            if not crops or write_crops(self.crops, crops):
                return True
        except OSError as error:
            raise StarvedError(
                "Results cannot be stored: too many files are open; end what opens them, or raise LimitNOFILE."
            ) from error
        if is_read_only(self.state):
            raise ReadOnlyDiskError(self.crops)
        self.crops_lost += len(crops)
        return False

    def post(self, messages: Sequence[Draft]) -> None:
        """Put messages into the outbox."""
        with self._transaction() as database:
            for message in messages:
                insert(database, "outbox", vars(message))
            self._waiting += len(messages)
            if (over := self._waiting - self._most_waiting) > 0:
                database.execute("DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT ?)", (over,))
                self._waiting -= over
                self.messages_lost += over

    def waiting(self, after: int, limit: int) -> list[Message]:
        """Messages that the broker has not acknowledged, with ids above ``after``, oldest first."""
        query = "SELECT id, topic, payload, retain FROM outbox WHERE id > ? ORDER BY id LIMIT ?"
        with self._writing, database_errors(self.state):
            rows = self._database.execute(query, (after, limit)).fetchall()
        return [Message(**{**row, "retain": bool(row["retain"])}) for row in rows]

    def delivered(self, up_to: int) -> None:
        """Delete messages with ids up to ``up_to``, which the broker has acknowledged."""
        with self._transaction() as database:
            self._waiting -= database.execute("DELETE FROM outbox WHERE id <= ?", (up_to,)).rowcount

    def __len__(self) -> int:
        """Messages that wait for the broker."""
        return self._waiting

    def review(self, cell: int, review: Review, sampling: Sampling, reviewer: str) -> None:
        """Store a person's review of a cell; BloodedgeError when there is no such cell."""
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM cells WHERE id = ?", (cell,)).fetchone() is None:
                raise BloodedgeError(f"There is no cell {cell}; reload the page.")
            row = {"cell": cell, "sampling": sampling, "reviewer": reviewer, "reviewed_at": _now()}
            insert(database, "reviews", row | vars(review))
            self.note(reviewer, "review", {"cell": cell, **review.said})

    def note(self, actor: str, action: str, detail: dict[str, Any]) -> None:
        """Add an entry to the audit log."""
        with self._transaction() as database:
            audit_log.append(database, datetime.now(UTC), actor, action, detail)

    def note_clock_set(self, by_s: float) -> None:
        """Add to the audit log that the clock was set forward (negative: back) during the newest run."""
        with self._transaction() as database:
            run = database.execute("SELECT max(id) FROM runs").fetchone()[0]
            self.note("daemon", SET, {"by_s": round(by_s, 1), "run": run})

    def tidy(self) -> int:
        """Delete the oldest images while less than ``keep_free_mb`` is free, and restore the reserve; returns how many.

        Deletes at most REMOVED_AT_ONCE images; call it now and then.
        """
        with self._writing:
            removed = self._remove_oldest(self.settings.keep_free_mb * MEGABYTE)
            self._forget_removed()
        self._reserve.restore()
        return removed

    def expire(self, now: datetime | None = None, *, clock_held: bool | None = None) -> int:
        """Delete images older than ``keep_days``, at most REMOVED_AT_ONCE; returns how many.

        clock_held: whether the clock is synchronised; None: not known. Images of a run whose clock was not are kept
        until they can be dated; see ``retention``. A call looks at the folders of slides with images, and at the frames
        of slides that are partly too old.
        """
        if self.settings.keep_days is None:
            return 0
        before = (now or datetime.now(UTC)) - timedelta(days=self.settings.keep_days)
        with self._writing:
            with database_errors(self.state):
                clocks = run_clocks(self._database, clock_held=clock_held)
            if clock_held is not False and (run := newest_doubtful(clocks)) is not None:
                self.note("daemon", TRUSTED, {"run": run})
            with database_errors(self.state):
                removed = remove_expired(self._database, self.crops, clocks, before, REMOVED_AT_ONCE)
            self._removed += removed
            self._forget_removed()
        return len(removed) or remove_set_aside(self.state, before, REMOVED_AT_ONCE, clock_held=clock_held)

    def _remove_oldest(self, until_free: int) -> int:
        with self._writing:
            removed = remove_oldest(self.crops, until_free, REMOVED_AT_ONCE)
            self._removed += removed
        return len(removed)

    def _forget_removed(self) -> None:
        if self._removed:
            with self._transaction() as database:
                forget_crops(database, self._removed)
            self._removed = []

    @property
    def has_reserve(self) -> bool:
        """Whether the reserve is still set aside, or the settings ask for none."""
        return self._reserve.exists

    def begin_anew(self) -> None:
        """Set a database that turned out to be damaged aside and begin a new one, in place.

        Raises BloodedgeError when that was done MOST_ANEW times within the last ANEW_SPAN_S.
        """
        now = monotonic()
        self._anew_at_s = [at_s for at_s in self._anew_at_s if now - at_s < ANEW_SPAN_S]
        if len(self._anew_at_s) == MOST_ANEW:
            raise BloodedgeError(
                f"The disk damages every new database in {self.state}; replace it, and save the folders damaged-..."
                " while they can be read."
            )
        self._anew_at_s.append(now)
        with self._writing, database_errors(self.state):
            self._database.close()
            self.damaged = set_aside(self.state)
            make_private(self.state / DATABASE)
            self._open()
            self._removed = []
        self.note("daemon", "damaged database set aside", {"folder": self.damaged.name})

    @property
    def is_in_place(self) -> bool:
        """Whether the open database is the one in the state folder, and not deleted or moved."""
        return self._file is not None and file_id(self.state / DATABASE) == self._file

    def put_back(self) -> None:
        """Write a database that was deleted or moved again, with all that it held; images are where they are.

        Raises BloodedgeError when it cannot be written or, as DamagedDatabaseError, read.
        """
        with self._writing, database_errors(self.state):
            write_again(self._database, self.state / DATABASE, lambda: set_aside_database(self.state))
            lock, self._lock = self._lock, lock_state(self.state, held=self._lock)
            if lock is not self._lock:
                lock.close()
            self._open()
            self.was_taken_away = True
        self.note("daemon", "database deleted or moved, and written again", {})

    def close(self) -> None:
        """Close the database and release the state folder."""
        with self._writing:
            self._database.close()
        self._lock.close()


def _now() -> str:
    return datetime.now(UTC).isoformat()
