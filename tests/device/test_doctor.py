"""What the doctor finds on machines that lack something."""

import fcntl
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from bloodedge.cli import main
from bloodedge.errors import BloodedgeError
from bloodedge_device import camera
from bloodedge_device.bundles import loading
from bloodedge_device.cli.doctor import checks, machine
from bloodedge_device.cli.doctor.checks import examine, show, to_json
from bloodedge_device.cli.doctor.finding import Examination, Finding
from bloodedge_device.settings import DeviceSettings


def use_load(monkeypatch: pytest.MonkeyPatch, load: Callable[[DeviceSettings], object]) -> None:
    monkeypatch.setattr(loading, "load", load)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that loads at once."""
    ready = SimpleNamespace(
        manifest=SimpleNamespace(name="mobilenetv2", serial=3),
        artifact=SimpleNamespace(engine="litert", precision="int8"),
        golden=SimpleNamespace(inputs=64, flips=1),
    )
    use_load(monkeypatch, lambda _: ready)


def settings(state: Path, **more: Any) -> DeviceSettings:
    return DeviceSettings.model_validate({"state": state, "web": {"port": 0}, **more})


def found(chosen: DeviceSettings) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(chosen)}


@pytest.mark.usefixtures("loaded")
def test_a_machine_in_order_passes_every_check(state: Path) -> None:
    findings = found(settings(state))
    assert [name for name, finding in findings.items() if finding.level == "failed"] == []
    assert "1 of 64 golden cells" in findings["bundle"].sentence
    assert all(bool(finding.cure) == (finding.level != "ok") for finding in findings.values())
    assert not state.exists()


def test_a_bundle_that_fails_its_self_test_fails_with_its_cure(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: DeviceSettings) -> None:
        raise BloodedgeError('Bundle "x" failed its self-test; convert it again.')

    use_load(monkeypatch, load)
    assert found(settings(state))["bundle"] == Finding(
        "bundle", "failed", 'Bundle "x" failed its self-test.', "Convert it again."
    )


@pytest.mark.usefixtures("loaded")
def test_a_kernel_that_keeps_no_account_of_memory_is_told(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controllers = tmp_path / "cgroup.controllers"
    monkeypatch.setattr(machine, "CONTROLLERS", controllers)
    controllers.write_text("cpuset cpu io pids\n")  # a Raspberry Pi's as it comes
    assert "cgroup_enable=memory" in found(settings(state))["memory"].cure
    controllers.write_text("cpuset cpu io memory pids\n")
    assert found(settings(state))["memory"].level == "ok"


ON_CARD, IN_MEMORY, LOWER = "/ - ext4 /dev/vda", "/ - overlay overlayroot", "/media/root-ro - ext4 /dev/vda"


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("asked", "mounts", "level", "words"),
    [
        ("# overlayroot=", [ON_CARD], "ok", "root is writable"),
        ('overlayroot=""', [ON_CARD], "ok", "root is writable"),
        ('overlayroot="disabled"', [ON_CARD], "ok", "root is writable"),
        ("", ["/ - overlay overlay"], "ok", "root is writable"),  # a container
        ('overlayroot="tmpfs:recurse=0"', [ON_CARD, "/var/lib - ext4 /dev/vdb"], "warning", "asks for a read-only"),
        ('overlayroot="tmpfs"', [ON_CARD, IN_MEMORY, LOWER], "failed", "a restart loses everything"),
        ("", [ON_CARD, IN_MEMORY, LOWER], "failed", "a restart loses everything"),  # the kernel's command line asked
        ('overlayroot="tmpfs"', [IN_MEMORY, "/Prüfung\\040hier - tmpfs tmpfs"], "failed", "a restart loses everything"),
        ('overlayroot="tmpfs"', [IN_MEMORY, "/Prüfung\\040hier - ext4 /dev/vdc"], "ok", "partition of their own"),
    ],
)
def test_a_read_only_root_that_is_none_or_takes_the_results_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, mounts: list[str], level: str, words: str
) -> None:
    wanted, mounted = tmp_path / "overlayroot.local.conf", tmp_path / "mountinfo"
    wanted.write_text(f"{asked}\n")
    rows = [mount.split(" - ") for mount in mounts]
    mounted.write_text("".join(f"36 35 98:0 / {point} rw,noatime master:1 - {kind} rw\n" for point, kind in rows))
    monkeypatch.setattr(machine, "OVERLAYROOT", wanted)
    monkeypatch.setattr(machine, "MOUNTS", mounted)
    finding = found(settings(Path("/Prüfung hier/bloodedge")))["root"]
    assert finding.level == level
    assert words in finding.sentence


@pytest.mark.usefixtures("loaded")
def test_a_check_that_breaks_hides_no_other(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("adjtimex is odd")

    monkeypatch.setattr(machine, "clock_synchronised", broken)
    findings = found(settings(state))
    assert findings["clock"].level == "failed"
    assert "adjtimex is odd" in findings["clock"].sentence
    assert list(findings) == list(checks.CHECKS)


@pytest.mark.usefixtures("loaded")
def test_a_camera_that_hangs_is_told_in_time(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def frames(stop: threading.Event) -> Iterator[None]:
        stop.wait(20)
        yield from ()

    hung = SimpleNamespace(name="a dead camera", live=True, frames=frames)
    monkeypatch.setattr("bloodedge_device.camera.open.open_camera", lambda _: hung)
    findings = found(settings(state, camera={"timeout_s": 0.5}))
    assert findings["camera"].sentence == "a dead camera gave no frame within 0.5 s."
    assert findings["camera"].cure == "Check its cable and power."
    assert findings["picture"].level == "warning"


@pytest.mark.usefixtures("loaded")
def test_a_watched_folder_without_images_is_well(state: Path, tmp_path: Path) -> None:
    watched = {"kind": "replay", "source": str(tmp_path), "watch": True, "timeout_s": 2}
    finding = found(settings(state, camera=watched))["camera"]
    assert finding.level == "ok"
    assert "wait for new ones" in finding.sentence


@pytest.mark.usefixtures("loaded")
def test_a_dark_frame_is_told(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    cv2.imwrite(str(path), np.full((200, 300, 3), 5, np.uint8))
    picture = found(settings(state, camera={"kind": "replay", "source": str(path)}))["picture"]
    assert picture.level == "warning"
    assert "too dark" in picture.sentence


@pytest.mark.usefixtures("loaded")
def test_a_damaged_database_fails(state: Path) -> None:
    state.mkdir()
    (state / "device.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 50)
    database = found(settings(state))["database"]
    assert database.level == "failed"
    assert database.cure


@pytest.mark.usefixtures("loaded")
def test_a_taken_port_fails_unless_the_daemon_has_it(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        chosen = settings(state, web={"port": other.getsockname()[1]})
        assert found(chosen)["page"].level == "failed"
        state.mkdir()
        with (state / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert found(chosen)["page"].level == "ok"


@pytest.mark.usefixtures("loaded")
def test_a_silent_broker_fails_and_an_open_one_passes(state: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        chosen = settings(state, mqtt={"host": "127.0.0.1", "port": broker.getsockname()[1]})
        assert found(chosen)["broker"].level == "ok"
    closed = found(chosen)["broker"]
    assert (closed.level, closed.cure) == ("failed", "Check mqtt.host and mqtt.port, or start the broker.")


@pytest.mark.usefixtures("loaded")
def test_files_that_are_not_there_and_little_room_are_told(state: Path) -> None:
    findings = found(settings(state, bundle=state / "no.bundle", store={"keep_free_mb": 10**9}))
    assert "no.bundle does not exist" in findings["files"].sentence
    assert findings["disk"].level == "warning"


@pytest.mark.usefixtures("loaded")
def test_a_folder_that_everybody_may_change_is_told(state: Path) -> None:
    state.mkdir()
    state.chmod(0o777)
    assert found(settings(state))["permissions"].level == "warning"


def test_findings_are_shown_and_given_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("disk", "ok", "There is room."), Finding("clock", "failed", "It is [wrong].", "Set it.")]
    show(findings)
    shown = capsys.readouterr().out
    assert "It is [wrong]." in shown
    assert "Set it." in shown
    told = json.loads(json.dumps(to_json(findings)))
    assert told["healthy"] is False
    assert [finding["level"] for finding in told["findings"]] == ["ok", "failed"]


@pytest.mark.usefixtures("loaded")
def test_cameras_that_are_plugged_in_are_listed_whatever_kind_is_set(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_id = tmp_path / "by-id"
    by_id.mkdir()
    monkeypatch.setattr(camera.v4l2, "BY_ID", by_id)
    monkeypatch.setattr(camera.picamera, "devices", lambda: ["imx477"])
    assert "imx477 (picamera: 0)" in found(settings(state))["cameras"].sentence
    (by_id / "usb-Lab_Scope_SN0001-video-index0").touch()
    finding = found(settings(state))["cameras"]
    assert "usb-Lab_Scope_SN0001-video-index0); imx477 (picamera: 0)" in finding.sentence
    assert finding.level == "ok"


@pytest.mark.usefixtures("loaded")
def test_a_board_whose_camera_is_not_plugged_in_is_told_so(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera.v4l2, "BY_ID", tmp_path)
    assert found(settings(state, camera={"kind": "v4l2", "timeout_s": 0.5}))["cameras"].level == "failed"
    assert found(settings(state))["cameras"].level == "ok"


def test_the_doctor_looks_at_the_results_that_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DeviceSettings] = []
    monkeypatch.setattr(checks, "examine", lambda given: seen.append(given) or [])
    config = tmp_path / "device.toml"
    config.write_text('state = "theirs"\nthreads = 3\n')
    with pytest.raises(SystemExit) as ended:
        main(["device", "doctor", "--state", str(tmp_path / "mine"), "--config", str(config)])
    assert ended.value.code == 0
    with pytest.raises(SystemExit):
        main(["device", "doctor", "--state", str(tmp_path / "mine")])
    assert [(one.state, one.threads) for one in seen] == [(tmp_path / "mine", 3), (tmp_path / "mine", 2)]


def test_settings_that_let_others_read_a_cameras_password_are_told(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "device.toml"
    monkeypatch.setattr(machine, "BOARD_SETTINGS", path)
    path.touch(0o644)
    checked = Examination(settings(state, camera={"kind": "replay", "source": "rtsp://op:hunter2@cam/1"}))
    level, sentence, cure = machine.check_permissions(checked)
    assert (level, "may read the camera's password" in sentence) == ("warning", True)
    assert f"chmod 640 {path}" in cure
    path.chmod(0o640)
    assert machine.check_permissions(checked)[0] == "ok"
    path.chmod(0o644)
    plain = Examination(settings(state, camera={"kind": "replay", "source": "rtsp://cam/1"}))
    assert machine.check_permissions(plain)[0] == "ok"


@pytest.mark.usefixtures("loaded")
def test_a_trust_folder_that_everybody_may_write_is_a_failure(state: Path, tmp_path: Path) -> None:
    keys = tmp_path / "trusted"
    keys.mkdir()
    (keys / "lab.pub").write_text("{}")
    checked = Examination(settings(state, trust={"keys": str(keys)}))
    assert machine.check_permissions(checked)[0] == "ok"
    keys.chmod(0o777)
    level, sentence, cure = machine.check_permissions(checked)
    assert (level, str(keys) in sentence, "chmod o-w" in cure) == ("failed", True, True)
    keys.chmod(0o755)
    (keys / "lab.pub").chmod(0o666)
    assert machine.check_permissions(checked)[0] == "failed"
