"""Results to an MQTT broker: at least once and in order, from an outbox that outlives the daemon."""

import json
import logging
import math
import random
import select
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bloodedge.files import read_text
from bloodedge.fleet_messages import WANTED
from bloodedge_device.outputs.home_assistant import DeviceDescription, StatusPayload, discovery
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.store.outbox import Message, Outbox, PublisherState

log = logging.getLogger("bloodedge.device")

WINDOW = 20
"""Messages under way at once."""

BATCH = 100
"""Messages read from the outbox at once."""

KEEP_ALIVE_S = 10

ANSWER_WITHIN_S = 4.0
"""For the broker to take a connection, and again to answer it."""

BACK_OFF_S = (0.5, *[1.0] * 20, 2.0, 5.0)
"""Between attempts, less up to half at random, so that many boards do not all come at once. A broker that is started
anew is away for seconds and found within one more; after an absence of half a minute it is found within 5 s."""

STEADY_S = 30.0
"""A connection that held so long did not fail for the reason of the one before."""

STATUS_EVERY_S = 10.0

SETTLE_EVERY_S = 1.0
"""How often the outbox hears of what was delivered: each time costs a disk's sync."""

TURN_S = 0.5

NEWEST, OLDER = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311

UNSUPPORTED_VERSION = 132
"""MQTT 5.0, table 3-1; paho has it also for 3.1.1's return code 1, unacceptable protocol level."""

HEAR_WITHIN_S = 5.0
"""After the broker took a subscription, it sends at once what it has retained; later there is nothing."""

ENVELOPE = 128
"""Bytes of a packet beside topic and payload, at most: headers, and the properties that are sent."""


class MqttPublisher:
    """Publishes an outbox in a thread of its own; whatever fails is told in ``state`` and tried again."""

    def __init__(
        self,
        settings: MqttSettings,
        outbox: Outbox,
        describe: Callable[[], DeviceDescription],
        status: Callable[[], StatusPayload],
        wanted: Callable[[bytes], None] | None = None,
    ) -> None:
        """In the publisher's thread, ``describe`` is called at each connection and ``status`` every STATUS_EVERY_S.

        So is ``wanted`` with every message on the bundle that this board shall run, empty when none is asked for; None:
        the board does not ask.
        """
        self._wanted = wanted
        self._settings, self._outbox, self._describe, self._status = settings, outbox, describe, status
        self._stopping = threading.Event()
        self._stop_at_s = 0.0
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._preferred = self._version = NEWEST
        """Of MQTT: what a connection begins with, and what the next one does."""
        self._now = (False, f"Not connected to {_broker(settings)} yet.", datetime.now(UTC))
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def wake(self) -> None:
        """Messages were added."""
        with suppress(OSError):  # it is awake already, or has ended
            self._waker.send(b"\0")

    def stop(self, timeout: float) -> None:
        """Publish what waits, for at most ``timeout`` seconds, and say goodbye; what remains stays in the outbox."""
        self._stop_at_s = monotonic() + timeout
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout + TURN_S)

    @property
    def state(self) -> PublisherState:
        """How publishing goes."""
        connected, sentence, since = self._now
        return PublisherState(connected, sentence, since, len(self._outbox))

    def _note(self, connected: bool, sentence: str, level: int = logging.INFO) -> None:
        if (connected, sentence) != self._now[:2]:
            self._now = (connected, sentence, datetime.now(UTC))
            log.log(level, "MQTT: %s", sentence)

    def _run(self) -> None:
        failures = 0
        with self._woken, self._waker:
            while not self._stopping.is_set():
                began_s = monotonic()
                session = _Session(self._settings, self._outbox, self._note, self._wanted, self._version)
                why = self._publish_until_lost(session)
                session.close()
                self._choose_version(session)
                failures = 0 if session.delivered or monotonic() - began_s > STEADY_S else failures + 1
                if not self._stopping.is_set():
                    self._note(False, why, logging.WARNING)
                    self._stopping.wait(back_off_s(failures))
        self._note(False, f"Disconnected from {_broker(self._settings)}: the daemon stops.")

    def _choose_version(self, session: "_Session") -> None:
        """After a broker that does not know this version of MQTT, or hung up without an answer, try the other one."""
        other = OLDER if self._version is NEWEST else NEWEST
        if session.version_refused:
            self._preferred = self._version = other
        else:
            self._version = other if session.unanswered else self._preferred

    def _publish_until_lost(self, session: "_Session") -> str:
        """Publish; gives a sentence on why it ended."""
        try:
            session.open(self._stopping)
            self._greet(session)
            self._serve(session)
        except _Lost as lost:
            return str(lost)
        except Exception as error:  # the outbox's disk, above all: the daemon must live on
            log.exception("MQTT: publishing failed and is tried again.")
            return f"Publishing failed ({error}); it is tried again."
        return "The daemon stops."

    def _greet(self, session: "_Session") -> None:
        session.tell(f"{_base(self._settings)}availability", b"online")
        if self._settings.discovery:
            try:
                topic, payload = discovery(self._settings, self._describe())
                session.tell(topic, _json(payload))
            except Exception:
                log.exception("MQTT: the board could not be described to Home Assistant.")

    def _serve(self, session: "_Session") -> None:
        """Publish until the connection is lost (_Lost), or the daemon stops and nothing waits any more."""
        status_at_s = 0.0
        while not (self._stopping.is_set() and (session.idle or monotonic() >= self._stop_at_s)):
            if monotonic() >= status_at_s:
                status_at_s = monotonic() + STATUS_EVERY_S
                self._tell_status(session)
            session.fill()
            session.turn(self._woken)
            session.settle()

    def _tell_status(self, session: "_Session") -> None:
        try:
            payload = _json(self._status())
        except Exception:
            log.exception("MQTT: the status could not be made.")
        else:
            session.tell(f"{_base(self._settings)}status", payload)


