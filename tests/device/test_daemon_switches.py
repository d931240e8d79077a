"""The running daemon goes on with other settings or another bundle: once, whole, and not with a revoked key's."""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from time import sleep
from typing import Any

import pytest

from bloodedge.bundle import Bundle
from bloodedge.errors import BloodedgeError, UsageError
from bloodedge.signing.keys import read_public_key
from bloodedge.signing.trust import REVOKED, revoke
from bloodedge_device.bundles import loading
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.bundles.slot_record import Slot, read_record, slot_file
from bloodedge_device.bundles.switch import mark_good
from bloodedge_device.daemon.loop import run_device
from bloodedge_device.daemon.slides import Slides
from bloodedge_device.daemon.slot_watch import SlotWatch
from bloodedge_device.frames import BadFrame, Frame
from bloodedge_device.health import Level
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import DATABASE, DiskFullError, Store
from bloodedge_device.timings import Timings
from support.slot_bundles import HURRIED, RELEASED, Laboratory, always_uncertain, tried

CAMERA = {"rate": 20}

At = dict[int, Callable[[Slides], object]]
"""What happens just before a frame is looked at, by how many were."""


@pytest.fixture
def lab(tmp_path: Path, state: Path) -> Laboratory:
    return Laboratory(tmp_path, state)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[At], None]:
    """Have things happen at certain frames."""

    def play(script: At) -> None:
        process, looked_at = Slides.process, [0]

        def scripted(slides: Slides, frame: Frame | BadFrame) -> None:
            script.get(looked_at[0], lambda _: None)(slides)
            looked_at[0] += 1
            process(slides, frame)

        monkeypatch.setattr(Slides, "process", scripted)

    return play


class Disk:
    """Full or not."""

    def __init__(self) -> None:
        self.full = False

    def fill(self, _: Slides) -> None:
        self.full = True

    def empty(self, _: Slides) -> None:
        self.full = False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Disk:
    """While it is full, it refuses the step of the store that the test is run for."""
    disk, whole = Disk(), getattr(Store, request.param)

    def step(self: Store, *arguments: object) -> object:
        if disk.full:
            raise DiskFullError("The disk is full.")
        return whole(self, *arguments)

    monkeypatch.setattr(Store, request.param, step)
    return disk


def hang_up(_: Slides) -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def proven(lab: Laboratory, serial: int) -> Slot:
    done = install(lab.settings(), lab.bundle(serial), trial=tried)
    return mark_good(lab.state, done.what.sha256).slots[done.slot]


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


def serials(state: Path) -> list[object]:
    """Of the bundles that ran, in order."""
    return [serial for (serial,) in rows(state, "SELECT bundle_serial FROM runs ORDER BY id")]


def shipped_serial() -> int:
    with Bundle(RELEASED) as bundle:
        return bundle.manifest.serial


FRAMES = "SELECT count(*) FROM frames JOIN slides ON slides.id = frames.slide GROUP BY slides.id ORDER BY slides.id"


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["end_run", "begin_run", "begin_slide"], indirect=True)
def test_a_reload_waits_for_a_full_disk_and_no_frame_is_lost(
    lab: Laboratory, disk: Disk, play: Callable[[At], None]
) -> None:
    seen: list[object] = []

    def look(slides: Slides) -> None:
        condition = slides.state.health.conditions()["run"]
        runs = rows(lab.state, "SELECT finished IS NOT NULL FROM runs")
        assert slides.state.slide is not None
        assert slides.state.slide.rates == slides.state.loaded.artifact.rates is not None
        seen.append((slides.state.settings.slide.label, condition.level, condition.sentence, runs))

    play({10: disk.fill, 11: hang_up, 29: look, 30: disk.empty, 59: look})
    settings = lab.settings(camera=CAMERA)
    run_device(settings, frames=60, reread=lambda: lab.settings(camera=CAMERA, slide={"label": "new"}), timings=HURRIED)
    told = "Settings and bundle stay as they are until a new run can be stored. The disk is full."
    assert seen == [
        ("", Level.FAILED, told, [(0,)]),
        ("new", Level.OK, "No run waits to be stored.", [(1,), (0,)]),
    ]
    assert rows(lab.state, "SELECT label, finished IS NOT NULL FROM slides") == [("", 1), ("new", 1)]
    (first,), (second,) = rows(lab.state, FRAMES)
    assert (int(str(first)) >= 30, int(str(first)) + int(str(second))) == (True, 60)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["begin_run"], indirect=True)
