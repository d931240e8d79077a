"""Many boards on one server: reports lost or doubled, and how late they are stored, while broker and server crash.

    python benchmarks/fleet.py --boards 200 --minutes 10 --json benchmarks/results/fleet.json

Each board is the daemon's own publisher with an outbox in memory, and reports once a second. After a third of the time
the broker is ended and started again, after two thirds the server is killed and started again. A report counts as
stored when another connection to the database sees it, looked for ten times a second. The broker is without
certificates here. Exits 1 when a report was lost or doubled, or the lag's 99th percentile is over its goal.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any
from uuid import uuid4

import click
import numpy as np
from programs import Broker, Program, bloodedge
from sqlalchemy import Engine, func, select

from bloodedge.files import write_json
from bloodedge.machine import hardware_name, versions
from bloodedge_device.outputs.home_assistant import StatusPayload, discovery
from bloodedge_device.outputs.mqtt.publisher import MqttPublisher
from bloodedge_device.settings.sections import MqttSettings
from bloodedge_device.store.outbox import Message
from bloodedge_fleet.database import open_database, reading
from bloodedge_fleet.database.tables import boards, boots, reports

LOOK_EVERY_S = 0.1
MOST_P99_S = 2.0
"""The goal for all reports, those of the falls too."""
SETTLE_S = 60.0
AWAY_S = 3.0
"""Between the end of broker or server and its next start."""


@dataclass
class MemoryOutbox:
    """A board's messages until the broker has them."""

    messages: list[Message] = field(default_factory=list)
    last: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, payload: bytes) -> None:
        """A report is to be sent."""
        with self.lock:
            self.last += 1
            self.messages.append(Message(self.last, "report", payload))

    def waiting(self, after: int, limit: int) -> list[Message]:
        """See Outbox."""
        with self.lock:
            return [message for message in self.messages if message.id > after][:limit]

    def delivered(self, up_to: int) -> None:
        """See Outbox."""
        with self.lock:
            self.messages = [message for message in self.messages if message.id > up_to]

    def __len__(self) -> int:
        return len(self.messages)