class _Lost(Exception):  # noqa: N818  # it says what happened
    """The connection ended or never began; the message is a sentence for people."""


class Window:
    """Messages under way on one connection."""

    def __init__(self, after: int) -> None:
        self.sent = after
        """The highest id sent."""
        self.done = after
        """Every message sent with an id of at most this was acknowledged."""
        self._acknowledged: dict[int, bool] = {}
        self._ids: dict[int, int] = {}

    def __len__(self) -> int:
        """Messages sent and not done: none is sent WINDOW ahead of one that the broker does not acknowledge."""
        return len(self._acknowledged)

    @property
    def unanswered(self) -> bool:
        """Whether the broker owes an answer to any."""
        return bool(self._ids)

    def add(self, packet: int, message: int) -> None:
        """A message's id was sent under a packet identifier."""
        self._ids[packet] = self.sent = message
        self._acknowledged[message] = False

    def skip(self, message: int) -> None:
        """A message was not sent and never will be."""
        self.sent = message
        self._acknowledged[message] = True
        self._advance()

    def answer(self, packet: int, taken: bool) -> int | None:
        """Note the broker's answer; gives the message's id, None for a packet that is none of the outbox's."""
        message = self._ids.pop(packet, None)
        if message is None:
            return None
        self._acknowledged[message] = taken
        self._advance()
        return message

    def _advance(self) -> None:
        while self._acknowledged and (first := next(iter(self._acknowledged.items())))[1]:
            self.done = first[0]
            del self._acknowledged[self.done]


