import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.web_access import new_token
from bloodedge_device.latency import StageTimes
from bloodedge_device.settings.sections import StoreSettings
from bloodedge_device.slide.review import Review
from bloodedge_device.store import DATABASE, DamagedDatabaseError, DiskFullError, Store, open_for_reading
from bloodedge_device.store.backup import back_up
from bloodedge_device.store.writer import ANEW_SPAN_S, MOST_ANEW
from bloodedge_device.system.process import private_files
from support import ROOT, fakes


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = Store(state)
    yield store
    store.close()


@pytest.fixture
def slide(store: Store) -> int:
    return store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")


def test_results_are_written_ahead_and_synced(store: Store) -> None:
    pragma = {name: store._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert pragma == {"journal_mode": "wal", "synchronous": 2}


def test_a_frame_and_its_cells_can_be_read_while_the_daemon_runs(state: Path, store: Store, slide: int) -> None:
    store.put_frames(slide, [fakes.result(0, [0.9, 0.5])], keep_crops=False)
    assert rows(state, "SELECT label, blast_probability, reason FROM cells") == [
        ("blast", 0.9, None),
        ("uncertain", 0.5, "abstain_band"),
    ]


def test_a_bad_frame_keeps_its_problem(state: Path, store: Store, slide: int) -> None:
    store.put_frames(slide, [fakes.bad_frame(0)], keep_crops=True)
    ((reason, detail, source),) = rows(state, "SELECT reason, detail, source FROM frames")
    assert (reason, source) == ("bad_frame", "broken.png")
    assert "truncated" in str(detail)


def test_every_row_names_a_whole_image(state: Path, store: Store, slide: int) -> None:
    store.put_frames(slide, [fakes.result(3, [0.9, 0.1])], keep_crops=True)
    names = [str(name) for (name,) in rows(state, "SELECT crop FROM cells")]
    assert [cv2.imread(str(state / "crops" / name)).shape for name in names] == [(40, 40, 3)] * 2
    assert sorted(p.name for p in (state / "crops").rglob("*.*")) == sorted(Path(n).name for n in names)


@pytest.mark.usefixtures("store")
def test_two_daemons_cannot_write_the_same_results(state: Path) -> None:
    with pytest.raises(BloodedgeError, match="Another bloodedge device writes to"):
        Store(state)


def test_a_store_that_was_closed_can_be_opened_again(state: Path) -> None:
    for _ in range(2):
        store = Store(state)
        store.begin_run(fakes.run_info(fakes.make_manifest()))
        store.close()
    assert rows(state, "SELECT count(*) FROM runs") == [(2,)]


def test_latencies_can_be_stored_again_and_again(state: Path, store: Store, slide: int) -> None:
    times = StageTimes()
    for _ in range(3):
        times.add("find", 0.02)
        store.put_latency(slide, times)
    assert rows(state, "SELECT stage FROM latency") == [("find",)]


def test_a_state_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BloodedgeError, match="choose another folder"):
        Store(tmp_path / "file" / "state")


def with_images(store: Store, slide: int, frames: int = 40) -> None:
    store.put_frames(slide, [fakes.result(index, [0.9, 0.1]) for index in range(frames)], keep_crops=True)


def overwrite_the_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    third = len(data) // 3 // 4096 * 4096
    data[third : 2 * third] = np.random.default_rng(0).bytes(third)
    path.write_bytes(data)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def overwrite_the_header(path: Path) -> None:
    path.write_bytes(b"not a database at all" + path.read_bytes()[21:])


@pytest.mark.parametrize("damage", [overwrite_the_middle, cut_in_half, overwrite_the_header])
def test_a_damaged_database_is_set_aside_with_its_images_and_a_new_one_begun(
    state: Path, store: Store, slide: int, damage: Callable[[Path], None]
) -> None:
    with_images(store, slide)
    store.close()
    damage(state / DATABASE)
    damaged = (state / DATABASE).read_bytes()
    anew = Store(state)
    assert anew.damaged is not None
    assert (anew.damaged / DATABASE).read_bytes() == damaged
    assert len(list((anew.damaged / "crops").rglob("*.png"))) == 80
    slide = anew.begin_slide(anew.begin_run(fakes.run_info(fakes.make_manifest())), "after")
    anew.put_frames(slide, [fakes.result(0, [0.9])], keep_crops=True)
    anew.close()
    assert rows(state, "SELECT number FROM frames") == [(0,)]
    assert len(list((state / "crops").rglob("*.png"))) == 1
    ((action, detail),) = rows(state, "SELECT action, detail FROM audit")
    assert action == "damaged database set aside"
    assert anew.damaged.name in str(detail)


