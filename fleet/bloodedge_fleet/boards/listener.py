"""The fleet's end of the broker: a message is acknowledged once it is stored, and not before."""

import math
from collections.abc import Callable
from time import monotonic
from uuid import uuid4

from bloodedge.fleet_messages import REPORT, WANTED
from bloodedge_fleet.boards.archive import Archive, Outcome
from bloodedge_fleet.boards.broker import Broker, BrokerConnection, Delivery
from bloodedge_fleet.boards.store_worker import StoreWorker, Timings

MARKS = f"bloodedge-fleet/{WANTED}"
"""Topic of this server's own marks, which it may write and read as if a board of that name were asked."""
TOPICS = (f"+/{REPORT}", "+/availability", MARKS)


class Listener:
    """Takes boards' messages from the ``broker`` and stores them in a ``worker``; the states of both say what fails."""

    def __init__(self, broker: Broker, archive: Archive, timings: Timings | None = None) -> None:
        """Raises UsageError where the certificates for the broker cannot be used."""
        self._timings = timings or Timings()
        self.worker = StoreWorker(archive, MARKS, self._timings)
        self.broker = BrokerConnection(broker, TOPICS, self.worker.put)
        self._stored: Callable[[Outcome], None] = lambda _: None
        self._run = uuid4().hex
        """Tells this process's marks from those of an earlier one."""
        self._current_to_s = -math.inf
        """All that reached the broker until then is stored (monotonic)."""

    def start(self, stored: Callable[[Outcome], None], connected: Callable[[], None] = lambda: None) -> None:
        """Connect and begin to store; a broker that is away is tried again and again.

        ``stored`` is called after each batch and ``connected`` after each connection, in the listener's own threads.
        """
        self._stored = stored
        self.broker.start(connected)
        self.worker.start(lambda: self.broker.number, self._acknowledge)

    def stop(self) -> None:
        """Store what was delivered, and disconnect; the broker keeps what comes meanwhile."""
        self.worker.stop()
        self.broker.stop()

    def publish(self, board: str, topic: str, payload: bytes) -> bool:
        """Send a board a retained message; False where it was not sent."""
        return self.broker.publish(f"{board}/{topic}", payload, retain=True)

    def is_current(self) -> bool:
        """Whether all that boards sent until a moment ago is stored, so that no waiting message contradicts it.

        Each call sends a mark, which the broker delivers after all messages that wait there; a later call then knows.
        """
        now_s = monotonic()
        self.broker.publish(MARKS, f"{self._run} {now_s!r}")
        return self.broker.connected and now_s - self._current_to_s < self._timings.current_s

    def _acknowledge(self, batch: list[Delivery], outcome: Outcome) -> None:
        self.broker.acknowledge(batch)
        marks = [self._marked_s(delivery.payload) for delivery in batch if delivery.topic == MARKS]
        self._current_to_s = max(self._current_to_s, *marks, -math.inf)
        self._stored(outcome)

    def _marked_s(self, payload: bytes) -> float:
        """When this process sent the mark (monotonic); minus infinity where another process did."""
        run, _, sent_s = payload.decode(errors="replace").partition(" ")
        return float(sent_s) if run == self._run else -math.inf
