import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bloodedge_device.store import DATABASE, Store, audit_log, open_for_reading


@pytest.fixture
def log(state: Path) -> Path:
    """A state folder whose audit log has ten entries."""
    store = Store(state)
    for number in range(10):
        store.note("page", "slide began", {"slide": number, "label": f"smear {number} \u00b5"})
    store.close()
    return state


def tamper(state: Path, statement: str) -> None:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        database.execute(statement)
        database.commit()


def first_broken(state: Path) -> int | None:
    with open_for_reading(state) as database:
        return audit_log.first_broken(database)


def test_an_untouched_log_is_whole_and_read_newest_first(log: Path) -> None:
    assert first_broken(log) is None
    with open_for_reading(log) as database:
        entries = audit_log.read(database, limit=3)
    assert [entry.detail["slide"] for entry in entries] == [9, 8, 7]
    assert {(entry.actor, entry.action) for entry in entries} == {("page", "slide began")}
    assert all(abs((datetime.now(UTC) - entry.at).total_seconds()) < 60 for entry in entries)


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'nobody'",
        "action = 'slide ended'",
        "at = '2020-01-01T00:00:00+00:00'",
        "detail = replace(detail, 'smear', 'other')",
        "digest = lower(hex(randomblob(32)))",
    ],
)
def test_an_edited_entry_is_found(log: Path, change: str) -> None:
    tamper(log, f"UPDATE audit SET {change} WHERE id = 4")
    assert first_broken(log) == 4


def test_a_removed_entry_is_found_where_it_is_missing(log: Path) -> None:
    tamper(log, "DELETE FROM audit WHERE id = 4")
    assert first_broken(log) == 5


def test_a_removed_first_entry_is_found(log: Path) -> None:
    tamper(log, "DELETE FROM audit WHERE id = 1")
    assert first_broken(log) == 2


def test_a_removed_entry_is_found_though_the_rest_were_renumbered(log: Path) -> None:
    tamper(log, "DELETE FROM audit WHERE id = 4")
    tamper(log, "UPDATE audit SET id = id - 1 WHERE id > 4")
    assert first_broken(log) == 4


def test_two_exchanged_entries_are_found(log: Path) -> None:
    for one, other in ((3, 100), (4, 3), (100, 4)):
        tamper(log, f"UPDATE audit SET id = {other} WHERE id = {one}")
    assert first_broken(log) == 3


def test_entries_cut_off_at_the_end_are_seen_by_the_last_digest_noted_elsewhere(log: Path) -> None:
    with open_for_reading(log) as database:
        noted = audit_log.last_digest(database)
    tamper(log, "DELETE FROM audit WHERE id = 10")
    assert first_broken(log) is None
    with open_for_reading(log) as database:
        assert audit_log.last_digest(database) != noted


def test_an_empty_log_is_whole(state: Path) -> None:
    Store(state).close()
    assert first_broken(state) is None
    with open_for_reading(state) as database:
        assert audit_log.last_digest(database) == audit_log.FIRST


def test_the_chain_goes_on_after_a_restart(log: Path) -> None:
    store = Store(log)
    store.note("daemon", "run began", {})
    store.close()
    assert first_broken(log) is None
    tamper(log, "UPDATE audit SET actor = 'nobody' WHERE id = 10")
    assert first_broken(log) == 10
