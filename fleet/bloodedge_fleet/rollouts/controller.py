"""The thread that moves roll-outs on and asks boards to install bundles."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from bloodedge.errors import BloodedgeError
from bloodedge.fleet_messages import WANTED
from bloodedge_fleet.database import reading
from bloodedge_fleet.rollouts.overview import count_states
from bloodedge_fleet.rollouts.stages import advanced
from bloodedge_fleet.rollouts.store import last_reports, pending_requests, read_rollouts, store

log = logging.getLogger("bloodedge.fleet")

EVERY_S = 1.0

Publish = Callable[[str, str, bytes], bool]
"""Board, topic below the board's, payload; False where it was not sent."""


class RolloutController:
    """Checks every roll-out once a second until ``stop``."""

    def __init__(
        self, engine: Engine, publish: Publish, is_current: Callable[[], bool], url: str, silent: timedelta
    ) -> None:
        """is_current: whether all that boards have sent is stored; url: where they reach this server.

        silent: a board without a report for so long is silent, and its roll-out waits for it.
        """
        self._engine, self._publish, self._is_current = engine, publish, is_current
        self._url, self._silent = url, silent
        self._sent: dict[str, bytes] = {}
        self._send_again = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="roll-outs", daemon=True)
        self._failed = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; roll-outs go on after the next start."""
        self._stopping.set()
        self._thread.join(10)

    def send_again(self) -> None:
        """Repeat all requests: the broker of a new connection may have lost them."""
        self._send_again.set()

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            try:
                self.check(datetime.now(UTC))
                self._failed = ""
            except BloodedgeError as error:
                if str(error) != self._failed:
                    self._failed = str(error)
                    log.warning("Roll-outs wait: %s", error)
            except Exception:
                log.exception("Checking the roll-outs failed; it is tried again.")

    def check(self, now: datetime) -> None:
        """Move every roll-out on as far as the boards' reports allow, and send boards what has changed for them.

        Raises BloodedgeError while roll-outs must wait.
        """
        with reading(self._engine) as connection:
            are_running = "running" in count_states(connection)
        must_wait = are_running and not self._is_current()
        if are_running and not must_wait:
            self._move_on(now)
        self._send_requests()
        if must_wait:
            raise BloodedgeError("the broker may still hold boards' reports; roll-outs go on once these are stored.")

    def _move_on(self, now: datetime) -> None:
        with reading(self._engine) as connection:
            running = [rollout for rollout, _ in read_rollouts(connection, running=True)]
            reports = last_reports(connection, self._silent, now)
        for before in running:
            after = advanced(before, reports, now)
            if after != before and store(self._engine, before, after):
                if after.state != before.state:
                    log.warning("Roll-out %s is %s. %s", after.name, after.state, after.why)
                elif after.stage != before.stage:
                    log.info("Roll-out %s: stage %d of %d.", after.name, after.stage + 1, len(after.stages))

    def _send_requests(self) -> None:
        if self._send_again.is_set():
            self._send_again.clear()
            self._sent.clear()
        for board, payload in pending_requests(self._engine, self._url).items():
            if self._sent.get(board) != payload and self._publish(board, WANTED, payload):
                self._sent[board] = payload
