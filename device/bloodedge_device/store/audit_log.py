"""A tamper-evident log: each entry's digest covers the previous one."""

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bloodedge.redact import redacted_values

FIRST = "0" * 64
"""The first entry's previous digest."""


@dataclass(frozen=True)
class Entry:
    """Who did what, and when."""

    id: int
    at: datetime
    actor: str
    action: str
    detail: dict[str, Any]


def append(database: sqlite3.Connection, at: datetime, actor: str, action: str, detail: dict[str, Any]) -> None:
    """Add an entry, addresses in it redacted, inside the caller's transaction."""
    values = (at.isoformat(), actor, action, json.dumps(redacted_values(detail), sort_keys=True))
    digest = _digest(last_digest(database), values)
    database.execute("INSERT INTO audit (at, actor, action, detail, digest) VALUES (?, ?, ?, ?, ?)", (*values, digest))


def read(database: sqlite3.Connection, limit: int = 1000) -> list[Entry]:
    """The latest entries, newest first."""
    rows = database.execute("SELECT * FROM audit ORDER BY id DESC LIMIT ?", (limit,))
    return [
        Entry(
            r["id"], datetime.fromisoformat(r["at"]), r["actor"], r["action"], redacted_values(json.loads(r["detail"]))
        )
        for r in rows
    ]


def first_broken(database: sqlite3.Connection) -> int | None:
    """Id of the first entry that was changed or follows a removed one; None when the chain is unbroken.

    Entries removed at the end, and a chain rewritten from some entry on, do not show: compare the last digest with one
    noted elsewhere.
    """
    before, expected = FIRST, 1
    for row in database.execute("SELECT id, at, actor, action, detail, digest FROM audit ORDER BY id"):
        values = (row["at"], row["actor"], row["action"], row["detail"])
        if row["id"] != expected or row["digest"] != _digest(before, values):
            return int(row["id"])
        before, expected = row["digest"], expected + 1
    return None


def last_digest(database: sqlite3.Connection) -> str:
    """Digest of the newest entry, which covers all of them."""
    row = database.execute("SELECT digest FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    return row[0] if row else FIRST


def _digest(before: str, values: tuple[str, ...]) -> str:
    return hashlib.sha256(json.dumps([before, *values]).encode()).hexdigest()
