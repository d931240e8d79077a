"""The thread that stores what the broker delivers, however long the database is away."""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Queue
from time import monotonic

from bloodedge_fleet.boards.archive import Archive, Outcome, Received
from bloodedge_fleet.boards.broker import Delivery
from bloodedge_fleet.database import DatabaseError, RejectedError

log = logging.getLogger("bloodedge.fleet")

MAX_BATCH = 1000


@dataclass(frozen=True)
class Timings:
    """How long the listener waits."""

    current_s: float = 5.0
    """The server is current when it has stored everything that is older than this."""
    stuck_s: float = 10.0
    """A database that takes longer for a batch does not answer."""
    retry_s: tuple[float, ...] = (0.5, 1.0, 2.0, 5.0)
    """Waits before further attempts to store a batch; the last one repeats."""


class StoreWorker:
    """Stores deliveries in batches."""

    def __init__(self, archive: Archive, marks: str, timings: Timings) -> None:
        """marks: the topic whose messages are passed on and not stored."""
        self._archive, self._marks, self._timings = archive, marks, timings
        self._queue: Queue[Delivery] = Queue()
        self._state = ""
        self._storing_since_s: float | None = None
        """When the batch that is being stored was begun (monotonic)."""
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """Messages delivered and not stored yet."""
        return self._queue.qsize()

    @property
    def state(self) -> str:
        """Why nothing is stored; empty when all is well."""
        since_s = self._storing_since_s
        if self._state or since_s is None or monotonic() - since_s < self._timings.stuck_s:
            return self._state
        return f"The database has not answered for {monotonic() - since_s:.0f} s; check its machine."

    def put(self, delivery: Delivery) -> None:
        """Queue a delivery."""
        self._queue.put(delivery)

    def start(self, connection: Callable[[], int], stored: Callable[[list[Delivery], Outcome], None]) -> None:
        """Begin; both are called in the worker's thread.

        connection: number of the broker's present connection; stored: takes each batch that was stored.
        """
        self._thread = threading.Thread(target=self._run, args=(connection, stored), name="store", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Store what was delivered, and end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(10)

    def _run(self, connection: Callable[[], int], stored: Callable[[list[Delivery], Outcome], None]) -> None:
        while not (self._stopping.is_set() and self._queue.empty()):
            # the broker delivers again what came on an earlier connection
            batch = [delivery for delivery in self._next_batch() if delivery.connection == connection()]
            if not batch:
                continue
            messages = [_received(delivery) for delivery in batch if delivery.topic != self._marks]
            outcome = self._store_until_done(messages) if messages else Outcome()
            if outcome is None:
                return
            stored(batch, outcome)

    def _next_batch(self) -> list[Delivery]:
        batch: list[Delivery] = []
        with suppress(Empty):
            batch.append(self._queue.get(timeout=0.2))
            while len(batch) < MAX_BATCH:
                batch.append(self._queue.get_nowait())
        return batch

    def _store_until_done(self, batch: list[Received]) -> Outcome | None:
        """Store, however long the database is away; None when the server stops meanwhile."""
        failures = 0
        while True:
            try:
                outcome = self._store(batch)
            except RejectedError as error:
                self._set_state("")
                log.warning("Some of %d messages cannot be stored. %s", len(batch), error)
                return self._store_one_by_one(batch)
            except DatabaseError as error:
                self._set_state(str(error))
            except Exception:  # one bad message must not block the others for ever
                log.exception("A batch of %d messages could not be stored.", len(batch))
                return self._store_one_by_one(batch)
            else:
                self._set_state("")
                return outcome
            waits_s = self._timings.retry_s
            if self._stopping.wait(waits_s[min(failures, len(waits_s) - 1)]):
                return None
            failures += 1

    def _store(self, batch: list[Received]) -> Outcome:
        self._storing_since_s = monotonic()
        try:
            return self._archive.store(batch)
        finally:
            self._storing_since_s = None

    def _store_one_by_one(self, batch: list[Received]) -> Outcome | None:
        if len(batch) == 1:
            return Outcome(refused=1)
        total = Outcome()
        for message in batch:
            outcome = self._store_until_done([message])
            if outcome is None:
                return None
            total.stored += outcome.stored
            total.repeated += outcome.repeated
            total.refused += outcome.refused
            total.lags_s += outcome.lags_s
        return total

    def _set_state(self, sentence: str) -> None:
        if sentence != self._state:
            self._state = sentence
            log.log(logging.WARNING if sentence else logging.INFO, "%s", sentence or "The database answers again.")


def _received(delivery: Delivery) -> Received:
    board, _, kind = delivery.topic.rpartition("/")
    return Received(board, kind, delivery.payload)