class Board:
    """A board whose reports are made up and whose way to the broker is the daemon's own."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.boot = name, uuid4().hex
        self.sent_s: list[float] = []
        """When each report was put into the outbox, seconds since 1970; number 1 first."""
        self.outbox = MemoryOutbox()
        settings = MqttSettings(host="127.0.0.1", port=port, board=name, discovery="")
        self.publisher = MqttPublisher(settings, self.outbox, lambda: discovery(settings, "", ""), lambda: STATUS)
        self.publisher.start()

    def report(self) -> None:
        """Send the next report."""
        now = datetime.now(UTC)
        number = len(self.sent_s) + 1
        cells = {"blast": 3 * number, "normal": 5 * number, "uncertain": 2 * number}
        own = {"boot": self.boot, "sequence": number, "sent_at": now.isoformat(), "uptime_s": number, "cells": cells}
        self.sent_s.append(now.timestamp())
        self.outbox.add(json.dumps({**REPORT, **own, "frames": 10 * number}).encode())
        self.publisher.wake()


STATUS = StatusPayload(
    blast_percent=None,
    blast_percent_low=None,
    blast_percent_high=None,
    blast_percent_called=None,
    verdict="",
    cells_called=0,
    cells_uncertain=0,
    leucocytes=0,
    leucocytes_missing=None,
    neutrophil_percent=None,
    lymphocyte_percent=None,
    frames_per_second=2.5,
    focus=0.5,
    slide="",
    camera="running",
    problem="",
)
LATENCY = {"p50": 6.0, "p95": 8.0, "p99": 9.0}
STAGES = ("camera", "gate", "find", "overlap", "imaging", "inference", "domain", "decision", "store", "frame")
CONDITIONS = ("camera", "store", "broker", "frames", "clock", "heat", "slots", "settings")
REPORT: dict[str, Any] = {
    "schema_version": 1,
    "clock_synchronised": True,
    "version": "0.1.0",
    "hardware": "a board that is made up",
    "alive": True,
    "bundle": {
        "name": "cells",
        "serial": 7,
        "sha256": "a" * 64,
        "state": "good",
        "engine": "litert",
        "precision": "int8",
        "rendered": False,
        "golden_flips": 0,
        "golden_inputs": 32,
        "baseline": {"hardware": "none", "latency_ms": LATENCY, "accuracy": 0.9, "artifact_accuracy": 0.9},
    },
    "health": {name: {"level": "ok", "sentence": "A sentence as long as they are, about."} for name in CONDITIONS},
    "frames_dropped": 0,
    "latency": {stage: {"count": 10, "latency_ms": LATENCY} for stage in STAGES},
    "disk_free_bytes": 10**10,
    "messages_waiting": 0,
    "messages_lost": 0,
}


class Server(Program):
    """``bloodedge fleet serve`` as a process."""

    def __init__(self, folder: Path, broker: str, url: str | None) -> None:
        self.cpu_s = 0.0
        self.most_mib = 0.0
        database = ["--database", url] if url else []
        options = ["--broker", broker, "--state", folder, "--listen", "127.0.0.1:0", *database]
        super().__init__(bloodedge("fleet", "serve", *options), folder / "log")

    def start(self) -> None:
        """Start it, for the first time or again."""
        super().start()
        self._cpu_before_s, self._cpu_now_s = self.cpu_s, 0.0

    def look(self) -> None:
        """Note what it has used."""
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
            self._cpu_now_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
            self.most_mib = max(self.most_mib, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
            self.cpu_s = self._cpu_before_s + self._cpu_now_s


class Watch:
    """Looks at the database ten times a second and notes when each report is there."""

    def __init__(self, engine: Engine, fleet: list[Board], server: Server) -> None:
        self._engine, self._server = engine, server
        self._boards = {board.boot: board for board in fleet}
        self.stored_s: dict[str, list[float]] = {board.boot: [] for board in fleet}
        self.whole = True
        """At the latest look, every report older than 2 s was there."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_EVERY_S):
            self._server.look()
            with reading(self._engine) as connection:
                rows = connection.execute(select(boots.c.boot, boots.c.reports)).all()
            now = time()
            for boot, number in rows:
                seen = self.stored_s[boot]
                seen.extend([now] * (number - len(seen)))
            self.whole = all(self._has_all(board, now - 2.0) for board in self._boards.values())

    def _has_all(self, board: Board, before_s: float) -> bool:
        number = len(self.stored_s[board.boot])
        return number >= len(board.sent_s) or board.sent_s[number] > before_s

    @property
    def missing(self) -> int:
        """Reports sent and not there."""
        return sum(len(board.sent_s) - len(self.stored_s[boot]) for boot, board in self._boards.items())


@contextmanager
def reporting(fleet: list[Board]) -> Iterator[None]:
    """Every board reports once a second, spread evenly over it."""
    stopping = threading.Event()

    def report() -> None:
        began_s, turn = monotonic(), 0
        while not stopping.is_set():
            for place, board in enumerate(fleet):
                wait_s = began_s + turn + place / len(fleet) - monotonic()
                if wait_s > 0 and stopping.wait(wait_s):
                    return
                board.report()
            turn += 1

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    yield
    stopping.set()
    thread.join()


@dataclass
class Fault:
    """One fall of broker or server."""

    what: str
    began_s: float
    over_s: float = 0.0
    """When every report was there again."""


def fell(what: str, watch: Watch, end: Callable[[], object], start: Callable[[], None]) -> Fault:
    """End something, start it again a little later, and wait until nothing is behind.

    It is looked at from 3 s after the start on: no fault is over before AWAY_S and these.
    """
    fault = Fault(what, time())
    end()
    sleep(AWAY_S)
    start()
    sleep(3.0)
    give_up_s = monotonic() + SETTLE_S
    while not watch.whole and monotonic() < give_up_s:
        sleep(LOOK_EVERY_S)
    fault.over_s = time()
    return fault


