"""Results on disk: SQLite, one transaction per frame, durable before the next frame is begun."""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import cv2

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.files import fsync_folder
from bloodedge.imaging import Image
from bloodedge_device.histogram import LatencyHistogram, StageTimes
from bloodedge_device.pipeline import FrameResult

DATABASE = "device.sqlite"
SCHEMA_VERSION = 1
APPLICATION_ID = 0x424C4544
""""BLED": tells bloodedge's databases from others."""

SCHEMA = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    finished TEXT,
    ready_ms REAL NOT NULL,
    bundle_name TEXT NOT NULL,
    bundle_serial INTEGER NOT NULL,
    engine TEXT NOT NULL,
    engine_reason TEXT NOT NULL,
    runtime TEXT NOT NULL,
    precision TEXT NOT NULL,
    threads INTEGER NOT NULL,
    hardware TEXT NOT NULL,
    camera TEXT NOT NULL,
    golden TEXT NOT NULL,    -- JSON: the self-test's figures on this machine
    manifest TEXT NOT NULL   -- JSON: the bundle's manifest, so that a report needs only this file
) STRICT;
CREATE TABLE slides (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id),
    label TEXT NOT NULL,
    started TEXT NOT NULL,
    finished TEXT            -- NULL while it runs, and for ever after a power cut
) STRICT;
CREATE TABLE frames (
    id INTEGER PRIMARY KEY,
    slide INTEGER NOT NULL REFERENCES slides (id),
    number INTEGER NOT NULL,
    captured_at TEXT NOT NULL,
    source TEXT NOT NULL,
    dropped_before INTEGER NOT NULL,
    width INTEGER,
    height INTEGER,
    um_per_px REAL,
    reason TEXT,             -- why it was rejected, or no_cell; NULL when it holds cells
    detail TEXT,
    focus REAL,
    brightness REAL
) STRICT;
CREATE INDEX frames_of_slide ON frames (slide);
CREATE TABLE cells (
    id INTEGER PRIMARY KEY,
    frame INTEGER NOT NULL REFERENCES frames (id),
    x INTEGER NOT NULL,
    y INTEGER NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    label TEXT NOT NULL,
    blast_probability REAL,
    reason TEXT,
    area_um2 REAL NOT NULL,
    crop TEXT                -- path below crops/
) STRICT;
CREATE INDEX cells_of_frame ON cells (frame);
CREATE TABLE rejected (      -- what the finder looked at in a frame and turned down
    frame INTEGER NOT NULL REFERENCES frames (id),
    reason TEXT NOT NULL,
    objects INTEGER NOT NULL,
    PRIMARY KEY (frame, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE latency (
    slide INTEGER NOT NULL REFERENCES slides (id),
    stage TEXT NOT NULL,
    histogram TEXT NOT NULL, -- JSON: see bloodedge_device.histogram
    PRIMARY KEY (slide, stage)
) STRICT, WITHOUT ROWID;
"""


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


class Store:
    """The one writer of a state folder."""

    def __init__(self, state: Path) -> None:
        """Open the state folder for writing, making what is missing.

        Raises BloodedgeError when another daemon writes there, when the folder cannot be written, and when the
        database is damaged or newer than this version.
        """
        self.crops = state / "crops"
        self.crops_lost = 0
        """Crops not kept because the disk was full; their results were."""
        self._lock = _locked(state)
        try:
            with database_errors(state):
                self._database = sqlite3.connect(state / DATABASE, isolation_level=None, check_same_thread=False)
                self._prepare(state)
        except BaseException:
            self._lock.close()
            raise
        self._state = state

    def _prepare(self, state: Path) -> None:
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        if check_version(self._database, state) == 0:
            self._database.executescript(
                f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                f" PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with database_errors(self._state):
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def begin_run(self, run: RunInfo) -> int:
        """Store what runs; gives its id."""
        values = {**vars(run), "started": run.started.isoformat(), "golden": json.dumps(run.golden)}
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

    def end_slide(self, slide: int, times: StageTimes) -> None:
        """Note that a slide ended in good order, with its last latencies."""
        with self._transaction() as database:
            _put_latency(database, slide, times)
            database.execute("UPDATE slides SET finished = ? WHERE id = ?", (_now(), slide))

    def put_latency(self, slide: int, times: StageTimes) -> None:
        """Replace a slide's stored latency histograms."""
        with self._transaction() as database:
            _put_latency(database, slide, times)

    def put_frames(self, slide: int, results: Sequence[FrameResult], keep_crops: bool) -> None:
        """Store frames and their cells in one transaction; they survive a power cut once this returns.

        Crops are on disk before the rows that name them. When the disk has no room for crops, results are kept
        without them; raises BloodedgeError when it has no room for results either.
        """
        kept = keep_crops and self._put_crops(slide, results)
        with self._transaction() as database:
            for result in results:
                _put_frame(database, slide, result, kept)

    def _put_crops(self, slide: int, results: Sequence[FrameResult]) -> bool:
        """Write, sync and rename every crop; False, and no crop at all, when the disk does not take them."""
        crops = {_crop_name(slide, r, number): cell.crop for r in results for number, cell in enumerate(r.cells)}
        if not crops:
            return True
        folder = self.crops / str(slide)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, crop in crops.items():
                _write_synced(self.crops / f"{name}.partial", crop)
            for name in crops:
                (self.crops / f"{name}.partial").replace(self.crops / name)
            fsync_folder(folder)
        except OSError:
            self.crops_lost += len(crops)
            for name in crops:
                (self.crops / f"{name}.partial").unlink(missing_ok=True)
                (self.crops / name).unlink(missing_ok=True)
            return False
        return True

    def close(self) -> None:
        """Close the database and let another daemon in."""
        self._database.close()
        self._lock.close()


def _locked(state: Path) -> IO[str]:
    """The state folder's lock, held until it is closed; BloodedgeError when another process holds it."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        handle = (state / "lock").open("w")
    except OSError as error:
        raise BloodedgeError(
            f"Results cannot be written to {state} ({error.strerror}); choose another folder with --state."
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise BloodedgeError(
            f"Another bloodedge device writes to {state}; stop it, or choose another folder with --state."
        ) from error
    return handle


@contextmanager
def database_errors(state: Path, doing: str = "stored in") -> Iterator[None]:
    """Turn SQLite's failures into a sentence; results could not be ``doing`` the state folder's database."""
    try:
        yield
    except sqlite3.Error as error:
        path = state / DATABASE
        code = getattr(error, "sqlite_errorcode", 0)
        reasons = {
            sqlite3.SQLITE_FULL: "the disk is full; free some space and start again, what was stored is intact",
            sqlite3.SQLITE_IOERR: "the disk failed or is full; check it and start again, what was stored is intact",
            sqlite3.SQLITE_READONLY: "it is read-only; change its permissions or choose another folder with --state",
            sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the folder's permissions or choose another folder",
            sqlite3.SQLITE_CORRUPT: "it is damaged; set it aside (rename it) and start again",
            sqlite3.SQLITE_NOTADB: "it is not a bloodedge database; set it aside (rename it) and start again",
        }
        reason = reasons.get(code & 0xFF, f"SQLite says {error}; check the disk and start again")
        raise BloodedgeError(f"Results cannot be {doing} {path}: {reason}.") from error


def check_version(database: sqlite3.Connection, state: Path) -> int:
    """Schema version of a database, 0 for a new one; BloodedgeError when it is another program's or too new."""
    version: int = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise BloodedgeError(f"{state / DATABASE} was written by a newer bloodedge; upgrade this one to read it.")
    application: int = database.execute("PRAGMA application_id").fetchone()[0]
    tables: int = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables and application != APPLICATION_ID:
        raise BloodedgeError(
            f"{state / DATABASE} is not a bloodedge database; set it aside (rename it) and start again."
        )
    return version


@contextmanager
def open_for_reading(state: Path) -> Iterator[sqlite3.Connection]:
    """The database of a state folder, rows as mappings; it may be in use by a daemon meanwhile.

    Raises UsageError when there is none, and BloodedgeError when it is damaged or too new.
    """
    path = state / DATABASE
    if not path.is_file():
        raise UsageError(f"{state} holds no results yet; make some with: bloodedge device run --state {state}")
    with database_errors(state, "read from"), closing(_read_only(path)) as database:
        database.row_factory = sqlite3.Row
        check_version(database, state)
        yield database


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


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


def read_latency(database: sqlite3.Connection, slide: int) -> dict[str, LatencyHistogram]:
    """A slide's stored histograms by stage."""
    rows = database.execute("SELECT stage, histogram FROM latency WHERE slide = ?", (slide,))
    return {row["stage"]: LatencyHistogram.from_json(row["histogram"]) for row in rows}


def _put_frame(database: sqlite3.Connection, slide: int, result: FrameResult, with_crops: bool) -> None:
    width, height = result.size or (None, None)
    row = {
        "slide": slide,
        "number": result.capture.index,
        "captured_at": result.capture.captured_at.isoformat(),
        "source": result.capture.source,
        "dropped_before": result.capture.dropped_before,
        "width": width,
        "height": height,
        "um_per_px": result.um_per_px,
        "reason": result.reason,
        "detail": result.problem,
        "focus": result.focus,
        "brightness": result.brightness,
    }
    frame = _insert(database, "frames", row)
    cells = [
        (
            frame,
            *c.box,
            c.label,
            c.blast_probability,
            c.reason,
            c.area_um2,
            _crop_name(slide, result, n) if with_crops else None,
        )
        for n, c in enumerate(result.cells)
    ]
    database.executemany(
        "INSERT INTO cells (frame, x, y, width, height, label, blast_probability, reason, area_um2, crop)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        cells,
    )
    database.executemany(
        "INSERT INTO rejected (frame, reason, objects) VALUES (?, ?, ?)",
        [(frame, reason, objects) for reason, objects in result.rejected.items()],
    )


def _crop_name(slide: int, result: FrameResult, number: int) -> str:
    return f"{slide}/{result.capture.index:07d}-{number:03d}.jpg"


def _write_synced(path: Path, crop: Image) -> None:
    ok, data = cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert ok
    with path.open("wb") as handle:
        handle.write(data.tobytes())
        handle.flush()
        os.fsync(handle.fileno())


def _now() -> str:
    return datetime.now(UTC).isoformat()
