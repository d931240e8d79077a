"""A folder that other software writes images into."""

import os
import shutil
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import cv2
import numpy as np
import pytest

from bloodedge.cli import main
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge_device.camera import watched_folder
from bloodedge_device.camera.open import open_camera
from bloodedge_device.frames import BadFrame, Frame, SourceFile
from bloodedge_device.settings import DeviceSettings, read_settings, with_options
from bloodedge_device.settings.sections import CameraSettings
from bloodedge_device.store import DATABASE, Store
from bloodedge_device.store.watched import read_watched
from support import fakes


def image(level: int, suffix: str = ".png") -> bytes:
    data: bytes = cv2.imencode(suffix, np.full((120, 160, 3), level, np.uint8))[1].tobytes()
    return data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "written here"
    folder.mkdir()
    return folder


class Watched:
    """What a watched folder gives, collected in the background."""

    def __init__(self, folder: Path, done: list[SourceFile] | None = None) -> None:
        self.taken: list[Frame | BadFrame] = []
        self.error: BloodedgeError | None = None
        self._stop = threading.Event()
        settings = CameraSettings(kind="replay", source=str(folder), watch=True)
        self._camera = open_camera(settings, 0, done or [])
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        try:
            for frame in self._camera.frames(self._stop):
                self.taken.append(frame)
        except BloodedgeError as error:
            self.error = error

    @property
    def names(self) -> list[str]:
        return [frame.capture.source for frame in self.taken]

    @property
    def files(self) -> list[SourceFile]:
        return [frame.capture.file for frame in self.taken if frame.capture.file is not None]

    def wait(self, frames: int, within_s: float = 10) -> None:
        end_s = monotonic() + within_s
        while len(self.taken) < frames and monotonic() < end_s:
            sleep(0.01)
        assert len(self.taken) == frames

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LOOK_EVERY_S", 0.02), ("SETTLED_S", 0.2), ("SETTLED_WITHOUT_END_S", 0.3)):
        monkeypatch.setattr(watched_folder, name, seconds)
    monkeypatch.setattr(watched_folder, "UNREADABLE_WAIT_S", 1.0)


@pytest.fixture
def watched(folder: Path) -> Iterator[Watched]:
    watched = Watched(folder)
    yield watched
    watched.stop()


def test_images_are_taken_as_they_come_in_the_order_in_which_they_were_written(folder: Path, watched: Watched) -> None:
    now_s = int(folder.stat().st_mtime)
    for name, written_s in (("scan 2.png", 1), ("scan 10.png", 1), ("a.jpg", 3), ("B.PNG", 2)):
        (folder / name).write_bytes(image(50, Path(name).suffix.lower()))
        os.utime(folder / name, (now_s + written_s, now_s + written_s))
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(image(1))
    watched.wait(4)
    deeper = folder / "slide 7"
    deeper.mkdir()
    (deeper / "c.bmp").write_bytes(image(60, ".bmp"))
    watched.wait(5)
    sleep(0.5)
    assert watched.names == ["scan 2.png", "scan 10.png", "B.PNG", "a.jpg", "slide 7/c.bmp"]
    assert [frame.capture.index for frame in watched.taken] == [0, 1, 2, 3, 4]


