"""Publishing to a real broker: mosquitto, on a loopback port of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import pytest
from programs import free_port

from bloodedge_device.outputs.home_assistant import discovery
from bloodedge_device.outputs.mqtt.client import why_ended
from bloodedge_device.outputs.mqtt.publisher import MqttPublisher
from bloodedge_device.outputs.mqtt.window import Window
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.store.outbox import Message
from bloodedge_device.timings import TIMINGS, Timings
from support.mqtt import STATUS, Broker, Listener, MemoryOutbox
from support.needs import needs, required
from support.older_broker import REFUSES_VERSION, OlderBroker
from support.waiting import until

needs_broker = needs("mosquitto")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop(signal.SIGKILL)


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    listener = Listener(broker.port)
    yield listener
    listener.stop()


Publish = Callable[..., MqttPublisher]


@pytest.fixture
def publish() -> Iterator[Publish]:
    """Starts publishers, and stops them at the end."""
    begun: list[MqttPublisher] = []

    def start(outbox: MemoryOutbox, port: int, timings: Timings = TIMINGS, **settings: object) -> MqttPublisher:
        chosen = MqttSettings.model_validate({"host": "127.0.0.1", "port": port, "board": "bench-1", **settings})
        message = discovery(chosen, "Test Board 5", "mobilenetv2 (serial 3)")
        begun.append(MqttPublisher(chosen, outbox, lambda: message, lambda: STATUS, timings=timings))
        begun[-1].start()
        return begun[-1]

    yield start
    for publisher in begun:
        publisher.stop(2)


def test_a_message_leaves_the_outbox_only_when_all_before_it_are_acknowledged() -> None:
    window = Window(10)
    for packet, message in ((1, 11), (2, 15), (3, 16)):
        window.add(packet, message)
    window.answer(2, taken=True)
    assert window.done == 10
    window.answer(1, taken=True)
    assert window.done == 15
    window.answer(3, taken=False)
    assert (window.done, window.sent, window.unanswered) == (15, 16, False)


@needs_broker
def test_messages_arrive_in_order_and_leave_the_outbox(broker: Broker, listener: Listener, publish: Publish) -> None:
    outbox = MemoryOutbox()
    outbox.add(500)
    publisher = publish(outbox, broker.port)
    assert until(lambda: len(listener.ids()) >= 500)
    outbox.add(3)
    publisher.wake()
    assert until(lambda: len(listener.ids()) >= 503)
    assert listener.ids() == list(range(1, 504))
    assert until(lambda: len(outbox) == 0)
    first = next(message for message in listener.heard if "/frames/" in message.topic)
    assert (first.topic, first.payload) == ("bloodedge/bench-1/frames/1", b'{"n": 1}')
    assert first.properties.ContentType == "application/json"
    assert (publisher.connected, len(outbox)) == (True, 0)


@pytest.mark.slow
@needs_broker
def test_a_broker_that_dies_and_returns_misses_nothing(broker: Broker, listener: Listener, publish: Publish) -> None:
    outbox = MemoryOutbox()
    slowly = Timings(broker_back_off_s=(12.0,))  # so that who listens is back before the publisher is
    publisher = publish(outbox, broker.port, timings=slowly)

    def add_slowly() -> None:
        for _ in range(300):
            outbox.add(10)
            publisher.wake()
            sleep(0.01)

    adding = threading.Thread(target=add_slowly)
    adding.start()
    assert until(lambda: len(listener.ids()) > 200)
    broker.stop(signal.SIGKILL)
    assert until(lambda: not publisher.connected)
    assert "was lost" in publisher.sentence or "No program listens" in publisher.sentence
    listener.stop()
    adding.join()
    first = outbox.waiting(0, 1)[0].id  # what the broker had acknowledged when it died was its own to pass on
    before = listener.ids()
    broker.start()
    back_s = monotonic()
    after = Listener(broker.port)
    assert not publisher.connected
    assert until(lambda: publisher.connected, 20)
    assert monotonic() - back_s < 15
    assert until(lambda: len(outbox) == 0)
    assert until(lambda: 3000 in after.ids())
    assert list(dict.fromkeys(before)) == list(range(1, before[-1] + 1))
    assert list(dict.fromkeys(after.ids())) == list(range(first, 3001))
    after.stop()


@needs_broker
def test_a_killed_board_is_offline_to_everybody(broker: Broker, listener: Listener) -> None:
    script = (
        "import sys, time; from support.mqtt import STATUS, MemoryOutbox\n"
        "from bloodedge_device.outputs.home_assistant import discovery\n"
        "from bloodedge_device.outputs.mqtt.publisher import MqttPublisher\n"
        "from bloodedge_device.settings.sections import MqttSettings\n"
        "s = MqttSettings(host='127.0.0.1', port=int(sys.argv[1]), board='bench-1')\n"
        "d = discovery(s, 'b', 'm')\n"
        "MqttPublisher(s, MemoryOutbox(), lambda: d, lambda: STATUS).start(); time.sleep(60)\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    board = subprocess.Popen([sys.executable, "-c", script, str(broker.port)], env=environment)
    topic = "bloodedge/bench-1/availability"
    try:
        assert until(lambda: listener.payloads(topic) == [b"online"], 30)
    finally:
        board.send_signal(signal.SIGKILL)
        board.wait()
    assert until(lambda: listener.payloads(topic) == [b"online", b"offline"])
    late = Listener(broker.port)
    assert until(lambda: [m.payload for m in late.heard if m.retain and m.topic == topic] == [b"offline"])
    late.stop()


@needs_broker
def test_a_board_that_stops_sends_what_waits_and_goes_offline(
    broker: Broker, listener: Listener, publish: Publish
) -> None:
    outbox = MemoryOutbox()
    publisher = publish(outbox, broker.port)
    assert until(lambda: publisher.connected)
    outbox.add(300)
    publisher.stop(10)
    assert len(outbox) == 0
    assert until(lambda: listener.payloads("bloodedge/bench-1/availability")[-1:] == [b"offline"])
    assert listener.ids() == list(range(1, 301))


@needs_broker
def test_home_assistant_learns_of_the_board_and_its_status(
    broker: Broker, listener: Listener, publish: Publish
) -> None:
    publish(MemoryOutbox(), broker.port)
    assert until(lambda: bool(listener.payloads("bloodedge/bench-1/status")))
    status = json.loads(listener.payloads("bloodedge/bench-1/status")[0])
    config = json.loads(listener.payloads("homeassistant/device/bloodedge-bench-1/config")[0])
    # required by Home Assistant's DEVICE_DISCOVERY_SCHEMA
    assert config["device"]["identifiers"]
    assert config["origin"]["name"] == "bloodedge"
    assert config["state_topic"] == "bloodedge/bench-1/status"
    assert config["availability_topic"] == "bloodedge/bench-1/availability"
    assert {component["platform"] for component in config["components"].values()} == {"sensor", "binary_sensor"}
    ids = [component["unique_id"] for component in config["components"].values()]
    assert len(set(ids)) == len(ids)
    assert set(config["components"]) == set(status)
    for key, component in config["components"].items():
        assert f"value_json.{key}" in component["value_template"]


def test_boards_whose_names_look_alike_to_home_assistant_stay_apart() -> None:
    boards = ["bench-1", "bench 1", "bench/1", "Bänch-1", "Bönch-1"]
    told = [discovery(MqttSettings(board=board), "b", "m") for board in boards]
    topics = [topic for topic, _ in told]
    assert topics[0] == "homeassistant/device/bloodedge-bench-1/config"
    assert all(re.fullmatch(r"homeassistant/device/[A-Za-z0-9_-]+/config", topic) for topic in topics)
    assert len(set(topics)) == len(boards)
    ids = [component["unique_id"] for _, payload in told for component in payload["components"].values()]
    assert len(set(ids)) == len(ids)
    assert len({payload["device"]["identifiers"][0] for _, payload in told}) == len(boards)


@needs_broker
def test_no_discovery_where_the_settings_say_so(broker: Broker, listener: Listener, publish: Publish) -> None:
    publish(MemoryOutbox(), broker.port, discovery="")
    assert until(lambda: bool(listener.payloads("bloodedge/bench-1/status")))
    assert {message.topic.split("/")[0] for message in listener.heard} == {"bloodedge"}


@pytest.mark.slow
@needs_broker
def test_refused_messages_are_kept_and_sent_when_the_broker_takes_them(tmp_path: Path, publish: Publish) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\ntopic write bloodedge/bench-1/availability\n")
    broker = Broker(tmp_path, "allow_anonymous true", f"acl_file {rules}")
    outbox = MemoryOutbox()
    outbox.add(40)
    try:
        publisher = publish(outbox, broker.port)
        assert until(lambda: "refuses this board's messages" in publisher.sentence)
        assert "access rules" in publisher.sentence
        assert publisher.connected
        assert len(outbox) == 40
        rules.write_text("topic readwrite #\n")
        broker.process.send_signal(signal.SIGHUP)  # mosquitto reads its rules again
        listener = Listener(broker.port)
        assert until(lambda: len(outbox) == 0)
        assert listener.ids() == list(range(1, 41))
        assert publisher.sentence.startswith("Connected")
        listener.stop()
    finally:
        broker.stop(signal.SIGKILL)


@needs_broker
def test_a_wrong_password_is_reported_and_the_right_one_connects(tmp_path: Path, publish: Publish) -> None:
    mosquitto_passwd = required("mosquitto_passwd")
    users, password = tmp_path / "users", tmp_path / "password"
    subprocess.run([mosquitto_passwd, "-b", "-c", str(users), "board", "right"], check=True)
    users.chmod(0o644)
    broker = Broker(tmp_path, "allow_anonymous false", f"password_file {users}")
    password.write_text("wrong\n")
    try:
        publisher = publish(MemoryOutbox(), broker.port, username="board", password_file=password)
        assert until(lambda: "rejects the login" in publisher.sentence)
        assert "mqtt.password_file" in publisher.sentence
        password.write_text("right\n")  # read at every attempt
        assert until(lambda: publisher.connected)
    finally:
        broker.stop(signal.SIGKILL)


@pytest.mark.slow
@needs_broker
@pytest.mark.parametrize("answer", [REFUSES_VERSION, b""], ids=["refuses version 5", "hangs up"])
def test_a_broker_of_mqtt_3_1_1_gets_every_message_in_order(
    answer: bytes, broker: Broker, listener: Listener, publish: Publish
) -> None:
    older = OlderBroker(broker.port, answer)
    outbox = MemoryOutbox()
    outbox.add(200)
    try:
        publisher = publish(outbox, older.port)
        assert until(lambda: len(outbox) == 0)
        assert publisher.sentence == f"Connected to the broker 127.0.0.1:{older.port}."
        outbox.add(400)
        publisher.wake()
        assert until(lambda: len(outbox) < 400)
        older.cut()
        assert until(lambda: len(outbox) == 0)
        assert until(lambda: len(set(numbers(listener))) == 600)
        assert list(dict.fromkeys(numbers(listener))) == list(range(1, 601))  # perhaps again, and never out of order
        publisher.stop(5)
        assert until(lambda: listener.payloads("bloodedge/bench-1/availability")[-1:] == [b"offline"])
    finally:
        older.close()
    assert older.levels[:2] == [5, 4]
    if answer:
        assert set(older.levels[1:]) == {4}  # what was said is not asked again


def numbers(listener: Listener) -> list[int]:
    """Of the outbox's messages, in the order of arrival, also where no property tells them."""
    return [int(json.loads(message.payload)["n"]) for message in listener.heard if "/frames/" in message.topic]


