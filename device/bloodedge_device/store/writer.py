"""The one writer of a state folder: one transaction per batch of frames, durable once it returns."""

import fcntl
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import posix_fallocate
from pathlib import Path
from time import monotonic
from typing import IO, Any, TypeVar

import numpy as np

from bloodedge.decision.thresholds import Reason
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import make_private
from bloodedge.redact import redacted
from bloodedge_device.frames import CellResult, FrameResult
from bloodedge_device.latency import StageTimes
from bloodedge_device.settings.sections import StoreSettings
from bloodedge_device.slide.domain_check import REMEMBERED
from bloodedge_device.store import audit_log
from bloodedge_device.store.crops import free_bytes, remove_oldest, remove_partial, write_crops
from bloodedge_device.store.database import (
    CROPS,
    DAMAGE,
    DATABASE,
    database_errors,
    is_damaged,
    open_for_writing,
    set_aside,
)
from bloodedge_device.store.outbox import Draft, Message
from bloodedge_device.store.retention import (
    SET,
    TRUSTED,
    newest_doubtful,
    remove_expired,
    remove_set_aside,
    run_clocks,
)
from bloodedge_device.store.watched import put_watched

RESERVE = "reserve"
"""A file of zeros that is given up when the disk is full."""

REMOVED_AT_ONCE = 500
"""Images removed between two looks at other work."""

MOST_ANEW, ANEW_SPAN_S = 3, 3600.0
"""A disk that damages more new databases than this in an hour is given up."""

FRAMES_A_FOLDER = 1000

ROWS_KNOWN = 4000
"""Of recognised cells: as many as may still be seen again."""

MEGABYTE = 1_000_000

Result = TypeVar("Result")


class StateInUseError(BloodedgeError):
    """Another process writes to the state folder."""


class DiskFullError(BloodedgeError):
    """Nothing more can be stored until space is free; what was stored is intact."""


@dataclass(frozen=True)
class RunInfo:
    """What ran: one row of ``runs``."""

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
    """None when the system does not tell."""


