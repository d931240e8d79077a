"""The boards and daemon starts of one batch of messages, as the database has them.

They are read anew for each batch, because a person may forget a board at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, select, tuple_

from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import BoardReport
from bloodedge_fleet.database import insert_into
from bloodedge_fleet.database.tables import TOTALS, boards, boots, forgotten

Boot = tuple[int, str]
"""A board's id and its daemon's start."""

Content = BoardReport | bool | BloodedgeError
"""A message after reading: a report, whether its board is online, or why it cannot be read."""


@dataclass
class Start:
    """One start of a board's daemon, as it is stored."""

    first: int
    """Sequence number of the first report to expect: 1, unless the board reported before this server knew it."""
    highest: int = 0
    reports: int = 0
    totals: tuple[int, ...] = (0, 0, 0, 0)

    def has(self, sequence: int) -> bool:
        """Whether a report certainly was stored, because none is missing; it may have been removed with age since."""
        return self.first <= sequence <= self.highest and self.reports == self.highest - self.first + 1


class BoardIndex:
    """Boards by name, and their daemons' starts; new boards are added as their messages come."""

    def __init__(self, connection: Connection, messages: Sequence[tuple[str, Content]], now: datetime) -> None:
        """messages: (board's name, content) of the batch."""
        self._connection, self._now = connection, now
        sent = [(name, content) for name, content in messages if not isinstance(content, BloodedgeError)]
        names = {name for name, _ in sent}
        of_names = select(boards.c.name, boards.c.id).where(boards.c.name.in_(names))
        self._ids: dict[str, int] = dict(connection.execute(of_names).tuples().all())
        reports = [(name, content.boot) for name, content in sent if isinstance(content, BoardReport)]
        keys = {(self._ids[name], boot) for name, boot in reports if name in self._ids}
        query = select(boots).where(tuple_(boots.c.board, boots.c.boot).in_(keys))
        self._starts: dict[Boot, Start] = {
            (row["board"], row["boot"]): Start(
                row["first"], row["highest"], row["reports"], tuple(row[name] for name in TOTALS)
            )
            for row in connection.execute(query).mappings()
        }

    def id_of_reporting(self, name: str) -> int:
        """The id of a board that sent a report."""
        if name not in self._ids:
            self._add(name)
        return self._ids[name]

    def id_of_connecting(self, name: str, *, online: bool) -> int | None:
        """The id of a board whose availability the broker sends; None where nothing should be stored.

        The broker repeats a board's last availability at every connection, even if the board is long out of service.
        """
        if name not in self._ids and online:
            query = select(forgotten.c.name).where(forgotten.c.name == name)
            if self._connection.execute(query).first() is None:
                self._add(name)
        return self._ids.get(name)

    def _add(self, name: str) -> None:
        insert = insert_into(self._connection, boards).values(name=name, first_seen=self._now)
        self._connection.execute(insert.on_conflict_do_nothing())
        self._connection.execute(delete(forgotten).where(forgotten.c.name == name))
        self._ids[name] = self._connection.execute(select(boards.c.id).where(boards.c.name == name)).scalar_one()

    def start(self, key: Boot, sequence: int) -> Start:
        """The stored start of a daemon; sequence: of the report that has just come."""
        if key not in self._starts:
            self._starts[key] = Start(1 if self._has_reported(key[0]) else sequence)
        return self._starts[key]

    def _has_reported(self, board: int) -> bool:
        query = select(boots.c.boot).where(boots.c.board == board).limit(1)
        earlier = any(known == board for known, _ in self._starts)
        return earlier or self._connection.execute(query).first() is not None