@needs_broker
def test_a_broker_that_hung_up_once_is_spoken_to_by_mqtt_5_again(broker: Broker, publish: Publish) -> None:
    older = OlderBroker(broker.port, b"")
    try:
        publisher = publish(MemoryOutbox(), older.port)
        assert until(lambda: publisher.connected)
        older.newest = 5
        older.cut()
        assert until(lambda: len(older.levels) == 3)
        assert until(lambda: publisher.connected)
    finally:
        older.close()
    assert older.levels == [5, 4, 5]


@dataclass(frozen=True)
class Certificates:
    ca: Path
    other_ca: Path
    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority's certificate, another's of the same name, and a broker's for 127.0.0.1 signed by the first."""
    required("openssl")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        keep = ("-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", "/CN=Bench CA")
        openssl("req", "-x509", *new, *keep)
    openssl("req", *new, "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=broker")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "broker.csr", "-out", "broker.pem", *signed)
    for path in (folder, folder.parent, *folder.iterdir()):
        path.chmod(0o755)
    return Certificates(folder / "ca.pem", folder / "other.pem", folder / "broker.pem", folder / "broker.key")


@needs_broker
def test_tls_checks_the_broker(certificates: Certificates, tmp_path: Path, publish: Publish) -> None:
    tls = (f"certfile {certificates.certificate}", f"keyfile {certificates.key}")
    broker = Broker(tmp_path, "allow_anonymous true", *tls)
    outbox = MemoryOutbox()
    outbox.add(30)
    try:
        right = publish(outbox, broker.port, tls=True, ca=certificates.ca)
        assert until(lambda: len(outbox) == 0)
        assert right.connected
        wrong = publish(MemoryOutbox(), broker.port, tls=True, ca=certificates.other_ca, board="bench-2")
        assert until(lambda: "is not trusted" in wrong.sentence)
        assert "mqtt.ca" in wrong.sentence
        plain = publish(MemoryOutbox(), broker.port, board="bench-3")
        assert until(lambda: "it may expect TLS" in plain.sentence)
        without = publish(MemoryOutbox(), broker.port, tls=True, ca=tmp_path / "none.pem", board="bench-4")
        assert until(lambda: "mqtt.ca: " in without.sentence)
    finally:
        broker.stop(signal.SIGKILL)