class Store:
    """The one writer of a state folder; safe to use from several threads."""

    def __init__(self, state: Path, settings: StoreSettings | None = None, most_waiting: int = 200_000) -> None:
        """Open the state folder for writing, making what is missing; a damaged database is set aside.

        most_waiting: messages kept for the broker. Raises StateInUseError when another daemon writes there, and
        BloodedgeError when the folder cannot be written, and when the database is another program's or newer than this
        version.
        """
        self.state = state
        self.settings = settings or StoreSettings()
        self.crops = state / CROPS
        self.crops_lost = 0
        """Images not kept because the disk was full; their results were."""
        self.messages_lost = 0
        """Messages given up because more than ``most_waiting`` waited."""
        self.damaged: Path | None = None
        """Where a damaged database was set aside since the start."""
        self._most_waiting = most_waiting
        self._writing = threading.RLock()
        self._lock = _locked(state)
        try:
            with database_errors(state):
                make_private(state / DATABASE)
                if is_damaged(state):
                    self.damaged = set_aside(state)
                self._database = open_for_writing(state)
            self._waiting = self._count_waiting()
            remove_partial(self.crops)
            self._reserve()
        except BaseException:
            self._lock.close()
            raise
        if self.damaged is not None:
            self.note("daemon", "damaged database set aside", {"folder": self.damaged.name})
        self._rows: dict[int, int] = {}
        self._anew_at_s: list[float] = []
        self._slide = 0
        self._removed: list[str] = []
        """Images given up, whose rows still name them."""

    def _count_waiting(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM outbox").fetchone()[0])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All that is done inside is stored, or nothing; one inside another is part of it."""
        with self._writing, _full_or_damaged(self.state), database_errors(self.state):
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
        """Take steps, which are calls of this class, in one transaction: all of them or none; gives what they give.

        On a full disk they are taken again once there is room; raises DiskFullError where none can be made.
        """

        def together() -> Result:
            with self._transaction():
                return steps()

        return self._with_room(together)

    def _with_room(self, step: Callable[[], Result]) -> Result:
        """Take a step again for as long as a full disk refuses it and something can be given up for it."""
        while True:
            try:
                return step()
            except DiskFullError:
                if not self._make_room():
                    raise

    def begin_run(self, run: RunInfo) -> int:
        """Store what runs; gives its id."""
        values = {**vars(run), "started": run.started.isoformat(), "golden": json.dumps(run.golden)}
        values["camera"] = redacted(run.camera)
        with self._transaction() as database:
            return _insert(database, "runs", values)

    def end_run(self, run: int) -> None:
        """Note that a run ended in good order."""
        with self._transaction() as database:
            database.execute("UPDATE runs SET finished = ? WHERE id = ?", (_now(), run))

    def begin_slide(self, run: int, label: str) -> int:
        """Begin a slide; gives its id."""
        with self._transaction() as database:
            return _insert(database, "slides", {"run": run, "label": label, "started": _now()})

    def label_slide(self, slide: int, label: str, actor: str) -> None:
        """Give a slide another label; UsageError when there is no such slide."""
        with self._transaction() as database:
            if not database.execute("UPDATE slides SET label = ? WHERE id = ?", (label, slide)).rowcount:
                raise UsageError(f"There is no slide {slide}.")
            audit_log.append(database, datetime.now(UTC), actor, "slide labelled", {"slide": slide, "label": label})

    def end_slide(self, slide: int, times: StageTimes, messages: Sequence[Draft] = (), actor: str = "daemon") -> None:
        """Note that a slide ended in good order, with its last latencies."""
        with self._transaction() as database:
            _put_latency(database, slide, times)
            self._post(database, messages)
            database.execute("UPDATE slides SET finished = ? WHERE id = ?", (_now(), slide))
            audit_log.append(database, datetime.now(UTC), actor, "slide ended", {"slide": slide})

    def put_latency(self, slide: int, times: StageTimes) -> None:
        """Replace a slide's stored latency histograms."""
        with self._transaction() as database:
            _put_latency(database, slide, times)

    def put_frames(
        self, slide: int, results: Sequence[FrameResult], keep_crops: bool, messages: Sequence[Draft] = ()
    ) -> None:
        """Store frames, their cells and the messages about them in one transaction.

        They survive a power cut once this returns. Images are on disk before the rows that name them. When the disk
        has no room for images, results are kept without them; raises DiskFullError when it has no room for results
        either, after the oldest images and the reserve were given up.
        """
        kept = keep_crops and self._put_crops(slide, results)
        self._with_room(lambda: self._put_rows(slide, results, kept, messages))

    def _put_rows(self, slide: int, results: Sequence[FrameResult], kept: bool, messages: Sequence[Draft]) -> None:
        if slide != self._slide:
            self._slide, self._rows = slide, {}
        rows = dict(self._rows)  # a transaction that fails leaves no trace
        with self._writing:
            with self._transaction() as database:
                for result in results:
                    _put_frame(database, slide, result, kept, rows)
                    if result.recalls:
                        _recall(database, slide)
                self._post(database, messages)
                _name_no_more(database, self._removed)
            self._rows, self._removed = rows, []

    def _put_crops(self, slide: int, results: Sequence[FrameResult]) -> bool:
        crops = {_crop_name(slide, r, number): cell.crop for r in results for number, cell in enumerate(r.cells)}
        if not crops or write_crops(self.crops, crops):
            return True
        self.crops_lost += len(crops)
        return False

    def post(self, messages: Sequence[Draft]) -> None:
        """Put messages into the outbox."""
        with self._transaction() as database:
            self._post(database, messages)

    def _post(self, database: sqlite3.Connection, messages: Sequence[Draft]) -> None:
        if not messages:
            return
        database.executemany(
            "INSERT INTO outbox (topic, payload, retain) VALUES (?, ?, ?)",
            [(message.topic, message.payload, message.retain) for message in messages],
        )
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
        return [Message(row["id"], row["topic"], row["payload"], bool(row["retain"])) for row in rows]

    def delivered(self, up_to: int) -> None:
        """The broker has acknowledged every message with an id up to ``up_to``."""
        with self._transaction() as database:
            self._waiting -= database.execute("DELETE FROM outbox WHERE id <= ?", (up_to,)).rowcount

    def __len__(self) -> int:
        """Messages that wait for the broker."""
        return self._waiting

    def review(self, cell: int, label: str, sampling: str, reviewer: str) -> None:
        """Store what a person says of a cell; BloodedgeError when there is no such cell."""
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM cells WHERE id = ?", (cell,)).fetchone() is None:
                raise BloodedgeError(f"There is no cell {cell}; reload the page.")
            row = {"cell": cell, "label": label, "sampling": sampling, "reviewer": reviewer, "reviewed_at": _now()}
            _insert(database, "reviews", row)
            audit_log.append(database, datetime.now(UTC), reviewer, "review", {"cell": cell, "label": label})

    def note(self, actor: str, action: str, detail: dict[str, Any]) -> None:
        """Add an entry to the audit log."""
        with self._transaction() as database:
            audit_log.append(database, datetime.now(UTC), actor, action, detail)

    def note_clock_set(self, by_s: float) -> None:
        """Add to the audit log that the wall clock was set forward (negative: back) during the newest run."""
        with self._transaction() as database:
            run = database.execute("SELECT max(id) FROM runs").fetchone()[0]
            audit_log.append(database, datetime.now(UTC), "daemon", SET, {"by_s": round(by_s, 1), "run": run})

    def tidy(self) -> int:
        """Remove oldest images while less than the settings' space is free, and restore the reserve; gives how many.

        To be called now and then; does a bounded amount of work.
        """
        removed = self._remove_images(self.settings.keep_free_mb * MEGABYTE)
        self._reserve()
        return removed

    def expire(self, now: datetime | None = None, *, clock_held: bool | None = None) -> int:
        """Remove images past the settings' ``keep_days``, a bounded number; gives how many.

        clock_held: whether the wall clock is held to a time source; None: not known. Images of a run whose clock was
        not are spared until they can be dated; see ``retention``.
        Each call costs a look at the folders of slides with images, and at the frames of those half past it.
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
            self._name_no_more()
        return len(removed) or remove_set_aside(self.state, before, REMOVED_AT_ONCE, clock_held=clock_held)

    def _remove_images(self, until_free: int) -> int:
        with self._writing:
            removed = self._remove_files(until_free)
            self._name_no_more()
        return removed

    def _name_no_more(self) -> None:
        """Take what was removed out of the rows that name it."""
        if self._removed:
            with self._transaction() as database:
                _name_no_more(database, self._removed)
            self._removed = []

    def _remove_files(self, until_free: int) -> int:
        with self._writing:
            removed = remove_oldest(self.crops, until_free, REMOVED_AT_ONCE)
            self._removed += removed
        return len(removed)

    def _make_room(self) -> bool:
        """Give up the oldest images, then the reserve; whether any space came of it."""
        reserve = self.state / RESERVE
        if self._remove_files(max(2, self.settings.reserve_mb) * MEGABYTE):
            return True
        if _is_reserve(reserve):
            reserve.unlink()
            return True
        return False

    def _reserve(self) -> None:
        """Set the reserve aside again, where there is room for it twice."""
        size, path = self.settings.reserve_mb * MEGABYTE, self.state / RESERVE
        if not size or path.exists() or free_bytes(self.state) < 2 * size:
            return
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as handle:
                posix_fallocate(handle.fileno(), 0, size)
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)

    @property
    def has_reserve(self) -> bool:
        """Whether the reserve is still set aside, or none is wanted."""
        return not self.settings.reserve_mb or (self.state / RESERVE).exists()

    def begin_anew(self) -> None:
        """Set a database that turned out to be damaged aside and begin a new one, in place.

        Raises BloodedgeError when that was done MOST_ANEW times within the last ANEW_SPAN_S.
        """
        now = monotonic()
        self._anew_at_s = [at_s for at_s in self._anew_at_s if now - at_s < ANEW_SPAN_S]
        if len(self._anew_at_s) == MOST_ANEW:
            raise BloodedgeError(
                f"The disk damages every database begun in {self.state}; replace it, and copy what was set aside"
                " there (damaged-...) while it can be read."
            )
        self._anew_at_s.append(now)
        with self._writing, database_errors(self.state):
            self._database.close()
            self.damaged = set_aside(self.state)
            make_private(self.state / DATABASE)
            self._database = open_for_writing(self.state)
            self._waiting, self._slide, self._rows, self._removed = 0, 0, {}, []
        self.note("daemon", "damaged database set aside", {"folder": self.damaged.name})

    def close(self) -> None:
        """Close the database and let another daemon in."""
        with self._writing:
            self._database.close()
        self._lock.close()


def _is_reserve(path: Path) -> bool:
    """Whether a file is one of zeros, whole megabytes of them: another's file of that name is never given up."""
    if not path.is_file() or not path.stat().st_size or path.stat().st_size % MEGABYTE:
        return False
    with path.open("rb") as handle:
        return not any(handle.read(MEGABYTE))


class DamagedDatabaseError(BloodedgeError):
    """The database turned out to be damaged; ``Store.begin_anew`` sets it aside."""


@contextmanager
def _full_or_damaged(state: Path) -> Iterator[None]:
    """Tell the failures that can be cured from the others."""
    try:
        yield
    except BloodedgeError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and free_bytes(state) < MEGABYTE):
            raise DiskFullError(str(error)) from error.__cause__
        if code in DAMAGE:
            raise DamagedDatabaseError(str(error)) from error.__cause__
        raise


