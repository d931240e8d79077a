"""The fleet's end of the broker: what it delivers is acknowledged once it is stored, and not before."""

import logging
import math
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from time import monotonic
from typing import Any
from uuid import uuid4

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from bloodedge.errors import UsageError
from bloodedge.fleet_messages import REPORT, WANTED
from bloodedge_fleet.boards.archive import Archive, Outcome, Received
from bloodedge_fleet.database import DatabaseError, NotTaken
from bloodedge_fleet.state_dir import require_readable

log = logging.getLogger("bloodedge.fleet")

KINDS = (REPORT, "availability")
SESSION_S = 30 * 24 * 3600
"""So long the broker keeps this server's session, and what boards send meanwhile as far as its queue reaches
(max_queued_bytes in firmware_configs/broker/mosquitto.conf)."""

UNDER_WAY = 1000
"""Messages that the broker may deliver ahead of their acknowledgement."""

MOST_AT_ONCE = 1000
KEEP_ALIVE_S = 15
RECONNECT_S = 1
"""Between attempts to reach the broker, always: there is one server only, and every board's reports wait for it."""

MARKS = f"bloodedge-fleet/{WANTED}"
"""Topic of this server's own marks, one that it may write and read as if a board of that name were asked."""

CURRENT_S = 5.0
"""What came to the broker longer ago is stored where this server is current."""

STUCK_S = 10.0
"""A database that takes longer for a batch does not answer."""

RETRY_S = (0.5, 1.0, 2.0, 5.0)

NEWEST, OLDER = MQTTProtocolVersion.MQTTv5, MQTTProtocolVersion.MQTTv311

UNSUPPORTED_VERSION = 132
"""MQTT 5.0, table 3-1; paho has it also for 3.1.1's return code 1, unacceptable protocol level."""


@dataclass(frozen=True)
class Broker:
    """How the broker is reached."""

    host: str
    port: int
    topic: str = "bloodedge"
    """Topics begin so, as the boards' mqtt.topic."""
    client: str = "bloodedge-fleet"
    """The session's name at the broker."""
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = None

    @property
    def name(self) -> str:
        """For sentences."""
        return f"the broker {self.host}:{self.port}"


@dataclass(frozen=True)
class _Delivered:
    connection: int
    """Counts the connections: an acknowledgement counts on its own only."""
    packet: int
    qos: int
    message: Received | None
    """None: a mark."""
    marked_s: float = -math.inf
    """When a mark of this process was sent (monotonic)."""


