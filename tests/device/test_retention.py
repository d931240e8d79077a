import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from bloodedge_device.settings import StoreSettings
from bloodedge_device.store import DATABASE, Store, crops, writer


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


def images(state: Path) -> set[str]:
    return {path.relative_to(state / "crops").as_posix() for path in (state / "crops").rglob("*.jpg")}


@pytest.fixture
def disk(state: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk of which a megabyte is free for every image that is not there; its one item: megabytes taken else."""
    taken = [0]

    def free_bytes(_: Path) -> int:
        return (100 - len(images(state)) - taken[0]) * 1_000_000

    monkeypatch.setattr(crops, "free_bytes", free_bytes)
    monkeypatch.setattr(writer, "free_bytes", free_bytes)
    return taken


@pytest.fixture
def store(state: Path, fakes: ModuleType) -> Iterator[Store]:
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
    gone = {f"{slide}/{frame}-{cell:03d}.jpg" for slide in (1, 2) for frame in frames for cell in (0, 1)}
    gone |= {"3/9999/9999999-000.jpg", "3/9999/9999999-001.jpg"}  # slide 3 before slide 10
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
    state: Path, store: Store, disk: list[int], fakes: ModuleType
) -> None:
    disk[0] = 100
    store.tidy()
    disk[0] = 0
    for frame in (999, 1000, 25_000):
        store.put_frames(10, [fakes.result(frame, [0.9])], keep_crops=True)
    assert images(state) == {"10/0000/0000999-000.jpg", "10/0001/0001000-000.jpg", "10/0025/0025000-000.jpg"}
    disk[0] = 100 - 70 - 1  # of the three, one may stay
    assert store.tidy() == 2
    assert images(state) == {"10/0025/0025000-000.jpg"}


def test_emptied_slides_leave_no_folder_but_the_newest_and_later_images_find_their_place(
    state: Path, store: Store, disk: list[int], fakes: ModuleType
) -> None:
    disk[0] = 100
    assert store.tidy() == 40
    assert [path.name for path in (state / "crops").iterdir()] == ["10"]  # which the next image may be on its way to
    disk[0] = 0
    store.put_frames(10, [fakes.result(0, [0.9])], keep_crops=True)
    assert images(state) == {"10/0000/0000000-000.jpg"}


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
