"""What the database holds of the boards that a batch is of, looked up anew for each: a person may forget any."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, RowMapping, delete, select, tuple_

from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import BoardReport
from bloodedge_fleet.database import insert_into
from bloodedge_fleet.database.tables import boards, boots, forgotten

TOTALS = ("frames", "blasts", "normals", "uncertain")
Boot = tuple[int, str]
"""A board's id and its daemon's start."""

Content = BoardReport | bool | BloodedgeError
"""A message as it was read: a report, whether its board is online, or why it cannot be read."""


@dataclass
class Start:
    """What is stored of a daemon's start."""

    first: int
    """Sequence number that was to come first: 1, but for a board that reported before this server knew it."""
    highest: int = 0
    reports: int = 0
    totals: tuple[int, ...] = (0, 0, 0, 0)

    def has(self, sequence: int) -> bool:
        """Whether a report is stored for certain: none is missing, and it may have been removed as an old one since."""
        return self.first <= sequence <= self.highest and self.reports == self.highest - self.first + 1


def _start(row: RowMapping) -> Start:
    return Start(row["first"], row["highest"], row["reports"], tuple(row[name] for name in TOTALS))


class Known:
    """Boards by their names and their daemons' starts; new ones are made known as their messages come."""

    def __init__(self, connection: Connection, read: Sequence[tuple[str, Content]], now: datetime) -> None:
        """read: (board's name, message) of the batch."""
        self._connection, self._now = connection, now
        sent = [(name, content) for name, content in read if not isinstance(content, BloodedgeError)]
        names = {name for name, _ in sent}
        of_names = select(boards.c.name, boards.c.id).where(boards.c.name.in_(names))
        self._ids: dict[str, int] = dict(connection.execute(of_names).tuples().all())
        reports = [(name, content.boot) for name, content in sent if isinstance(content, BoardReport)]
        self._starts = self._read_starts({(self._ids[name], boot) for name, boot in reports if name in self._ids})

    def _read_starts(self, keys: set[Boot]) -> dict[Boot, Start]:
        query = select(boots).where(tuple_(boots.c.board, boots.c.boot).in_(keys))
        return {(row["board"], row["boot"]): _start(row) for row in self._connection.execute(query).mappings()}

    def reporting(self, name: str) -> int:
        """The id of a board that has sent a report."""
        if name not in self._ids:
            self._make(name)
        return self._ids[name]

    def connecting(self, name: str, *, online: bool) -> int | None:
        """The id of a board of which the broker tells; None: a stranger's, of which nothing is to be kept.

        The broker says again and again what it heard last of a board, be it long out of service.
        """
        if name not in self._ids and online and not self._is_forgotten(name):
            self._make(name)
        return self._ids.get(name)

    def _is_forgotten(self, name: str) -> bool:
        query = select(forgotten.c.name).where(forgotten.c.name == name)
        return self._connection.execute(query).first() is not None

    def _make(self, name: str) -> None:
        insert = insert_into(self._connection, boards).values(name=name, first_seen=self._now)
        self._connection.execute(insert.on_conflict_do_nothing())
        self._connection.execute(delete(forgotten).where(forgotten.c.name == name))
        self._ids[name] = self._connection.execute(select(boards.c.id).where(boards.c.name == name)).scalar_one()

    def start(self, key: Boot, sequence: int) -> Start:
        """What is stored of a daemon's start; sequence: of the report that has just come."""
        if key not in self._starts:
            self._starts[key] = Start(1 if self._has_reported(key[0]) else sequence)
        return self._starts[key]

    def _has_reported(self, board: int) -> bool:
        query = select(boots.c.boot).where(boots.c.board == board).limit(1)
        earlier = any(known == board for known, _ in self._starts)
        return earlier or self._connection.execute(query).first() is not None
