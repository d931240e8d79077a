import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from bloodedge.cli import main
from bloodedge_device.daemon import monitor
from bloodedge_device.settings.sections import StoreSettings
from bloodedge_device.store import DATABASE, Store, crops, database, reserve, writer
from bloodedge_device.system.clock import ClockWatch
from bloodedge_device.system.sd_notify import Notifier
from support import fakes
from support.web_fakes import FakeDaemon


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


def images(state: Path) -> set[str]:
    return {path.relative_to(state / "crops").as_posix() for path in (state / "crops").rglob("*.[jp][pn]g")}


@pytest.fixture
def disk(state: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk of which a megabyte is free for every image that is not there; its one item: megabytes taken else."""
    taken = [0]

    def free_bytes(_: Path) -> int:
        return (100 - len(images(state)) - taken[0]) * 1_000_000

    for module in (crops, database, reserve):
        monkeypatch.setattr(module, "free_bytes", free_bytes)
    return taken


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    """Slides 1 to 10, of two frames of two cells each: 40 images."""
    store = Store(state, StoreSettings(keep_free_mb=70, reserve_mb=0))
    run = store.begin_run(fakes.run_info(fakes.make_manifest()))
    for _ in range(10):
        slide = store.begin_slide(run, "")
        store.put_frames(slide, [fakes.result(9_999_999, [0.9, 0.1]), fakes.result(10_000_000, [0.9, 0.1])], True)
    yield store
    store.close()


@pytest.mark.usefixtures("disk")
def test_oldest_images_go_first_by_slide_then_frame_until_enough_is_free(state: Path, store: Store) -> None:
    everything = images(state)
    assert store.tidy() == 10
    frames = ("9999/9999999", "10000/10000000")
    gone = {f"{slide}/{frame}-{cell:03d}.png" for slide in (1, 2) for frame in frames for cell in (0, 1)}
    gone |= {"3/9999/9999999-000.png", "3/9999/9999999-001.png"}  # slide 3 before slide 10
    assert everything - images(state) == gone


@pytest.mark.usefixtures("disk")
def test_rows_of_removed_images_name_none_and_keep_their_results(state: Path, store: Store) -> None:
    before = rows(state, "SELECT id, label, blast_probability, x, area_um2 FROM cells")
    store.tidy()
    assert rows(state, "SELECT id, label, blast_probability, x, area_um2 FROM cells") == before
    assert {str(name) for (name,) in rows(state, "SELECT crop FROM cells WHERE crop IS NOT NULL")} == images(state)
    assert rows(state, "SELECT count(*) FROM cells WHERE crop IS NULL") == [(10,)]


@pytest.mark.usefixtures("disk")
def test_where_enough_is_free_nothing_is_removed(state: Path, store: Store) -> None:
    store.tidy()
    before = images(state)
    assert store.tidy() == 0
    assert images(state) == before


@pytest.mark.usefixtures("disk")
def test_where_enough_is_free_no_image_is_even_looked_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.tidy()
    monkeypatch.setattr(Path, "iterdir", lambda _: pytest.fail("a slide of a million images was listed"))
    assert store.tidy() == 0


def test_a_long_slide_fills_many_folders_and_is_emptied_in_the_order_of_its_frames(
    state: Path, store: Store, disk: list[int]
) -> None:
    disk[0] = 100
    store.tidy()
    disk[0] = 0
    for frame in (999, 1000, 25_000):
        store.put_frames(10, [fakes.result(frame, [0.9])], keep_crops=True)
    assert images(state) == {"10/0000/0000999-000.png", "10/0001/0001000-000.png", "10/0025/0025000-000.png"}
    disk[0] = 100 - 70 - 1  # of the three, one may stay
    assert store.tidy() == 2
    assert images(state) == {"10/0025/0025000-000.png"}


def test_emptied_slides_leave_no_folder_but_the_newest_and_later_images_find_their_place(
    state: Path, store: Store, disk: list[int]
) -> None:
    disk[0] = 100
    assert store.tidy() == 40
    assert [path.name for path in (state / "crops").iterdir()] == ["10"]  # which the next image may be on its way to
    disk[0] = 0
    store.put_frames(10, [fakes.result(0, [0.9])], keep_crops=True)
    assert images(state) == {"10/0000/0000000-000.png"}


def test_one_tidying_does_a_bounded_amount_of_work(
    store: Store, disk: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "REMOVED_AT_ONCE", 7)
    disk[0] = 100
    assert [store.tidy() for _ in range(7)] == [7, 7, 7, 7, 7, 5, 0]


@pytest.mark.usefixtures("disk")
def test_the_reserve_is_not_set_aside_where_it_would_cost_images(state: Path) -> None:
    store = Store(state, StoreSettings(keep_free_mb=0, reserve_mb=60))
    assert not store.has_reserve
    store.close()
    roomy = Store(state, StoreSettings(keep_free_mb=0, reserve_mb=1))
    assert roomy.has_reserve
    roomy.close()


NOW = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def dated(state: Path) -> Iterator[Store]:
    """Slide 1: frames of 40 days ago; slide 2: frames 0 to 4 of 40 days, 5 to 9 of 20 days ago; slide 3: of today."""
    store = Store(state, StoreSettings(keep_days=30, reserve_mb=0))
    run = store.begin_run(fakes.run_info(fakes.make_manifest()))
    ages = [[40] * 10, [40] * 5 + [20] * 5, [0] * 10]
    for days in ages:
        slide = store.begin_slide(run, "")
        store.put_frames(slide, [fakes.result(index, [0.9]) for index in range(len(days))], True)
        with closing(sqlite3.connect(state / DATABASE)) as database, database:
            begun = (NOW - timedelta(days=days[0])).isoformat()
            database.execute("UPDATE slides SET started = ? WHERE id = ?", (begun, slide))
            for number, age in enumerate(days):
                taken = (NOW - timedelta(days=age)).isoformat()
                query = "UPDATE frames SET captured_at = ? WHERE slide = ? AND number = ?"
                database.execute(query, (taken, slide, number))
    yield store
    store.close()


def test_images_past_their_time_go_and_no_others_and_no_result(state: Path, dated: Store) -> None:
    results = rows(state, "SELECT id, label, blast_probability FROM cells")
    assert dated.expire(NOW) == 15
    kept = {f"2/0000/{number:07d}-000.png" for number in range(5, 10)}
    kept |= {f"3/0000/{number:07d}-000.png" for number in range(10)}
    assert images(state) == kept
    assert {name for (name,) in rows(state, "SELECT crop FROM cells WHERE crop IS NOT NULL")} == kept
    assert rows(state, "SELECT id, label, blast_probability FROM cells") == results
    assert sorted(path.name for path in (state / "crops").iterdir()) == ["2", "3"]
    assert dated.expire(NOW) == 0


def test_the_slide_in_work_loses_old_images_and_takes_new_ones(state: Path, dated: Store) -> None:
    assert dated.expire(NOW + timedelta(days=31)) == 30
    assert [path.name for path in (state / "crops").iterdir()] == ["3"]  # which the next image may be on its way to
    dated.put_frames(3, [fakes.result(10, [0.9])], keep_crops=True)
    assert images(state) == {"3/0000/0000010-000.png"}


def test_an_image_without_a_row_goes_with_its_slide_and_a_strangers_file_stays(state: Path, dated: Store) -> None:
    (state / "crops/1/0000/0000077-000.jpg").write_bytes(b"left by a power cut under an earlier version")
    (state / "crops/1/0000/holiday.jpg").write_bytes(b"")
    assert dated.expire(NOW) == 16
    assert "1/0000/holiday.jpg" in images(state)


def test_a_full_disk_costs_no_file_that_the_daemon_did_not_write(state: Path, store: Store, disk: list[int]) -> None:
    mine = [state / "crops" / name for name in ("holiday.jpg", "2024/beach.jpg", "1/thesis.partial")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    disk[0] = 100
    store.tidy()
    store.close()
    Store(state, StoreSettings(reserve_mb=0)).close()
    assert images(state) == {"holiday.jpg", "2024/beach.jpg"}
    assert all(path.exists() for path in mine)


def test_a_file_called_reserve_that_is_none_is_never_given_up(state: Path, disk: list[int]) -> None:
    state.mkdir(exist_ok=True)
    (state / "reserve").write_bytes(b"a thesis")
    (state / "lock").write_bytes(b"a note")
    (state / "device.sqlite.mine").write_bytes(b"a copy")
    store = Store(state, StoreSettings(keep_free_mb=0, reserve_mb=1))
    disk[0] = 100
    assert not store._make_room()
    store.begin_anew()
    store.close()
    assert (state / "reserve").read_bytes() == b"a thesis"
    assert (state / "lock").read_bytes() == b"a note"
    assert (state / "device.sqlite.mine").read_bytes() == b"a copy"


def put_back(state: Path, when: datetime, run: int = 1, held: int | None = 0) -> None:
    """Store all of a run's times as a clock at ``when`` would have."""
    with closing(sqlite3.connect(state / DATABASE)) as database, database:
        database.execute("UPDATE runs SET started = ?, clock_synchronised = ? WHERE id = ?", (str(when), held, run))
        database.execute("UPDATE slides SET started = ? WHERE run = ?", (when.isoformat(), run))
        of_run = "slide IN (SELECT id FROM slides WHERE run = ?)"
        database.execute(f"UPDATE frames SET captured_at = ? WHERE {of_run}", (when.isoformat(), run))


YEAR_1970 = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
DAYS = timedelta(days=1)


@pytest.mark.parametrize("clock_held", [True, None, False])
@pytest.mark.parametrize("held", [0, 1, None])
def test_images_minutes_old_survive_rows_of_1970(
    state: Path, dated: Store, clock_held: bool | None, held: int | None
) -> None:
    put_back(state, YEAR_1970, held=held)
    assert dated.expire(clock_held=clock_held) == 0
    assert len(images(state)) == 30


def test_they_go_once_they_are_past_their_time_by_the_clock_that_was_right(state: Path, dated: Store) -> None:
    """Counted from the first moment at which the clock was held."""
    put_back(state, YEAR_1970)
    dated.expire(clock_held=True)
    assert rows(state, "SELECT action, detail FROM audit") == [("clock trusted", '{"run": 1}')]
    today = datetime.now(UTC)
    assert dated.expire(today + 29 * DAYS, clock_held=True) == 0
    assert dated.expire(today + 31 * DAYS, clock_held=True) == 30
    assert rows(state, "SELECT count(*) FROM audit") == [(1,)]


def test_a_recorded_jump_of_the_clock_dates_what_was_taken_before_it(state: Path, dated: Store) -> None:
    """A clock 60 days late, as a board has it that was off so long: set right in the run, a minute after it began."""
    today = datetime.now(UTC)
    put_back(state, today - 60 * DAYS - timedelta(minutes=1))
    dated.note_clock_set(60 * DAYS.total_seconds())
    assert dated.expire(today, clock_held=True) == 0
    assert dated.expire(today + 29 * DAYS, clock_held=True) == 0
    assert dated.expire(today + 31 * DAYS, clock_held=True) == 30


def test_a_jump_dates_nothing_of_other_runs_and_nothing_after_it(state: Path, dated: Store) -> None:
    today = datetime.now(UTC)
    put_back(state, today - 40 * DAYS)
    dated.note_clock_set(5.0)  # set right early in the first run, whose images therefore are 40 days old
    run = dated.begin_run(fakes.run_info(fakes.make_manifest()))
    dated.begin_slide(run, "")
    put_back(state, today - 60 * DAYS, run=run)
    dated.note_clock_set(60 * DAYS.total_seconds())
    assert dated.expire(today, clock_held=True) == 30


def test_an_entry_of_an_earlier_version_dates_the_run_that_it_was_made_in(state: Path, dated: Store) -> None:
    today = datetime.now(UTC)
    put_back(state, today - 60 * DAYS)
    dated.note("daemon", "clock set", {"by_s": 60 * DAYS.total_seconds()})
    assert dated.expire(today, clock_held=False) == 0


def test_a_later_run_with_a_held_clock_dates_one_without(state: Path, dated: Store) -> None:
    put_back(state, YEAR_1970)
    run = dated.begin_run(fakes.run_info(fakes.make_manifest()))
    today = datetime.now(UTC)
    put_back(state, today - 31 * DAYS, run=run, held=1)
    assert dated.expire(today, clock_held=False) == 30


def test_where_no_time_source_is_to_be_had_the_boards_own_clock_counts(state: Path, dated: Store) -> None:
    put_back(state, datetime.now(UTC) - 31 * DAYS)
    assert dated.expire(clock_held=False) == 30


def test_what_was_set_aside_in_1970_is_dated_by_the_first_right_clock(state: Path, dated: Store) -> None:
    dated.begin_anew()
    (damaged,) = state.glob("damaged-*")
    damaged.rename(state / "damaged-19700101T000100")
    assert dated.expire(clock_held=False) == 0
    assert (state / "damaged-19700101T000100").is_dir()
    assert dated.expire(clock_held=True) == 0
    (damaged,) = state.glob("damaged-*")
    assert damaged.name.startswith(f"damaged-{datetime.now(UTC):%Y%m%d}")
    assert len(list(damaged.rglob("*.[jp][pn]g"))) == 30
    assert dated.expire(datetime.now(UTC) + 31 * DAYS, clock_held=True) == 30


def test_without_an_age_none_goes_for_its_age(dated: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dated, "settings", StoreSettings())
    assert dated.expire(NOW) == 0


def test_expiring_does_a_bounded_amount_of_work(dated: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "REMOVED_AT_ONCE", 6)
    assert [dated.expire(NOW) for _ in range(4)] == [6, 6, 3, 0]


def test_images_beside_a_damaged_database_go_too_once_they_are_old(state: Path, dated: Store) -> None:
    dated.begin_anew()
    assert dated.expire() == 0
    (damaged,) = state.glob("damaged-*")
    old = damaged.rename(state / f"damaged-{datetime.now(UTC) - timedelta(days=31):%Y%m%dT%H%M%S}_2")
    assert dated.expire() == 30
    assert not list(old.rglob("*.[jp][pn]g"))
    assert (old / DATABASE).exists()


def expire(state: Path, settings: str = "[store]\nkeep_days = 30\n") -> int:
    config = state.parent / "device.toml"
    config.write_text(f'state = "{state}"\n{settings}')
    with pytest.raises(SystemExit) as ended:
        main(["device", "expire", "--config", str(config)])
    return int(ended.value.code or 0)


def test_a_resting_boards_images_expire_by_command_and_the_log_tells(
    state: Path, dated: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expire(state) == 0
    assert capsys.readouterr().out == "The daemon is running and removes them by itself.\n"
    dated.close()
    assert expire(state, "") == 0
    assert "not set" in capsys.readouterr().out
    assert len(images(state)) == 30
    assert expire(state) == 0
    assert capsys.readouterr().out == "30 images older than 30 days were removed; results are kept.\n"
    assert images(state) == set()
    assert rows(state, "SELECT actor, action FROM audit") == [("daemon", "images expired")]


def test_where_nothing_was_stored_there_is_nothing_to_expire(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expire(state) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not state.exists()


def test_a_right_clock_that_is_set_far_forward_costs_no_image(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a faulty time source; a clock that was wrong at the start is believed once it is set."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Later":
            return super().now(tz) + ahead[0]

    daemon, ahead, wall = FakeDaemon(state), [timedelta(0)], [0.0]
    daemon.state.store.settings = StoreSettings(keep_days=30, reserve_mb=0)
    monkeypatch.setattr(monitor, "datetime", Later)
    monkeypatch.setattr(monitor, "clock_synchronised", lambda: True)
    run = daemon.store.begin_run(fakes.run_info(fakes.make_manifest()))
    daemon.store.put_frames(daemon.store.begin_slide(run, ""), [fakes.result(1, [0.9, 0.1])], True)
    watch = monitor.Monitor(daemon.state, Notifier({}))
    watch._clock = ClockWatch(lambda: wall[0], lambda: 0.0)
    ahead[0], wall[0] = timedelta(days=3650), 3650 * 86400.0
    watch.check_often()
    watch.check_seldom()
    assert len(images(state)) == 2
    ahead[0] += timedelta(days=31)
    watch.check_seldom()
    assert not images(state)
    daemon.store.close()
