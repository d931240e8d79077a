"""The SQLite file of a running server: if it is deleted, moved or replaced, it is written again with all its rows."""

import logging
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from bloodedge.errors import BloodedgeError
from bloodedge.files import SQLITE_ENDINGS
from bloodedge.sqlite_rescue import file_id, write_again
from bloodedge_fleet.database import ANSWER_WITHIN_S

log = logging.getLogger("bloodedge.fleet")

TAKEN_AWAY = "The database was deleted or moved while the server runs; it is written again from what is still open."


class KeptFile:
    """Two connections of its own keep what the file held; ``check`` is for one thread."""

    def __init__(self, engine: Engine) -> None:
        """engine: of a SQLite file whose tables are up to date."""
        assert engine.url.database is not None
        self._engine, self._path = engine, Path(engine.url.database)
        self._former: sqlite3.Connection | None = None
        """Keeps the file before this one locked: who waited for it must not write there."""
        self._open()
        event.listen(engine, "do_connect", self._refuse_another)

    def _open(self) -> None:
        self._file = file_id(self._path)
        self._reader, self._writer = (
            sqlite3.connect(self._path, ANSWER_WITHIN_S, isolation_level=None, check_same_thread=False) for _ in "rw"
        )
        for connection in (self._reader, self._writer):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # opens the file, and the log beside it

    @property
    def state(self) -> str:
        """What is wrong with the file; empty when it is in its place."""
        return "" if file_id(self._path) == self._file else TAKEN_AWAY

    def check(self) -> None:
        """Write the file again where it is not in its place; what fails is logged, and tried at the next check."""
        if not self.state:
            if self._writer.in_transaction:  # it was moved back after a failed attempt
                self._writer.execute("ROLLBACK")
            return
        log.warning("%s", TAKEN_AWAY)
        try:
            self._put_back()
        except (BloodedgeError, sqlite3.Error) as error:
            log.warning("The database could not be written again; it is tried again. %s", error)
        else:
            log.warning("The database was written again with all that it held; find out who deleted or moved it.")

    def _put_back(self) -> None:
        if not self._writer.in_transaction:
            self._writer.execute("BEGIN IMMEDIATE")  # nobody writes from here on
        write_again(self._reader, self._path, self._set_aside)
        if self._former is not None:
            self._former.close()  # of a file that has moved, SQLite leaves what bears its name alone
        self._former = self._writer
        self._open()
        self._engine.dispose()

    def _set_aside(self) -> None:
        when = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"
        for ending in ("", *SQLITE_ENDINGS):
            stranger = self._path.with_name(self._path.name + ending)
            if stranger.exists():
                stranger.rename(self._path.with_name(f"another-{when}-{stranger.name}"))

    def _refuse_another(self, *_: Any) -> None:
        """A new connection would open an empty file, or another one."""
        if self.state:
            raise sqlite3.OperationalError("its file was deleted or moved")

    def close(self) -> None:
        """Let go of the file."""
        for connection in (self._reader, self._writer, self._former):
            if connection is not None:
                connection.close()
