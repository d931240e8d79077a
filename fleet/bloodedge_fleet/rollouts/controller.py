"""The thread that moves roll-outs on and tells boards what is wanted of them."""

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
from bloodedge_fleet.rollouts.store import newest_reports, read_rollouts, store, wishes

log = logging.getLogger("bloodedge.fleet")

EVERY_S = 1.0

Publish = Callable[[str, str, bytes], bool]
"""Board, topic below its own, payload; whether it went out."""


class Steering:
    """Looks at every roll-out once a second; ``stop`` ends it."""

    def __init__(
        self, engine: Engine, publish: Publish, is_current: Callable[[], bool], url: str, silent: timedelta
    ) -> None:
        """is_current: whether all that boards have said by now is stored; url: where they find this server.

        silent: a board without a report for so long is away, and holds its roll-out up.
        """
        self._engine, self._publish, self._is_current = engine, publish, is_current
        self._url, self._silent = url, silent
        self._told: dict[str, bytes] = {}
        self._tell_anew = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="roll-outs", daemon=True)
        self._failed = ""

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End; roll-outs go on with the next start."""
        self._stopping.set()
        self._thread.join(10)

    def tell_anew(self) -> None:
        """Connected to the broker anew: what it was told before may be lost."""
        self._tell_anew.set()

    def _run(self) -> None:
        while not self._stopping.wait(EVERY_S):
            try:
                self.look(datetime.now(UTC))
                self._failed = ""
            except BloodedgeError as error:
                if str(error) != self._failed:
                    self._failed = str(error)
                    log.warning("Roll-outs wait: %s", error)
            except Exception:
                log.exception("Roll-outs could not be looked at; they are again in a moment.")

    def look(self, now: datetime) -> None:
        """Move every roll-out on as far as the boards' reports allow, and tell boards what has changed for them.

        Raises BloodedgeError where roll-outs wait.
        """
        with reading(self._engine) as connection:
            are_running = "running" in count_states(connection)
        must_wait = are_running and not self._is_current()
        if are_running and not must_wait:
            self._move_on(now)
        self._tell()
        if must_wait:
            raise BloodedgeError("what boards have said may still lie at the broker; they go on once it is stored.")

    def _move_on(self, now: datetime) -> None:
        with reading(self._engine) as connection:
            running = [rollout for rollout, _ in read_rollouts(connection, running=True)]
            heard = newest_reports(connection, self._silent, now)
        for before in running:
            after = advanced(before, heard, now)
            if after != before and store(self._engine, before, after):
                if after.state != before.state:
                    log.warning("Roll-out %s is %s. %s", after.name, after.state, after.why)
                elif after.stage != before.stage:
                    log.info("Roll-out %s: stage %d of %d.", after.name, after.stage + 1, len(after.stages))

    def _tell(self) -> None:
        if self._tell_anew.is_set():
            self._tell_anew.clear()
            self._told.clear()
        for board, payload in wishes(self._engine, self._url).items():
            if self._told.get(board) != payload and self._publish(board, WANTED, payload):
                self._told[board] = payload