@pytest.mark.parametrize(
    ("host", "sentence"),
    [("127.0.0.1", "No program listens"), ("no-such-broker.invalid", "could not be resolved")],
)
def test_an_absent_broker_is_reported_and_the_messages_are_kept(publish: Publish, host: str, sentence: str) -> None:
    outbox = MemoryOutbox()
    outbox.add(5)
    publisher = publish(outbox, free_port(), host=host)
    assert until(lambda: sentence in publisher.sentence)
    assert (publisher.connected, len(outbox)) == (False, 5)


@pytest.mark.slow
def test_a_port_without_a_broker_behind_it_is_reported(publish: Publish) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publisher = publish(MemoryOutbox(), silent.getsockname()[1])
        assert until(lambda: "does not answer" in publisher.sentence)


@needs_broker
def test_an_outbox_that_fails_for_a_while_stops_nothing(broker: Broker, listener: Listener, publish: Publish) -> None:
    class Failing(MemoryOutbox):
        healthy = False

        def waiting(self, after: int, limit: int) -> list[Message]:
            if not self.healthy:
                raise OSError("the disk failed")
            return super().waiting(after, limit)

    outbox = Failing()
    outbox.add(5)
    publisher = publish(outbox, broker.port)
    assert until(lambda: "the disk failed" in publisher.sentence)
    outbox.healthy = True
    assert until(lambda: len(outbox) == 0)
    assert listener.ids() == [1, 2, 3, 4, 5]


