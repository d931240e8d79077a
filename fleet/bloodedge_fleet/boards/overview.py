"""Boards as the page, the command line and the metrics show them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Connection, Row, RowMapping, func, select

from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import BoardReport, read_stored
from bloodedge.metrics import wilson
from bloodedge_fleet.database.tables import boards, boots, hours, refused

State = Literal["ok", "warning", "failed", "silent", "offline", "new"]
ORDER: tuple[State, ...] = ("failed", "silent", "offline", "warning", "new", "ok")
"""Worst first."""

BOARDS_A_PAGE = 200
AT_ONCE = 500
"""Rows fetched at once."""

CLOCK_AHEAD = timedelta(minutes=1)
"""A board's clock that is further ahead of this server's gets a warning."""


@dataclass(frozen=True)
class Board:
    """One board at one moment."""

    name: str
    state: State
    sentence: str
    """What is wrong with it; empty when nothing is."""
    first_seen: datetime
    last_report: datetime | None
    age_s: float | None
    """Seconds since its newest report was stored."""
    online: bool | None
    """Whether the broker holds a connection of it; None where it never said."""
    missing: int
    """Reports that were sent, judging by their numbers, and never arrived."""
    report: BoardReport | None

    @property
    def inference_ms(self) -> float | None:
        """Median of one cell's inference in the newest report; None when no cell was classified then."""
        latency = None if self.report is None else self.report.latency.get("inference")
        return None if latency is None else latency.latency_ms.p50

    @property
    def times_baseline(self) -> float | None:
        """The board's median over the float model's where it was trained."""
        if self.report is None or self.inference_ms is None:
            return None
        baseline = self.report.bundle.baseline.latency_ms.p50
        return self.inference_ms / baseline if baseline > 0 else None

    @property
    def reviewed_accuracy(self) -> tuple[float, tuple[float, float]] | None:
        """(share, Wilson's 95 % interval) of randomly drawn cells that a reviewer called the same; None without any."""
        reviewed = None if self.report is None else self.report.reviewed
        if reviewed is None or not reviewed.called:
            return None
        return reviewed.right / reviewed.called, wilson(reviewed.right, reviewed.called)


def read_boards(
    connection: Connection, silent: timedelta, now: datetime | None = None, among: Sequence[str] | None = None
) -> list[Board]:
    """Every board, or those of some names, the worst first; silent: one without a report for so long counts as silent.

    Holds all their reports: see ``each_board`` for very many.
    """
    return sorted(each_board(connection, silent, now, among), key=_worst_first)


def each_board(
    connection: Connection, silent: timedelta, now: datetime | None = None, among: Sequence[str] | None = None
) -> Iterator[Board]:
    """As ``read_boards``, in no order and one after the other: ten thousand reports held at once take 200 MB."""
    counted = select(boots.c.board, func.sum(boots.c.highest - boots.c.first + 1 - boots.c.reports))
    if among is not None:
        counted = counted.where(boots.c.board.in_(select(boards.c.id).where(boards.c.name.in_(among))))
    rows = connection.execute(counted.group_by(boots.c.board)).tuples()
    yield from _each(connection, silent, now, among, {board: int(number) for board, number in rows})


def _each(
    connection: Connection,
    silent: timedelta,
    now: datetime | None,
    among: Sequence[str] | None,
    missing: Mapping[int, int],
) -> Iterator[Board]:
    now = now or datetime.now(UTC)
    query = select(boards) if among is None else select(boards).where(boards.c.name.in_(among))
    for row in connection.execute(query.execution_options(yield_per=AT_ONCE)).mappings():
        yield _board(row, missing.get(row["id"], 0), silent, now)


def _worst_first(board: Board) -> tuple[int, str]:
    return ORDER.index(board.state), board.name


@dataclass(frozen=True)
class BoardsPage:
    """Some of many boards."""

    boards: list[Board]
    counts: dict[State, int]
    """All boards by state, the worst first."""
    page: int
    """From 1."""
    pages: int

    @property
    def number(self) -> int:
        """All boards."""
        return sum(self.counts.values())


