"""Boards that report and a PostgreSQL, for the tests of the fleet."""

import os
import shutil
import signal
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from bloodedge.fleet_messages import BoardReport
from bloodedge_fleet.boards.archive import Received
from bloodedge_fleet.rollouts.store import check_bundle, offer
from support import ROOT
from support.needs import program, required
from support.waiting import until

RELEASED = ROOT / "models" / "cells.bundle"
AT_ONCE: dict[str, Any] = {"canary": 1, "percents": [100], "soak_s": 0.0, "halt_on": 1}
"""A roll-out to all boards without waiting."""

BOOT = "0" * 31 + "1"


def report(sequence: int = 1, **changes: Any) -> BoardReport:
    """A board's report; ``changes`` of its fields, and of its bundle's by their names with bundle_ before them."""
    bundle: dict[str, Any] = {
        "name": "cells",
        "serial": 7,
        "sha256": "a" * 64,
        "state": "good",
        "engine": "litert",
        "precision": "int8",
        "rendered": False,
        "golden_flips": 0,
        "golden_inputs": 32,
        "baseline": {
            "hardware": "a GPU",
            "latency_ms": {"p50": 2.0, "p95": 2.5, "p99": 3.0},
            "accuracy": 0.9,
            "artifact_accuracy": 0.89,
        },
    }
    own = {name.removeprefix("bundle_"): value for name, value in changes.items() if name.startswith("bundle_")}
    fields: dict[str, Any] = {
        "boot": BOOT,
        "sequence": sequence,
        "sent_at": datetime.now(UTC),
        "clock_synchronised": True,
        "uptime_s": 60.0 * sequence,
        "version": "1.0",
        "hardware": "Raspberry Pi 5",
        "alive": True,
        "bundle": bundle | own,
        "health": {"camera": {"level": "ok", "sentence": "It runs."}},
        "frames": 10 * sequence,
        "frames_dropped": 0,
        "cells": {"blast": 3 * sequence, "normal": 5 * sequence, "uncertain": 2 * sequence},
        "latency": {"inference": {"count": 10, "latency_ms": {"p50": 6.0, "p95": 8.0, "p99": 9.0}}},
        "disk_free_bytes": 10**10,
        "messages_waiting": 0,
        "messages_lost": 0,
    }
    return BoardReport.model_validate(fields | {k: v for k, v in changes.items() if not k.startswith("bundle_")})


def sent(board: str, *reports: BoardReport) -> list[Received]:
    """What a board's reports are as the broker delivers them."""
    return [Received(board, "report", each.model_dump_json().encode()) for each in reports]


def offered(engine: Engine, state: Path, path: Path, trust: Path | None = None) -> str:
    """The digest of a bundle that was checked and is offered."""
    return offer(engine, state, path, check_bundle(path, trust))


NOBODY = "nobody"
"""PostgreSQL does not run as root."""


class PostgreSQL:
    """A server on a Unix socket in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        server, initdb = required("postgres"), str(program("initdb"))
        self.folder = folder
        self.url = f"postgresql://fleet@/postgres?host={folder}"
        self._options: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
        if os.geteuid() == 0:
            self._options |= {"user": NOBODY, "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, NOBODY)
            for parent in folder.parents[:2]:  # pytest's own folders are for this user alone
                parent.chmod(0o755)
        data = folder / "data"
        subprocess.run([initdb, "-D", data, "-U", "fleet", "-A", "trust", "--no-sync"], check=True, **self._options)
        self._command = [server, "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to answer."""
        self._process = subprocess.Popen(self._command, **self._options)
        assert until(self._answers, 30)

    def stop(self) -> None:
        """Throw out whoever is connected, and end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            self._process.wait(20)
            self._process = None

    def _answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url).close()
        except psycopg.OperationalError:
            return False
        return True
