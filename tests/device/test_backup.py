import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pytest

from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.latency import StageTimes
from bloodedge_device.report.reading import read_report
from bloodedge_device.store import DATABASE, Store, backup
from bloodedge_device.store.backup import back_up
from support import fakes


@pytest.fixture
def used(state: Path) -> Path:
    """A state folder with a slide of 20 frames and 40 images."""
    store = Store(state)
    slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "a slide")
    store.put_frames(slide, [fakes.result(index, [0.9, 0.1]) for index in range(20)], keep_crops=True)
    store.end_slide(slide, StageTimes())
    store.close()
    return state


def test_a_backup_unpacked_is_a_state_folder(used: Path, tmp_path: Path) -> None:
    told = []
    assert back_up(used, tmp_path / "all.zip", with_crops=True, progress=lambda *at: told.append(at)) == 40
    assert told[-1] == (40, 40)
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "restored")
    report, restored = read_report(used, None), read_report(tmp_path / "restored", None)
    assert restored.to_json() == report.to_json()
    for image in (used / "crops").rglob("*.png"):
        assert (tmp_path / "restored" / image.relative_to(used)).read_bytes() == image.read_bytes()
    store = Store(tmp_path / "restored")  # a daemon goes on from it
    assert store.damaged is None
    store.close()


def test_a_backup_without_images_is_small_and_has_all_results(used: Path, tmp_path: Path) -> None:
    assert back_up(used, tmp_path / "results.zip", with_crops=False) == 0
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert archive.namelist() == [DATABASE]
        archive.extractall(tmp_path / "restored")
    assert read_report(tmp_path / "restored", None).statistics == read_report(used, None).statistics


def test_a_backup_is_one_moment_of_a_daemon_at_work(used: Path, tmp_path: Path) -> None:
    store = Store(used)
    more = iter(range(20, 1000))

    def meanwhile(*_: int) -> None:
        store.put_frames(1, [fakes.result(next(more), [0.9])], keep_crops=True)

    assert back_up(used, tmp_path / "all.zip", with_crops=True, progress=meanwhile) == 40
    store.close()
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        archive.extract(DATABASE, tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        assert database.execute("SELECT count(*) FROM frames").fetchone() == (20,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_image_removed_meanwhile_is_left_out(used: Path, tmp_path: Path) -> None:
    (used / "crops" / "1" / "0000" / "0000003-001.png").unlink()
    assert back_up(used, tmp_path / "all.zip", with_crops=True) == 39


def test_an_existing_file_is_not_replaced(used: Path, tmp_path: Path) -> None:
    (tmp_path / "all.zip").write_text("precious")
    with pytest.raises(UsageError, match="choose another name"):
        back_up(used, tmp_path / "all.zip", with_crops=True)
    assert (tmp_path / "all.zip").read_text() == "precious"


def test_where_nothing_was_stored_there_is_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no results"):
        back_up(tmp_path / "nothing", tmp_path / "all.zip", with_crops=True)
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_fails_midway_leaves_nothing(used: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup, "_add_crops", full)
    with pytest.raises(BloodedgeError):
        back_up(used, tmp_path / "backups" / "all.zip", with_crops=True)
    assert list((tmp_path / "backups").iterdir()) == []