def read_page(connection: Connection, silent: timedelta, page: int, now: datetime | None = None) -> BoardsPage:
    """A page of BOARDS_A_PAGE boards, the worst of all on the first; a page after the last is the last."""
    order = sorted((*_worst_first(board), board.state) for board in _each(connection, silent, now, None, {}))
    counts = Counter(state for *_, state in order)
    pages = max(1, -(-len(order) // BOARDS_A_PAGE))
    page = min(page, pages)
    shown = [name for _, name, _ in order[(page - 1) * BOARDS_A_PAGE : page * BOARDS_A_PAGE]]
    return BoardsPage(read_boards(connection, silent, now, shown), dict(counts), page, pages)


def _board(values: RowMapping, missing: int, silent: timedelta, now: datetime) -> Board:
    report = None if values["report"] is None else read_last_report(values["report"])
    last = values["last_report"]
    state, sentence = _state(report, last, values["online"], silent, now)
    age_s = None if last is None else (now - last).total_seconds()
    kept = (values["first_seen"], last, age_s, values["online"])
    return Board(values["name"], state, sentence, *kept, missing, report)


def _state(
    report: BoardReport | None, last: datetime | None, online: bool | None, silent: timedelta, now: datetime
) -> tuple[State, str]:
    unreachable = _unreachable(last, online, silent, now)
    if unreachable is not None or last is None:
        return unreachable or NEW
    return UNREADABLE if report is None else _reported(report, last)


NEW: tuple[State, str] = ("new", "It has not reported yet.")
UNREADABLE: tuple[State, str] = (
    "warning",
    "Its newest report was stored by another version and cannot be read; wait for the next one.",
)


def _unreachable(
    last: datetime | None, online: bool | None, silent: timedelta, now: datetime
) -> tuple[State, str] | None:
    """Why a board is unreachable; None where it is not."""
    if online is False:
        return "offline", "It has no connection to the broker."
    if last is None:
        return NEW
    if now - last > silent:
        return "silent", f"It has not reported for {describe(now - last)}."
    return None


def _reported(report: BoardReport, last: datetime) -> tuple[State, str]:
    """State by the board's own report and its clock."""
    if (level := report.level) != "ok":
        return level, next(part.sentence for part in report.health.values() if part.level == level)
    if not report.alive:
        return "warning", "It has processed no frame lately; check its camera."
    if report.clock_synchronised is False:
        return "warning", "Its clock is not synchronised with a time source: times may be wrong."
    if report.sent_at - last > CLOCK_AHEAD:
        return (
            "warning",
            f"Its clock is {describe(report.sent_at - last)} ahead of this server's; check which of them is wrong.",
        )
    return "ok", ""


def read_last_report(text: str) -> BoardReport | None:
    """A board's newest report from its stored form; None where this version cannot read it."""
    try:
        return read_stored(BoardReport, text)
    except BloodedgeError:
        return None


def read_unreachable(connection: Connection, silent: timedelta, now: datetime) -> dict[str, str]:
    """Why a board is unreachable, by name, for each board that is; silent: as for read_boards."""
    query = select(boards.c.name, boards.c.last_report, boards.c.online)
    found = {name: _unreachable(last, online, silent, now) for name, last, online in connection.execute(query).tuples()}
    return {name: unreachable[1] for name, unreachable in found.items() if unreachable is not None}


def describe(age: timedelta) -> str:
    """A time span in words, such as "3 hours"."""
    seconds = age.total_seconds()
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return f"{max(0, int(seconds))} s"


@dataclass(frozen=True)
class Hour:
    """One board in one hour."""

    hour: datetime
    reports: int
    cells: int
    uncertain_share: float | None
    inference_ms: float | None
    """Mean of the reports' medians, weighted by their cells."""


def read_hours(connection: Connection, board: str, since: datetime, until: datetime) -> list[Hour]:
    """Every hour with reports that began between two moments by the board's clock, oldest first."""
    number = select(boards.c.id).where(boards.c.name == board).scalar_subquery()
    names = ("reports", "blasts", "normals", "uncertain", "cells_timed", "inference_p50_sum_ms")
    query = (
        select(hours.c.hour, *(func.sum(hours.c[name]).label(name) for name in names))
        .where(hours.c.board == number, hours.c.hour.between(since, until))
        .group_by(hours.c.hour)
        .order_by(hours.c.hour)
    )
    return [_hour(row) for row in connection.execute(query).mappings()]


def _hour(row: RowMapping) -> Hour:
    cells = int(row["blasts"] + row["normals"] + row["uncertain"])
    latency = _ratio(row["inference_p50_sum_ms"], row["cells_timed"])
    return Hour(row["hour"], int(row["reports"]), cells, _ratio(row["uncertain"], cells), latency)


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def read_refusals(connection: Connection) -> Sequence[Row[Any]]:
    """Messages that could not be read, by board: board, messages, last_at and sentence; the latest first."""
    return connection.execute(select(refused).order_by(refused.c.last_at.desc())).all()
