"""Stores messages as rows: every report once, however often the broker delivers it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Engine, Table, bindparam, case, delete, select, update

from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import BoardReport, read_message
from bloodedge.machine import EARLIEST
from bloodedge_fleet.boards.index import BoardIndex, Boot, Content, Start
from bloodedge_fleet.database import Values, insert_into, reading, writing
from bloodedge_fleet.database.tables import MAX_NAME, TOTALS, boards, boots, forgotten, hours, refused, reports

Names = tuple[str, ...]


@dataclass(frozen=True)
class Received:
    """One message of a board."""

    board: str
    """The board's name in the topic."""
    kind: str
    """The topic's last part: report, or availability."""
    payload: bytes


@dataclass
class Outcome:
    """What became of a batch."""

    stored: int = 0
    repeated: int = 0
    """Reports that had been stored before."""
    refused: int = 0
    """Messages that could not be read."""
    lags_s: list[float] = field(default_factory=list)
    """Seconds from each stored report's sending, by the board's clock, to its storing."""


class Archive:
    """Stores batches of messages; for one thread of one server at a time."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._engine, self._clock = engine, clock

    def store(self, batch: Sequence[Received]) -> Outcome:
        """Store a whole batch in one transaction; on DatabaseError nothing is stored."""
        outcome = Outcome()
        read = [(message, _content(message)) for message in batch]
        now = self._clock()
        with writing(self._engine) as connection:
            rows = _Batch(connection, read, now, outcome)
            for message, content in read:
                rows.add(message, content)
            rows.write()
        done = self._clock()
        outcome.lags_s = [(done - sent).total_seconds() for sent in rows.sent]
        return outcome


class _Batch:
    """The rows that a batch adds or changes."""

    def __init__(
        self, connection: Connection, read: Sequence[tuple[Received, Content]], now: datetime, outcome: Outcome
    ) -> None:
        self._connection, self._now, self._outcome = connection, now, outcome
        self._index = BoardIndex(connection, [(message.board, content) for message, content in read], now)
        self.sent: list[datetime] = []
        self._reports: dict[tuple[int, str, int], Values] = {}
        self._newest: dict[int, str] = {}
        self._boots: dict[Boot, Values] = {}
        self._hours: dict[tuple[int, datetime, str], Values] = {}
        self._refused: dict[str, Values] = {}

    def add(self, message: Received, content: Content) -> None:
        """Add one message."""
        if isinstance(content, BloodedgeError):
            self._refuse(message.board[:MAX_NAME], str(content))
        elif isinstance(content, BoardReport):
            self._add_report(self._index.id_of_reporting(message.board), content)
        elif (board := self._index.id_of_connecting(message.board, online=content)) is not None:
            self._note_online(board, content)

    def _refuse(self, board: str, why: str) -> None:
        self._outcome.refused += 1
        row = self._refused.setdefault(board, {"board": board, "messages": 0})
        row |= {"messages": row["messages"] + 1, "last_at": self._now, "sentence": why}

    def _note_online(self, board: int, online: bool) -> None:
        changed = boards.c.online.is_distinct_from(online)
        values = {"online": online, "online_since": self._now}
        self._connection.execute(update(boards).where(boards.c.id == board, changed).values(values))

    def _add_report(self, board: int, report: BoardReport) -> None:
        boot, key = (board, report.boot), (board, report.boot, report.sequence)
        start = self._index.start(boot, report.sequence)
        newer = report.sequence > start.highest
        if key in self._reports or start.has(report.sequence) or (not newer and self._is_stored(key)):
            self._outcome.repeated += 1
            return
        start.first, start.reports = min(start.first, report.sequence), start.reports + 1
        totals = _totals(report)
        grown = tuple(max(0, total - before) for total, before in zip(totals, start.totals, strict=True))
        if newer:
            start.highest, start.totals = report.sequence, totals
            self._newest[board] = report.model_dump_json()
        row = self._reports[key] = _row(board, report, self._now, dict(zip(TOTALS, grown, strict=True)))
        self._count(boot, start, report)
        self._count_hour(row)
        self._outcome.stored += 1
        self.sent.append(report.sent_at)

    def _is_stored(self, key: tuple[int, str, int]) -> bool:
        board, boot, sequence = key
        query = select(reports.c.board).where(
            reports.c.board == board, reports.c.boot == boot, reports.c.sequence == sequence
        )
        return self._connection.execute(query).first() is not None

    def _count(self, boot: Boot, start: Start, report: BoardReport) -> None:
        row = self._boots.setdefault(
            boot, {"board": boot[0], "boot": boot[1], "began": report.sent_at, "reports": 0, "highest": 0}
        )
        row |= {"reports": row["reports"] + 1, "first": start.first, "highest": start.highest}
        row |= dict(zip(TOTALS, start.totals, strict=True))

    def _count_hour(self, row: Values) -> None:
        hour = row["sent_at"].astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        empty = dict.fromkeys((*ADDED, "inference_p95_max_ms"), 0)
        key = (row["board"], hour, row["bundle"])
        sums = self._hours.setdefault(key, {"board": row["board"], "hour": hour, "bundle": row["bundle"], **empty})
        for name in (*TOTALS, "cells_timed"):
            sums[name] += row[name]
        sums["reports"] += 1
        sums["failed"] += row["level"] == "failed"
        sums["inference_p50_sum_ms"] += (row["inference_p50_ms"] or 0.0) * row["cells_timed"]
        sums["inference_p95_max_ms"] = max(sums["inference_p95_max_ms"], row["inference_p95_ms"] or 0.0)

    def write(self) -> None:
        """Write all rows in the open transaction."""
        if self._reports:
            self._connection.execute(reports.insert(), list(self._reports.values()))
            self._upsert(boots, self._boots, add=("reports",), replace=("first", "highest", *TOTALS))
            self._upsert(hours, self._hours, add=ADDED, largest=("inference_p95_max_ms",))
            self._write_newest()
        if self._refused:
            self._upsert(refused, self._refused, add=("messages",), replace=("last_at", "sentence"))

    def _upsert(
        self, table: Table, rows: Mapping[Any, Values], *, add: Names, replace: Names = (), largest: Names = ()
    ) -> None:
        """Insert rows by the table's primary key; where one exists, change its columns as named."""
        statement = insert_into(self._connection, table)
        old, new = table.c, statement.excluded
        changed = {name: old[name] + new[name] for name in add} | {name: new[name] for name in replace}
        changed |= {name: case((new[name] > old[name], new[name]), else_=old[name]) for name in largest}
        statement = statement.on_conflict_do_update(index_elements=list(table.primary_key), set_=changed)
        self._connection.execute(statement, list(rows.values()))

    def _write_newest(self) -> None:
        statement = (
            update(boards)
            .where(boards.c.id == bindparam("which"))
            .values(report=bindparam("newest"), last_report=self._now)
        )
        rows = [{"which": board, "newest": text} for board, text in self._newest.items()]
        if rows:
            self._connection.execute(statement, rows)