def test_a_take_over_waits_for_a_full_disk_and_is_done_once(
    lab: Laboratory, disk: Disk, play: Callable[[At], None]
) -> None:
    proven(lab, 1)
    second = lab.bundle(2)
    play({10: disk.fill, 11: lambda _: install(lab.settings(), second, trial=tried), 40: disk.empty})
    run_device(lab.settings(camera=CAMERA), frames=80, timings=HURRIED)
    assert serials(lab.state) == [1, 2]
    (first,), (after,) = rows(lab.state, FRAMES)
    assert (int(str(first)) >= 40, int(str(first)) + int(str(after))) == (True, 80)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["begin_run"], indirect=True)
@pytest.mark.parametrize("put_back", [True, False])
def test_settings_put_back_or_spoilt_while_a_reload_waits_for_the_disk_leave_those_in_force(
    lab: Laboratory, disk: Disk, play: Callable[[At], None], put_back: bool
) -> None:
    settings = lab.settings(camera=CAMERA)

    def read() -> DeviceSettings:
        if not put_back:
            raise UsageError("The file is no TOML.")
        return settings

    def reread() -> DeviceSettings:
        return files.pop(0)()

    files = [partial(lab.settings, camera=CAMERA, slide={"label": "new"}), read]
    play({5: disk.fill, 6: hang_up, 20: hang_up, 30: disk.empty})
    run_device(settings, frames=60, reread=reread, timings=HURRIED)
    assert files == []
    assert rows(lab.state, "SELECT label FROM slides") == [("",)]
    assert rows(lab.state, FRAMES) == [(60,)]


@pytest.mark.parametrize("disk", ["begin_slide", "note"], indirect=True)
def test_a_slide_that_cannot_be_begun_leaves_the_one_in_work(
    lab: Laboratory, disk: Disk, play: Callable[[At], None]
) -> None:
    def begin(slides: Slides) -> None:
        with pytest.raises(BloodedgeError, match="disk is full"):
            slides.start("next", "page")

    play({5: disk.fill, 6: begin, 7: disk.empty})
    run_device(lab.settings(), frames=20)
    assert rows(lab.state, "SELECT label FROM slides") == [("",)]
    assert rows(lab.state, FRAMES) == [(20,)]


def test_who_ended_a_slide_is_in_the_audit_log(lab: Laboratory, play: Callable[[At], None]) -> None:
    play({5: lambda slides: slides.end("page"), 10: lambda slides: slides.start("next", "page")})
    run_device(lab.settings(), frames=20)
    ends = rows(lab.state, "SELECT actor, detail FROM audit WHERE action = 'slide ended' ORDER BY id")
    assert ends == [("page", '{"slide": 1}'), ("daemon", '{"slide": 2}')]


