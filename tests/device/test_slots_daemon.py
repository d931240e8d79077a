"""The daemon with what is in the slots: takes over between two frames, judges on probation, and never stays away."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from hostile import turn_a_bit
from numpy.typing import NDArray

from bloodedge.engine import Engine
from bloodedge.errors import BloodedgeError
from bloodedge.signing.keys import new_key, read_private_key
from bloodedge.signing.signature import sign_bundle
from bloodedge.signing.trust import revoke, trust
from bloodedge_device.bundles import loading
from bloodedge_device.bundles import slot_record as slots_record
from bloodedge_device.bundles.install import install
from bloodedge_device.bundles.loading import Loaded
from bloodedge_device.bundles.probation import Figures, why_failed
from bloodedge_device.bundles.slot_record import RECORD, Slot, read_record, slot_file, slots_folder
from bloodedge_device.bundles.start import counted_start
from bloodedge_device.bundles.switch import MOST_STARTS, MOST_STARTS_IN_A_ROW, count_start, mark_good
from bloodedge_device.cli.doctor.checks import examine
from bloodedge_device.daemon.loop import Daemon, run_device
from bloodedge_device.daemon.slides import Slides
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.settings.sections import SlideSettings, UpdateSettings
from bloodedge_device.store import DATABASE, RunInfo, Store
from bloodedge_device.web.client import ask
from support.slot_bundles import HURRIED, Laboratory, always_uncertain, proven, tried

CRASHES = """
import os, signal, sys
from bloodedge_device.bundles import loading
load_artifact = loading.load_artifact
def load(bundle, *rest):
    if bundle.manifest.serial == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return load_artifact(bundle, *rest)
loading.load_artifact = load
from bloodedge.cli import main
main(sys.argv[1:])
"""
"""``bloodedge`` in which the network of serial 2 crashes in native code as it is loaded."""

ABORTS = """
import os, sys
from dataclasses import replace
from bloodedge_device.bundles import loading
load_file = loading.load_file
class Aborts:
    runtime = name = "aborts"
    def predict(self, images):
        os.abort()
def load(settings, path):
    loaded = load_file(settings, path)
    return replace(loaded, engine=Aborts()) if loaded.manifest.serial == 2 else loaded