def test_what_is_set_aside_within_one_second_goes_into_folders_of_its_own(state: Path, store: Store) -> None:
    store.close()
    folders = set()
    for _ in range(3):
        (state / DATABASE).write_bytes(b"not a database at all" * 100)
        again = Store(state)
        again.close()
        folders.add(again.damaged)
    assert len(folders) == 3
    assert all(folder is not None and (folder / DATABASE).is_file() for folder in folders)


def review_all(store: Store, cells: int) -> None:
    for cell in range(1, cells + 1):
        store.review(cell, Review.of("blast"), "random", "page")


def test_a_database_that_turns_out_damaged_while_it_is_used_can_be_begun_anew(
    state: Path, store: Store, slide: int
) -> None:
    with_images(store, slide, 200)
    store._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store._database.execute("PRAGMA shrink_memory")  # as after hours of work: pages are read from the disk again
    overwrite_the_middle(state / DATABASE)
    with pytest.raises(DamagedDatabaseError, match="damaged"):
        review_all(store, 400)
    store.begin_anew()
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "after")
    with_images(store, slide, 2)
    assert rows(state, "SELECT count(*) FROM frames") == [(2,)]
    assert rows(state, "PRAGMA integrity_check") == [("ok",)]


def test_another_programs_database_is_left_alone(state: Path) -> None:
    state.mkdir()
    with closing(sqlite3.connect(state / DATABASE)) as database:
        database.execute("CREATE TABLE theirs (x)")
    with pytest.raises(BloodedgeError, match="not a bloodedge database"):
        Store(state)
    assert rows(state, "SELECT name FROM sqlite_schema") == [("theirs",)]


def test_reading_where_nothing_was_stored_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bloodedge device run"), open_for_reading(tmp_path):
        pass


@contextmanager
def tmpfs(disk: Path, options: str) -> Iterator[Path]:
    """A small disk in memory, mounted at a folder that is made."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip(
            "a full disk is a small one that root mounts (tmpfs): run the tests as root, outside of a container"
        )
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", "size=16m") as disk:
        yield disk


@pytest.fixture
def few_files(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for 200 files."""
    with tmpfs(tmp_path / "disk", "size=64m,nr_inodes=200") as disk:
        yield disk


def test_a_disk_without_further_files_keeps_the_newest_images_and_can_be_started_on(few_files: Path) -> None:
    state = few_files / "state"
    store = Store(state, StoreSettings(reserve_mb=0, keep_free_mb=1))
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")
    for index in range(120):
        store.put_frames(slide, [fakes.result(index, [0.9] * 3)], keep_crops=True)
        if index % 20 == 0:
            store.tidy()
    store.tidy()
    assert store.crops_lost == 0
    assert rows(state, "SELECT count(*) FROM cells") == [(360,)]
    newest = "SELECT crop IS NOT NULL FROM cells ORDER BY id DESC LIMIT 90"
    assert set(rows(state, newest)) == {(1,)}
    store.close()
    for ending in ("-wal", "-shm"):
        (state / f"{DATABASE}{ending}").unlink(missing_ok=True)
    with suppress(OSError):  # something else takes the last one
        for number in range(300):
            (few_files / str(number)).touch()
    again = Store(state, StoreSettings(reserve_mb=0, keep_free_mb=1))
    again.put_frames(slide, [fakes.result(120, [0.9])], keep_crops=True)
    assert again.crops_lost == 0
    again.close()


def noisy(index: int) -> object:
    """A frame of three cells whose images do not compress."""
    result = fakes.result(index, [0.9] * 3)
    for number, cell in enumerate(result.cells):
        cell.crop[:] = np.random.default_rng(3 * index + number).integers(0, 256, cell.crop.shape, dtype=np.uint8)
    return result


def fill(store: Store, slide: int, until: Callable[[], bool], begin: int = 0) -> int:
    """Store frame after frame until the store refuses or ``until`` holds; gives how many were acknowledged."""
    for index in range(begin, begin + 20_000):
        if until():
            return index - begin
        try:
            store.put_frames(slide, [noisy(index)], keep_crops=True)
        except DiskFullError:
            return index - begin
    raise AssertionError("the disk never filled")


def squeeze(disk: Path, store: Store, slide: int, begin: int) -> int:
    """Let something else fill the disk, then store until the store has made room or refuses; gives how many it took."""
    with (disk / "ballast").open("ab") as ballast, suppress(OSError):
        while True:
            os.write(ballast.fileno(), bytes(4096))
    return fill(store, slide, lambda: shutil.disk_usage(disk).free > 500_000, begin)


