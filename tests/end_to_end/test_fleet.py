"""A daemon, Mosquitto with certificates and the fleet's server: a signed bundle rolled out over a killed server."""

import json
import os
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from programs import free_port

from bloodedge.files import sha256
from bloodedge_device.bundles.slot_record import read_record
from bloodedge_device.outputs.home_assistant import discovery
from bloodedge_device.outputs.mqtt.publisher import MqttPublisher
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_fleet.boards.archive import Archive, Outcome
from bloodedge_fleet.boards.broker import Broker as BrokerAddress
from bloodedge_fleet.boards.listener import Listener
from bloodedge_fleet.database import migrate, open_database
from support.mqtt import STATUS, DeployedBroker, MemoryOutbox, make_authority
from support.needs import needs
from support.slot_bundles import Laboratory

pytestmark = [needs("mosquitto"), needs("openssl")]
BOARD = "board-a"


def until(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    give_up_s = monotonic() + within_s
    while not (found := condition()):
        assert monotonic() < give_up_s, what
        sleep(0.1)
    return found


@contextmanager
def running(log: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A command of bloodedge as a process of its own."""
    with log.open("a") as output:
        process = subprocess.Popen([sys.executable, "-m", "bloodedge", *words], stdout=output, stderr=output)
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def fleet(state: Path, *words: str) -> Any:
    """What ``bloodedge fleet`` says, as JSON."""
    command = [sys.executable, "-m", "bloodedge", "fleet", *words, "--state", str(state), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    others = ("board", BOARD), ("board", "fleet"), ("page", "127.0.0.1")
    return make_authority(tmp_path / "authority", *others)


@pytest.fixture
def broker(tmp_path: Path, authority: Path) -> Iterator[DeployedBroker]:
    folder = tmp_path / "broker"
    folder.mkdir()
    made = DeployedBroker(folder, authority)
    yield made
    made.stop()


@pytest.mark.slow
def test_a_bundle_reaches_a_board_over_everything_that_is_real(
    tmp_path: Path, authority: Path, broker: DeployedBroker
) -> None:
    board, server = tmp_path / "board", tmp_path / "server"
    lab = Laboratory(tmp_path, board)
    bundle = lab.bundle(2_000_000_000)
    page = f"127.0.0.1:{free_port()}"
    settings = tmp_path / "device.toml"
    settings.write_text(
        f'state = "{board}"\nengine = "litert"\n[camera]\nrate = 10\nloop = true\n[web]\nenabled = false\n'
        "[update]\nfrom_fleet = true\nprobation_minutes = 0\nprobation_cells = 0\nmost_latency_ms = 10000\n"
        f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\ntls = true\nboard = "{BOARD}"\nreport_s = 1\n'
        f'ca = "{authority}/ca.pem"\ncertificate = "{authority}/{BOARD}.pem"\nkey = "{authority}/{BOARD}.key"\n'
    )
    serve = ["fleet", "serve", "--state", str(server), "--broker", f"127.0.0.1:{broker.port}", "--listen", page]
    serve += ["--ca", f"{authority}/ca.pem", "--certificate", f"{authority}/fleet.pem"]
    serve += ["--key", f"{authority}/fleet.key"]
    serve += ["--page-certificate", f"{authority}/page.pem", "--page-key", f"{authority}/page.key"]
    logs = [tmp_path / name for name in ("device.log", "server.log")]
    try:
        with running(logs[0], "device", "run", "--config", str(settings)):
            with running(logs[1], *serve) as process:
                until(lambda: fleet(server, "boards") and fleet(server, "boards")[0]["report"], 90, "no report came")
                health = f"https://{page}/healthz"
                with urllib.request.urlopen(
                    health, context=ssl.create_default_context(cafile=authority / "ca.pem")
                ) as answer:
                    assert json.load(answer) == {"ok": True, "troubles": []}
                with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
                    urllib.request.urlopen(health)
                command = ["fleet", "rollout", str(bundle), "--trust", str(board / "trust"), "--soak-s", "1"]
                begun = [sys.executable, "-m", "bloodedge", *command, "--state", str(server)]
                subprocess.run(begun, check=True, capture_output=True)
                os.kill(process.pid, signal.SIGKILL)
            with running(logs[1], *serve):
                until(
                    lambda: fleet(server, "rollouts")[0]["state"] == "done", 150, "the roll-out did not come to an end"
                )
                (seen,) = fleet(server, "boards")
    except BaseException:
        print(*(log.read_text()[-4000:] for log in logs), sep="\n----\n")
        raise
    assert seen["report"]["bundle"]["sha256"] == sha256(bundle)
    assert seen["report"]["bundle"]["state"] == "good"
    assert seen["report"]["wanted"]["state"] == "installed"
    assert seen["reports_missing"] == 0
    slot = read_record(board).running
    assert slot is not None
    assert (slot.sha256, slot.state) == (sha256(bundle), "good")


def test_board_and_server_find_a_broker_that_was_started_anew_at_once(
    tmp_path: Path, authority: Path, broker: DeployedBroker
) -> None:
    own = {"certificate": authority / f"{BOARD}.pem", "key": authority / f"{BOARD}.key"}
    settings = MqttSettings(host="127.0.0.1", port=broker.port, tls=True, board=BOARD, ca=authority / "ca.pem", **own)
    outbox = MemoryOutbox()
    board = MqttPublisher(settings, outbox, lambda: discovery(settings, "", ""), lambda: STATUS)
    engine = open_database(None, tmp_path)
    migrate(engine)
    files = (authority / name for name in ("ca.pem", "fleet.pem", "fleet.key"))
    server = Listener(BrokerAddress("127.0.0.1", broker.port, "bloodedge", "fleet", True, *files), Archive(engine))
    stored: list[Outcome] = []
    board.start()
    server.start(stored.append)
    try:
        until(lambda: board.connected and server.broker.connected, 15, "nobody is connected")
        broker.stop()
        until(lambda: not board.connected and not server.broker.connected, 5, "nobody notices")
        sleep(3.5)
        broker.start()
        until(lambda: board.connected and server.broker.connected, 5, "the broker is not found")
        until(lambda: stored, 5, "what the broker says of the board does not arrive")
    finally:
        board.stop(1)
        server.stop()
        engine.dispose()
