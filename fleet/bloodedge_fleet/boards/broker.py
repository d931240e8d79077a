"""The connection to the MQTT broker: version 5, or 3.1.1 where the broker does not know 5."""

import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bloodedge.errors import UsageError
from bloodedge_fleet.state_dir import require_readable

log = logging.getLogger("bloodedge.fleet")

SESSION_S = 30 * 24 * 3600
"""How long the broker keeps this server's session, and what boards send meanwhile up to its queue's size
(max_queued_bytes in firmware_configs/broker/mosquitto.conf)."""

MAX_UNACKNOWLEDGED = 1000
"""Messages that the broker may deliver ahead of their acknowledgement."""

KEEP_ALIVE_S = 15
RECONNECT_S = 1
"""Wait between attempts to reach the broker; it never grows, because every board's reports wait for this server."""

NEWEST, OLDER = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311

UNSUPPORTED_VERSION = 132
"""MQTT 5.0, table 3-1; paho gives it also for 3.1.1's return code 1, unacceptable protocol level."""
SESSION_TAKEN_OVER = 142
"""MQTT 5.0, table 3-13."""


@dataclass(frozen=True)
class Broker:
    """How the broker is reached."""

    host: str
    port: int
    topic: str = "bloodedge"
    """First part of all topics, as the boards' mqtt.topic."""
    client: str = "bloodedge-fleet"
    """The session's name at the broker."""
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = None

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True)
class Delivery:
    """A message that the broker delivered and that is not acknowledged yet."""

    connection: int
    """Number of the connection it came on, where alone it can be acknowledged."""
    packet: int
    qos: int
    topic: str
    """Without the broker's first part."""
    payload: bytes


class BrokerConnection:
    """A lasting session at the broker; it reconnects by itself, in paho's thread."""

    def __init__(self, broker: Broker, topics: Sequence[str], deliver: Callable[[Delivery], None]) -> None:
        """topics: what to subscribe to, without the first part; deliver: called with each message.

        Raises UsageError where the certificates for the broker cannot be used.
        """
        self._broker, self._topics, self._deliver = broker, topics, deliver
        self._on_connected: Callable[[], None] = lambda: None
        self.state = f"Not connected to the broker {broker.address} yet."
        """The connection in a sentence."""
        self.connected = False
        self.number = 0
        """Counts the connections."""
        self._acknowledging = threading.Lock()
        self._changing_version = threading.Lock()
        self._stopping = threading.Event()
        self._version = NEWEST
        self._refuses_newest = False
        """Whether the broker said that it does not know version 5."""
        self._answered = False
        """Whether the broker accepted or refused this connection."""
        self._client = self._new_client()

    def start(self, on_connected: Callable[[], None]) -> None:
        """Connect, and try again while the broker is away; ``on_connected`` is called after each connection."""
        self._on_connected = on_connected
        self._connect()

    def stop(self) -> None:
        """Disconnect; the broker keeps what comes meanwhile."""
        self._stopping.set()
        with self._changing_version:
            self._client.disconnect()
            self._client.loop_stop()

    def publish(self, topic: str, payload: str | bytes, *, retain: bool = False) -> bool:
        """Send a message; False where it was not sent."""
        if not self.connected:
            return False
        return self._client.publish(f"{self._broker.topic}/{topic}", payload, qos=1, retain=retain).rc == 0

    def acknowledge(self, deliveries: Iterable[Delivery]) -> None:
        """Tell the broker that these messages are stored; it delivers again what came on an earlier connection."""
        with self._acknowledging, suppress(OSError, ValueError):
            for delivery in deliveries:
                if delivery.connection == self.number and delivery.qos:
                    self._client.ack(delivery.packet, delivery.qos)

    def _connect(self) -> None:
        host, port = self._broker.host, self._broker.port
        if self._version is NEWEST:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval, properties.ReceiveMaximum = SESSION_S, MAX_UNACKNOWLEDGED
            self._client.connect_async(host, port, KEEP_ALIVE_S, clean_start=False, properties=properties)
        else:
            self._client.connect_async(host, port, KEEP_ALIVE_S)
        self._client.loop_start()

    def _change_version(self) -> None:
        """Go on with MQTT 3.1.1 where 5 is not known, and the other way round; not in the client's own thread."""
        with self._changing_version:
            before = self._client
            before.on_connect = before.on_disconnect = before.on_connect_fail = before.on_message = None
            before.disconnect()
            before.loop_stop()
            if self._stopping.wait(RECONNECT_S):
                return
            self._version = OLDER if self._version is NEWEST else NEWEST
            self._client = self._new_client()
            self._connect()

    def _new_client(self) -> Client:
        broker = self._broker
        clean_session = None if self._version is NEWEST else False
        client = Client(
            CallbackAPIVersion.VERSION2, broker.client, clean_session, protocol=self._version, manual_ack=True
        )
        client.reconnect_delay_set(RECONNECT_S, RECONNECT_S)
        client.connect_timeout = 5.0
        if broker.user is not None:
            client.username_pw_set(broker.user, broker.password)
        if broker.tls:
            client.tls_set_context(_tls(broker))
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_connect_fail = self._on_connect_fail
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        return client

    def _set_state(self, sentence: str, level: int = logging.WARNING) -> None:
        if sentence != self.state:
            self.state = sentence
            log.log(level, "%s", sentence)

    def _on_connect(self, client: Client, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        address = self._broker.address
        self._answered = reason.value != UNSUPPORTED_VERSION
        if not self._answered:
            self._refuses_newest = self._version is NEWEST
            self._set_state(f"The broker {address} does not know this version of MQTT; another is tried.", logging.INFO)
            return
        if reason.is_failure:
            self._set_state(
                f"The broker {address} refuses this server ({reason.getName()}); correct its certificate, or its user"
                " and password."
            )
            return
        with self._acknowledging:
            self.number += 1
            self.connected = True
        self._set_state(f"Connected to the broker {address}.", logging.INFO)
        client.subscribe([(f"{self._broker.topic}/{topic}", 1) for topic in self._topics])
        self._on_connected()

    def _on_subscribe(self, _client: Any, _data: Any, _packet: int, reasons: list[ReasonCode], _: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._set_state(
                f"The broker {self._broker.address} does not let this server read {self._broker.topic}/#; correct its"
                " access rules."
            )

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        self.connected = False
        answered, self._answered = self._answered, False
        version_is_right = answered and (self._version is NEWEST or self._refuses_newest)
        if not version_is_right:  # a broker that does not know the version may close the connection without an answer
            threading.Thread(target=self._change_version, name="mqtt version", daemon=True).start()
        if reason.value == SESSION_TAKEN_OVER:
            self._set_state(
                f'Another server called "{self._broker.client}" took over this session; stop one, or give it --client.'
            )
        elif not self._stopping.is_set():
            self._set_state(f"The connection to the broker {self._broker.address} was lost; it is tried again.")

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._set_state(
            f"No connection to the broker {self._broker.address}; it is tried again. Check its name and port, that it"
            " runs, and the certificates."
        )

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        topic = message.topic.removeprefix(f"{self._broker.topic}/")
        self._deliver(Delivery(self.number, message.mid, message.qos, topic, bytes(message.payload)))


def _tls(broker: Broker) -> ssl.SSLContext:
    require_readable(broker.ca, broker.certificate, broker.key)
    try:
        context = ssl.create_default_context(cafile=broker.ca)
        if broker.certificate is not None:
            context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"The certificates for the broker {broker.address} cannot be used ({error}); give PEM files, the key"
            " without a passphrase."
        ) from error
    return context
