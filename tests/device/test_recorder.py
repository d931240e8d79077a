import errno
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest

from bloodedge_device.daemon.recorder import WAITING, Recorder
from bloodedge_device.health import Health, Level
from bloodedge_device.settings.sections import StoreSettings
from bloodedge_device.slide.current import CurrentSlide
from bloodedge_device.store import DATABASE, DamagedDatabaseError, DiskFullError, StateInUseError, Store, database
from bloodedge_device.timings import Timings
from support import fakes
from support.waiting import until


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


def wait_until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 10
    while not condition():
        assert monotonic() < end, "it did not come to pass"
        sleep(0.01)


IMPATIENT = Timings(full_disk_retry_s=0.02, full_disk_wait_s=0.2)
PATIENT = replace(IMPATIENT, full_disk_wait_s=10.0, latency_stored_s=0.0)


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = Store(state, StoreSettings(reserve_mb=0))
    yield store
    store.close()


@pytest.fixture
def begin(store: Store) -> Callable[[], CurrentSlide]:
    """Begins a slide."""
    run = store.begin_run(fakes.run_info(fakes.make_manifest()))

    def begin() -> CurrentSlide:
        return CurrentSlide(store.begin_slide(run, ""), "")

    return begin


def fail(monkeypatch: pytest.MonkeyPatch, method: str, error: Exception, times: int) -> list[int]:
    """Let a method of Store fail so many times, from the call on whose arguments come; gives the failures left."""
    whole, left = getattr(Store, method), [times]

    def failing(self: Store, *arguments: object, **more: object) -> object:
        if left[0]:
            left[0] -= 1
            raise error
        return whole(self, *arguments, **more)

    monkeypatch.setattr(Store, method, failing)
    return left


FULL, DAMAGED = DiskFullError("the disk is full"), DamagedDatabaseError("it is damaged")


def test_frames_are_stored_in_their_order_and_the_slide_ends_after_its_last(
    state: Path, store: Store, begin: Callable[[], CurrentSlide]
) -> None:
    first, second = begin(), begin()
    with Recorder(store, monotonic(), timings=IMPATIENT) as recording:
        for index in range(50):
            recording.put(first, fakes.result(index, [0.9]))
        recording.end(first)
        for index in range(50, 60):
            recording.put(second, fakes.result(index, [0.9]))
    expected = [(first.id, n) for n in range(50)] + [(second.id, n) for n in range(50, 60)]
    assert rows(state, "SELECT slide, number FROM frames ORDER BY id") == expected
    assert rows(state, "SELECT finished IS NOT NULL FROM slides") == [(1,), (0,)]
    assert rows(state, f"SELECT count(*) FROM latency WHERE slide = {first.id}") != [(0,)]


