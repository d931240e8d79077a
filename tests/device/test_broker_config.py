"""The broker's configuration, under the real Mosquitto: each board for itself, strangers not at all."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

CONFIGS = Path(__file__).resolve().parents[2] / "firmware_configs" / "broker"
MOSQUITTO = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
pytestmark = [
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed (apt install mosquitto)"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed (apt install openssl)"),
]


def certificates(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(CONFIGS / "certificates.sh"), str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    for words in (("ca",), ("broker", "127.0.0.1"), ("board", "board-a"), ("board", "board-b"), ("board", "fleet")):
        done = certificates(folder, *words)
        assert done.returncode == 0, done.stderr
    shutil.copy(CONFIGS / "acl", folder / "acl")
    return folder


class Broker:
    """Mosquitto with the configuration as it is, but for its paths and port."""

    def __init__(self, folder: Path, authority: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        text = (CONFIGS / "mosquitto.conf").read_text()
        assert text.count("listener 8883\n") == 1
        text = text.replace("listener 8883\n", f"listener {self.port} 127.0.0.1\n")
        text = text.replace("/etc/mosquitto/bloodedge", str(authority)).replace("/var/lib/mosquitto/", f"{folder}/")
        config = folder / "mosquitto.conf"
        config.write_text(text + ("user root\n" if os.getuid() == 0 else ""))
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stdout=log, stderr=log)
        end = monotonic() + 10
        while "running" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert monotonic() < end, self.log.read_text()
            sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def broker(tmp_path: Path, authority: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path, authority)
    yield broker
    broker.stop()


class Someone:
    """A client with a certificate, or without one."""

    def __init__(self, broker: Broker, authority: Path, name: str | None, hear: str | None = None) -> None:
        self.client = Client(CallbackAPIVersion.VERSION2, f"test-{name}", protocol=5)
        files = (authority / f"{name}.pem", authority / f"{name}.key") if name else (None, None)
        self.client.tls_set(str(authority / "ca.pem"), *files, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.heard: list[str] = []
        self.answered, self.subscribed, self.codes = Event(), Event(), {}
        self.client.on_connect = lambda *_: self.answered.set()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self.client.on_publish = lambda _client, _data, number, code, _properties: self.codes.update(
            {number: str(code)}
        )
        try:
            self.client.connect("127.0.0.1", broker.port)
        except (ssl.SSLError, ConnectionError):
            return
        self.client.loop_start()
        if self.answered.wait(3) and hear:
            self.client.subscribe(hear, 1)
            assert self.subscribed.wait(3)

    def publish(self, topic: str) -> str:
        """What the broker answers."""
        sent = self.client.publish(topic, b"{}", 1)
        end = monotonic() + 5
        while sent.mid not in self.codes:
            assert monotonic() < end, "the broker did not answer"
            sleep(0.02)
        return self.codes[sent.mid]

    def __enter__(self) -> "Someone":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_a_board_writes_below_its_own_name_and_reads_no_other_s(broker: Broker, authority: Path) -> None:
    with (
        Someone(broker, authority, "fleet", "bloodedge/#") as fleet,
        Someone(broker, authority, "board-b", "bloodedge/#") as other,
        Someone(broker, authority, "board-a") as board,
    ):
        assert "Not authorized" in board.publish("bloodedge/board-b/status")
        assert "Not authorized" in board.publish("homeassistant/device/bloodedge-board-b/config")
        assert "Not authorized" not in board.publish("homeassistant/device/bloodedge-board-a/config")
        assert "Not authorized" not in board.publish("bloodedge/board-a/status")
        assert "Not authorized" in fleet.publish("bloodedge/board-a/status")
        end = monotonic() + 5
        while not fleet.heard:
            assert monotonic() < end
            sleep(0.02)
        sleep(0.3)
        assert fleet.heard == ["bloodedge/board-a/status"]
        assert other.heard == []


def test_the_fleet_alone_asks_boards_for_bundles_and_each_hears_its_own(broker: Broker, authority: Path) -> None:
    with (
        Someone(broker, authority, "fleet") as fleet,
        Someone(broker, authority, "board-a", "bloodedge/+/wanted") as board,
        Someone(broker, authority, "board-b") as other,
    ):
        assert "Not authorized" in other.publish("bloodedge/board-a/wanted")
        for name in ("board-a", "board-b"):
            assert "Not authorized" not in fleet.publish(f"bloodedge/{name}/wanted")
        assert "Not authorized" in fleet.publish("bloodedge/board-a/report")
        end = monotonic() + 5
        while not board.heard:
            assert monotonic() < end
            sleep(0.02)
        sleep(0.3)
        assert board.heard == ["bloodedge/board-a/wanted"]


@pytest.mark.parametrize("name", [None, "board-c"])
def test_without_a_certificate_of_the_laboratory_nobody_gets_in(
    broker: Broker, authority: Path, tmp_path: Path, name: str | None
) -> None:
    stranger = authority
    if name:
        stranger = tmp_path / "another authority"
        assert certificates(stranger, "ca").returncode == 0
        assert certificates(stranger, "board", name).returncode == 0
        shutil.copy(authority / "ca.pem", stranger / "ca.pem")
    with Someone(broker, stranger, name) as nobody:
        assert not nobody.answered.is_set()


def test_a_revoked_board_gets_in_no_more_and_may_have_a_new_certificate(tmp_path: Path, authority: Path) -> None:
    folder = tmp_path / "authority"
    shutil.copytree(authority, folder)
    lost = tmp_path / "lost"
    lost.mkdir()
    for name in ("ca.pem", "board-a.pem", "board-a.key"):
        shutil.copy(folder / name, lost / name)
    assert "revoke it first" in certificates(folder, "board", "board-a").stderr
    assert certificates(folder, "revoke", "board-a").returncode == 0
    assert certificates(folder, "board", "board-a").returncode == 0
    broker = Broker(tmp_path, folder)
    try:
        with Someone(broker, lost, "board-a") as thief, Someone(broker, folder, "board-a") as board:
            assert not thief.answered.is_set()
            assert board.answered.is_set()
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("board", "x"), 2, "has no authority; make it with"),
        (("ca", "x"), 2, "usage"),
        (("board", "a/b"), 2, "usage|letters, digits|no authority"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path: Path, words: tuple[str, ...], code: int, sentence: str) -> None:
    done = certificates(tmp_path / "none", *words)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1)
    assert re.search(sentence, done.stderr)


def test_a_name_that_is_no_topic_level_is_refused(authority: Path) -> None:
    done = certificates(authority, "board", "a/b")
    assert done.returncode == 2
    assert "letters, digits" in done.stderr
    assert certificates(authority, "board", "broker").returncode == 2
