import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.histogram import StageTimes
from bloodedge_device.store import DATABASE, Store, open_for_reading


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


@pytest.fixture
def store(state: Path) -> Iterator[Store]:
    store = Store(state)
    yield store
    store.close()


@pytest.fixture
def slide(store: Store, fakes: ModuleType) -> int:
    return store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")


def test_results_are_written_ahead_and_synced(store: Store) -> None:
    pragma = {name: store._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert pragma == {"journal_mode": "wal", "synchronous": 2}


def test_a_frame_and_its_cells_can_be_read_while_the_daemon_runs(
    state: Path, store: Store, slide: int, fakes: ModuleType
) -> None:
    store.put_frames(slide, [fakes.result(0, [0.9, 0.5])], keep_crops=False)
    assert rows(state, "SELECT label, blast_probability, reason FROM cells") == [
        ("blast", 0.9, None),
        ("uncertain", 0.5, "abstain_band"),
    ]


def test_a_bad_frame_keeps_its_problem(state: Path, store: Store, slide: int, fakes: ModuleType) -> None:
    store.put_frames(slide, [fakes.bad_frame(0)], keep_crops=True)
    ((reason, detail, source),) = rows(state, "SELECT reason, detail, source FROM frames")
    assert (reason, source) == ("bad_frame", "broken.png")
    assert "truncated" in str(detail)


def test_every_row_names_a_whole_image(state: Path, store: Store, slide: int, fakes: ModuleType) -> None:
    store.put_frames(slide, [fakes.result(3, [0.9, 0.1])], keep_crops=True)
    names = [str(name) for (name,) in rows(state, "SELECT crop FROM cells")]
    assert [cv2.imread(str(state / "crops" / name)).shape for name in names] == [(40, 40, 3)] * 2
    assert sorted(p.name for p in (state / "crops").rglob("*.*")) == sorted(Path(n).name for n in names)


@pytest.mark.usefixtures("store")
def test_two_daemons_cannot_write_the_same_results(state: Path) -> None:
    with pytest.raises(BloodedgeError, match="Another bloodedge device writes to"):
        Store(state)


def test_a_store_that_was_closed_can_be_opened_again(state: Path, fakes: ModuleType) -> None:
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


def test_a_damaged_database_is_refused_with_what_to_do(state: Path, store: Store) -> None:
    store.close()
    (state / DATABASE).write_bytes(b"not a database at all" * 100)
    with pytest.raises(BloodedgeError, match="set it aside"):
        Store(state)


def test_another_programs_database_is_left_alone(state: Path) -> None:
    state.mkdir()
    with closing(sqlite3.connect(state / DATABASE)) as database:
        database.execute("CREATE TABLE theirs (x)")
    with pytest.raises(BloodedgeError, match="not a bloodedge database"):
        Store(state)
    assert rows(state, "SELECT name FROM sqlite_schema") == [("theirs",)]


def test_a_newer_database_is_refused(state: Path, store: Store) -> None:
    store._database.execute("PRAGMA user_version = 99")
    with pytest.raises(BloodedgeError, match="newer bloodedge"), open_for_reading(state):
        pass


def test_reading_where_nothing_was_stored_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bloodedge device run"), open_for_reading(tmp_path):
        pass


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("no small disk: mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_drops_images_then_says_so_and_keeps_every_stored_result(
    small_disk: Path, fakes: ModuleType
) -> None:
    store = Store(small_disk / "state")
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    acknowledged = 0

    def fill_up() -> None:
        nonlocal acknowledged
        while True:
            result = fakes.result(acknowledged, [0.9] * 3)
            for cell in result.cells:
                cell.crop[:] = noise
            store.put_frames(slide, [result], keep_crops=True)
            acknowledged += 1

    with pytest.raises(BloodedgeError, match="the disk is full"):
        fill_up()
    store.close()
    assert store.crops_lost > 0
    assert acknowledged > 10
    state = small_disk / "state"
    assert rows(state, "SELECT count(*) FROM frames") == [(acknowledged,)]
    assert rows(state, "PRAGMA integrity_check") == [("ok",)]
    named = {str(name) for (name,) in rows(state, "SELECT crop FROM cells WHERE crop IS NOT NULL")}
    assert named
    assert all(cv2.imread(str(state / "crops" / name)) is not None for name in named)


def test_a_disk_that_refuses_to_grow_a_file_ends_in_one_sentence(state: Path, fakes: ModuleType) -> None:
    code = "import fakes, sys; fakes.use_fakes(); fakes.main(['device', 'run', '--state', sys.argv[1]])"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    folder = Path(fakes.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, str(state)],
        cwd=folder,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "what was stored is intact" in done.stderr
    assert "Traceback" not in done.stderr
