"""What a daemon loses while strangers and accidents wear it out, and how soon it answers again; loopback only.

    python benchmarks/attack.py [--times 3] [--hours 1] [--only NAME ...]

`bloodedge device run` as a process of its own over the simulated microscope, with its page on 127.0.0.1. Each class
of attack is made `--times` times (tries: connections, requests, files or deletions), then the daemon must answer and
store a new frame: back_s is how long that took, from a second after the attack on. Then, for `--hours`, all classes
come at random (a soak): the slope is that of a line fitted to the daemon's resident memory after the first fifth.
Lost: frames missing from the numbers in the database, cells without an image, and images that are not whole. Nothing
leaves this machine, and no attack has more than some hundred connections at a time.
"""

import argparse
import json
import random
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from programs import Program, bloodedge, free_port
from soak import resident_mib

from bloodedge.files import write_json
from bloodedge.machine import hardware_name

RESULTS = Path(__file__).parent / "results" / "attack.json"
WITHIN_S, START_WITHIN_S = 60.0, 600.0
WARM_UP = 0.2
PAUSE_S = 2.0
DATABASE = "device.sqlite"


class Target(Program):
    """A daemon and its state folder."""

    def __init__(self, folder: Path) -> None:
        self.state, self.port = folder / "state", free_port()
        config = folder / "device.toml"
        config.write_text(
            f'engine = "litert"\nstate = "{self.state}"\n[camera]\nrate = 2\n[web]\nport = {self.port}\n'
            "[store]\nkeep_free_mb = 1\nreserve_mb = 1\n"
        )
        super().__init__(bloodedge("device", "run", "--config", config), folder / "log")

    def status(self, path: str, headers: dict[str, str] | None = None) -> int:
        """The status of an answer; 0 without one."""
        try:
            with urlopen(Request(f"http://127.0.0.1:{self.port}{path}", headers=headers or {}), timeout=10) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, OSError):
            return 0

    def frames(self) -> list[int]:
        """Numbers of the stored frames, in their order."""
        with (
            suppress(sqlite3.Error),
            closing(sqlite3.connect(f"file:{self.state / DATABASE}?mode=ro", uri=True)) as one,
        ):
            return [row[0] for row in one.execute("SELECT number FROM frames ORDER BY id")]
        return []

    def await_work(self, within_s: float = WITHIN_S) -> float:
        """Seconds until it is ready and has stored a further frame; NaN where it does not come to that."""
        began_s, before = monotonic(), len(self.frames())
        while not (self.status("/readyz") == 200 and len(self.frames()) > before):
            if not self.running or monotonic() - began_s > within_s:
                return float("nan")
            sleep(0.1)
        return monotonic() - began_s


def connect(target: Target) -> socket.socket:
    return socket.create_connection(("127.0.0.1", target.port), timeout=10)


def idle_connections(target: Target) -> int:
    """Connections that send nothing, or half a request."""
    with ExitStack() as stack:
        for number in range(300):
            client = stack.enter_context(connect(target))
            if number % 2:
                with suppress(OSError):
                    client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        sleep(PAUSE_S)
        return 300


def stalled_readers(target: Target) -> int:
    """Clients that ask for a page and read nothing of it."""
    with ExitStack() as stack:
        for _ in range(60):
            client = stack.enter_context(connect(target))
            with suppress(OSError):
                client.sendall(b"GET /slides/1/report HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n" % target.port)
        sleep(PAUSE_S)
        return 60


def malformed_requests(target: Target) -> int:
    """Bytes that are no request, and heads without an end."""
    chance = random.Random(0)
    for number in range(100):
        with suppress(OSError), connect(target) as client:
            client.sendall(chance.randbytes(200) + b"\n\n" if number % 2 else b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000)
            client.settimeout(0.5)
            client.recv(100)
    return 100


def other_sites(target: Target) -> int:
    """Requests that another site has a browser make; each must be refused."""
    kinds = [{"sec-fetch-site": site, "sec-fetch-mode": "navigate"} for site in ("cross-site", "same-site")]
    paths = ("/slides/1/export.pdf", "/slides/1/export.csv", "/metrics", "/api/v1/slides")
    answers = [target.status(path, kind) for kind in kinds for path in paths]
    assert set(answers) == {403}, answers
    return len(answers)


def deleted_database(target: Target) -> int:
    """The database and what SQLite keeps beside it are deleted."""
    for path in target.state.glob(f"{DATABASE}*"):
        path.unlink(missing_ok=True)
    return 1


