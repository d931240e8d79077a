"""What opens a camera stays in the settings: no log, database, backup, page or report has it, and no other user."""

import json
import stat
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from bloodedge.cli import main
from bloodedge.errors import UsageError
from bloodedge_device.camera.open import open_camera
from bloodedge_device.health import Health, Level
from bloodedge_device.settings import DeviceSettings, with_options
from bloodedge_device.settings.sections import CameraSettings
from bloodedge_device.store import DATABASE, Store, audit_log, open_for_reading
from support import fakes

SECRETS = (b"hunter2", b"op%40erator", b"tok3nT0K3N")


class _Mjpeg(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        data = cv2.imencode(".jpg", np.full((240, 320, 3), 200, np.uint8))[1].tobytes()
        for _ in range(40):
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            self.wfile.write(head + data + b"\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """Settings of a camera whose address holds a user, a password and a token."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Mjpeg)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://op%40erator:hunter2@127.0.0.1:{server.server_port}/stream?token=tok3nT0K3N"
    path = tmp_path / "device.toml"
    path.write_text(
        f'state = "state"\n[camera]\nkind = "replay"\nsource = "{address}"\n[web]\nenabled = false\n'
        "[store]\nreserve_mb = 0\n"
    )
    yield path
    server.shutdown()


def said_by(*arguments: object) -> bytes:
    command = [*fakes.DEVICE, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=120)
    return done.stdout + done.stderr


def test_nothing_that_a_board_says_or_stores_has_what_opens_its_camera(config: Path, tmp_path: Path) -> None:
    state, saved = tmp_path / "state", tmp_path / "results.zip"
    said = said_by("run", "--config", config, "--frames", "3")
    assert b" frames (" in said
    said += said_by("report", "--state", state, "--html", tmp_path / "report.html", "--json", tmp_path / "report.json")
    said += said_by("audit", "--state", state) + said_by("config", "--config", config)
    said += said_by("backup", saved, "--state", state) + said_by("doctor", "--config", config)
    with zipfile.ZipFile(saved) as archive:
        copied = b"".join(archive.read(name) for name in archive.namelist())
    stored = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != config}
    for secret in SECRETS:
        assert secret not in said
        assert secret not in copied
        assert [path.name for path, content in stored.items() if secret in content] == []
    assert b"http://***@127.0.0.1:" in said  # and the rest of the address is there
    for path in (state / DATABASE, saved):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_databases_of_before_are_closed_to_others_with_all_that_sqlite_keeps_beside_them(state: Path) -> None:
    state.mkdir(exist_ok=True)
    Store(state).close()
    for path in state.glob(f"{DATABASE}*"):
        path.chmod(0o644)
    store = Store(state)
    store.begin_run(fakes.run_info(fakes.make_manifest()))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.glob(f"{DATABASE}*")}
    store.close()
    assert set(modes) >= {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"}
    assert set(modes.values()) == {0o600}


def test_entries_of_before_are_shown_without_passwords_and_their_log_stays_whole(state: Path) -> None:
    store = Store(state)
    with store._transaction() as database:
        plain = json.dumps({"settings": {"camera": {"source": "rtsp://op:hunter2@cam/1"}}})
        digest = audit_log._digest(audit_log.FIRST, ("2026-05-01T00:00:00+00:00", "daemon", "run began", plain))
        row = ("2026-05-01T00:00:00+00:00", "daemon", "run began", plain, digest)
        database.execute("INSERT INTO audit (at, actor, action, detail, digest) VALUES (?, ?, ?, ?, ?)", row)
    store.note("daemon", "settings", {"source": "rtsp://op:hunter2@cam/2"})
    store.close()
    with open_for_reading(state) as database:
        assert audit_log.first_broken(database) is None
        shown = json.dumps([entry.detail for entry in audit_log.read(database)])
    assert "hunter2" not in shown
    assert shown.count("rtsp://***@cam/") == 2


def test_health_tells_no_password_to_page_broker_and_fleet() -> None:
    health = Health()
    health.report("camera", Level.FAILED, "The stream rtsp://op:hunter2@cam/1?pwd=x does not answer; check it.")
    assert health.conditions()["camera"].sentence == "The stream rtsp://***@cam/1?pwd=*** does not answer; check it."


@pytest.mark.parametrize(
    "address",
    ["rtsp://op:hun/ter2@cam/1", "rtsp://op:hun#ter2@cam/1", "rtsp://op:hun?ter2@cam/1", "rtsp://op:hun ter2@cam/1"],
)
def test_an_address_that_cannot_be_read_says_how_to_write_its_password(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "device.toml"
    path.write_text(f'[camera]\nkind = "replay"\nsource = "{address}"\n')
    with pytest.raises(SystemExit) as ended:
        main(["device", "config", "--check", "--config", str(path)])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "camera.source: The address rtsp://***@cam/1 cannot be read; write special characters" in said
    assert "%2F for /" in said
    with pytest.raises(UsageError, match="--camera: The address rtsp://\\*\\*\\*@cam/1 cannot be read"):
        with_options(DeviceSettings(), camera=address)
    with pytest.raises(UsageError, match="cannot be read; write special characters of its user and password"):
        open_camera(
            CameraSettings.model_construct(**{**CameraSettings().model_dump(), "kind": "replay", "source": address})
        )


def test_an_address_in_a_mistaken_table_is_not_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "device.toml"
    path.write_text('[camera]\nkind = "replay"\nsource = ["rtsp://op:hunter2@cam/1"]\n')
    with pytest.raises(SystemExit):
        main(["device", "config", "--config", str(path)])
    assert "hunter2" not in capsys.readouterr().err


def test_no_traceback_through_the_settings_shows_an_address() -> None:
    with pytest.raises(ValidationError) as told:
        CameraSettings.model_validate({"kind": "replay", "source": ["rtsp://op:hunter2@cam/1"]})
    assert "hunter2" not in str(told.value)


def test_a_path_that_is_an_address_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["find", "rtsp://op:hunter2@cam/1"])
    with pytest.raises(SystemExit):
        main(["evaluate", "rtsp://op:hunter2@cam/1"])
    with pytest.raises(SystemExit):
        main(["device", "run", "--config", "rtsp://op:hunter2@cam/1"])
    assert "hunter2" not in capsys.readouterr().err
