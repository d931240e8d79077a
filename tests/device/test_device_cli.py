import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from types import ModuleType

import cv2
import numpy as np
import pytest

from bloodedge import RESEARCH_USE
from bloodedge.cli import main
from bloodedge.errors import UsageError
from bloodedge.golden import GoldenResult
from bloodedge_device import daemon
from bloodedge_device.settings import DeviceSettings
from bloodedge_device.store import DATABASE

FAKE_DEVICE = Path(__file__).with_name("fakes.py")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["device", *arguments])
    return int(exit_.value.code or 0)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, level in enumerate((240, 5, 15, 128)):
        cv2.imwrite(str(folder / f"{index}.png"), np.full((120, 160, 3), level, np.uint8))
    (folder / "4.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def faked(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("load", "gate_of", "finder_of"):
        monkeypatch.setattr(daemon, name, getattr(daemon, name))
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
def test_so_many_frames_and_no_more(frames: Path, state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--camera", str(frames), "--state", str(state), "--frames", "2") == 0
    assert "2 frames" in capsys.readouterr().out


@pytest.mark.usefixtures("faked")
def test_an_empty_folder_is_refused_before_anything_is_stored(
    tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert run("run", "--camera", str(tmp_path / "empty"), "--state", str(state)) == 2
    assert "holds no image" in capsys.readouterr().err
    assert not state.exists()


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


@pytest.mark.parametrize("name", ["artifacts/litert.bin", "artifacts/openvino.bin", "golden.npz"])
def test_a_bundle_with_a_changed_byte_is_refused(
    name: str, fakes: ModuleType, tmp_path: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fakes.write_bundle(tmp_path / "a.bundle")
    (bundle / name).write_bytes(b"changed")
    assert run("run", "--bundle", str(bundle), "--state", str(state)) == 1
    assert f"{name} was changed after conversion" in capsys.readouterr().err
    assert not state.exists()


def test_a_bundle_that_fails_its_self_test_is_refused(
    fakes: ModuleType, tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fakes.write_bundle(tmp_path / "a.bundle")
    monkeypatch.setattr(daemon, "load_artifact", lambda *_: fakes.FakeEngine())
    monkeypatch.setattr(daemon, "check_golden", lambda *_: GoldenResult(64, 30, 0.5, passed=False))
    assert run("run", "--bundle", str(bundle), "--state", str(state)) == 1
    message = capsys.readouterr().err
    assert "failed its self-test" in message
    assert "30 of 64" in message
    assert not state.exists()


def start(state: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(FAKE_DEVICE), "run", "--state", str(state), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def stored(state: Path, table: str = "frames") -> int:
    try:
        with closing(sqlite3.connect(f"file:{state / DATABASE}?mode=ro", uri=True)) as database:
            return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    except sqlite3.Error:
        return 0


def wait_for_frames(state: Path, frames: int) -> None:
    end = monotonic() + 20
    while stored(state) < frames:
        assert monotonic() < end, "the daemon stored nothing"
        sleep(0.02)


def test_sigterm_stops_after_the_frame_in_hand_with_latencies_stored(state: Path) -> None:
    daemon_ = start(state)
    wait_for_frames(state, 3)
    daemon_.send_signal(signal.SIGTERM)
    out, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 0, err
    assert "blasts" in out or "no cell was called" in out
    assert "Traceback" not in err
    with closing(sqlite3.connect(state / DATABASE)) as database:
        assert database.execute("SELECT count(*) FROM slides WHERE finished IS NULL").fetchone() == (0,)
    assert stored(state, "latency") >= 7


def test_ctrl_c_stops_after_the_frame_in_hand(state: Path) -> None:
    daemon_ = start(state)
    wait_for_frames(state, 1)
    daemon_.send_signal(signal.SIGINT)
    _, err = daemon_.communicate(timeout=10)
    assert daemon_.returncode == 130
    assert "what was finished is kept" in err
    assert "Traceback" not in err


def test_kill_9_loses_no_acknowledged_frame_and_the_next_start_goes_on(state: Path, frames: Path) -> None:
    daemon_ = start(state)
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
    again = start(state, "--camera", str(frames))
    _, err = again.communicate(timeout=20)
    assert again.returncode == 0, err
    assert stored(state, "slides") == 2


def test_the_engine_follows_the_machine(fakes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = fakes.make_manifest()
    chosen = {}
    for machine, has_openvino in (("x86_64", True), ("x86_64", False), ("aarch64", True)):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        monkeypatch.setattr(daemon, "installed", lambda _, has=has_openvino: has)
        chosen[machine, has_openvino] = daemon.choose_artifact(DeviceSettings(), manifest)[0].engine
    assert chosen == {("x86_64", True): "openvino", ("x86_64", False): "litert", ("aarch64", True): "litert"}
    named = daemon.choose_artifact(DeviceSettings(engine="litert"), manifest)
    assert named[0].engine == "litert"
    with pytest.raises(UsageError, match="has no litert float32 model"):
        daemon.choose_artifact(DeviceSettings(engine="litert", precision="float32"), manifest)