class Listener:
    """Takes boards' messages from the broker and stores them, in two threads; its states tell whatever fails."""

    def __init__(self, broker: Broker, archive: Archive) -> None:
        """Raises UsageError where the certificates for the broker cannot be used."""
        self._broker, self._archive = broker, archive
        self._stored: Callable[[Outcome], None] = lambda _: None
        self._connected_anew: Callable[[], None] = lambda: None
        self._queue: Queue[_Delivered] = Queue()
        self._connection, self._connected = 0, False
        self._connecting = threading.Lock()
        self._stopping = threading.Event()
        self.broker_state = f"Not connected to {broker.name} yet."
        self._run = uuid4().hex
        """Tells this process's marks from those of one before."""
        self._current_to_s = -math.inf
        """All that came to the broker until then is stored (monotonic)."""
        self._database_state = ""
        self._storing_since_s: float | None = None
        """When the batch that is being stored was begun."""
        self._version = NEWEST
        """Of MQTT."""
        self._knows_no_newest = False
        """Whether the broker said so."""
        self._answered = False
        """Whether the broker said yes or no on this connection."""
        self._changing = threading.Lock()
        self._client = self._new_client()
        self._thread = threading.Thread(target=self._store_all, name="store", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._connected

    @property
    def waiting(self) -> int:
        """Messages delivered and not stored yet."""
        return self._queue.qsize()

    @property
    def database_state(self) -> str:
        """Why nothing is stored; empty when all is well."""
        since_s = self._storing_since_s
        if self._database_state or since_s is None or monotonic() - since_s < STUCK_S:
            return self._database_state
        return f"The database has not answered for {monotonic() - since_s:.0f} s; look whether its machine is well."

    def is_current(self) -> bool:
        """Whether all that boards said until a moment ago is stored: nothing waits any more that speaks against it.

        Each call sends a mark, which the broker delivers behind all that waits there; what comes of it a later call
        tells.
        """
        now_s = monotonic()
        if self._connected:
            self._client.publish(f"{self._broker.topic}/{MARKS}", f"{self._run} {now_s!r}", qos=1)
        return self._connected and now_s - self._current_to_s < CURRENT_S

    def start(self, stored: Callable[[Outcome], None], connected: Callable[[], None] = lambda: None) -> None:
        """Connect and begin to store; a broker that is away is tried for again and again.

        ``stored`` is called after each batch and ``connected`` after each connection, in the listener's own threads.
        """
        self._stored, self._connected_anew = stored, connected
        self._connect()
        self._thread.start()

    def _connect(self) -> None:
        where = self._broker
        if self._version is NEWEST:
            expires = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            expires.SessionExpiryInterval, expires.ReceiveMaximum = SESSION_S, UNDER_WAY
            self._client.connect_async(where.host, where.port, KEEP_ALIVE_S, clean_start=False, properties=expires)
        else:
            self._client.connect_async(where.host, where.port, KEEP_ALIVE_S)
        self._client.loop_start()

    def _speak_another_version(self) -> None:
        """Go on with MQTT 3.1.1 where 5 is not known, and the other way round; not in the client's own thread."""
        with self._changing:
            before = self._client
            before.on_connect = before.on_disconnect = before.on_connect_fail = before.on_message = None
            before.disconnect()
            before.loop_stop()
            if self._stopping.wait(RECONNECT_S):
                return
            self._version = OLDER if self._version is NEWEST else NEWEST
            self._client = self._new_client()
            self._connect()

    def stop(self) -> None:
        """Store what was delivered, and go; the broker keeps what comes meanwhile."""
        self._stopping.set()
        self._thread.join(10)
        with self._changing:
            self._client.disconnect()
            self._client.loop_stop()

    def publish(self, board: str, topic: str, payload: bytes) -> bool:
        """Send a board a retained message; whether it went out."""
        if not self._connected:
            return False
        sent = self._client.publish(f"{self._broker.topic}/{board}/{topic}", payload, qos=1, retain=True)
        return sent.rc == 0

    def _new_client(self) -> Client:
        broker = self._broker
        lasting = None if self._version is NEWEST else False
        client = Client(CallbackAPIVersion.VERSION2, broker.client, lasting, protocol=self._version, manual_ack=True)
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

    def _tell(self, sentence: str, level: int = logging.INFO) -> None:
        if sentence != self.broker_state:
            self.broker_state = sentence
            log.log(level, "%s", sentence)

    def _on_connect(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        broker = self._broker
        self._answered = reason.value != UNSUPPORTED_VERSION
        if not self._answered:
            self._knows_no_newest = self._version is NEWEST
            self._tell(
                f"{broker.name[0].upper()}{broker.name[1:]} does not know this version of MQTT; another is tried."
            )
            return
        if reason.is_failure:
            self._tell(
                f"{broker.name[0].upper()}{broker.name[1:]} does not let this server in ({reason.getName()}); correct"
                " its certificate, or its user and password.",
                logging.WARNING,
            )
            return
        with self._connecting:
            self._connection += 1
            self._connected = True
        self._tell(f"Connected to {broker.name}.")
        topics = (*(f"+/{kind}" for kind in KINDS), MARKS)
        client.subscribe([(f"{broker.topic}/{topic}", 1) for topic in topics])
        self._connected_anew()

    def _on_subscribe(
        self, _client: Client, _data: Any, _packet: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._tell(
                f"{self._broker.name[0].upper()}{self._broker.name[1:]} does not let this server read"
                f" {self._broker.topic}/#; correct its access rules.",
                logging.WARNING,
            )

    def _on_disconnect(
        self, _client: Client, _data: Any, _flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self._connected = False
        answered, self._answered = self._answered, False
        out_of_doubt = self._version is NEWEST or self._knows_no_newest
        if not (answered and out_of_doubt):  # brokers that do not know the version may hang up without a word
            threading.Thread(target=self._speak_another_version, name="mqtt version", daemon=True).start()
        if reason.value == 142:  # MQTT 5.0, table 3-13: session taken over
            why = (
                f'Another server called "{self._broker.client}" took this one\'s place; stop one, or give it --client.'
            )
            self._tell(why, logging.WARNING)
        elif not self._stopping.is_set():
            self._tell(f"The connection to {self._broker.name} was lost; it is tried again.", logging.WARNING)

    def _on_connect_fail(self, _client: Client, _data: Any) -> None:
        self._tell(
            f"No connection to {self._broker.name}; it is tried again. Check its name and port, that it runs, and the"
            " certificates.",
            logging.WARNING,
        )

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        of_packet = (self._connection, message.mid, message.qos)
        if message.topic == f"{self._broker.topic}/{MARKS}":
            self._queue.put(_Delivered(*of_packet, None, self._marked_s(message.payload)))
            return
        _, board, kind = message.topic.rsplit("/", 2)
        self._queue.put(_Delivered(*of_packet, Received(board, kind, bytes(message.payload))))

    def _marked_s(self, payload: bytes | bytearray) -> float:
        run, _, sent_s = payload.decode(errors="replace").partition(" ")
        return float(sent_s) if run == self._run else -math.inf

    def _store_all(self) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            batch = self._next_batch()
            if not batch:
                continue
            messages = [one.message for one in batch if one.message is not None]
            outcome = self._insist(messages) if messages else Outcome()
            if outcome is None:
                return
            self._acknowledge(batch)
            self._current_to_s = max(self._current_to_s, *(one.marked_s for one in batch))
            self._stored(outcome)

    def _next_batch(self) -> list[_Delivered]:
        """All that was delivered on this connection; the broker delivers again what came on an earlier one."""
        batch: list[_Delivered] = []
        with suppress(Empty):
            batch.append(self._queue.get(timeout=0.2))
            while len(batch) < MOST_AT_ONCE:
                batch.append(self._queue.get_nowait())
        return [one for one in batch if one.connection == self._connection]

    def _insist(self, batch: list[Received]) -> Outcome | None:
        """Store however long the database is away; None when the server stops meanwhile."""
        failures = 0
        while True:
            try:
                outcome = self._store(batch)
            except NotTaken as error:
                self._tell_database("")
                log.warning("Of %d messages, not all can be stored. %s", len(batch), error)
                return self._one_by_one(batch)
            except DatabaseError as error:
                self._tell_database(str(error))
            except Exception:  # one bad message must not hold up the others for ever
                log.exception("A batch of %d messages could not be stored.", len(batch))
                return self._one_by_one(batch)
            else:
                self._tell_database("")
                return outcome
            if self._stopping.wait(RETRY_S[min(failures, len(RETRY_S) - 1)]):
                return None
            failures += 1

    def _store(self, batch: list[Received]) -> Outcome:
        self._storing_since_s = monotonic()
        try:
            return self._archive.store(batch)
        finally:
            self._storing_since_s = None

    def _one_by_one(self, batch: list[Received]) -> Outcome | None:
        if len(batch) == 1:
            return Outcome(refused=1)
        total = Outcome()
        for message in batch:
            one = self._insist([message])
            if one is None:
                return None
            total.stored += one.stored
            total.repeated += one.repeated
            total.refused += one.refused
            total.lags_s += one.lags_s
        return total

    def _tell_database(self, sentence: str) -> None:
        if sentence != self._database_state:
            self._database_state = sentence
            log.log(logging.WARNING if sentence else logging.INFO, "%s", sentence or "The database is there again.")

    def _acknowledge(self, batch: list[_Delivered]) -> None:
        with self._connecting, suppress(OSError, ValueError):
            for one in batch:
                if one.connection == self._connection and one.qos:
                    self._client.ack(one.packet, one.qos)


def _tls(broker: Broker) -> ssl.SSLContext:
    require_readable(broker.ca, broker.certificate, broker.key)
    try:
        context = ssl.create_default_context(cafile=broker.ca)
        if broker.certificate is not None:
            context.load_cert_chain(broker.certificate, broker.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"The certificates for {broker.name} cannot be used ({error}); give PEM files, the key without a"
            " passphrase."
        ) from error
    return context