def test_a_file_is_not_taken_before_it_is_whole(folder: Path, watched: Watched) -> None:
    data = image(90)
    with (folder / "slow.png").open("wb") as handle:
        for part in (data[: len(data) // 2], b"", data[len(data) // 2 :]):
            handle.write(part)
            handle.flush()
            sleep(0.4)  # longer than a finished file needs
    (folder / "renamed.png.part").write_bytes(image(70))
    watched.wait(1)
    (folder / "renamed.png.part").rename(folder / "renamed.png")
    watched.wait(2)
    assert watched.names == ["slow.png", "renamed.png"]
    assert all(isinstance(frame, Frame) for frame in watched.taken)


def test_a_file_that_never_becomes_whole_is_rejected_once_and_the_next_are_taken(
    folder: Path, watched: Watched
) -> None:
    (folder / "broken.png").write_bytes(image(90)[:60])
    sleep(0.05)
    (folder / "fine.png").write_bytes(image(90))
    watched.wait(2)
    sleep(0.5)
    assert watched.names == ["broken.png", "fine.png"]
    assert isinstance(watched.taken[0], BadFrame)
    assert "truncated" in watched.taken[0].problem
    assert isinstance(watched.taken[1], Frame)


def test_a_file_counts_again_only_when_it_shows_something_else(folder: Path, watched: Watched) -> None:
    path = folder / "live.png"
    path.write_bytes(image(10))
    watched.wait(1)
    path.write_bytes(image(10))  # copied anew
    sleep(0.6)
    path.write_bytes(cv2.imencode(".png", np.full((120, 160, 3), 10, np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1])
    sleep(0.6)  # as after a rating or a comment was put into it
    assert len(watched.taken) == 1
    path.write_bytes(image(200))
    watched.wait(2)
    assert [int(frame.bgr[0, 0, 0]) for frame in watched.taken if isinstance(frame, Frame)] == [10, 200]


def test_what_was_taken_before_is_not_taken_again(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(image(number))
    first = Watched(folder)
    first.wait(3)
    first.stop()
    (folder / "3.png").write_bytes(image(3))
    second = Watched(folder, first.files)
    second.wait(1)
    sleep(0.5)
    second.stop()
    assert second.names == ["3.png"]


def test_a_folder_that_goes_away_is_told(folder: Path, watched: Watched) -> None:
    (folder / "a.png").write_bytes(image(1))
    watched.wait(1)
    shutil.rmtree(folder)
    end_s = monotonic() + 5
    while watched.error is None and monotonic() < end_s:
        sleep(0.01)
    assert "does not exist" in str(watched.error)


def test_the_store_keeps_a_file_with_its_frame_or_not_at_all(
    folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    other = SourceFile(str(folder.parent / "written here too" / "a.png"), 1, 2, "ab")
    odd = SourceFile(str(folder / os.fsdecode(b"caf\xe9.png")), 3, 2**62, "")
    with closing(Store(state)) as store:
        slide = store.begin_slide(store.begin_run(fakes.run_info(fakes.make_manifest())), "")
        for index, file in enumerate((other, odd)):
            result = fakes.result(index, [0.9])
            store.put_frames(slide, [replace(result, capture=replace(result.capture, file=file))], keep_crops=False)
        monkeypatch.setattr("bloodedge_device.store.frame_rows.put_cell", lambda *_: 1 / 0)
        failing = replace(result, capture=replace(result.capture, file=replace(odd, path=str(folder / "never.png"))))
        with pytest.raises(ZeroDivisionError):
            store.put_frames(slide, [failing], keep_crops=False)
    assert read_watched(state, folder) == {odd.path: odd}
    assert read_watched(folder / "no state", folder) == {}


@pytest.mark.parametrize(
    ("camera", "sentence"),
    [("simulated", "watch needs a folder"), ("rtsp://bench/1", "watch needs a folder"), (None, "watch needs a folder")],
)
def test_only_a_folder_can_be_watched(camera: str | None, sentence: str) -> None:
    with pytest.raises(UsageError, match=f"(?i){sentence}"):
        with_options(DeviceSettings(), camera=camera, watch=True)


def test_settings_that_watch_and_repeat_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "device.toml"
    config.write_text('[camera]\nkind = "replay"\nsource = "here"\nwatch = true\nloop = true\n')
    with pytest.raises(UsageError, match="remove loop"):
        read_settings(config)


def test_a_file_cannot_be_watched(folder: Path) -> None:
    (folder / "a.png").write_bytes(image(1))
    with pytest.raises(UsageError, match="is a file"):
        open_camera(CameraSettings(kind="replay", source=str(folder / "a.png"), watch=True))


@pytest.mark.slow
def test_a_folder_that_is_not_there_yet_is_awaited(folder: Path, state: Path) -> None:
    running = daemon(folder / "share", state)
    try:
        assert running.stderr is not None
        assert any("share does not exist" in line for line in running.stderr)
        (folder / "share").mkdir()
        (folder / "share" / "a.png").write_bytes(image(100))
        wait_for_sources(state, 1)
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=20)


def daemon(folder: Path, state: Path) -> subprocess.Popen[str]:
    return fakes.start(state, "--camera", str(folder), "--watch", "--no-page")


def sources(state: Path) -> list[str]:
    try:
        with closing(sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)) as database:
            return [source for (source,) in database.execute("SELECT source FROM frames ORDER BY id")]
    except sqlite3.Error:
        return []


def wait_for_sources(state: Path, count: int) -> None:
    end_s = monotonic() + 30
    while len(sources(state)) < count:
        assert monotonic() < end_s, f"only {sources(state)} are stored"
        sleep(0.02)


@pytest.mark.slow
def test_each_image_is_stored_once_over_a_kill_and_restarts(folder: Path, state: Path) -> None:
    for number in range(5):
        (folder / f"{number}.png").write_bytes(image(100 + number))
    first = daemon(folder, state)
    wait_for_sources(state, 2)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    for number in range(5, 7):
        (folder / f"{number}.png").write_bytes(image(100 + number))
    (folder / os.fsdecode(b"7\xe4.png")).write_bytes(image(107))
    second = daemon(folder, state)
    wait_for_sources(state, 8)
    (folder / "8.png").write_bytes(image(200))
    wait_for_sources(state, 9)
    second.send_signal(signal.SIGTERM)
    _, err = second.communicate(timeout=20)
    assert second.returncode == 0, err
    third = daemon(folder, state)
    (folder / "9.png").write_bytes(image(210))
    wait_for_sources(state, 10)
    third.send_signal(signal.SIGINT)
    out, err = third.communicate(timeout=20)
    assert third.returncode == 130, err
    assert "1 frames" in out
    assert sources(state) == [*(f"{number}.png" for number in range(7)), r"7\xe4.png", "8.png", "9.png"]


@pytest.mark.slow
def test_images_that_come_between_slides_belong_to_the_next(folder: Path, state: Path) -> None:
    (folder / "0.png").write_bytes(image(100))
    running = daemon(folder, state)
    try:
        wait_for_sources(state, 1)
        ask(state, "end")
        (folder / "1.png").write_bytes(image(110))
        sleep(3)
        assert sources(state) == ["0.png"]
        ask(state, "start", "next")
        wait_for_sources(state, 2)
        with closing(sqlite3.connect(state / DATABASE)) as database:
            per_slide = database.execute("SELECT slide, source FROM frames ORDER BY id").fetchall()
        assert per_slide == [(1, "0.png"), (2, "1.png")]
        status = show(state)
        assert status["alive"]
        assert status["health"]["frames"]["level"] == "ok"
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=20)


def ask(state: Path, *words: str) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["device", "slide", *words, "--state", str(state)])
    assert not exit_.value.code


def show(state: Path) -> dict[str, dict[str, dict[str, str]]]:
    from bloodedge_device.web.client import ask

    return ask(state, "GET", "/api/v1/status")