def test_two_boards_of_one_name_are_reported() -> None:
    sentence = why_ended(142, "Session taken over", MqttSettings(host="broker", board="bench-1"))
    assert 'Another board is connected as "bench-1"' in sentence
    assert "give each its own mqtt.board" in sentence


@needs_broker
def test_a_message_too_large_for_the_broker_holds_up_no_other(tmp_path: Path, publish: Publish) -> None:
    broker = Broker(tmp_path, "allow_anonymous true", "max_packet_size 2000")
    listener = Listener(broker.port)
    outbox = MemoryOutbox()
    outbox.add(2)
    outbox.add(1, "x" * 4000)
    outbox.add(2)
    publisher = publish(outbox, broker.port, discovery="")
    assert until(lambda: listener.ids() == [1, 2, 4, 5])
    assert until(lambda: len(outbox) == 0)
    assert publisher.connected
    assert "takes no packet above 2000 bytes: 1 larger ones were skipped" in publisher.sentence
    listener.stop()
    broker.stop(signal.SIGKILL)


@needs_broker
def test_a_description_too_large_for_the_broker_does_not_end_the_connection(tmp_path: Path, publish: Publish) -> None:
    broker = Broker(tmp_path, "allow_anonymous true", "max_packet_size 600")
    listener = Listener(broker.port)
    outbox = MemoryOutbox()
    outbox.add(3)
    publisher = publish(outbox, broker.port)  # what Home Assistant is told has some thousand bytes
    assert until(lambda: listener.ids() == [1, 2, 3])
    assert until(lambda: bool(listener.payloads("bloodedge/bench-1/status")))
    assert publisher.connected
    assert not [message for message in listener.heard if message.topic.startswith("homeassistant")]
    listener.stop()
    broker.stop(signal.SIGKILL)