@pytest.mark.parametrize("method", ["_put_rows", "put_frames", "end_slide", "put_latency"])
def test_a_disk_that_is_full_for_a_while_loses_and_doubles_nothing(
    state: Path,
    store: Store,
    begin: Callable[[], CurrentSlide],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    left, health, slide = fail(monkeypatch, method, FULL, 5), Health(), begin()
    with Recorder(store, monotonic(), health, publish=True, timings=PATIENT) as recording:
        for index in range(40):  # more than may wait
            recording.put(slide, fakes.result(index, [0.9]))
        recording.end(slide)
    assert left[0] < 5
    assert rows(state, "SELECT number FROM frames ORDER BY id") == [(n,) for n in range(40)]
    assert rows(state, "SELECT finished IS NOT NULL FROM slides") == [(1,)]
    assert [message.topic for message in store.waiting(0, 100)] == ["frames"] * 40 + [f"slides/{slide.id}"]
    assert health.conditions()["store"].level is Level.OK


def test_while_the_disk_is_full_the_page_says_so_and_the_pipeline_waits(
    store: Store, begin: Callable[[], CurrentSlide], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, health, slide = fail(monkeypatch, "_put_rows", FULL, 10**9), Health(), begin()
    handed_over = []

    def pipeline() -> None:
        for index in range(100):
            recording.put(slide, fakes.result(index, [0.9]))
            handed_over.append(index)

    with Recorder(store, monotonic(), health, timings=IMPATIENT) as recording:
        thread = threading.Thread(target=pipeline)
        thread.start()
        wait_until(lambda: "store" in health.conditions())
        assert health.conditions()["store"].level is Level.FAILED
        assert "free" in health.conditions()["store"].sentence
        wait_until(lambda: len(handed_over) >= WAITING)
        sleep(0.2)
        assert len(handed_over) <= 2 * WAITING
        left[0] = 0
        thread.join(timeout=10)
        assert len(handed_over) == 100
    assert health.conditions()["store"].level is Level.OK


def test_a_disk_that_stays_full_ends_the_daemon_in_good_time_with_a_sentence(
    store: Store, begin: Callable[[], CurrentSlide], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "_put_rows", FULL, 10**9)
    slides = [begin() for _ in range(5)]
    start = 0.0

    def work() -> None:
        nonlocal start
        with Recorder(store, monotonic(), timings=IMPATIENT) as recording:
            for index, slide in enumerate(slides):  # five batches
                recording.put(slide, fakes.result(index, [0.9]))
            start = monotonic()

    with pytest.raises(DiskFullError, match="the disk is full"):
        work()
    assert monotonic() - start < 1


def test_a_database_that_another_program_locks_is_waited_for_and_no_image_is_deleted(
    state: Path, store: Store, begin: Callable[[], CurrentSlide]
) -> None:
    health, slide = Health(), begin()
    store.put_frames(slide.id, [fakes.result(0, [0.9])], keep_crops=True)
    store._database.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(state / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with Recorder(store, monotonic(), health, timings=PATIENT) as recording:
            recording.put(slide, fakes.result(1, [0.9]))
            assert until(lambda: "keeps it locked" in str(health.conditions().get("store")))
            other.execute("ROLLBACK")
    assert rows(state, "SELECT count(crop) FROM cells") == [(2,)]
    assert health.conditions()["store"].level is Level.OK


def test_a_disk_that_becomes_read_only_is_waited_for_and_no_image_is_given_up(
    state: Path, store: Store, begin: Callable[[], CurrentSlide], monkeypatch: pytest.MonkeyPatch
) -> None:
    health, slide = Health(), begin()
    held = [True]
    monkeypatch.setattr(database, "is_read_only", lambda _: held[0])
    store._database.execute("PRAGMA query_only = ON")  # SQLite then refuses as on such a disk
    with Recorder(store, monotonic(), health, timings=PATIENT) as recording:
        recording.put(slide, fakes.result(0, [0.9, 0.1]))
        assert until(lambda: "has become read-only" in str(health.conditions().get("store")))
        assert rows(state, "SELECT count(*) FROM frames") == [(0,)]
        held[0] = False
        store._database.execute("PRAGMA query_only = OFF")
    assert rows(state, "SELECT count(*) FROM cells WHERE crop IS NOT NULL") == [(2,)]
    assert health.conditions()["store"].level is Level.OK


def test_a_daemon_that_is_to_stop_is_not_held_back_for_ever_by_a_full_disk(
    store: Store, begin: Callable[[], CurrentSlide], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "_put_rows", FULL, 10**9)
    told_to_end = threading.Event()
    slide, health = begin(), Health()

    def work() -> None:
        with Recorder(store, monotonic(), health, ending=told_to_end.is_set, timings=IMPATIENT) as recording:
            threading.Timer(0.1, told_to_end.set).start()
            for index in range(10 * WAITING):  # it waits within put
                recording.put(slide, fakes.result(index, [0.9]))

    start = monotonic()
    with pytest.raises(DiskFullError, match="the disk is full"):
        work()
    assert monotonic() - start < 3


@pytest.mark.parametrize("method", ["_put_rows", "end_slide", "put_latency"])
def test_a_database_that_turns_out_damaged_is_set_aside_and_the_work_goes_on_in_a_new_one(
    state: Path,
    store: Store,
    begin: Callable[[], CurrentSlide],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
) -> None:
    health, slide = Health(), begin()

    def anew(_: object) -> None:
        slide.id = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")

    with Recorder(store, monotonic(), health, on_new_database=anew, timings=PATIENT) as recording:
        recording.put(slide, fakes.result(0, [0.9]))
        wait_until(lambda: "store" in health.conditions())  # the first frame is in the old database
        fail(monkeypatch, method, DAMAGED, 1)
        for index in range(1, 20):
            recording.put(slide, fakes.result(index, [0.9]))
        recording.end(slide)
    assert store.damaged is not None
    old = [n for (n,) in rows(store.damaged, "SELECT number FROM frames ORDER BY id")]
    new = [n for (n,) in rows(state, "SELECT number FROM frames ORDER BY id")]
    assert old + new == list(range(20))
    assert rows(state, "SELECT finished IS NOT NULL FROM slides") == [(1,)]
    condition = health.conditions()["store"]
    assert condition.level is Level.WARNING
    assert store.damaged.name in condition.sentence


def test_a_new_database_is_begun_though_the_disk_is_full_just_then(
    state: Path, store: Store, begin: Callable[[], CurrentSlide], monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = begin()

    def anew(_: object) -> None:
        slide.id = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")

    fail(monkeypatch, "_put_rows", DAMAGED, 1)
    left = fail(monkeypatch, "begin_slide", FULL, 3)
    with Recorder(store, monotonic(), on_new_database=anew, timings=PATIENT) as recording:
        for index in range(5):
            recording.put(slide, fakes.result(index, [0.9]))
    assert left == [0]
    assert rows(state, "SELECT number FROM frames ORDER BY id") == [(n,) for n in range(5)]


def test_an_error_that_stays_is_raised_where_frames_are_handed_over(
    store: Store, begin: Callable[[], CurrentSlide], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, "put_frames", RuntimeError("a fault"), 1)
    slide = begin()

    def work() -> None:
        with Recorder(store, monotonic(), timings=IMPATIENT) as recording:
            for index in range(1000):
                recording.put(slide, fakes.result(index, [0.9]))
                sleep(0.001)

    with pytest.raises(RuntimeError, match="a fault"):
        work()


def test_messages_are_only_made_where_somebody_is_to_have_them(store: Store, begin: Callable[[], CurrentSlide]) -> None:
    stored = []
    with Recorder(store, monotonic(), stored=lambda: stored.append(1)) as recording:
        slide = begin()
        recording.put(slide, fakes.result(0, [0.9]))
        recording.end(slide)
    assert len(store) == 0
    assert stored


@pytest.mark.parametrize("what", ["deleted", "moved", "replaced", "folder moved"])
def test_a_database_that_is_taken_away_is_noticed_and_written_again_with_all_its_rows(
    state: Path, store: Store, begin: Callable[[], CurrentSlide], what: str
) -> None:
    health, slide = Health(), begin()
    with Recorder(store, monotonic(), health, timings=replace(PATIENT, database_check_s=0.02)) as recording:
        recording.put(slide, fakes.result(0, [0.9]))
        wait_until(lambda: rows(state, "SELECT count(*) FROM frames") == [(1,)])
        match what:
            case "deleted":
                for path in state.glob(f"{DATABASE}*"):
                    path.unlink()
            case "moved":
                (state / DATABASE).rename(state / "elsewhere")
            case "replaced":
                sqlite3.connect(state / "other").close()
                (state / "other").replace(state / DATABASE)
            case _:
                state.rename(state.with_name("elsewhere"))
        wait_until(lambda: store.is_in_place)
        wait_until(lambda: health.conditions()["store"].level is Level.WARNING)
        assert "written again" in health.conditions()["store"].sentence
        recording.put(slide, fakes.result(1, [0.9]))
        recording.end(slide)
    assert rows(state, "SELECT number FROM frames ORDER BY id") == [(0,), (1,)]
    assert rows(state, "PRAGMA integrity_check") == [("ok",)]
    with pytest.raises(StateInUseError):
        Store(state)


def test_without_a_free_descriptor_frames_wait_and_keep_their_images(
    state: Path, store: Store, begin: Callable[[], CurrentSlide], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, health, slide, opened = [3], Health(), begin(), Path.open

    def starved(path: Path, mode: str = "r", **options: object) -> object:
        if path.suffix == ".partial" and left[0]:
            left[0] -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, mode, **options)  # type: ignore[call-overload]

    with Recorder(store, monotonic(), health, timings=PATIENT) as recording:
        monkeypatch.setattr(Path, "open", starved)
        recording.put(slide, fakes.result(0, [0.9]))
        wait_until(lambda: left[0] == 0)
        recording.end(slide)
    assert store.crops_lost == 0
    assert [(state / "crops" / str(name)).is_file() for (name,) in rows(state, "SELECT crop FROM cells")] == [True]