@pytest.mark.parametrize("how", ["end", "start"])
def test_who_ends_a_slide_finds_all_of_it_stored(
    lab: Laboratory, play: Callable[[At], None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    put_frames, seen = Store.put_frames, list[tuple[object, ...]]()

    def slowly(self: Store, *arguments: Any) -> None:
        sleep(0.3)
        put_frames(self, *arguments)

    def end(slides: Slides) -> None:
        slides.end("page") if how == "end" else slides.start("next", "page")
        query = "SELECT finished IS NOT NULL, (SELECT count(*) FROM frames WHERE slide = slides.id) FROM slides"
        seen.extend(rows(lab.state, query))

    monkeypatch.setattr(Store, "put_frames", slowly)
    play({5: end})
    run_device(lab.settings(), frames=6)
    assert seen[0] == (1, 5)


@pytest.mark.slow
def test_a_reload_and_a_take_over_at_once_load_one_after_the_other(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(lab, 1)
    load_file, inside, most = loading.load_file, [0], [0]
    begun = threading.Event()

    def slowly(settings: DeviceSettings, path: Path) -> Loaded:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        if threading.current_thread().name == "services":
            begun.set()
        sleep(0.5)
        loaded = load_file(settings, path)
        inside[0] -= 1
        return loaded

    def hang_up_meanwhile() -> None:
        install(lab.settings(), second, trial=tried)
        begun.wait(20)
        os.kill(os.getpid(), signal.SIGHUP)

    monkeypatch.setattr(loading, "load_file", slowly)
    second = lab.bundle(2)
    at_once = threading.Timer(2, hang_up_meanwhile)
    at_once.start()
    run_device(
        lab.settings(camera=CAMERA), frames=100, reread=lambda: lab.settings(camera=CAMERA, threads=1), timings=HURRIED
    )
    at_once.join()
    assert begun.is_set()
    assert most == [1]
    assert serials(lab.state) == [1, 2]


@pytest.mark.slow
def test_a_bundle_that_cannot_be_judged_just_now_is_not_taken_over_and_has_not_failed(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, play: Callable[[At], None]
) -> None:
    proven(lab, 1)
    second, load_file = lab.bundle(2), loading.load_file

    def unjudged(settings: DeviceSettings, path: Path) -> Loaded:
        if path == slot_file(lab.state, "b"):
            raise loading.TemporaryError("No key can be read.")
        return load_file(settings, path)

    monkeypatch.setattr(loading, "load_file", unjudged)
    play({10: lambda _: install(lab.settings(), second, trial=tried)})
    run_device(lab.settings(camera=CAMERA), frames=40, timings=HURRIED)
    assert serials(lab.state) == [1]
    assert read_record(lab.state).slots["b"].state == "on probation"


@pytest.mark.slow
def test_a_disk_that_fails_once_does_not_end_probation(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    proven(lab, 1)
    run_device(lab.settings(), frames=100, timings=HURRIED)
    install(lab.settings(), lab.bundle(2, always_uncertain), trial=tried)
    fsync, failed = os.fsync, threading.Event()

    def failing(handle: int) -> None:
        if threading.current_thread().name == "services" and not failed.is_set():
            failed.set()
            raise OSError(5, "Input/output error")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    update = {"probation_cells": 40}
    run_device(lab.settings(update=update, camera={"rate": 25}), frames=120, timings=HURRIED)
    assert failed.is_set()
    assert read_record(lab.state).active == "a"
    assert serials(lab.state) == [1, 2, 1]


def test_a_fault_in_a_service_is_reported_and_ends_nothing(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, play: Callable[[At], None], caplog: pytest.LogCaptureFixture
) -> None:
    look, cured = SlotWatch.look, threading.Event()
    told: list[tuple[Level, str]] = []

    def faulty(self: SlotWatch) -> None:
        if not cured.is_set():
            raise ValueError("a fault")
        look(self)

    def ask(slides: Slides) -> None:
        condition = slides.state.health.conditions()["housekeeping"]
        told.append((condition.level, condition.sentence))

    monkeypatch.setattr(SlotWatch, "look", faulty)
    play({15: ask, 16: lambda _: cured.set(), 39: ask})
    run_device(lab.settings(camera=CAMERA), frames=40, timings=HURRIED)
    failed = "Checking the slots failed (ValueError('a fault')) and is tried again; report what the log says about it."
    assert told == [(Level.FAILED, failed), (Level.OK, "All services run.")]
    assert [record.getMessage() for record in caplog.records].count(failed) == 1


def revoked(lab: Laboratory) -> Callable[[Slides], None]:
    """Revoke the key that signed everything."""
    key = read_public_key(lab.folder / "keys" / "lab.pub")
    return lambda _: revoke(lab.state / "trust", key.id, "stolen") and None


@pytest.mark.slow
def test_all_bundles_that_a_key_signed_are_rolled_back_when_it_is_revoked(
    lab: Laboratory, play: Callable[[At], None]
) -> None:
    proven(lab, 1)
    proven(lab, 2)
    play({10: revoked(lab)})
    run_device(lab.settings(camera=CAMERA), frames=80, timings=HURRIED)
    record = read_record(lab.state)
    assert record.active is None
    assert "which was revoked (stolen); get it signed with another key." in record.slots["b"].why
    assert serials(lab.state) == [2, shipped_serial()]


def test_a_reload_finds_a_revoked_key_at_once(lab: Laboratory, play: Callable[[At], None]) -> None:
    proven(lab, 1)
    play({10: revoked(lab), 11: hang_up})
    run_device(lab.settings(camera=CAMERA), frames=20, timings=Timings(services_every_s=60))
    assert serials(lab.state) == [1, shipped_serial()]
    assert [frames for (frames,) in rows(lab.state, FRAMES)] == [12, 8]


def test_a_bundle_that_the_settings_name_ends_the_daemon_when_its_key_is_revoked(
    lab: Laboratory, play: Callable[[At], None]
) -> None:
    play({10: revoked(lab)})
    with pytest.raises(BloodedgeError, match=r"lymph 3 was signed with key \w+, which was revoked \(stolen\)"):
        run_device(lab.settings(camera=CAMERA, bundle=lab.bundle(3)), frames=200, timings=HURRIED)
    assert rows(lab.state, "SELECT finished IS NOT NULL FROM slides") == [(1,)]


def test_damaged_revocations_are_reported_and_no_verdict_on_the_running_bundle(
    lab: Laboratory, play: Callable[[At], None], caplog: pytest.LogCaptureFixture
) -> None:
    proven(lab, 1)
    path = lab.state / "trust" / REVOKED
    play({10: lambda _: path.write_text("{}}")})
    run_device(lab.settings(camera=CAMERA), frames=40, timings=HURRIED)
    assert serials(lab.state) == [1]
    assert read_record(lab.state).slots["a"].state == "good"
    assert sum("is damaged, so no key can be trusted" in record.getMessage() for record in caplog.records) == 1
