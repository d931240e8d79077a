"""A fleet's server with many boards that report, for ``scale.py``: ingest, memory and pages.

The server is `bloodedge fleet serve` as a process of its own, with database and Mosquitto broker on this machine. A few
MQTT clients send all boards' reports, which are those of ``fleet.py``: it is the server that is measured, and ten
thousand connections would cost this machine more than their reports do. First every board reports once, then again and
again as fast as the broker takes it; a report counts as stored when another connection to the database sees it. Then
each board gets the history of a month with a start of its daemon a day, and of HOURS hours with reports, and the pages
are requested.
"""

import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import uuid4

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from programs import Broker, wait_until
from scale_pages import ask, peak_mib
from soak import resident_mib
from sqlalchemy import Engine, func, insert, literal, select, text

from bloodedge_fleet.database import open_database, reading, writing
from bloodedge_fleet.database.tables import TOTALS, boards, boots, hours
from fleet import REPORT, Server, await_tables

CLIENTS = 4
LEAST_REPORTS, LEAST_ROUNDS = 4000, 2
"""After the first, each board sends so many reports, and more where there are few boards."""
STARTS, HOURS = 30, 48
IDLE_S = 5.0
WITHIN_S = 300.0


class Feeder:
    """Sends the boards' reports, each number after the one before."""

    def __init__(self, number: int, port: int) -> None:
        self.names = [f"board-{place:05}" for place in range(number)]
        self._boots = [uuid4().hex for _ in self.names]
        self._sent = 0
        version, protocol = CallbackAPIVersion.VERSION2, MQTTProtocolVersion.MQTTv5
        self._clients = [Client(version, protocol=protocol) for _ in range(CLIENTS)]
        for client in self._clients:
            client.connect("127.0.0.1", port)
            client.loop_start()

    def send(self, rounds: int) -> None:
        """Have every board report so many times."""
        for _ in range(rounds):
            self._sent += 1
            for place, (name, boot) in enumerate(zip(self.names, self._boots, strict=True)):
                client = self._clients[place % CLIENTS]
                client.publish(f"bloodedge/{name}/report", _report(boot, self._sent), qos=1)

    def stop(self) -> None:
        """Disconnect."""
        for client in self._clients:
            client.disconnect()
            client.loop_stop()


def _report(boot: str, number: int) -> bytes:
    cells = {"blast": 3 * number, "normal": 5 * number, "uncertain": 2 * number}
    own = {"boot": boot, "sequence": number, "sent_at": datetime.now(UTC).isoformat(), "uptime_s": 60 * number}
    return json.dumps({**REPORT, **own, "cells": cells, "frames": 10 * number}).encode()


def measure_fleet(number: int, times: int, url: str | None) -> dict[str, Any]:
    """A server with so many boards; url: of an empty PostgreSQL database, None for SQLite."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".scale.") as name:
        folder = Path(name)
        (folder / "state").mkdir()
        with Broker(folder) as broker, Server(folder / "state", broker.address, url) as server:
            engine = open_database(url, folder / "state")
            await_tables(engine)
            page, pid = _page(server), server.process.pid
            idle_mib = resident_mib(pid)
            feeder = Feeder(number, broker.port)
            first_s = feed(feeder, engine, 1)
            before = _bytes(engine, folder)
            cpu_s = _cpu_s(server)
            rounds = max(LEAST_ROUNDS, LEAST_REPORTS // number)
            took_s = feed(feeder, engine, rounds)
            cpu_s, size = _cpu_s(server) - cpu_s, _bytes(engine, folder)
            feeder.stop()
            ingest_mib = peak_mib(pid) - idle_mib
            put_history(engine)
            idle_cpu_s = _cpu_s(server)
            sleep(IDLE_S)
            idle_cpu_s = _cpu_s(server) - idle_cpu_s
            row = {
                "boards": number,
                "database": engine.dialect.name,
                "reports": rounds * number,
                "reports_per_s": round(rounds * number / took_s),
                "server_cpu_ms_per_report": round(1000 * cpu_s / (rounds * number), 2),
                "first_reports_per_s": round(number / first_s),
                "needed_reports_per_s": round(number / 60, 1),
                "bytes_per_report": round((size - before) / (rounds * number)),
                "idle_cpu_share": round(idle_cpu_s / IDLE_S, 3),
                "idle_mib": idle_mib,
                "ingest_grew_mib": round(ingest_mib, 1),
                "pages": {what: ask(page, path, pid, times) for what, path in ADDRESSES.items()},
            }
            engine.dispose()
        print(json.dumps(row), file=sys.stderr)
        return row


ADDRESSES = {
    "boards": "/",
    "one board": "/boards/board-00007",
    "roll-outs": "/rollouts",
    "metrics": "/metrics",
    "health": "/healthz",
}


def feed(feeder: Feeder, engine: Engine, rounds: int) -> float:
    """Seconds from the first report sent to the last one stored."""
    before, began_s = _stored(engine), monotonic()
    feeder.send(rounds)
    expected = before + rounds * len(feeder.names)
    while _stored(engine) < expected:
        if monotonic() > began_s + WITHIN_S:
            raise RuntimeError(f"{expected - _stored(engine)} reports are not stored after {WITHIN_S:.0f} s")
        sleep(0.1)
    return monotonic() - began_s


def put_history(engine: Engine) -> None:
    """Earlier starts of each board's daemon, and sums by the hour."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    totals = dict.fromkeys(TOTALS, 1000)
    with writing(engine) as connection:
        for day in range(STARTS):
            values = {"boot": f"{day:032}", "began": now - timedelta(days=day), "first": 1, "highest": 1440}
            _for_each_board(connection, boots, values | {"reports": 1440} | totals)
        for hour in range(1, HOURS + 1):
            timed = {"reports": 60, "failed": 0, "cells_timed": 4000, "inference_p50_sum_ms": 2.4e4}
            values = {"hour": now - timedelta(hours=hour), "bundle": "cells 7", "inference_p95_max_ms": 9.0}
            _for_each_board(connection, hours, values | timed | totals)


def _for_each_board(connection: Any, table: Any, values: dict[str, Any]) -> None:
    columns = [literal(value, table.c[name].type) for name, value in values.items()]
    connection.execute(insert(table).from_select(["board", *values], select(boards.c.id, *columns)))


def _stored(engine: Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.coalesce(func.sum(boots.c.reports), 0))).scalar_one())


def _bytes(engine: Engine, folder: Path) -> int:
    if engine.dialect.name == "postgresql":
        with reading(engine) as connection:
            return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))
    return (folder / "state" / "fleet.sqlite").stat().st_size


def _cpu_s(server: Server) -> float:
    server.look()
    return server.cpu_s


def _page(server: Server) -> str:
    wait_until(lambda: "Page: " in server.output, 30, "the server does not say where its page is")
    return server.output.split("Page: ")[1].split()[0].rstrip("/")
