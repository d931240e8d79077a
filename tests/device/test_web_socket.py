"""The page on a socket that the service manager holds."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import pytest
from programs import free_port

from bloodedge.errors import UsageError
from bloodedge_device.settings.sections import WebSettings
from bloodedge_device.web import server
from bloodedge_device.web.server import _inherited_socket, _with_address_of
from support.needs import needs, required


def answer(url: str, within_s: float) -> int:
    """The status that comes in the end."""
    give_up_s = monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=within_s) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if monotonic() > give_up_s:
                raise
            sleep(0.1)


@needs("systemd-socket-activate")
def test_the_daemon_serves_on_the_socket_that_it_is_given(state: Path, tmp_path: Path) -> None:
    given, own = free_port(), free_port()
    settings = tmp_path / "device.toml"
    settings.write_text(f'state = "{state}"\nengine = "litert"\n[camera]\nrate = 5\n[web]\nport = {own}\n')
    command = [
        required("systemd-socket-activate"),
        "-l",
        f"127.0.0.1:{given}",
        sys.executable,
        "-m",
        "bloodedge",
        "device",
        "run",
    ]
    environment = ["-E", f"PYTHONPATH={os.pathsep.join(sys.path)}", "-E", "PATH"]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command[:1], *environment, *command[1:], "--config", str(settings)], stdout=output, stderr=output
        )
    try:
        assert answer(f"http://127.0.0.1:{given}/healthz", 60) in {200, 503}  # the first one waits for the start
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", own)) != 0
    finally:
        process.terminate()
        process.wait(30)
    told = f"The service manager listens on 127.0.0.1 port {given}; web.host and web.port are ignored."
    assert told in log.read_text()


def test_whether_a_token_is_needed_hangs_on_the_real_address() -> None:
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        settings = _with_address_of(WebSettings(), listening)
    assert not settings.is_local


def test_what_is_meant_for_another_process_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", "1")
    assert _inherited_socket() is None


@contextmanager
def passed(monkeypatch: pytest.MonkeyPatch, number: int, sockets: str = "1") -> Iterator[None]:
    """A descriptor as the first that the service manager passes."""
    monkeypatch.setattr(server, "FIRST_INHERITED", number)
    monkeypatch.setenv("LISTEN_FDS", sockets)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    yield
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize(("family", "sockets"), [(socket.AF_UNIX, "1"), (socket.AF_INET, "2")])
def test_other_sockets_are_refused_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, family: socket.AddressFamily, sockets: str
) -> None:
    with passed(monkeypatch, socket.socket(family).detach(), sockets), pytest.raises(UsageError, match="one TCP"):
        _inherited_socket()


def test_a_file_is_no_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (
        (tmp_path / "x").open("w") as file,
        passed(monkeypatch, file.fileno()),
        pytest.raises(UsageError, match="not a socket"),
    ):
        _inherited_socket()
