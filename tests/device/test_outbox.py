import sqlite3
from contextlib import closing
from pathlib import Path
from time import sleep, time

import pytest

from bloodedge_device.store import DATABASE, DiskFullError, Store
from bloodedge_device.store.outbox import Draft
from support import fakes


def drafts(first: int, last: int) -> list[Draft]:
    return [Draft("frames", str(number).encode()) for number in range(first, last + 1)]


def payloads(store: Store, after: int = 0) -> list[int]:
    return [int(message.payload) for message in store.waiting(after, 1000)]


def test_messages_wait_in_order_until_they_are_delivered(state: Path) -> None:
    store = Store(state)
    store.post([*drafts(1, 9), Draft("slides/3", b"10", retain=True)])
    waiting = store.waiting(0, 4)
    assert [(m.topic, m.payload, m.retain) for m in waiting] == [("frames", b"%d" % n, False) for n in range(1, 5)]
    assert [m.id for m in waiting] == sorted({m.id for m in waiting})
    assert payloads(store, after=waiting[-1].id) == [5, 6, 7, 8, 9, 10]
    store.delivered(waiting[-1].id)
    assert payloads(store) == [5, 6, 7, 8, 9, 10]
    assert len(store) == 6
    assert store.waiting(0, 10)[-1].retain
    store.close()


def test_messages_outlast_a_restart_and_ids_are_never_used_again(state: Path) -> None:
    store = Store(state)
    store.post(drafts(1, 5))
    last = store.waiting(0, 10)[-1].id
    store.delivered(last)
    store.post(drafts(6, 7))
    store.close()
    again = Store(state)
    assert len(again) == 2
    assert payloads(again) == [6, 7]
    again.delivered(again.waiting(0, 10)[-1].id)
    again.post(drafts(8, 8))
    (message,) = again.waiting(0, 10)
    assert message.id == last + 3
    again.close()


def test_ids_of_a_new_database_follow_those_of_a_damaged_one(state: Path) -> None:
    ids = []
    for number in range(3):
        store = Store(state)
        store.post(drafts(number, number))
        ids += [message.id for message in store.waiting(0, 10)]
        store.close()
        (state / DATABASE).write_bytes(b"damaged" * 1000)
        sleep(0.01)  # more milliseconds than messages
    assert len(ids) == 3
    assert ids == sorted(set(ids))
    assert ids[0] > (time() - 60) * 1000


def test_a_database_begun_anew_in_the_midst_of_work_numbers_on(state: Path) -> None:
    store = Store(state)
    store.post(drafts(1, 2))
    last = store.waiting(0, 10)[-1].id
    sleep(0.01)
    store.begin_anew()
    assert len(store) == 0
    store.post(drafts(3, 3))
    assert store.waiting(0, 10)[0].id > last
    store.close()


def test_beyond_the_most_that_may_wait_the_oldest_go_and_are_counted(state: Path) -> None:
    store = Store(state, most_waiting=100)
    store.post(drafts(1, 90))
    store.post(drafts(91, 130))
    assert payloads(store) == list(range(31, 131))
    assert (len(store), store.messages_lost) == (100, 30)
    store.close()


def test_results_and_their_messages_are_stored_together_or_not_at_all(state: Path) -> None:
    store = Store(state)
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
    store.put_frames(slide, [fakes.result(0, [0.9])], keep_crops=False, messages=drafts(1, 1))
    with closing(sqlite3.connect(state / DATABASE)) as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON outbox BEGIN SELECT RAISE(ABORT, 'refused'); END")
    with pytest.raises(Exception, match="refused"):
        store.put_frames(slide, [fakes.result(1, [0.9])], keep_crops=False, messages=drafts(2, 2))
    with closing(sqlite3.connect(state / DATABASE)) as database:
        assert database.execute("SELECT number FROM frames").fetchall() == [(0,)]
    store.close()


def test_a_full_disk_does_not_upset_the_count_of_messages(state: Path) -> None:
    store = Store(state, most_waiting=100)
    store.post(drafts(1, 90))
    pages = store._database.execute("PRAGMA page_count").fetchone()[0]
    store._database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then says that the disk is full
    for _ in range(3):
        with pytest.raises(DiskFullError):
            store.post([Draft("frames", bytes(10_000))] * 20)
    assert (len(store), store.messages_lost) == (90, 0)
    store._database.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store.post(drafts(91, 95))
    assert len(store) == len(payloads(store)) == 95
    store.close()