def moved_database(target: Target) -> int:
    """The database is moved away."""
    (target.state / DATABASE).rename(target.state / "elsewhere")
    return 1


CLASSES: dict[str, Callable[[Target], int]] = {
    "idle connections": idle_connections,
    "stalled readers": stalled_readers,
    "malformed requests": malformed_requests,
    "other sites": other_sites,
    "deleted database": deleted_database,
    "moved database": moved_database,
}


def measure(target: Target, name: str) -> dict[str, Any]:
    """One attack, and the time until the daemon works again."""
    tries = CLASSES[name](target)
    sleep(1.0)  # a database is missed within so long
    back_s = target.await_work()
    print(f"{name}: {tries} tries, back after {back_s:.1f} s", file=sys.stderr)
    return {"tries": tries, "back_s": back_s}


def losses(target: Target) -> dict[str, int]:
    """What is missing in the state folder."""
    with closing(sqlite3.connect(target.state / DATABASE)) as database:
        numbers = [row[0] for row in database.execute("SELECT number FROM frames ORDER BY id")]
        dropped = database.execute("SELECT coalesce(sum(dropped_before), 0) FROM frames").fetchone()[0]
        crops = [row[0] for row in database.execute("SELECT crop FROM cells")]
        (audit,) = database.execute("SELECT count(*) FROM audit").fetchone()
    whole = sum(name is not None and (target.state / "crops" / name).stat().st_size > 0 for name in crops)
    missing = numbers[-1] - numbers[0] + 1 - len(set(numbers)) - dropped
    return {"frames": len(numbers), "frames_lost": missing, "cells": len(crops), "images_lost": len(crops) - whole,
            "audit_rows": audit}  # fmt: skip


def soak(target: Target, hours: float, names: list[str]) -> dict[str, Any]:
    """All attacks at random; how the daemon's memory and log grow."""
    chance, began_s = random.Random(1), monotonic()
    samples: list[tuple[float, float]] = []
    log_bytes, longest_s, attacks = target.log.stat().st_size, 0.0, 0
    while monotonic() - began_s < hours * 3600:
        longest_s = max(longest_s, measure(target, chance.choice(names))["back_s"])
        attacks += 1
        samples.append(((monotonic() - began_s) / 3600, resident_mib(target.process.pid)))
    after = samples[int(WARM_UP * len(samples)) :]
    hours_mib = np.array(after)
    slope = float(np.polyfit(hours_mib[:, 0], hours_mib[:, 1], 1)[0]) if len(after) > 2 else None
    return {
        "hours": round((monotonic() - began_s) / 3600, 3),
        "attacks": attacks,
        "longest_back_s": round(longest_s, 1),
        "memory_mib": [round(samples[0][1]), round(samples[-1][1])] if samples else [],
        "memory_slope_mib_per_hour": None if slope is None else round(slope, 1),
        "log_bytes": target.log.stat().st_size - log_bytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--hours", type=float, default=0.0, help="of the soak")
    parser.add_argument("--only", nargs="+", choices=CLASSES, default=list(CLASSES), metavar="NAME")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    with tempfile.TemporaryDirectory(prefix=".attack.", dir=Path.cwd()) as folder, Target(Path(folder)) as target:
        start_s = target.await_work(START_WITHIN_S)
        found = {name: [measure(target, name) for _ in range(options.times)] for name in options.only}
        soaked = soak(target, options.hours, options.only) if options.hours else None
        crashed, code = not target.running, target.stop(within_s=60)
        result = {
            "command": "python benchmarks/attack.py " + " ".join(sys.argv[1:]),
            "commit": commit.strip(),
            "hardware": hardware_name(),
            "load": round(float(Path("/proc/loadavg").read_text().split()[0]), 1),
            "started_s": round(start_s, 1),
            "classes": {
                name: {
                    "times": len(tries),
                    "tries": sum(one["tries"] for one in tries),
                    "longest_back_s": round(max(one["back_s"] for one in tries), 1),
                }
                for name, tries in found.items()
            },
            "soak": soaked,
            "crashed": crashed,
            "exit_code": code,
            "lost": losses(target),
            "log_bytes": target.log.stat().st_size,
        }
    print(json.dumps(result, indent=2))
    write_json(RESULTS, result)


if __name__ == "__main__":
    main()
