"""One connection to the broker: it sends the outbox and the board's own messages, and takes the answers."""

import logging
import math
import random
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bloodedge.fleet_messages import WANTED
from bloodedge_device.outputs.mqtt.client import (
    ANSWER_WITHIN_S,
    NEWEST,
    UNSUPPORTED_VERSION,
    ConnectionLost,
    base_topic,
    broker_name,
    describing,
    new_client,
    say_goodbye,
    why_ended,
    why_lost,
    why_refused,
    why_unreachable,
)
from bloodedge_device.outputs.mqtt.window import Window
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.store.outbox import Message, Outbox

log = logging.getLogger("bloodedge.device")

WINDOW = 20
"""Messages under way at once."""

BATCH = 100
"""Messages read from the outbox at once."""

KEEP_ALIVE_S = 10

SETTLE_EVERY_S = 1.0
"""How often the outbox learns what was delivered: each time costs a disk's sync."""

REFUSED_RETRY_S = 5.0
"""Until messages that the broker refused are sent again."""

TURN_S = 0.5

RETAINED_WITHIN_S = 5.0
"""A broker that took a subscription sends what it has retained at once; later there is nothing."""

ENVELOPE = 128
"""Bytes of a packet beside topic and payload, at most: headers, and the properties that are sent."""


class Session:
    """One connection, with a client of its own: a client that reconnects would repeat what the outbox sends again."""

    def __init__(
        self,
        settings: MqttSettings,
        outbox: Outbox,
        note: Callable[[bool, str, int], None],
        request: Callable[[bytes], None] | None,
        version: MQTTProtocolVersion,
    ) -> None:
        self._version = version
        self.accepted = False
        """Whether the broker let this board in."""
        self.version_refused = False
        """Whether the broker said that it does not support this version of MQTT."""
        self._settings, self._outbox, self._note, self._request = settings, outbox, note, request
        self._where, self._base = broker_name(settings), base_topic(settings)
        self._no_request_at_s: float | None = None
        """When it is clear that the broker has retained no request."""
        self._client: Client | None = None
        self._window = Window(0)
        self._ready: deque[Message] = deque()
        self._topics: dict[int, str] = {}
        """Topics of packets that are not from the outbox."""
        self._warned: set[str] = set()
        self._room = WINDOW
        self._largest: int | None = None
        """Bytes that a packet may have."""
        self._skipped = 0
        self._asked = self._denied = False
        self._ended: str | None = None
        self._refused: int | None = None
        """The first message that the broker would not take."""
        self._retry_at_s = 0.0
        self._settled, self._settle_at_s = 0, 0.0

    @property
    def unanswered(self) -> bool:
        """Whether the broker took the connection and never answered, as some do that do not support the version."""
        return self._asked and not self.accepted and not self._denied

    @property
    def delivered(self) -> bool:
        """Whether any message was."""
        return self._window.done > 0

    @property
    def idle(self) -> bool:
        """Whether nothing is left to send, or nothing can be sent now."""
        return self._refused is not None or not (
            self._window or self._ready or self._outbox.waiting(self._window.sent, 1)
        )

    def open(self, stopping: threading.Event) -> None:
        """Connect; raises ConnectionLost with the reason when the broker is not there or does not want this board."""
        where = self._where
        client = self._client = new_client(self._settings, self._version)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_subscribe = self._on_puback, self._on_suback
        client.on_message = lambda _client, _data, message: self._pass_on(bytes(message.payload))
        try:
            client.connect(self._settings.host or "", self._settings.port, KEEP_ALIVE_S)
        except OSError as error:
            raise ConnectionLost(why_unreachable(error, where)) from error
        give_up_s = monotonic() + ANSWER_WITHIN_S
        self._asked = True
        while not self.accepted:
            if stopping.is_set():
                raise ConnectionLost("The daemon stops.")
            if monotonic() > give_up_s:
                raise ConnectionLost(
                    f"{where} accepts connections but does not answer; check that it is an MQTT broker."
                )
            self.exchange(None)
        self._note(True, f"Connected to {where}.", logging.INFO)
        if self._request is not None:
            client.subscribe(f"{self._base}{WANTED}", qos=1)

    def exchange(self, woken: socket.socket | None) -> None:
        """Send and receive for at most TURN_S, or until ``woken`` is; raises ConnectionLost at the end."""
        client = self._client
        assert client is not None
        connection = client.socket()
        if self._ended is None and connection is not None:
            pending = isinstance(connection, ssl.SSLSocket) and connection.pending() > 0
            writes = [connection] if client.want_write() else []
            reads = [connection, woken] if woken else [connection]
            readable, writable, _ = select.select(reads, writes, [], 0 if pending else TURN_S)
            if woken in readable and woken is not None:
                woken.recv(4096)
            if pending or connection in readable:
                client.loop_read()
            if connection in writable:
                client.loop_write()
            client.loop_misc()
        if self._ended is not None or client.socket() is None:
            raise ConnectionLost(self._ended or self._why_lost())
        if self._no_request_at_s is not None and monotonic() >= self._no_request_at_s:
            self._pass_on(b"")

    def publish_retained(self, topic: str, payload: bytes) -> None:
        """Publish a retained message that is not from the outbox; if it is lost, the next connection sends it anew."""
        if self._is_too_large(topic, payload):
            self._warn(topic, f"the broker takes no packet above {self._largest} bytes; raise its max_packet_size")
        else:
            self._topics[self._publish(topic, payload, True)] = topic

    def send_waiting(self) -> None:
        """Send what the window has room for; while the broker refuses messages, send one now and then."""
        if self._refused is not None and (self._window.unanswered or not self._rewound()):
            return
        while len(self._window) + len(self._topics) < (self._room if self._refused is None else 1):
            if not self._ready:
                self._ready.extend(self._outbox.waiting(self._window.sent, BATCH))
            if not self._ready:
                return
            message = self._ready.popleft()
            topic = f"{self._base}{message.topic}"
            if self._is_too_large(topic, message.payload):
                self._skip(message)
                continue
            self._window.add(self._publish(topic, message.payload, message.retain, message.id), message.id)

    def _is_too_large(self, topic: str, payload: bytes) -> bool:
        return self._largest is not None and len(topic.encode()) + len(payload) + ENVELOPE > self._largest

    def _skip(self, message: Message) -> None:
        """Drop a message for which the broker would end the connection; the store keeps its results."""
        self._window.skip(message.id)
        self._skipped += 1
        log.warning("MQTT: message %d has %d bytes and was skipped.", message.id, len(message.payload))
        why = (
            f"{self._where} takes no packet above {self._largest} bytes: {self._skipped} larger ones were"
            " skipped since it was connected; raise its max_packet_size."
        )
        self._note(True, why, logging.WARNING)

    def _rewound(self) -> bool:
        """Whether it is time to send again, from the first refused message on."""
        if monotonic() < self._retry_at_s:
            return False
        if self._window:
            self._window = Window(self._window.done)
            self._ready.clear()
        return True

    def settle(self, at_once: bool = False) -> None:
        """Tell the outbox what was delivered."""
        if self._window.done > self._settled and (at_once or monotonic() >= self._settle_at_s):
            self._outbox.delivered(self._window.done)
            self._settled, self._settle_at_s = self._window.done, monotonic() + SETTLE_EVERY_S

    def close(self) -> None:
        """Tell the outbox what was delivered, and end the connection so that the broker publishes "offline"."""
        try:
            self.settle(at_once=True)
        except Exception:
            log.exception("MQTT: the outbox could not note what was delivered; it will be sent again.")
        if self._client is not None:
            with suppress(OSError, ValueError):
                say_goodbye(self._client, self._version)

    def _publish(self, topic: str, payload: bytes, retain: bool, message: int | None = None) -> int:
        """Send a message; gives the packet identifier."""
        assert self._client is not None
        properties = describing(payload, message) if self._version is NEWEST else None
        sent = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise ConnectionLost(self._ended or self._why_lost())
        return sent.mid

    def _on_connect(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._denied, self.version_refused = True, reason.value == UNSUPPORTED_VERSION
            self._ended = why_refused(reason.value, reason.getName(), self._settings)
            return
        self.accepted = True
        self._room = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
        self._largest = getattr(properties, "MaximumPacketSize", None)

    def _on_disconnect(
        self, _client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if self._ended is None:
            by_broker = flags.is_disconnect_packet_from_server
            self._ended = why_ended(reason.value, reason.getName(), self._settings) if by_broker else self._why_lost()

    def _on_puback(
        self, _client: Client, _data: Any, packet: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        topic = self._topics.pop(packet, None)
        if topic is not None:
            if reason.is_failure:
                self._warn(topic, f"the broker refuses them ({reason.getName()}); correct its access rules")
            return
        message = self._window.answer(packet, not reason.is_failure)
        if message is not None and reason.is_failure:
            self._refuse(message, reason)
        elif self._refused is not None and self._window.done >= self._refused:
            self._refused = None
            self._note(True, f"Connected to {self._where}.", logging.INFO)

    def _on_suback(
        self, _client: Client, _data: Any, _packet: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            topic = f"{self._base}{WANTED}"
            self._warn(topic, "the broker does not let this board subscribe to them; correct its access rules")
        elif self._no_request_at_s is None:
            self._no_request_at_s = monotonic() + RETAINED_WITHIN_S

    def _pass_on(self, payload: bytes) -> None:
        self._no_request_at_s = math.inf
        if self._request is not None:
            self._request(payload)

    def _warn(self, topic: str, why: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            log.warning("MQTT: messages to %s do not arrive: %s.", topic, why)

    def _refuse(self, message: int, reason: ReasonCode) -> None:
        """Note a refused message: it is sent again later, with all that follow it."""
        self._refused = message if self._refused is None else min(message, self._refused)
        self._retry_at_s = monotonic() + random.uniform(REFUSED_RETRY_S / 2, REFUSED_RETRY_S)
        why = (
            f"{self._where} refuses this board's messages below {self._base}"
            f" ({reason.getName()}); correct its access rules or quota; they are kept and tried again."
        )
        self._note(True, why, logging.WARNING)

    def _why_lost(self) -> str:
        return why_lost(self._where, accepted=self.accepted)