def images(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "crops").rglob("*.png"))


def test_a_full_disk_costs_images_first_the_oldest_then_the_reserve_and_never_a_stored_result(small_disk: Path) -> None:
    state = small_disk / "state"
    store = Store(state, StoreSettings(reserve_mb=1))
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")
    seen = 300
    for index in range(seen):
        store.put_frames(slide, [noisy(index)], keep_crops=True)
    assert len(images(state)) == 3 * seen
    while before := images(state):
        seen += squeeze(small_disk, store, slide, seen)
        assert store.has_reserve
        assert images(state) == before[len(before) - len(images(state)) :]  # the oldest went
    assert store.crops_lost > 0
    seen += squeeze(small_disk, store, slide, seen)
    assert not store.has_reserve
    seen += squeeze(small_disk, store, slide, seen)
    with pytest.raises(DiskFullError, match="the disk is full or the quota used up; free some space"):
        store.put_frames(slide, [noisy(seen)], keep_crops=True)
    assert rows(state, "SELECT number FROM frames ORDER BY id") == [(number,) for number in range(seen)]
    assert rows(state, "SELECT count(*) FROM cells") == [(3 * seen,)]
    named = [str(name) for (name,) in rows(state, "SELECT crop FROM cells WHERE crop IS NOT NULL ORDER BY crop")]
    assert [Path(name).name for name in named] == images(state)
    assert rows(state, "PRAGMA integrity_check") == [("ok",)]
    store.close()


def test_a_new_run_takes_the_reserve_of_a_full_disk_as_results_do(small_disk: Path) -> None:
    store = Store(small_disk / "state", StoreSettings(reserve_mb=1, keep_free_mb=0))
    with (small_disk / "filler").open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(4096))
    runs = 0
    while store.has_reserve:
        store.at_once(lambda: store.begin_run(fakes.run_info(fakes.make_manifest())))
        runs += 1
    assert rows(small_disk / "state", "SELECT count(*) FROM runs") == [(runs,)]
    store.close()


def test_once_space_is_freed_results_images_and_the_reserve_come_back(small_disk: Path) -> None:
    state = small_disk / "state"
    store = Store(state, StoreSettings(reserve_mb=1, keep_free_mb=0))
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")
    seen = 0
    while store.has_reserve:
        seen += squeeze(small_disk, store, slide, seen)
    seen += squeeze(small_disk, store, slide, seen)
    store.tidy()
    assert not store.has_reserve
    (small_disk / "ballast").unlink()
    store.put_frames(slide, [noisy(seen)], keep_crops=True)
    store.tidy()
    assert store.has_reserve
    assert (state / "reserve").stat().st_blocks * 512 >= 1_000_000  # space that is really taken
    kept = rows(state, f"SELECT crop FROM cells JOIN frames ON frames.id = frame WHERE frames.number = {seen}")
    assert [cv2.imread(str(state / "crops" / str(crop))).shape for (crop,) in kept] == [(40, 40, 3)] * 3
    store.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from support import fakes
from bloodedge.errors import BloodedgeError
from bloodedge_device.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
store = Store(Path(sys.argv[1]))
slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")
try:
    for index in range(10_000):
        store.put_frames(slide, [fakes.result(index, [0.9])], keep_crops=False)
        print(index, flush=True)
except BloodedgeError as error:
    print(error, file=sys.stderr)
"""


def test_a_disk_that_refuses_to_grow_a_file_ends_in_one_sentence(state: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(state)]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, check=True)
    assert "what was stored is intact" in done.stderr
    assert done.stderr.count("\n") == 1
    acknowledged = len(done.stdout.split())
    assert acknowledged > 10
    assert rows(state, "SELECT count(*) FROM frames") == [(acknowledged,)]


WRITING = """
import sys
from pathlib import Path
from support import fakes
from bloodedge_device.store import Store
store = Store(Path(sys.argv[1]))
slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")
for index in range(100_000):
    store.put_frames(slide, [fakes.result(index, [0.9, 0.1])], keep_crops=True)
    print(slide, index, flush=True)
