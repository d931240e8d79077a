"""The broker's configuration, under the real Mosquitto: each board for itself, strangers not at all."""

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from support.mqtt import DeployedBroker, certificates, make_authority
from support.needs import needs

pytestmark = [needs("mosquitto"), needs("openssl")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    boards = ("board", "board-a"), ("board", "board-b"), ("board", "fleet")
    return make_authority(tmp_path_factory.mktemp("authority"), *boards)


@pytest.fixture
def broker(tmp_path: Path, authority: Path) -> Iterator[DeployedBroker]:
    broker = DeployedBroker(tmp_path, authority)
    yield broker
    broker.stop()


class Someone:
    """A client with a certificate, or without one."""

    def __init__(
        self, broker: DeployedBroker, authority: Path, name: str | None, hear: str | None = None, *, keep: bool = False
    ) -> None:
        """hear: topics to subscribe to; keep: the session, as the fleet's server does."""
        self.client = Client(CallbackAPIVersion.VERSION2, f"test-{name}", protocol=5)
        files = (authority / f"{name}.pem", authority / f"{name}.key") if name else (None, None)
        self.client.tls_set(str(authority / "ca.pem"), *files, tls_version=ssl.PROTOCOL_TLS_CLIENT)
        self.heard: list[str] = []
        self.answered, self.subscribed, self.codes = Event(), Event(), {}
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.heard.append(message.topic)
        self.client.on_publish = lambda _client, _data, number, code, _properties: self.codes.update(
            {number: str(code)}
        )
        try:
            session = Properties(PacketTypes.CONNECT)
            session.SessionExpiryInterval = 3600 if keep else 0
            self.client.connect("127.0.0.1", broker.port, clean_start=not keep, properties=session)
        except (ssl.SSLError, ConnectionError):
            return
        self.client.loop_start()
        if self.answered.wait(3) and hear:
            self.client.subscribe(hear, 1)
            assert self.subscribed.wait(3)

    def _on_connect(
        self, _client: Client, _data: Any, _flags: Any, _reason: Any, properties: Properties | None
    ) -> None:
        self.largest = getattr(properties, "MaximumPacketSize", None)
        self.answered.set()

    def publish(self, topic: str, payload: bytes = b"{}") -> str:
        """What the broker answers."""
        sent = self.client.publish(topic, payload, 1)
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


def test_mosquitto_takes_the_configuration_without_complaint(broker: DeployedBroker) -> None:
    lines = [line.lower() for line in broker.output.splitlines() if "should not be run as root" not in line]
    assert [line for line in lines if re.search("error|warning|recommend|deprecat", line)] == []


def test_a_board_hears_what_is_too_large_when_it_connects(broker: DeployedBroker, authority: Path) -> None:
    with Someone(broker, authority, "board-a") as board:
        assert board.largest == 262144


def test_a_board_writes_below_its_own_name_and_reads_no_other_s(broker: DeployedBroker, authority: Path) -> None:
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


def test_the_fleet_alone_asks_boards_for_bundles_and_each_hears_its_own(
    broker: DeployedBroker, authority: Path
) -> None:
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


@pytest.mark.slow
def test_a_server_that_was_away_for_half_a_day_finds_the_reports_of_a_thousand_boards(
    tmp_path: Path, authority: Path
) -> None:
    """One board's reports and a thousandth of the queue."""
    broker = DeployedBroker(tmp_path, authority, part=1000)
    try:
        with Someone(broker, authority, "fleet", "bloodedge/#", keep=True):
            pass
        with Someone(broker, authority, "board-a") as board:
            for _ in range(12 * 60):
                assert "Not authorized" not in board.publish("bloodedge/board-a/report", bytes(2700))
        broker.stop()
        broker.start()
        with Someone(broker, authority, "fleet", keep=True) as fleet:
            end = monotonic() + 10
            while len(fleet.heard) < 12 * 60 and monotonic() < end:
                sleep(0.02)
            assert len(fleet.heard) == 12 * 60
    finally:
        broker.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", [None, "board-c"])
def test_without_a_certificate_of_the_laboratory_nobody_gets_in(
    broker: DeployedBroker, authority: Path, tmp_path: Path, name: str | None
) -> None:
    stranger = authority
    if name:
        stranger = tmp_path / "another authority"
        assert certificates(stranger, "ca").returncode == 0
        assert certificates(stranger, "board", name).returncode == 0
        shutil.copy(authority / "ca.pem", stranger / "ca.pem")
    with Someone(broker, stranger, name) as nobody:
        assert not nobody.answered.is_set()


@pytest.mark.slow
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
    broker = DeployedBroker(tmp_path, folder)
    try:
        with Someone(broker, lost, "board-a") as thief, Someone(broker, folder, "board-a") as board:
            assert not thief.answered.is_set()
            assert board.answered.is_set()
    finally:
        broker.stop()


@pytest.mark.slow
def test_a_renewed_board_gets_in_and_its_old_certificate_ends_with_the_revocations(
    tmp_path: Path, authority: Path
) -> None:
    folder, old = tmp_path / "authority", tmp_path / "old"
    shutil.copytree(authority, folder)
    shutil.copytree(authority, old)
    done = certificates(folder, "renew", "board-a")
    assert done.returncode == 0, done.stderr
    assert f"copy {folder}/crl.pem to the broker's /etc/mosquitto/bloodedge; systemctl restart" in done.stdout
    assert (folder / "board-a.pem").read_bytes() != (old / "board-a.pem").read_bytes()
    assert (folder / "board-a.key").read_bytes() != (old / "board-a.key").read_bytes()
    shutil.copy(folder / "crl.pem", tmp_path / "new.crl")
    shutil.copy(old / "crl.pem", folder / "crl.pem")
    (tmp_path / "before").mkdir()
    broker = DeployedBroker(tmp_path / "before", folder)  # the broker has not heard yet: both get in
    try:
        with Someone(broker, old, "board-a") as before:
            assert before.answered.is_set()
        with Someone(broker, folder, "board-a") as board:
            assert board.answered.is_set()
    finally:
        broker.stop()
    shutil.copy(tmp_path / "new.crl", folder / "crl.pem")
    (tmp_path / "after").mkdir()
    broker = DeployedBroker(tmp_path / "after", folder)
    try:
        with Someone(broker, old, "board-a") as before, Someone(broker, folder, "board-a") as board:
            assert not before.answered.is_set()
            assert board.answered.is_set()
    finally:
        broker.stop()


def test_a_renewed_broker_keeps_its_name(tmp_path: Path, authority: Path) -> None:
    folder = tmp_path / "authority"
    shutil.copytree(authority, folder)
    before = (folder / "broker.pem").read_bytes()
    assert certificates(folder, "renew", "broker").returncode == 0
    assert (folder / "broker.pem").read_bytes() != before
    broker = DeployedBroker(tmp_path, folder)
    try:
        with Someone(broker, authority, "board-a") as board:  # checks the broker's address against its certificate
            assert board.answered.is_set()
    finally:
        broker.stop()


def test_an_authority_made_with_unique_subjects_can_renew(tmp_path: Path, authority: Path) -> None:
    folder = tmp_path / "authority"
    shutil.copytree(authority, folder)
    config = folder / "openssl.cnf"
    config.write_text(config.read_text().replace("policy = named\n", "policy = named\nunique_subject = yes\n"))
    (folder / "index.txt.attr").write_text("unique_subject = yes\n")
    for _ in range(2):
        done = certificates(folder, "renew", "board-a")
        assert done.returncode == 0, done.stderr


def test_a_renewal_that_was_cut_off_is_finished_by_the_next(tmp_path: Path, authority: Path) -> None:
    folder = tmp_path / "authority"
    shutil.copytree(authority, folder)
    (folder / "crlnumber").chmod(0o400)
    (folder / "crlnumber").rename(folder / "away")  # the list of revocations cannot be made
    assert certificates(folder, "renew", "board-a").returncode == 1
    assert (folder / "board-a.pem").read_bytes() == (authority / "board-a.pem").read_bytes()
    (folder / "away").rename(folder / "crlnumber")
    assert certificates(folder, "renew", "board-a").returncode == 0
    states = [line.split("\t")[0] for line in (folder / "index.txt").read_text().splitlines() if "board-a" in line]
    assert states == ["R", "R", "V"]
    check = ["openssl", "verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "crl.pem", "board-a.pem"]
    assert subprocess.run(check, cwd=folder, capture_output=True, check=False).returncode == 0


def test_a_revocation_that_was_cut_off_is_finished_by_the_next(tmp_path: Path, authority: Path) -> None:
    folder = tmp_path / "authority"
    shutil.copytree(authority, folder)
    (folder / "crlnumber").rename(folder / "away")  # the list of revocations cannot be made
    assert certificates(folder, "revoke", "board-a").returncode == 1
    assert (folder / "crl.pem").read_bytes() == (authority / "crl.pem").read_bytes()
    (folder / "away").rename(folder / "crlnumber")
    done = certificates(folder, "revoke", "board-a")
    assert done.returncode == 0, done.stderr
    assert f"Copy {folder}/crl.pem to the broker" in done.stdout
    assert not (folder / "board-a.pem").exists()
    assert not (folder / "board-a.key").exists()
    check = ["openssl", "verify", "-crl_check", "-CAfile", "ca.pem", "-CRLfile", "crl.pem", authority / "board-a.pem"]
    told = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
    assert "certificate revoked" in told.stderr


def test_an_authority_that_was_cut_off_is_finished_by_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "authority"
    assert certificates(folder, "ca").returncode == 0
    (folder / "crl.pem").unlink()
    done = certificates(folder, "ca")
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "crl.pem").is_file()
    assert f"{folder}/crl.pem: ends" in done.stdout


@pytest.mark.parametrize("host", ["fleet.example", "127.0.0.1"])
def test_the_page_s_certificate_is_trusted_for_its_host_also_by_a_strict_python(
    tmp_path: Path, authority: Path, host: str
) -> None:
    """As Python from 3.13 on checks a server: a board's that fetches a bundle."""
    folder = tmp_path / "authority"
    shutil.copytree(authority, folder)
    assert certificates(folder, "page", host).returncode == 0
    assert certificates(folder, "renew", "page").returncode == 0
    name = "-verify_ip" if host[0].isdigit() else "-verify_hostname"
    check = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", name, host, "-CAfile", "ca.pem", "page.pem"]
    done = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "page: ends" in certificates(folder, "ca").stdout


def test_the_broker_s_certificate_is_not_replaced_while_it_counts(tmp_path: Path, authority: Path) -> None:
    folder = tmp_path / "authority"
    shutil.copytree(authority, folder)
    before = (folder / "broker.pem").read_bytes(), (folder / "broker.key").read_bytes()
    for host in ("other.example", "127.0.0.1"):
        done = certificates(folder, "broker", host)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert f"or revoke it first: certificates.sh {folder} revoke broker" in done.stderr
        assert before == ((folder / "broker.pem").read_bytes(), (folder / "broker.key").read_bytes())
    assert certificates(folder, "revoke", "broker").returncode == 0
    assert certificates(folder, "broker", "other.example").returncode == 0


def test_an_authority_says_when_it_and_its_certificates_end(authority: Path) -> None:
    done = certificates(authority, "ca")
    assert done.returncode == 0, done.stderr
    in_five_years = datetime.now(UTC) + timedelta(days=1825)
    for name in ("board-a", "board-b", "fleet", "broker"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"{name}: ")]
        assert f"renew {name}" in line
        assert str(in_five_years.year) in line
    assert f"{authority}/ca.pem: ends" in done.stdout
    assert f"{authority}/crl.pem: ends" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("board", "x"), 2, "has no authority; make it with"),
        (("ca", "x"), 2, "usage"),
        (("board", "a/b"), 2, "usage|letters, digits|no authority"),
        (("renew", "x"), 2, "has no authority; make it with"),
        (("renew",), 2, "usage|has no authority"),
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
    assert certificates(authority, "board", "page").returncode == 2
    assert certificates(authority, "renew", "ca").returncode == 2
    assert "holds no certificate of nobody" in certificates(authority, "renew", "nobody").stderr
