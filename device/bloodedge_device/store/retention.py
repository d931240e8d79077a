"""Deleting old images, by the capture time of their frames: the files' times may be those of copies.

A board without a battery-backed clock starts in the past, and images of such a run look older than they are. So a
run's times are trusted only if its clock was synchronised when it began. Otherwise:

- If the clock was set forward during the run, the images before that are dated by the same jump.
- Without a jump, they count as taken when the clock was next right: at a later run that began with a synchronised
  clock, or at the audit log's entry "clock trusted".
- Until then they are kept, except on a board that never has a time source: there its own clock counts, if its time is
  possible.
"""

import json
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bloodedge.machine import EARLIEST
from bloodedge_device.store.crops import remove_before
from bloodedge_device.store.database import CROPS, date_set_aside, sets_aside

SET, TRUSTED = "clock set", "clock trusted"
"""Actions in the audit log: the clock was set, by so many seconds; from now on its time is trusted."""

LOOK = timedelta(seconds=5)
"""Longest time from setting the clock to the entry in the log."""


@dataclass(frozen=True)
class Jump:
    """The clock was set forward."""

    read: datetime
    """The clock's time before, or up to LOOK later."""
    by: timedelta


@dataclass(frozen=True)
class RunClock:
    """Whether the times of a run's frames can be trusted."""

    trusted: bool
    jumps: tuple[Jump, ...] = ()
    since: datetime | None = None
    """For an untrusted run without a jump, when the clock was next right; None: not yet."""

    def keeps(self, before: datetime) -> bool:
        """Whether no image of the run is known to be from ``before`` then."""
        return not self.trusted and not self.jumps and (self.since is None or self.since >= before)

    def first_kept(self, database: sqlite3.Connection, slide: int, before: datetime) -> int | None:
        """Number of the slide's first frame from ``before`` or later."""
        ranges = [(before, datetime.max.replace(tzinfo=UTC))]
        by = timedelta(0)
        for jump in reversed(self.jumps):
            by += jump.by
            ranges.append((before - by, jump.read))
        query = " OR ".join(["captured_at BETWEEN ? AND ?"] * len(ranges))
        limits = [time.isoformat() for pair in ranges for time in pair]
        query = f"SELECT min(number) FROM frames WHERE slide = ? AND ({query})"  # noqa: S608  # only marks
        first: int | None = database.execute(query, (slide, *limits)).fetchone()[0]
        return first


def run_clocks(database: sqlite3.Connection, *, clock_held: bool | None) -> dict[int, RunClock]:
    """Each run's clock; clock_held: whether the clock is synchronised now, None: not known."""
    runs = [
        (row["id"], datetime.fromisoformat(row["started"]), row["clock_synchronised"])
        for row in database.execute("SELECT id, started, clock_synchronised FROM runs ORDER BY id")
    ]
    doubtful = {run: started for run, started, held in runs if held == 0 or started < EARLIEST}
    jumps = _jumps(database, doubtful)
    marks = [(run - 1, started) for run, started, _ in runs if run not in doubtful] + _trusted(database)
    clocks = {}
    for run, started, _ in runs:
        since = min((when for last, when in marks if last >= run), default=None)
        own_clock = clock_held is False and since is None and started >= EARLIEST
        trusted = run not in doubtful or (own_clock and not jumps.get(run))
        clocks[run] = RunClock(trusted, tuple(jumps.get(run, ())), since)
    return clocks


def newest_doubtful(clocks: dict[int, RunClock]) -> int | None:
    """The newest run, if any run's images wait for a right clock; else None."""
    undated = any(not clock.trusted and not clock.jumps and clock.since is None for clock in clocks.values())
    return max(clocks) if undated else None


def _jumps(database: sqlite3.Connection, doubtful: dict[int, datetime]) -> dict[int, list[Jump]]:
    """Jumps by run; an entry of an older version names no run, and belongs to the newest one that had begun by then."""
    found: dict[int, list[Jump]] = {}
    for at, detail in _entries(database, SET):
        by = timedelta(seconds=float(detail["by_s"]))
        begun = [run for run, started in doubtful.items() if started <= at - by + LOOK]
        run = int(detail.get("run") or max(begun, default=0))
        if by > timedelta(0) and run in doubtful:
            found.setdefault(run, []).append(Jump(at - by + LOOK, by))
    return found


def _trusted(database: sqlite3.Connection) -> list[tuple[int, datetime]]:
    """(last run before, when) for each moment from which the clock was trusted."""
    return [(int(detail["run"]), at) for at, detail in _entries(database, TRUSTED)]


def _entries(database: sqlite3.Connection, action: str) -> list[tuple[datetime, dict[str, float]]]:
    query = "SELECT at, detail FROM audit WHERE action = ? ORDER BY id"
    return [(datetime.fromisoformat(at), json.loads(detail)) for at, detail in database.execute(query, (action,))]


def remove_expired(
    database: sqlite3.Connection, crops: Path, clocks: dict[int, RunClock], before: datetime, most: int
) -> list[str]:
    """Delete images from ``before`` then (UTC), oldest first, at most ``most``; returns their names below ``crops``.

    Queries only slides that began before then and have images.
    """
    removed: list[str] = []
    newest = database.execute("SELECT max(id) FROM slides").fetchone()[0]
    for slide, folder in _by_slide(crops).items():
        row = database.execute("SELECT run, started FROM slides WHERE id = ?", (slide,)).fetchone()
        if row is None or row["started"] >= before.isoformat() or clocks[row["run"]].keeps(before):
            continue
        kept = clocks[row["run"]].first_kept(database, slide, before)
        gone = remove_before(folder, kept, most - len(removed), in_use=slide == newest)
        removed += [path.relative_to(crops).as_posix() for path in gone]
        if len(removed) == most:
            break
    return removed


def remove_set_aside(state: Path, before: datetime, most: int, *, clock_held: bool | None) -> int:
    """Delete images of damaged databases that were set aside ``before`` then, at most ``most``; returns how many.

    A folder with an impossible time gets a new one, once the clock may be right.
    """
    removed = 0
    for folder, when in sets_aside(state).items():
        if when < EARLIEST:
            if clock_held is not False:
                date_set_aside(folder)
        elif when < before:
            for slide in _by_slide(folder / CROPS).values():
                removed += len(remove_before(slide, None, most - removed, in_use=False))
    return removed


def _by_slide(crops: Path) -> dict[int, Path]:
    """The slides' folders of images by the slides' ids, in order."""
    found = {int(path.name): path for path in crops.iterdir() if path.name.isdecimal()} if crops.is_dir() else {}
    return dict(sorted(found.items()))
