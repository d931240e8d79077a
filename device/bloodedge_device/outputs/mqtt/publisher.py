"""The publisher: connects to the broker, again and again where need be, and publishes the outbox."""

import json
import logging
import random
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from bloodedge_device.outputs.home_assistant import StatusPayload
from bloodedge_device.outputs.mqtt.client import NEWEST, OLDER, ConnectionLost, base_topic, broker_name
from bloodedge_device.outputs.mqtt.session import TURN_S, Session
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.store.outbox import Outbox
from bloodedge_device.timings import TIMINGS, Timings

log = logging.getLogger("bloodedge.device")

STEADY_S = 30.0
"""A connection that held so long did not fail for the reason of the one before."""


class MqttPublisher:
    """Publishes an outbox in a thread of its own; whatever fails stands in ``sentence`` and is tried again."""

    def __init__(
        self,
        settings: MqttSettings,
        outbox: Outbox,
        describe: Callable[[], tuple[str, Mapping[str, Any]]],
        status: Callable[[], StatusPayload],
        request: Callable[[bytes], None] | None = None,
        timings: Timings = TIMINGS,
    ) -> None:
        """All are called in the publisher's thread: ``describe`` at each connection, ``status`` every few seconds.

        describe: (topic, payload) of Home Assistant's discovery message; not called where the settings want none.

        request: called with each message about the bundle that this board is to run, empty when there is none; None:
        the board does not subscribe to them.
        """
        self._request, self._timings = request, timings
        self._settings, self._outbox, self._describe, self._status = settings, outbox, describe, status
        self._stopping = threading.Event()
        self._stop_at_s = 0.0
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        self._preferred = self._version = NEWEST
        """Versions of MQTT: to begin with, and for the next connection."""
        self.connected, self.sentence = False, f"Not connected to {broker_name(settings)} yet."
        """How publishing goes, and what to do where something is wrong; read from any thread."""
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    def start(self) -> None:
        """Begin to publish."""
        self._thread.start()

    def wake(self) -> None:
        """Messages were added."""
        with suppress(OSError):  # it is awake already, or has ended
            self._waker.send(b"\0")

    def stop(self, timeout: float) -> None:
        """Publish what waits, for at most ``timeout`` seconds, and disconnect; the rest stays in the outbox."""
        self._stop_at_s = monotonic() + timeout
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout + TURN_S)

    def _note(self, connected: bool, sentence: str, level: int = logging.INFO) -> None:
        if (connected, sentence) != (self.connected, self.sentence):
            self.sentence, self.connected = sentence, connected
            log.log(level, "MQTT: %s", sentence)

    def _run(self) -> None:
        failures = 0
        with self._woken, self._waker:
            while not self._stopping.is_set():
                began_s = monotonic()
                session = Session(self._settings, self._outbox, self._note, self._request, self._version)
                why = self._publish_until_lost(session)
                session.close()
                self._choose_version(session)
                failures = 0 if session.delivered or monotonic() - began_s > STEADY_S else failures + 1
                if not self._stopping.is_set():
                    self._note(False, why, logging.WARNING)
                    self._stopping.wait(back_off_s(failures, self._timings.broker_back_off_s))
        self._note(False, f"Disconnected from {broker_name(self._settings)}: the daemon stops.")

    def _choose_version(self, session: Session) -> None:
        """Try the other version of MQTT on a broker that does not support this one, or hung up without an answer."""
        other = OLDER if self._version is NEWEST else NEWEST
        if session.version_refused:
            self._preferred = self._version = other
        else:
            self._version = other if session.unanswered else self._preferred

    def _publish_until_lost(self, session: Session) -> str:
        """Publish; gives a sentence on why it ended."""
        try:
            session.open(self._stopping)
            self._greet(session)
            self._serve(session)
        except ConnectionLost as lost:
            return str(lost)
        except Exception as error:  # mostly the outbox's disk; the daemon must live on
            log.exception("MQTT: publishing failed and is tried again.")
            return f"Publishing failed ({error}); it is tried again."
        return "The daemon stops."

    def _greet(self, session: Session) -> None:
        session.publish_retained(f"{base_topic(self._settings)}availability", b"online")
        if self._settings.discovery:
            try:
                topic, payload = self._describe()
                session.publish_retained(topic, _json(payload))
            except Exception:
                log.exception("MQTT: the board could not be described to Home Assistant.")

    def _serve(self, session: Session) -> None:
        """Publish until the connection is lost (ConnectionLost), or the daemon stops and nothing waits any more."""
        status_at_s = 0.0
        while not (self._stopping.is_set() and (session.idle or monotonic() >= self._stop_at_s)):
            if monotonic() >= status_at_s:
                status_at_s = monotonic() + self._timings.status_every_s
                self._publish_status(session)
            session.send_waiting()
            session.exchange(self._woken)
            session.settle()

    def _publish_status(self, session: Session) -> None:
        try:
            payload = _json(self._status())
        except Exception:
            log.exception("MQTT: the status could not be made.")
        else:
            session.publish_retained(f"{base_topic(self._settings)}status", payload)


def back_off_s(failures: int, waits_s: tuple[float, ...]) -> float:
    """Seconds to wait after so many failures in a row."""
    longest = waits_s[min(max(failures, 1), len(waits_s)) - 1]
    return random.uniform(longest / 2, longest)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