def lags(fleet: list[Board], watch: Watch, faults: list[Fault]) -> tuple[list[float], list[float]]:
    """Seconds from sending to stored: (of reports sent outside the faults, of those sent during them)."""
    outside: list[float] = []
    inside: list[float] = []
    for board in fleet:
        for sent_s, stored_s in zip(board.sent_s, watch.stored_s[board.boot], strict=False):
            during = any(fault.began_s - 2.0 <= sent_s <= fault.over_s for fault in faults)
            (inside if during else outside).append(stored_s - sent_s)
    return outside, inside


def summary(values: list[float]) -> dict[str, float]:
    if not values:
        return {"reports": 0}
    p50, p99, most = (round(float(np.percentile(values, percent)), 3) for percent in (50, 99, 100))
    return {"reports": len(values), "p50_s": p50, "p99_s": p99, "most_s": most}


def stored(engine: Engine) -> tuple[int, int]:
    """(rows, different reports) in the database."""
    with reading(engine) as connection:
        rows = connection.execute(select(func.count()).select_from(reports)).scalar_one()
        keys = select(reports.c.board, reports.c.boot, reports.c.sequence).distinct().subquery()
        return rows, connection.execute(select(func.count()).select_from(keys)).scalar_one()


@click.command(help=__doc__)
@click.option("--boards", "number", default=200, show_default=True)
@click.option("--minutes", default=10.0, show_default=True)
@click.option("--database", metavar="URL", help="An empty PostgreSQL database; default: SQLite.")
@click.option("--json", "json_out", type=click.Path(path_type=Path))
def main(number: int, minutes: float, database: str | None, json_out: Path | None) -> None:
    """Run it, and say what came of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "broker").mkdir()
        (folder / "state").mkdir()
        broker = Broker(folder / "broker")
        server = Server(folder / "state", broker.address, database)
        engine = open_database(database, folder / "state")
        await_tables(engine)
        fleet = [Board(f"board-{place:03}", broker.port) for place in range(number)]
        began_s = monotonic()

        with Watch(engine, fleet, server) as watch:
            with reporting(fleet):
                sleep(minutes * 60 / 3)
                faults = [fell("broker restarted", watch, broker.stop, broker.start)]
                sleep(max(0.0, began_s + minutes * 40 - monotonic()))
                faults.append(fell("server killed", watch, lambda: server.stop(signal.SIGKILL), server.start))
                sleep(max(0.0, began_s + minutes * 60 - monotonic()))
            sent = sum(len(board.sent_s) for board in fleet)
            give_up_s = monotonic() + SETTLE_S
            while watch.missing and monotonic() < give_up_s:
                sleep(LOOK_EVERY_S)
        rows, different = stored(engine)
        outside, inside = lags(fleet, watch, faults)
        took_s = monotonic() - began_s
        result: dict[str, Any] = {
            "command": f"python benchmarks/fleet.py --boards {number} --minutes {minutes:g}",
            "cpu": hardware_name(),
            "cores": os.cpu_count(),
            "versions": versions(["paho-mqtt", "sqlalchemy", "psycopg"]),
            "database": engine.dialect.name,
            "sent": sent,
            "lost": sent - different,
            "doubled": rows - different,
            "lag": summary([*outside, *inside]),
            "lag_outside_faults": summary(outside),
            "lag_during_faults": summary(inside),
            "faults": [{"what": one.what, "all_there_after_s": round(one.over_s - one.began_s, 1)} for one in faults],
            "server_cpu_share_of_one_core": round(server.cpu_s / took_s, 3),
            "server_most_mib": round(server.most_mib, 1),
        }
        server.stop()
        for board in fleet:
            board.publisher.stop(0.1)
        broker.stop(signal.SIGKILL)
        engine.dispose()
    click.echo(json.dumps(result, indent=2))
    if json_out is not None:
        write_json(json_out, result)
    if result["lost"] or result["doubled"] or result["lag"]["p99_s"] > MOST_P99_S:
        sys.exit(1)


def await_tables(engine: Engine) -> None:
    """Wait until the server has made them."""
    give_up_s = monotonic() + 30
    while True:
        try:
            with reading(engine) as connection:
                connection.execute(select(boards.c.id)).all()
        except Exception:
            if monotonic() > give_up_s:
                raise
            sleep(0.2)
        else:
            return


if __name__ == "__main__":
    main()