def _locked(state: Path) -> IO[str]:
    """The state folder's lock, held until it is closed; BloodedgeError when another process holds it."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        handle = (state / "lock").open("a")
    except OSError as error:
        raise BloodedgeError(
            f"Results cannot be written to {state} ({error.strerror}); choose another folder with --state."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise StateInUseError(
            f"Another bloodedge device writes to {state}; stop it, or choose another folder with --state."
        ) from error
    return handle


def _insert(database: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    marks = ", ".join(f":{column}" for column in row)
    cursor = database.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", row)  # noqa: S608  # own names
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _put_latency(database: sqlite3.Connection, slide: int, times: StageTimes) -> None:
    database.executemany(
        "INSERT OR REPLACE INTO latency (slide, stage, histogram) VALUES (?, ?, ?)",
        [(slide, stage, histogram.to_json()) for stage, histogram in times.histograms.items() if histogram.count],
    )


def _put_frame(
    database: sqlite3.Connection, slide: int, result: FrameResult, with_crops: bool, rows: dict[int, int]
) -> None:
    """One frame's rows; ``rows``: which row stands for each of the slide's recognised cells, kept up to date."""
    width, height = result.size or (None, None)
    drawn_blasts, drawn_normals = result.capture.truth or (None, None)
    row = {
        "slide": slide,
        "number": result.capture.index,
        "captured_at": result.capture.captured_at.isoformat(),
        "source": redacted(result.capture.source),
        "dropped_before": result.capture.dropped_before,
        "width": width,
        "height": height,
        "um_per_px": result.um_per_px,
        "reason": result.reason,
        "detail": None if result.problem is None else redacted(result.problem),
        "focus": result.focus,
        "brightness": result.brightness,
        "drawn_blasts": drawn_blasts,
        "drawn_normals": drawn_normals,
    }
    frame = _insert(database, "frames", row)
    if result.capture.file is not None:
        put_watched(database, result.capture.file)
    for number, cell in enumerate(result.cells):
        _put_cell(database, frame, cell, _crop_name(slide, result, number) if with_crops else None, rows)
    database.executemany(
        "INSERT INTO rejected (frame, reason, objects) VALUES (?, ?, ?)",
        [(frame, reason, objects) for reason, objects in result.rejected.items()],
    )


def _put_cell(
    database: sqlite3.Connection, frame: int, cell: CellResult, crop: str | None, rows: dict[int, int]
) -> None:
    figures = None if cell.figures is None else np.asarray(cell.figures, np.float32).tobytes()
    row = database.execute(
        "INSERT INTO cells (frame, x, y, width, height, label, blast_probability, reason, area_um2, crop, number,"
        " repeated, figures) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            frame,
            *cell.box,
            cell.label,
            cell.blast_probability,
            cell.reason,
            cell.area_um2,
            crop,
            cell.number,
            cell.repeated,
            figures,
        ),
    ).lastrowid
    assert row is not None
    if cell.number is None or cell.repeated:
        return
    if (before := rows.get(cell.number)) is not None:  # a better view of a cell than the row that stood for it
        database.execute("UPDATE cells SET repeated = 1 WHERE id = ?", (before,))
    rows[cell.number] = row
    if len(rows) > ROWS_KNOWN:
        del rows[next(iter(rows))]


def _recall(database: sqlite3.Connection, slide: int) -> None:
    """Take the classes of a slide's latest cells back; see FrameResult.recalls."""
    latest = (
        "SELECT cells.id FROM cells JOIN frames ON frames.id = cells.frame"
        " WHERE frames.slide = ? AND blast_probability IS NOT NULL ORDER BY cells.id DESC LIMIT ?"
    )
    database.execute(
        f"UPDATE cells SET label = 'uncertain', reason = ? WHERE label != 'uncertain' AND id IN ({latest})",  # noqa: S608
        (Reason.OUT_OF_DOMAIN, slide, REMEMBERED),
    )


def _name_no_more(database: sqlite3.Connection, crops: Sequence[str]) -> None:
    """Take images out of the rows that name them, in one pass over the cells."""
    if crops:
        database.execute(
            "UPDATE cells SET crop = NULL WHERE crop IN (SELECT value FROM json_each(?))", (json.dumps(crops),)
        )


def _crop_name(slide: int, result: FrameResult, number: int) -> str:
    """Below the folder of images: no folder holds those of more than FRAMES_A_FOLDER frames."""
    frame = result.capture.index
    return f"{slide}/{frame // FRAMES_A_FOLDER:04d}/{frame:07d}-{number:03d}.jpg"


def _now() -> str:
    return datetime.now(UTC).isoformat()
