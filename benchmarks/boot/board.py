"""The virtual board as a person at it sees it: its service, its results, its bundles."""

import json
from pathlib import Path
from time import monotonic
from typing import Any

from machine import Machine, MachineError

SERVICE = "bloodedge-device.service"
STATE = "/var/lib/bloodedge"
CONFIG = "/etc/bloodedge/device.toml"
PYTHON = "/opt/bloodedge/bin/python3"
COUNT = """
import sqlite3
database = sqlite3.connect("file:/var/lib/bloodedge/device.sqlite?mode=ro", uri=True)
one = lambda question: database.execute(question).fetchone()[0]
print(one("SELECT count(*) FROM frames"), one("SELECT count(*) FROM cells WHERE blast_probability IS NOT NULL"),
      one("PRAGMA integrity_check"))
"""
FIRST_RUN = """
import sqlite3
database = sqlite3.connect("file:/var/lib/bloodedge/device.sqlite?mode=ro", uri=True)
print(database.execute("SELECT started FROM runs ORDER BY id").fetchone()[0])
"""


class Board:
    """A machine with bloodedge on it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def show(self, unit: str, *properties: str) -> list[str]:
        """Properties of a unit, as systemd has them."""
        words = " ".join(f"-p {name}" for name in properties)
        lines = self.machine.need(f"systemctl show {words} {unit}").splitlines()
        found = dict(line.split("=", 1) for line in lines)
        return [found[name] for name in properties]

    def is_ready(self) -> bool:
        """Whether the daemon has said READY and runs."""
        return self.show(SERVICE, "ActiveState", "SubState") == ["active", "running"]

    def wait_ready(self, within_s: float = 400) -> float:
        """Wait until it is; seconds since the power came on, of this emulated processor."""
        self.machine.wait_up(within_s)
        self.machine.until(self.is_ready, within_s, "the daemon was not READY", 1.0)
        return monotonic() - self.machine.powered_s

    def stored(self) -> tuple[int, int, str]:
        """(frames stored, cells classified, what SQLite says of the database)."""
        frames, cells, whole = self.machine.need(f"{PYTHON} -c '{COUNT}'").split(maxsplit=2)
        return int(frames), int(cells), whole

    def identity(self) -> str:
        """What the folder of results keeps for good: the board's name, and when its first run began."""
        return self.machine.need(f"cat {STATE}/board.env; {PYTHON} -c '{FIRST_RUN}'")

    def wait_for_cells(self, more_than: int, within_s: float = 300) -> int:
        """Wait until more cells are classified; how many then."""

        def enough() -> int:
            cells = self.stored()[1]
            return cells if cells > more_than else 0

        return int(self.machine.until(enough, within_s, f"no more than {more_than} cells were classified", 1.0))

    def bloodedge(self, *words: str, within_s: float = 300) -> "tuple[int, str]":
        """(exit code, what was said) of a command of the daemon's user."""
        done = self.machine.sh(f"sudo -u bloodedge bloodedge {' '.join(words)} 2>&1", within_s)
        return done.code, done.out.strip()

    def slots(self) -> dict[str, Any]:
        """The record of the slots."""
        code, said = self.bloodedge("device", "slots", "--json", "-")
        if code:
            raise MachineError(f"device slots: {said}")
        record: dict[str, Any] = json.loads(said)
        return record

    def journal(self, unit: str = SERVICE, lines: int = 30) -> str:
        """The end of a unit's log of this start."""
        return self.machine.need(f"journalctl -u {unit} -b --no-pager -o cat -n {lines}")

    def put(self, file: Path, path: str) -> None:
        """A file that everybody may read."""
        self.machine.put(file.read_bytes(), path)
        self.machine.need(f"chmod 644 {path}")
