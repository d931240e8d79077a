import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from time import monotonic, sleep

import cv2
import numpy as np
import pytest

from bloodedge import RESEARCH_USE
from bloodedge.cli import main
from bloodedge.engine.golden import GoldenResult
from bloodedge.errors import UsageError
from bloodedge_device.bundles import loading
from bloodedge_device.daemon import pipelines
from bloodedge_device.settings import DeviceSettings, read_settings
from bloodedge_device.store import DATABASE, Store
from bloodedge_device.web import browser
from bloodedge_device.web.client import ask
from support import fakes
from support.films import cut, film, gap, zeros


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["device", *arguments])
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def _without_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOODEDGE_DEVICE__WEB__ENABLED", "false")


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, level in enumerate((240, 5, 15, 128)):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((120, 160, 3), level, np.uint8))
    (folder / "4.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "load_file", loading.load_file)  # put back at the end
    for name in ("gate_of", "finder_of", "kinds"):
        monkeypatch.setattr(pipelines, name, getattr(pipelines, name))
    fakes.use_fakes()


@pytest.mark.usefixtures("faked")
def test_a_folder_of_frames_becomes_a_report(
    frames: Path, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--camera", str(frames), "--state", str(state)) == 0
    capsys.readouterr()
    html = tmp_path / "report.html"
    assert run("report", "--state", str(state), "--json", "-", "--html", str(html)) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"]["seen"] == 5
    assert report["frames"]["rejected_reasons"] == {"bad_frame": 1, "too_dark": 1}
    assert report["frames"]["without_cells"] == 1
    assert report["cells"]["total"] == 4
    assert report["cells"]["uncertain_reasons"]["cut_by_border"] == 2
    assert html.read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("faked")
def test_frames_and_folders_whose_names_are_not_utf8_become_a_report(
    frames: Path, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / os.fsdecode(b"Pr\xe4parate")
    frames.rename(folder)
    for name in ("0", "4"):  # one of them broken
        (folder / f"{name}.png").rename(folder / os.fsdecode(name.encode() + b"\xe4.png"))
    assert run("run", "--camera", str(folder), "--state", str(state)) == 0
    html = tmp_path / "report.html"
    assert run("report", "--state", str(state), "--html", str(html)) == 0
    assert r"replay of 5 images in Pr\xe4parate" in html.read_text("utf-8")
    with closing(sqlite3.connect(state / DATABASE)) as database:
        rows = dict(database.execute("SELECT source, detail FROM frames").fetchall())
    assert {"1.png", r"0\xe4.png", r"4\xe4.png"} <= rows.keys()
    assert r"Pr\xe4parate/4\xe4.png" in rows[r"4\xe4.png"]
    assert r"Pr\xe4parate" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_a_report_is_printed_on_an_output_that_is_not_utf8(state: Path, encoding: str) -> None:
    store = Store(state)
    slide = store.begin_slide(
        store.begin_run(fakes.run_info(fakes.make_manifest())), "سلول \N{GREATER-THAN OR EQUAL TO} 3"
    )
    store.put_frames(slide, [fakes.result(0, [0.97, 0.1])], keep_crops=False)
    store.close()
    command = [sys.executable, "-m", "bloodedge", "device", "report", "--state", str(state)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "???? >= 3," in done.stdout.decode(encoding)


@pytest.mark.usefixtures("faked")
def test_so_many_frames_and_no_more(frames: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--camera", str(frames), "--state", str(state), "--frames", "2") == 0
    assert "2 frames" in capsys.readouterr().out


@pytest.mark.usefixtures("faked")
def test_an_empty_folder_is_refused_before_anything_is_stored(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run("run", "--camera", str(tmp_path / "empty"), "--state", str(state)) == 2
    assert "has no image" in capsys.readouterr().err
    assert not state.exists()


@pytest.mark.parametrize(
    "words", [("report",), ("slide", "show"), ("audit",), ("backup", "a.zip")], ids=lambda words: words[0]
)
def test_a_command_to_be_run_names_a_folder_as_a_shell_takes_it(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "the lab's results"
    assert run(*words, "--state", str(state)) == 2
    command = capsys.readouterr().err.rpartition("with: ")[2]
    assert shlex.split(command) == ["bloodedge", "device", "run", "--state", str(state)]


@pytest.mark.usefixtures("faked")
def test_the_page_has_the_port_that_was_asked_for_and_opens_in_a_browser(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BLOODEDGE_DEVICE__WEB__ENABLED")
    opened = tmp_path / "opened"
    script = tmp_path / "browser"
    script.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    script.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(script))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    daemon_ = fakes.start(state, "--port", str(port), "--open")
    try:
        end = monotonic() + 20
        while not opened.exists():
            assert monotonic() < end, "no browser was opened"
            sleep(0.02)
        assert opened.read_text() == f"http://127.0.0.1:{port}/\n"
    finally:
        daemon_.send_signal(signal.SIGTERM)
        _, err = daemon_.communicate(timeout=20)
    assert f"http://127.0.0.1:{port}/" in err


def test_without_a_browser_the_address_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    browser._open("http://127.0.0.1:8765/")
    assert "open http://127.0.0.1:8765/ in one" in caplog.text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(("--no-page", "--open"), "cannot be combined"), (("--port", "8765"), "switch the page off")],
)
def test_a_page_that_is_not_served_has_no_port_and_is_not_opened(
    words: tuple[str, ...], sentence: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--state", str(state), *words) == 2
    assert sentence in capsys.readouterr().err


def test_a_missing_bundle_is_named(frames: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--camera", str(frames), "--bundle", "nowhere.bundle", "--state", str(state)) == 2
    assert "nowhere.bundle does not exist" in capsys.readouterr().err
    assert not state.exists()


def test_a_misspelt_setting_is_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "device.toml"
    config.write_text('precison = "int8"\n')
    assert run("run", "--config", str(config)) == 2
    assert 'Did you mean "precision"?' in capsys.readouterr().err


def test_a_report_without_results_says_how_to_make_some(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", "--state", str(state)) == 2
    assert "bloodedge device run" in capsys.readouterr().err


def test_help_says_research_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    assert RESEARCH_USE in " ".join(capsys.readouterr().out.split())


@pytest.fixture
def _whoever_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLOODEDGE_DEVICE__TRUST__UNSIGNED", "true")


@pytest.mark.usefixtures("_whoever_made_it")
@pytest.mark.parametrize("name", ["artifacts/litert.bin", "artifacts/openvino.bin", "golden.npz"])
def test_a_bundle_with_a_changed_byte_is_refused(
    name: str, tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fakes.write_bundle(tmp_path / "a.bundle")
    (bundle / name).write_bytes(b"changed")
    assert run("run", "--bundle", str(bundle), "--state", str(state)) == 1
    assert f"{name} was changed after conversion" in capsys.readouterr().err
    assert not state.exists()


@pytest.mark.usefixtures("_whoever_made_it")
def test_a_bundle_that_fails_its_self_test_is_refused(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fakes.write_bundle(tmp_path / "a.bundle")
    monkeypatch.setattr(loading, "load_artifact", lambda *_: fakes.FakeEngine())
    monkeypatch.setattr(loading, "check_golden", lambda *_: GoldenResult(64, 30, 0.5, passed=False))
    assert run("run", "--bundle", str(bundle), "--state", str(state)) == 1
    message = capsys.readouterr().err
    assert "failed its self-test" in message
    assert "30 of 64" in message
    assert not state.exists()


def stored(state: Path, table: str = "frames") -> int:
    try:
        with closing(sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)) as database:
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.Error:
        return 0


def wait_for_frames(state: Path, frames: int, table: str = "frames") -> None:
    end = monotonic() + 20
    while stored(state, table) < frames:
        assert monotonic() < end, "the daemon stored nothing"
        sleep(0.02)


def test_sigterm_stops_after_the_frame_in_hand_with_latencies_stored(state: Path) -> None:
    daemon_ = fakes.start(state)
    wait_for_frames(state, 3)
    daemon_.send_signal(signal.SIGTERM)
    out, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 0, err
    assert "called cells, 0.0\u202f% were called blasts (0.0\u202f% to" in out  # the fake network sees none
    assert "Engine litert because a test says so." in err
    assert "Traceback" not in err
    with closing(sqlite3.connect(state / DATABASE)) as database:
        assert database.execute("SELECT count(*) FROM slides WHERE finished IS NULL").fetchone() == (0,)
    assert stored(state, "latency") >= 7


def written(folder: Path, text: str) -> Path:
    config = folder / "device.toml"
    config.write_text(text)
    return config


def wait_for_line(process: subprocess.Popen[str], part: str) -> str:
    """Read what the daemon tells until a line holds ``part``; one that never says it is killed."""
    assert process.stderr is not None
    impatience = threading.Timer(20, process.kill)
    impatience.start()
    for line in process.stderr:
        if part in line:
            impatience.cancel()
            return line
    raise AssertionError(f"the daemon ended without a word of {part!r}")


def test_sighup_with_changed_settings_begins_a_new_run_and_slide(state: Path, tmp_path: Path) -> None:
    config = written(tmp_path, '[slide]\nlabel = "before"\n')
    daemon_ = fakes.start(state, "--config", str(config))
    wait_for_frames(state, 3)
    written(tmp_path, '[slide]\nlabel = "after"\n')
    daemon_.send_signal(signal.SIGHUP)
    wait_for_line(daemon_, "a new run has begun")
    wait_for_frames(state, 3, "frames WHERE slide = 2")
    daemon_.send_signal(signal.SIGTERM)
    _, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 0, err
    with closing(sqlite3.connect(state / DATABASE)) as database:
        slides = database.execute("SELECT run, label, finished IS NOT NULL FROM slides").fetchall()
        numbers = [n for (n,) in database.execute("SELECT number FROM frames ORDER BY id")]
        per_slide = database.execute("SELECT count(*) FROM frames GROUP BY slide").fetchall()
        finished = database.execute("SELECT finished IS NOT NULL FROM runs WHERE id = 1").fetchone()
    assert slides == [(1, "before", 1), (2, "after", 1)]
    assert finished == (1,)
    assert numbers == list(range(len(numbers)))  # no frame was lost over it
    assert all(count >= 3 for (count,) in per_slide)


def test_sighup_with_broken_settings_keeps_the_old_ones_and_says_what_is_wrong(state: Path, tmp_path: Path) -> None:
    config = written(tmp_path, '[slide]\nlabel = "before"\n')
    daemon_ = fakes.start(state, "--config", str(config))
    wait_for_frames(state, 3)
    written(tmp_path, '[slide]\nlabl = "after"\n')
    daemon_.send_signal(signal.SIGHUP)
    assert 'Did you mean "label"?' in wait_for_line(daemon_, "the old settings stay in force")
    wait_for_frames(state, stored(state) + 3)
    daemon_.send_signal(signal.SIGTERM)
    _, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 0, err
    with closing(sqlite3.connect(state / DATABASE)) as database:
        assert database.execute("SELECT label FROM slides").fetchall() == [("before",)]
    assert stored(state, "runs") == 1


def test_sighup_again_and_again_with_the_same_settings_changes_nothing(state: Path, tmp_path: Path) -> None:
    config = written(tmp_path, '[slide]\nlabel = "before"\n')
    daemon_ = fakes.start(state, "--config", str(config))
    wait_for_frames(state, 3)
    for _ in range(6):  # more often than the camera has slots
        daemon_.send_signal(signal.SIGHUP)
        wait_for_line(daemon_, "nothing has changed")
        wait_for_frames(state, stored(state) + 2)
    daemon_.send_signal(signal.SIGTERM)
    _, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 0, err
    assert stored(state, "slides") == stored(state, "runs") == 1


def test_a_capture_process_that_is_killed_is_replaced_and_no_frame_is_missing(state: Path) -> None:
    daemon_ = fakes.start(state)
    wait_for_frames(state, 3)
    (capture,) = Path(f"/proc/{daemon_.pid}/task/{daemon_.pid}/children").read_text().split()
    os.kill(int(capture), signal.SIGKILL)
    wait_for_frames(state, stored(state) + 10)
    daemon_.send_signal(signal.SIGTERM)
    _, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 0, err
    with closing(sqlite3.connect(state / DATABASE)) as database:
        numbers = [n for (n,) in database.execute("SELECT number FROM frames ORDER BY id")]
    assert numbers == list(range(len(numbers)))


@pytest.mark.usefixtures("faked")
def test_a_database_that_was_destroyed_while_the_daemon_was_off_costs_one_warning(
    state: Path, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert run("run", "--camera", str(frames), "--state", str(state)) == 0
        damaged = state / DATABASE
        damaged.write_bytes(b"destroyed" + damaged.read_bytes()[9:])
    assert len(list(state.glob("damaged-*"))) == 1
    capsys.readouterr()
    assert run("report", "--state", str(state)) == 1
    assert "not a bloodedge database" in capsys.readouterr().err


def test_ctrl_c_ends_with_the_summary_of_every_slide_and_the_report_s_command(tmp_path: Path) -> None:
    state = tmp_path / "the lab's results"
    config = written(tmp_path, '[slide]\nlabel = "before"\n')
    daemon_ = fakes.start(state, "--config", str(config))
    wait_for_frames(state, 3)
    written(tmp_path, '[slide]\nlabel = "after"\n')
    daemon_.send_signal(signal.SIGHUP)
    wait_for_line(daemon_, "a new run has begun")
    wait_for_frames(state, 3, "frames WHERE slide = 2")
    daemon_.send_signal(signal.SIGINT)
    out, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 130
    assert "what was finished is kept" in err
    assert "Traceback" not in err
    whole, before, after, report = out.splitlines()
    with closing(sqlite3.connect(state / DATABASE)) as database:
        frames, cells = (
            database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("frames", "cells")
        )
    assert whole == f"2 slides, {frames} frames, {cells} cells."
    assert before.startswith("Slide 1 (before): ")
    assert after.startswith("Slide 2 (after): ")
    assert shlex.split(report) == ["Report:", "bloodedge", "device", "report", "--state", str(state)]


@pytest.mark.usefixtures("faked")
def test_a_damaged_film_is_looked_at_to_its_end_which_says_how_much_came(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / "film.avi", 12, {1: cut, 3: zeros})
    assert run("run", "--camera", str(path), "--state", str(state)) == 0
    out = capsys.readouterr().out
    assert "12 frames (0 dropped, 2 rejected)" in out
    assert "All 12 announced frames came." in out
    with closing(sqlite3.connect(state / DATABASE)) as database:
        rejected = database.execute("SELECT number, reason FROM frames WHERE detail IS NOT NULL").fetchall()
    assert rejected == [(1, "bad_frame"), (3, "bad_frame")]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run("run", "--camera", str(path), "--state", str(state)) == 0
    assert "of the 12 announced frames came" in capsys.readouterr().out


@pytest.mark.slow
def test_a_camera_that_gives_damaged_frames_only_is_not_well(tmp_path: Path, state: Path) -> None:
    path = film(tmp_path / "film.avi", 3, dict.fromkeys(range(3), zeros))
    config = written(tmp_path, f'[camera]\nkind = "replay"\nsource = "{path}"\nloop = true\nrate = 20\n')
    daemon_ = fakes.start(state, "--config", str(config))
    try:
        end = monotonic() + 20
        frames: dict[str, str] = {}
        while frames.get("level") != "failed":
            assert monotonic() < end, frames
            sleep(0.1)
            with suppress(UsageError):  # it is starting
                frames = ask(state, "GET", "/api/v1/status")["health"].get("frames", {})
        assert "frames could be read" in frames["sentence"]
    finally:
        daemon_.send_signal(signal.SIGTERM)
        daemon_.communicate(timeout=20)


@pytest.mark.usefixtures("faked")
def test_a_film_of_which_no_frame_can_be_read_is_a_failure(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = film(tmp_path / "film.avi", 3, dict.fromkeys(range(3), gap))
    assert run("run", "--camera", str(path), "--state", str(state)) == 1
    assert "No frame could be read: frame 0 is damaged" in capsys.readouterr().err


def test_kill_9_loses_no_acknowledged_frame_and_the_next_start_goes_on(state: Path, frames: Path) -> None:
    daemon_ = fakes.start(state)
    wait_for_frames(state, 20)
    os.kill(daemon_.pid, signal.SIGKILL)
    daemon_.communicate()
    with closing(sqlite3.connect(state / DATABASE)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        numbers = [n for (n,) in database.execute("SELECT number FROM frames ORDER BY id")]
        crops = [c for (c,) in database.execute("SELECT crop FROM cells WHERE crop IS NOT NULL")]
    assert len(numbers) >= 20
    assert numbers == list(range(len(numbers)))
    assert all(cv2.imread(str(state / "crops" / crop)) is not None for crop in crops)
    again = fakes.start(state, "--camera", str(frames))
    _, err = again.communicate(timeout=20)
    assert again.returncode == 0, err
    assert stored(state, "slides") == 2


def test_the_engine_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = fakes.make_manifest()
    chosen = {}
    for machine, has_openvino in (("x86_64", True), ("x86_64", False), ("aarch64", True)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        monkeypatch.setattr(loading, "installed", lambda _, has=has_openvino: has)
        chosen[machine, has_openvino] = loading.choose_artifact(DeviceSettings(), manifest)[0].engine
    assert chosen == {("x86_64", True): "openvino", ("x86_64", False): "litert", ("aarch64", True): "litert"}
    named = loading.choose_artifact(DeviceSettings(engine="litert"), manifest)
    assert named[0].engine == "litert"
    with pytest.raises(UsageError, match="has no litert float32 model"):
        loading.choose_artifact(DeviceSettings(engine="litert", precision="float32"), manifest)


def test_settings_are_written_out_in_utf8_whatever_the_terminal_takes(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    path.write_text('[slide]\nlabel = "Zählkammer ≥ 3 سلول"\n', "utf-8")
    command = [sys.executable, "-m", "bloodedge", "device", "config", "--config", str(path)]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    path.write_bytes(done.stdout)
    assert read_settings(path).slide.label == "Zählkammer ≥ 3 سلول"