loading.load_file = load
from bloodedge.cli import main
main(sys.argv[1:])
"""
"""``bloodedge`` in which the network of serial 2 loads, passes its self-test and ends the process at the first cell."""


@pytest.fixture
def lab(tmp_path: Path, state: Path) -> Laboratory:
    return Laboratory(tmp_path, state)


def rows(state: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(state / DATABASE)) as database:
        return database.execute(query).fetchall()


def serials(state: Path) -> list[object]:
    """Of the bundles that ran, in order."""
    return [serial for (serial,) in rows(state, "SELECT bundle_serial FROM runs ORDER BY id")]


@contextmanager
def daemon(lab: Laboratory, rate: float = 20) -> Iterator[subprocess.Popen[str]]:
    """A daemon in a process of its own, ready."""
    environment = {
        **os.environ,
        "BLOODEDGE_DEVICE__ENGINE": "litert",
        "BLOODEDGE_DEVICE__CAMERA__RATE": str(rate),
        "BLOODEDGE_DEVICE__WEB__PORT": "0",
    }
    command = [sys.executable, "-m", "bloodedge", "device", "run", "--state", str(lab.state)]
    (lab.state / "control.sock").unlink(missing_ok=True)  # of a daemon that crashed
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until((lab.state / "control.sock").exists, process)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def wait_until(come: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end_s = monotonic() + 30
    while not come():
        assert monotonic() < end_s
        assert process.poll() is None
        sleep(0.05)


def running(lab: Laboratory) -> tuple[int, str | None]:
    bundle = ask(lab.state, "GET", "/api/v1/status")["bundle"]
    return bundle["serial"], bundle["slot"]


def test_a_bundle_is_taken_over_while_the_daemon_runs_and_rolled_back(lab: Laboratory) -> None:
    with daemon(lab) as process:
        wait_until(lambda: ask(lab.state, "GET", "/api/v1/status")["alive"], process)
        install(lab.settings(), lab.bundle(1), trial=tried)
        wait_until(lambda: running(lab) == (1, "a"), process)
        assert "on probation" in ask(lab.state, "GET", "/api/v1/status")["health"]["bundle"]["sentence"]
        command = [sys.executable, "-m", "bloodedge", "device", "rollback", "--state", str(lab.state)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=90).stdout
        assert "The daemon runs it." in said
        assert running(lab)[1] is None
    frames = rows(lab.state, "SELECT number, dropped_before FROM frames ORDER BY id")
    numbers = [number for number, _ in frames]
    assert numbers == list(range(len(numbers)))
    assert sum(int(str(dropped)) for _, dropped in frames) == 0
    actions = [action for (action,) in rows(lab.state, "SELECT action FROM audit WHERE actor = 'slots' ORDER BY id")]
    assert actions == ["bundle installed", "bundle rolled back"]


@pytest.mark.slow
def test_a_running_daemon_goes_on_with_its_bundle_whatever_is_offered(lab: Laboratory) -> None:
    proven(lab, 2)
    stranger, _, _ = new_key("stranger", lab.folder / "strangers")
    late, _, ended = new_key("late", lab.folder / "late", days=1)
    former, _, gone = new_key("former", lab.folder / "former")
    trust(lab.state / "trust", ended.model_copy(update={"not_after": datetime(2025, 6, 1, tzinfo=UTC)}))
    trust(lab.state / "trust", gone)
    revoke(lab.state / "trust", gone.id, "left the laboratory")
    offered = {
        "is not signed": lab.bundle(11, signed=False),
        "which is not trusted here": signed_by(stranger, lab.bundle(12, signed=False)),
        "after the end of late's key": signed_by(late, lab.bundle(13, signed=False)),
        "was revoked": signed_by(former, lab.bundle(14, signed=False)),
        "was changed after": turn_a_bit(lab.bundle(15)),
        ", older than": lab.bundle(1),
    }
    with daemon(lab) as process:
        wait_until(lambda: running(lab) == (2, "a"), process)
        for words, path in offered.items():
            command = [sys.executable, "-m", "bloodedge", "device", "install", str(path), "--state", str(lab.state)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
            assert (done.returncode, words in done.stderr) == (1, True), done.stderr
            lines = done.stderr.splitlines()
            assert len(lines) - lines.count("Trying the bundle on this board") == 1  # said on a slow machine only
        assert running(lab) == (2, "a")
        cells = "SELECT count(*) FROM cells WHERE blast_probability IS NOT NULL"
        before = rows(lab.state, cells)[0][0]
        wait_until(lambda: rows(lab.state, cells)[0][0] != before, process)
    assert serials(lab.state) == [2]


def signed_by(key: Path, bundle: Path) -> Path:
    sign_bundle(bundle, read_private_key(key), when=datetime(2026, 1, 1, tzinfo=UTC))
    return bundle


@pytest.mark.slow
def test_a_take_over_during_a_reload_does_not_end_the_daemon(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, run = lab.settings(camera={"rate": 20}), Daemon.run
    daemons: list[Daemon] = []

    def kept(self: Daemon, *values: Any) -> None:
        daemons.append(self)
        run(self, *values)

    def reread() -> DeviceSettings:
        (running,) = daemons
        running.switcher.take_over(
            running.state.settings, running.state.loaded
        )  # as the slots' watch does from its thread
        return settings.model_copy(update={"slide": SlideSettings(label="after")})

    monkeypatch.setattr(Daemon, "run", kept)
    hang_up = threading.Timer(1, os.kill, (os.getpid(), signal.SIGHUP))
    hang_up.start()
    run_device(settings, frames=60, reread=reread)
    hang_up.join()
    assert rows(lab.state, "SELECT count(*) FROM frames") == [(60,)]
    assert [label for (label,) in rows(lab.state, "SELECT label FROM slides ORDER BY id")][-1] == "after"


def test_what_happened_while_no_daemon_ran_is_in_the_audit_log_once(lab: Laboratory) -> None:
    proven(lab, 1)
    for _ in range(2):
        run_device(lab.settings(), frames=2)
    actions = rows(lab.state, "SELECT action FROM audit WHERE actor = 'slots' ORDER BY id")
    assert actions == [("bundle installed",), ("bundle good",)]


def test_a_network_that_crashes_as_it_is_loaded_is_rolled_back_after_three_starts(lab: Laboratory) -> None:
    proven(lab, 1)
    install(lab.settings(), lab.bundle(2), trial=tried)
    command = [sys.executable, "-c", CRASHES, "device", "run", "--state", str(lab.state), "--frames", "2", "--no-page"]
    environment = {**os.environ, "BLOODEDGE_DEVICE__ENGINE": "litert"}
    for _ in range(MOST_STARTS):
        assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == -signal.SIGKILL
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Went back to lymph 1. lymph 2: it crashed in 3 starts." in done.stderr
    assert serials(lab.state) == [1]


def aborting(state: Path) -> subprocess.CompletedProcess[str]:
    """A run of the daemon in which serial 2 crashes."""
    command = [sys.executable, "-c", ABORTS, "device", "run", "--state", str(state), "--frames", "8", "--no-page"]
    environment = {**os.environ, "BLOODEDGE_DEVICE__ENGINE": "litert", "BLOODEDGE_DEVICE__CAMERA__RATE": "4"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_good_bundle_that_begins_to_crash_is_rolled_back_to_the_good_one_before(lab: Laboratory) -> None:
    proven(lab, 1)
    proven(lab, 2)
    for _ in range(MOST_STARTS_IN_A_ROW):
        assert aborting(lab.state).returncode == -signal.SIGABRT
    done = aborting(lab.state)
    assert done.returncode == 0, done.stderr
    assert "Went back to lymph 1. lymph 2: it crashed within a minute in 5 starts in a row." in done.stderr
    record = read_record(lab.state)
    assert (record.active, record.slots["b"].state, record.slots["a"].starts) == ("a", "failed", 0)
    (last,) = rows(lab.state, "SELECT action, detail FROM audit WHERE actor = 'slots' ORDER BY id DESC LIMIT 1")
    assert last[0] == "bundle went back"
    assert "5 starts in a row" in str(last[1])


@pytest.mark.slow
def test_a_good_bundle_that_begins_to_crash_runs_on_where_there_is_no_other(lab: Laboratory) -> None:
    proven(lab, 2)
    for number in range(MOST_STARTS_IN_A_ROW + 2):
        done = aborting(lab.state)
        assert done.returncode == -signal.SIGABRT
        told = "lymph 2 runs on: it crashed within a minute in 5 starts in a row, but no other bundle" in done.stderr
        assert told is (number == MOST_STARTS_IN_A_ROW)
    record = read_record(lab.state)
    assert (record.active, record.slots["a"].state) == ("a", "good")
    assert [event.action for event in record.history].count("kept") == 1
    with daemon(lab) as process:
        health = partial(ask, lab.state, "GET", "/api/v1/status")
        wait_until(lambda: "bundle" in health()["health"], process)
        condition = health()["health"]["bundle"]
        assert condition["level"] == "warning"
        assert condition["sentence"] == "lymph 2 crashed within a minute in the last 7 starts; install another."
    assert ("bundle kept",) in rows(lab.state, "SELECT action FROM audit WHERE actor = 'slots'")


@pytest.mark.parametrize("state_of", ["good", "on probation"])
def test_a_minute_ends_a_row_of_crashes_of_a_good_bundle_only(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch, state_of: str
) -> None:
    done = install(lab.settings(), lab.bundle(1), trial=tried)
    if state_of == "good":
        mark_good(lab.state, done.what.sha256)
    count_start(lab.state)
    counts: list[int] = []
    monkeypatch.setattr(Slides, "process", noting(Slides.process, lambda: counts.append(starts(lab))))
    run_device(lab.settings(camera={"rate": 20}), frames=40, timings=replace(HURRIED, harmless_after_s=0.5))
    assert counts[0] == 2
    assert counts[-1] == (0 if state_of == "good" else 2)


def test_a_board_without_its_camera_does_not_count_against_a_bundle_on_probation(lab: Laboratory) -> None:
    install(lab.settings(), lab.bundle(1), trial=tried)
    count_start(lab.state)
    counted: list[int] = []

    def end_once_forgotten() -> None:
        end_s = monotonic() + 20
        while starts(lab) and monotonic() < end_s:
            sleep(0.1)
        counted.append(starts(lab))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_once_forgotten).start()
    absent = lab.settings(camera={"kind": "v4l2", "source": "/dev/video99"})
    run_device(absent, timings=replace(HURRIED, harmless_after_s=0.5))
    assert counted == [0]


def test_a_full_disk_keeps_no_good_bundle_away(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    proven(lab, 1)

    def full(*_: object) -> None:
        raise BloodedgeError("No space is left.")

    monkeypatch.setattr(slots_record, "write_record", full)
    with counted_start(lab.settings()) as loaded:
        assert loaded.manifest.serial == 1


def starts(lab: Laboratory) -> int:
    slot = read_record(lab.state).running
    assert slot is not None
    return slot.starts


def noting(method: Callable[..., None], note: Callable[[], None]) -> Callable[..., None]:
    def noted(*arguments: object) -> None:
        note()
        method(*arguments)

    return noted


@pytest.mark.slow
def test_starts_that_end_in_good_order_do_not_count(lab: Laboratory) -> None:
    install(lab.settings(), lab.bundle(1), trial=tried)
    for _ in range(MOST_STARTS + 1):
        run_device(lab.settings(), frames=1)
    with pytest.raises(Exception, match="does not exist"):
        run_device(lab.settings(camera={"kind": "replay", "source": str(lab.folder / "none")}), frames=1)
    slot = read_record(lab.state).slots["a"]
    assert (slot.state, slot.starts) == ("on probation", 0)


def test_a_slot_that_was_damaged_does_not_keep_the_daemon_away(lab: Laboratory) -> None:
    proven(lab, 1)
    proven(lab, 2)
    slot_file(lab.state, "b").write_bytes(b"damaged")
    run_device(lab.settings(), frames=2)
    slot_file(lab.state, "a").unlink()
    run_device(lab.settings(), frames=2)
    assert serials(lab.state)[0] == 1
    assert read_record(lab.state).active is None


def test_settings_that_no_bundle_can_serve_do_not_cost_a_good_slot(lab: Laboratory) -> None:
    proven(lab, 1)
    with pytest.raises(Exception, match="float16"):
        run_device(lab.settings(precision="float16"), frames=1)
    assert read_record(lab.state).active == "a"


def test_a_damaged_record_does_not_keep_the_daemon_away(lab: Laboratory) -> None:
    proven(lab, 1)
    (slots_folder(lab.state) / RECORD).write_text("{}}")
    run_device(lab.settings(), frames=2)
    assert serials(lab.state) == [1]


@pytest.mark.slow
def test_a_bundle_that_does_well_becomes_good(lab: Laboratory) -> None:
    install(lab.settings(), lab.bundle(7), trial=tried)
    update = {"probation_minutes": 0.005, "probation_cells": 10}
    run_device(lab.settings(update=update, camera={"rate": 20}), frames=60, timings=HURRIED)
    record = read_record(lab.state)
    assert record.slots["a"].state == "good"
    assert record.highest == {"lymph": 7}


@pytest.mark.slow
def test_probation_goes_on_where_it_was(lab: Laboratory) -> None:
    install(lab.settings(), lab.bundle(7), trial=tried)
    for _ in range(2):
        before = read_record(lab.state).slots["a"].healthy_s
        run_device(lab.settings(camera={"rate": 20}), frames=20, timings=HURRIED)
        assert read_record(lab.state).slots["a"].healthy_s > before + 0.3


@pytest.mark.slow
def test_a_bundle_that_is_uncertain_far_more_often_is_rolled_back_while_the_daemon_runs(lab: Laboratory) -> None:
    proven(lab, 1)
    run_device(lab.settings(), frames=90, timings=HURRIED)
    install(lab.settings(), lab.bundle(2, always_uncertain), trial=tried)
    run_device(lab.settings(update={"probation_cells": 40}, camera={"rate": 25}), frames=70, timings=HURRIED)
    record = read_record(lab.state)
    assert record.active == "a"
    assert "cells are uncertain, where" in record.slots["b"].why
    assert serials(lab.state) == [1, 2, 1]


@pytest.mark.slow
def test_a_slow_take_over_happens_once(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    proven(lab, 1)
    begin_run = Store.begin_run

    def slowly(store: Store, run: RunInfo) -> int:
        sleep(0.5)  # ten looks at the slots
        return begin_run(store, run)

    monkeypatch.setattr(Store, "begin_run", slowly)
    install_in = threading.Timer(2, lambda: install(lab.settings(), lab.bundle(2), trial=tried))
    install_in.start()
    run_device(lab.settings(camera={"rate": 20}), frames=150, timings=HURRIED)
    install_in.join()
    assert serials(lab.state) == [1, 2]


@pytest.mark.slow
def test_a_network_that_fails_to_load_while_the_daemon_runs_leaves_the_old_one(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(lab, 1)
    golden = loading.check_golden

    def fails(bundle, *rest):
        found = golden(bundle, *rest)
        return found if bundle.manifest.serial == 1 else type(found)(found.inputs, 20, 0.9, passed=False)

    monkeypatch.setattr(loading, "check_golden", fails)
    second = lab.bundle(2)
    thread = threading.Timer(1.0, lambda: install(lab.settings(), second, trial=tried))
    thread.start()
    run_device(lab.settings(camera={"rate": 20}), frames=60, timings=HURRIED)
    thread.join()
    record = read_record(lab.state)
    assert (record.active, record.slots["b"].state) == ("a", "failed")
    assert "failed its self-test" in record.slots["b"].why
    assert serials(lab.state) == [1]


@dataclass
class Delayed:
    """A real network whose answers come late."""

    engine: Engine
    wait: Callable[[], object]

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def runtime(self) -> str:
        return self.engine.runtime

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.wait()
        return self.engine.predict(images)


def delay(monkeypatch: pytest.MonkeyPatch, serial: int, wait: Callable[[], object]) -> None:
    """Have the network of this serial wait before each answer, once it has passed its self-test."""
    load_file = loading.load_file

    def delayed(settings: DeviceSettings, path: Path) -> Loaded:
        loaded = load_file(settings, path)
        return replace(loaded, engine=Delayed(loaded.engine, wait)) if loaded.manifest.serial == serial else loaded

    monkeypatch.setattr(loading, "load_file", delayed)


@pytest.mark.slow
def test_a_network_that_is_far_slower_is_rolled_back_while_the_daemon_runs(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(lab, 1)
    run_device(lab.settings(), frames=90, timings=HURRIED)
    install(lab.settings(), lab.bundle(2), trial=tried)
    delay(monkeypatch, 2, lambda: sleep(0.05))
    run_device(lab.settings(update={"probation_cells": 20}, camera={"rate": 20}), frames=50, timings=HURRIED)
    record = read_record(lab.state)
    assert record.active == "a"
    assert re.search(r"takes (\d+)\.\d ms per cell, where the one before took", record.slots["b"].why)
    assert serials(lab.state) == [1, 2, 1]


def test_a_network_that_hangs_is_rolled_back_while_its_frame_is_still_being_processed(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    proven(lab, 1)
    install(lab.settings(), lab.bundle(2), trial=tried)
    answered = threading.Event()
    delay(monkeypatch, 2, lambda: answered.wait(20))
    thread = threading.Thread(target=answer_once_judged, args=(lab, answered))
    thread.start()
    run_device(lab.settings(watch={"alive_s": 1}, camera={"rate": 20}), frames=20, timings=HURRIED)
    thread.join()
    slot = read_record(lab.state).slots["b"]
    assert (slot.state, slot.why) == ("failed", "no frame was classified although the camera works")
    assert serials(lab.state) == [2, 1]


def answer_once_judged(lab: Laboratory, answered: threading.Event) -> None:
    end_s = monotonic() + 15
    while read_record(lab.state).active == "b" and monotonic() < end_s:
        sleep(0.05)
    answered.set()


KNOWN = Figures(cells=1000, uncertain=100, latency_ms=8.0)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Figures(cells=199, uncertain=199, latency_ms=99.0), ""),
        (Figures(cells=200, uncertain=20, latency_ms=15.9), ""),
        (Figures(cells=200, uncertain=20, latency_ms=16.1), "it takes 16.1 ms per cell, where the one before took 8.0"),
        (Figures(cells=200, uncertain=59, latency_ms=8.0), ""),
        (Figures(cells=200, uncertain=90, latency_ms=8.0), "45% of 200 cells are uncertain, where 10% were before"),
        (Figures(cells=200, uncertain=90, latency_ms=99.0), "45% of 200 cells are uncertain, where 10% were before"),
    ],
)
def test_what_counts_as_worse(now: Figures, said: str) -> None:
    assert why_failed(UpdateSettings(), now, KNOWN).startswith(said)
    assert bool(why_failed(UpdateSettings(), now, KNOWN)) == bool(said)


@pytest.mark.parametrize(
    ("earlier_ms", "taken_ms", "slow"),
    [(0.3, 0.8, False), (0.3, 5.2, False), (0.3, 5.4, True), (4.0, 8.9, False), (4.0, 9.1, True), (20.0, 39.0, False)],
)
def test_a_slower_bundle_fails_where_it_takes_milliseconds_longer_and_twice_as_long(
    earlier_ms: float, taken_ms: float, slow: bool
) -> None:
    before, now = replace(KNOWN, latency_ms=earlier_ms), replace(KNOWN, latency_ms=taken_ms)
    assert why_failed(UpdateSettings(), now, before).startswith("it takes") is slow


def test_a_limit_for_latency_stands_in_place_of_the_comparison() -> None:
    now = Figures(cells=200, uncertain=20, latency_ms=9.0)
    assert not why_failed(UpdateSettings(most_latency_ms=10), now, KNOWN)
    assert "longer than the 8 ms allowed" in why_failed(UpdateSettings(most_latency_ms=8), now, Figures())


def test_nothing_is_compared_with_too_few_cells_of_the_bundle_before() -> None:
    now = Figures(cells=500, uncertain=500, latency_ms=50.0)
    assert not why_failed(UpdateSettings(), now, Figures(cells=50, uncertain=0, latency_ms=1.0))


def finding(settings: DeviceSettings) -> tuple[str, str]:
    (found,) = [one for one in examine(settings) if one.name == "slots"]
    return found.level, found.sentence


def test_the_doctor_looks_at_the_active_slot(lab: Laboratory) -> None:
    assert finding(lab.settings())[0] == "ok"
    slot: Slot = proven(lab, 1).slots["a"]
    assert slot.title in finding(lab.settings())[1]
    slot_file(lab.state, "a").write_bytes(b"damaged")
    assert finding(lab.settings()) == (
        "failed",
        f"{slot_file(lab.state, 'a')} was changed after lymph 1 was installed; install it again.",
    )