ADDED = ("reports", "failed", *TOTALS, "cells_timed", "inference_p50_sum_ms")
"""Columns of ``hours`` to which each report adds."""


def _content(message: Received) -> Content:
    if len(message.board) > MAX_NAME:
        return BloodedgeError(f"The board's name has more than {MAX_NAME} characters; give it a shorter one.")
    if message.kind == "availability":
        if message.payload in {b"online", b"offline"}:
            return message.payload == b"online"
        return BloodedgeError('The availability message is neither "online" nor "offline".')
    try:
        return read_message(BoardReport, message.payload)
    except BloodedgeError as error:
        return error


def _totals(report: BoardReport) -> tuple[int, ...]:
    cells = report.cells
    return report.frames, cells.get("blast", 0), cells.get("normal", 0), cells.get("uncertain", 0)


def _row(board: int, report: BoardReport, now: datetime, grown: dict[str, int]) -> Values:
    inference = report.latency.get("inference")
    return {
        "board": board,
        "boot": report.boot,
        "sequence": report.sequence,
        "sent_at": report.sent_at,
        "stored_at": now,
        "bundle": report.bundle.title,
        "level": report.level,
        "temperature_c": report.temperature_c,
        **grown,
        "cells_timed": 0 if inference is None else inference.count,
        "inference_p50_ms": None if inference is None else inference.latency_ms.p50,
        "inference_p95_ms": None if inference is None else inference.latency_ms.p95,
    }


def remove_old_reports(engine: Engine, before: datetime) -> int:
    """Remove the reports stored before a moment and return their number; the sums by the hour stay.

    A report that was stored before the server's clock was set gets the present time, once the clock is set.
    """
    now = datetime.now(UTC)
    with writing(engine) as connection:
        if now >= EARLIEST:
            connection.execute(update(reports).where(reports.c.stored_at < EARLIEST).values(stored_at=now))
        return connection.execute(delete(reports).where(reports.c.stored_at < before)).rowcount


def forget(engine: Engine, name: str) -> bool:
    """Remove everything about a board but its name; False where there is none. If it reports again, it is new."""
    with writing(engine) as connection:
        was_there = connection.execute(delete(boards).where(boards.c.name == name)).rowcount > 0
        connection.execute(delete(refused).where(refused.c.board == name))
        if was_there:
            connection.execute(insert_into(connection, forgotten).values(name=name).on_conflict_do_nothing())
        return was_there


def board_names(engine: Engine) -> list[str]:
    """Every board that ever reported or was online, by name."""
    with reading(engine) as connection:
        return list(connection.execute(select(boards.c.name).order_by(boards.c.name)).scalars())