class _Session:
    """One connection, with a client of its own: paho's would send again what the outbox sends again."""

    def __init__(
        self,
        settings: MqttSettings,
        outbox: Outbox,
        note: Callable[[bool, str, int], None],
        wanted: Callable[[bytes], None] | None,
        version: MQTTProtocolVersion,
    ) -> None:
        self._version = version
        self.accepted = False
        """Whether the broker let this board in."""
        self.version_refused = False
        """Whether the broker said that it does not know this version of MQTT."""
        self._settings, self._outbox, self._note, self._wanted = settings, outbox, note, wanted
        self._nothing_wanted_at_s: float | None = None
        """When it is clear that the broker has retained no wish."""
        self._client: Client | None = None
        self._window = Window(0)
        self._ready: deque[Message] = deque()
        self._topics: dict[int, str] = {}
        """Of packets that are none of the outbox's."""
        self._complained: set[str] = set()
        self._room = WINDOW
        self._largest: int | None = None
        """Bytes that a packet may have."""
        self._left_out = 0
        self._asked = self._denied = False
        self._ended: str | None = None
        self._refused: int | None = None
        """The first message that the broker would not take."""
        self._retry_at_s = 0.0
        self._settled, self._settle_at_s = 0, 0.0

    @property
    def unanswered(self) -> bool:
        """Whether the broker took the connection and never said yes or no, as some do that do not know the version."""
        return self._asked and not self.accepted and not self._denied

    @property
    def delivered(self) -> bool:
        """Whether any message was."""
        return self._window.done > 0

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do for the outbox, or nothing can be done now."""
        return self._refused is not None or not (
            self._window or self._ready or self._outbox.waiting(self._window.sent, 1)
        )

    def open(self, stopping: threading.Event) -> None:
        """Connect; raises _Lost with the reason when the broker is not there or does not want this board."""
        where = _broker(self._settings)
        client = self._client = self._new_client()
        try:
            client.connect(self._settings.host or "", self._settings.port, KEEP_ALIVE_S)
        except OSError as error:
            raise _Lost(why_unreachable(error, where)) from error
        give_up_s = monotonic() + ANSWER_WITHIN_S
        self._asked = True
        while not self.accepted:
            if stopping.is_set():
                raise _Lost("The daemon stops.")
            if monotonic() > give_up_s:
                raise _Lost(f"{where} takes connections and does not answer; check that it is an MQTT broker.")
            self.turn(None)
        self._note(True, f"Connected to {where}.", logging.INFO)
        if self._wanted is not None:
            client.subscribe(f"{_base(self._settings)}{WANTED}", qos=1)

    def _new_client(self) -> Client:
        settings = self._settings
        client = Client(
            CallbackAPIVersion.VERSION2,
            f"bloodedge-{settings.board}",
            protocol=self._version,
            reconnect_on_failure=False,  # else paho tries MQTT 3.1 by itself
        )
        client.connect_timeout = ANSWER_WITHIN_S
        client.will_set(f"{_base(settings)}availability", b"offline", qos=1, retain=True)
        if settings.username is not None:
            client.username_pw_set(settings.username, _password(settings.password_file))
        if settings.tls:
            client.tls_set_context(_tls(settings))
        client.on_connect, client.on_disconnect, client.on_publish = (
            self._on_connect,
            self._on_disconnect,
            self._on_puback,
        )
        client.on_subscribe, client.on_message = self._on_suback, self._on_message
        return client

    def turn(self, woken: socket.socket | None) -> None:
        """Send and receive what can be, waiting at most TURN_S or until ``woken`` is; raises _Lost at the end."""
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
            raise _Lost(self._ended or self._cut())
        if self._nothing_wanted_at_s is not None and monotonic() >= self._nothing_wanted_at_s:
            self._hear_wish(b"")

    def tell(self, topic: str, payload: bytes) -> None:
        """Publish something retained that is not of the outbox; if it is lost, the next connection says it anew."""
        if self._is_too_large(topic, payload):
            self._complain(topic, f"the broker takes no packet above {self._largest} bytes; raise its max_packet_size")
        else:
            self._topics[self._publish(topic, payload, True)] = topic

    def fill(self) -> None:
        """Send what the window has room for; while the broker refuses messages, one now and then."""
        if self._refused is not None and (self._window.unanswered or not self._rewound()):
            return
        while len(self._window) + len(self._topics) < (self._room if self._refused is None else 1):
            if not self._ready:
                self._ready.extend(self._outbox.waiting(self._window.sent, BATCH))
            if not self._ready:
                return
            message = self._ready.popleft()
            topic = f"{_base(self._settings)}{message.topic}"
            if self._is_too_large(topic, message.payload):
                self._leave_out(message)
                continue
            self._window.add(self._publish(topic, message.payload, message.retain, message.id), message.id)

    def _is_too_large(self, topic: str, payload: bytes) -> bool:
        return self._largest is not None and len(topic.encode()) + len(payload) + ENVELOPE > self._largest

    def _leave_out(self, message: Message) -> None:
        """Let a message go that the broker would end the connection for; the results in it are in the store."""
        self._window.skip(message.id)
        self._left_out += 1
        log.warning("MQTT: message %d has %d bytes and was left out.", message.id, len(message.payload))
        why = (
            f"{_broker(self._settings)} takes no packet above {self._largest} bytes: {self._left_out} larger ones were"
            " left out since it was connected; raise its max_packet_size."
        )
        self._note(True, why, logging.WARNING)

    def _rewound(self) -> bool:
        """Whether it is time to send again what was refused, from there on."""
        if monotonic() < self._retry_at_s:
            return False
        if self._window:
            self._window = Window(self._window.done)
            self._ready.clear()
        return True

    def settle(self, at_once: bool = False) -> None:
        """Let the outbox know what was delivered."""
        if self._window.done > self._settled and (at_once or monotonic() >= self._settle_at_s):
            self._outbox.delivered(self._window.done)
            self._settled, self._settle_at_s = self._window.done, monotonic() + SETTLE_EVERY_S

    def close(self) -> None:
        """Let the outbox know, and end the connection so that the broker says "offline" for this board."""
        try:
            self.settle(at_once=True)
        except Exception:
            log.exception("MQTT: the outbox could not note what was delivered; it will be sent again.")
        if self._client is not None:
            with suppress(OSError, ValueError):
                self._say_goodbye(self._client)

    def _say_goodbye(self, client: Client) -> None:
        if client.is_connected() and self._version is NEWEST:  # an older goodbye would keep the will from being sent
            client.disconnect(ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message"))
        give_up_s = monotonic() + 1.0
        while (connection := client.socket()) is not None:
            if not client.want_write() or monotonic() > give_up_s:
                connection.close()
                return
            select.select([], [connection], [], 0.1)
            client.loop_write()

    def _publish(self, topic: str, payload: bytes, retain: bool, message: int | None = None) -> int:
        """Send JSON; gives the packet identifier. By MQTT 5 the message's id goes with it, to know a repetition by."""
        assert self._client is not None
        properties = None
        if self._version is NEWEST:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.ContentType = "application/json" if payload.startswith(b"{") else "text/plain"
            if message is not None:
                properties.UserProperty = ("id", str(message))
        sent = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
        if sent.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise _Lost(self._ended or self._cut())
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
            self._ended = why_ended(reason.value, reason.getName(), self._settings) if by_broker else self._cut()

    def _on_puback(
        self, _client: Client, _data: Any, packet: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        topic = self._topics.pop(packet, None)
        if topic is not None:
            self._hear_of(topic, reason)
            return
        message = self._window.answer(packet, not reason.is_failure)
        if message is not None and reason.is_failure:
            self._refuse(message, reason)
        elif self._refused is not None and self._window.done >= self._refused:
            self._refused = None
            self._note(True, f"Connected to {_broker(self._settings)}.", logging.INFO)

    def _on_suback(
        self, _client: Client, _data: Any, _packet: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            topic = f"{_base(self._settings)}{WANTED}"
            self._complain(topic, "the broker does not let this board read them; correct its access rules")
        elif self._nothing_wanted_at_s is None:
            self._nothing_wanted_at_s = monotonic() + HEAR_WITHIN_S

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self._hear_wish(bytes(message.payload))

    def _hear_wish(self, payload: bytes) -> None:
        self._nothing_wanted_at_s = math.inf
        if self._wanted is not None:
            self._wanted(payload)

    def _hear_of(self, topic: str, reason: ReasonCode) -> None:
        if reason.is_failure:
            self._complain(topic, f"the broker refuses them ({reason.getName()}); correct its access rules")

    def _complain(self, topic: str, why: str) -> None:
        if topic not in self._complained:
            self._complained.add(topic)
            log.warning("MQTT: messages to %s do not arrive: %s.", topic, why)

    def _refuse(self, message: int, reason: ReasonCode) -> None:
        """The broker did not take a message: it is sent again later, with all that follow it."""
        self._refused = message if self._refused is None else min(message, self._refused)
        self._retry_at_s = monotonic() + back_off_s(len(BACK_OFF_S))
        why = (
            f"{_broker(self._settings)} refuses this board's messages below {_base(self._settings)}"
            f" ({reason.getName()}); correct its access rules or quota; they are kept and tried again."
        )
        self._note(True, why, logging.WARNING)

    def _cut(self) -> str:
        where = _broker(self._settings)
        if self.accepted:
            return f"The connection to {where} was lost; it is tried again."
        return (
            f"{where} ended the connection before it answered; its log says why: it may expect TLS (mqtt.tls), or this"
            " board's certificate (mqtt.certificate)."
        )


def back_off_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    longest = BACK_OFF_S[min(max(failures, 1), len(BACK_OFF_S)) - 1]
    return random.uniform(longest / 2, longest)


def why_unreachable(error: OSError, where: str) -> str:
    """A sentence on why no connection came about."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"The certificate of {where} is not to be trusted ({error.verify_message.rstrip('.')}); check mqtt.ca, and"
            " that mqtt.host is a name in the certificate."
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS with {where} failed ({error.reason or error}); check that mqtt.port is the broker's port for TLS."
    if isinstance(error, socket.gaierror):
        return f"The name of {where} is not known here; check mqtt.host and the network."
    if isinstance(error, ConnectionRefusedError):
        return f"No program listens at {where}; check mqtt.host and mqtt.port, or start the broker."
    if isinstance(error, TimeoutError):
        return f"{where} does not answer; check mqtt.host and the network."
    return f"{where} cannot be reached ({error.strerror or error}); check the network."


def why_refused(code: int, reason: str, settings: MqttSettings) -> str:
    """A sentence on a CONNACK that says no."""
    where = _broker(settings)
    if code == UNSUPPORTED_VERSION:
        return f"{where} does not know this version of MQTT; the other one is tried (MQTT 5 and 3.1.1 are spoken)."
    if code in {134, 135, 140}:  # MQTT 5.0, table 3-1: bad user name or password, not authorized, bad method
        return f"{where} does not let this board in ({reason}); correct mqtt.username and mqtt.password_file."
    return f"{where} refuses the connection ({reason}); its log says more."


def why_ended(code: int, reason: str, settings: MqttSettings) -> str:
    """A sentence on a DISCONNECT that the broker sent."""
    where = _broker(settings)
    if code == 142:  # MQTT 5.0, table 3-13: session taken over
        return (
            f'Another board called "{settings.board}" took this one\'s place at {where}; give each its own mqtt.board.'
        )
    return f"{where} ended the connection ({reason}); it is tried again."


def _broker(settings: MqttSettings) -> str:
    return f"the broker {settings.host}:{settings.port}"


def _base(settings: MqttSettings) -> str:
    return f"{settings.topic}/{settings.board}/"


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return read_text(path).partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise _Lost(
            f"mqtt.password_file: {path} cannot be read ({_short(error)}); correct the path or its mode."
        ) from error


def _tls(settings: MqttSettings) -> ssl.SSLContext:
    files = {"ca": settings.ca, "certificate": settings.certificate, "key": settings.key}
    for name, path in files.items():
        try:
            if path is not None:
                path.read_bytes()
        except OSError as error:
            raise _Lost(
                f"mqtt.{name}: {path} cannot be read ({_short(error)}); correct the path or its mode."
            ) from error
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.certificate is not None:
            context.load_cert_chain(settings.certificate, settings.key)
    except ssl.SSLError as error:
        raise _Lost(
            f"The certificates for {_broker(settings)} cannot be used ({error.reason or error}); check mqtt.ca,"
            " mqtt.certificate and mqtt.key: PEM files, the key without a passphrase."
        ) from error
    return context


def _short(error: OSError | UnicodeDecodeError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