"""


def test_kill_9_in_mid_write_again_and_again_keeps_every_acknowledged_row_and_no_half_image(state: Path) -> None:
    acknowledged = []
    for kill in range(5):
        command = [sys.executable, "-c", WRITING, str(state)]
        writer = subprocess.Popen(command, cwd=ROOT / "tests", stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged += [writer.stdout.readline() for _ in range(3 + 4 * kill)]
        writer.kill()
        acknowledged += writer.communicate()[0].splitlines(keepends=True)
    expected = {tuple(map(int, line.split())) for line in acknowledged if line.endswith("\n")}
    assert len(expected) >= 55
    assert expected <= set(rows(state, "SELECT slide, number FROM frames"))
    assert rows(state, "PRAGMA integrity_check") == [("ok",)]
    Store(state).close()
    assert not list(state.rglob("*.partial"))
    images = list((state / "crops").rglob("*.png"))
    assert all(path.read_bytes()[-8:] == b"IEND\xaeB`\x82" for path in images)  # PNG's end of image
    named = {state / "crops" / str(name) for (name,) in rows(state, "SELECT crop FROM cells")}
    assert named <= set(images)


def test_what_is_said_of_a_cell_that_is_not_there_is_refused(state: Path, store: Store, slide: int) -> None:
    with pytest.raises(BloodedgeError, match="no cell 7"):
        store.review(7, Review.of("blast"), "random", "page")
    with pytest.raises(UsageError, match=f"no slide {slide + 1}"):
        store.label_slide(slide + 1, "x", "page")
    assert rows(state, "SELECT count(*) FROM reviews") == [(0,)]
    assert rows(state, "SELECT count(*) FROM audit") == [(0,)]


def test_a_review_and_a_label_are_kept_and_say_who_gave_them(state: Path, store: Store, slide: int) -> None:
    store.put_frames(slide, [fakes.result(0, [0.9])], keep_crops=False)
    store.review(1, Review.of("normal"), "gallery", "page")
    store.label_slide(slide, "smear 7", "command line")
    assert rows(state, "SELECT cell, label, sampling, reviewer FROM reviews") == [(1, "normal", "gallery", "page")]
    assert rows(state, "SELECT label FROM slides") == [("smear 7",)]
    assert rows(state, "SELECT actor, action FROM audit") == [("page", "review"), ("command line", "slide labelled")]


def test_steps_taken_at_once_are_all_stored_or_none(state: Path, store: Store, slide: int) -> None:
    def begin(fault: str) -> int:
        store.end_run(1)
        run = store.begin_run(fakes.run_info(fakes.make_manifest()))
        store.note("daemon", "run began", {"run": run})
        if fault:
            raise BloodedgeError(fault)
        return run

    runs, notes = "SELECT finished IS NOT NULL FROM runs", "SELECT action FROM audit"
    with pytest.raises(BloodedgeError, match="cut off"):
        store.at_once(lambda: begin("cut off"))
    assert (rows(state, runs), rows(state, notes)) == ([(0,)], [])
    assert store.at_once(lambda: begin("")) == 2
    assert (rows(state, runs), rows(state, notes)) == ([(1,), (0,)], [("run began",)])
    store.put_frames(slide, [fakes.result(0, [0.9])], keep_crops=False)
    assert rows(state, "SELECT count(*) FROM frames") == [(1,)]


def test_a_better_view_of_a_cell_counts_and_the_earlier_one_no_longer(state: Path, store: Store, slide: int) -> None:
    def sighted(index: int, probability: float, *, repeated: bool) -> object:
        result = fakes.result(index, [probability])
        return replace(result, cells=[replace(result.cells[0], number=5, repeated=repeated)])

    views = [sighted(0, 0.1, repeated=False), sighted(1, 0.9, repeated=False), sighted(2, 0.2, repeated=True)]
    for view in views:
        store.put_frames(slide, [view], keep_crops=False)
    assert rows(state, "SELECT blast_probability, repeated FROM cells") == [(0.1, 1), (0.9, 0), (0.2, 1)]


def test_a_disk_that_damages_every_new_database_is_given_up(
    state: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(MOST_ANEW):
        store.begin_anew()
    with pytest.raises(BloodedgeError, match="damages every new database in"):
        store.begin_anew()
    assert len(list(state.glob("damaged-*"))) == MOST_ANEW
    later = monotonic() + ANEW_SPAN_S
    monkeypatch.setattr("bloodedge_device.store.writer.monotonic", lambda: later)
    store.begin_anew()  # once in a long while is no failing disk


def test_what_a_daemon_of_one_user_writes_is_not_for_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        state = tmp_path / "new" / "state"
        new_token(state)
        with private_files():
            store = Store(state)
            slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
            store.put_frames(slide, [fakes.result(0, [0.9])], keep_crops=True)
        back_up(state, tmp_path / "backup.zip", with_crops=True)
        store.close()
    finally:
        os.umask(before)
    written = [state.parent, state, tmp_path / "backup.zip", *state.rglob("*")]
    assert [path for path in written if path.stat().st_mode & 0o077] == []
