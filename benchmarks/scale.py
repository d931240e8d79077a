"""How a device's page and a fleet's server grow: with stored cells, and with boards that report.

    python benchmarks/scale.py [--cells 10000,100000,1000000] [--boards 200,1000,10000] [--json FILE]

Device: a store is filled with made-up results (``scale_store.py``), and `bloodedge device run` serves it as a process
of its own, while it waits for images. Each address is requested --times times after one that does not count; latency
is the median, from the request to the last byte. Memory is how far the process's peak rose above what it held before.
The largest slide holds a tenth of all cells, at most 100,000, and is one of the newest; a typical one holds 2,000.
Fleet: see ``scale_fleet.py``. Writes results/scale.json.
"""

import argparse
import json
import os
import shlex
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.request import urlopen

from programs import Program, bloodedge, free_port
from revision import revision
from scale_fleet import measure_fleet
from scale_pages import ask, forget_peak, peak_mib
from scale_store import Filled, fill, forget_ms
from soak import answer, resident_mib

from bloodedge.files import write_json
from bloodedge.machine import hardware_name, versions
from bloodedge_device.store import DATABASE, SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "scale.json"
BUNDLE = ROOT / "models" / "cells.bundle"
WITHIN_S = 300.0
"""The daemon's start: it checks the whole database first."""
GOAL_MS, GOAL_CELLS = 300.0, 1_000_000
GOAL_PAGES = ("live", "live data", "slides", "slide", "largest slide", "report", "report of largest slide")
"""These answer within GOAL_MS with GOAL_CELLS stored."""
PIECE_BYTES = 1 << 20


def main() -> None:
    options = parse()
    result: dict[str, Any] = {
        "command": command(sys.argv[1:], options.database),
        "commit": revision(),
        "cpu": hardware_name(),
        "cores": os.cpu_count(),
        "versions": versions(["sqlalchemy", "psycopg", "paho-mqtt", "starlette"]) | {"sqlite": sqlite3.sqlite_version},
        "times": options.times,
        "goal_ms": GOAL_MS,
        "schema": SCHEMA_VERSION,
        "device": [measure_device(cells, options.times) for cells in options.cells],
        "fleet": [measure_fleet(boards, options.times, options.database) for boards in options.boards],
    }
    result["misses"] = misses(result["device"])
    print(json.dumps(result, indent=2))
    write_json(options.json, result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=numbers, default=[10**4, 10**5, 10**6], help="stored, in turn")
    parser.add_argument("--boards", type=numbers, default=[200, 1000, 10_000], help="that report, in turn")
    parser.add_argument(
        "--database", metavar="URL", help="an empty PostgreSQL database for the boards; default: SQLite"
    )
    parser.add_argument("--times", type=int, default=7)
    parser.add_argument("--json", type=Path, default=RESULTS)
    return parser.parse_args()


def command(words: list[str], database: str | None) -> str:
    """What was called; the database's URL and folders are this machine's own."""
    shown = ["URL" if word == database else Path(word).name if word.endswith(".json") else word for word in words]
    return f"python benchmarks/scale.py {shlex.join(shown)}".rstrip()


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def misses(device: list[dict[str, Any]]) -> list[str]:
    """Pages that are slower than the goal, among those that it is for."""
    rows = [row for row in device if row["cells"] == GOAL_CELLS]
    return [page for row in rows for page in GOAL_PAGES if row["pages"][page]["latency_ms"] > GOAL_MS]


def measure_device(cells: int, times: int) -> dict[str, Any]:
    """A store of so many cells behind the daemon's page."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".scale.") as name:
        folder = Path(name)
        began_s = perf_counter()
        filled = fill(folder / "state", BUNDLE, cells)
        print(f"{filled}: {perf_counter() - began_s:.0f} s", file=sys.stderr)
        forget = forget_ms(folder / "state", filled.largest, times)
        size = (folder / "state" / DATABASE).stat().st_size
        with running(folder) as (daemon, page, start_s):
            pid = daemon.process.pid
            pages = {what: ask(page, path, pid, times) for what, path in addresses(filled).items()}
            csv = export(page, filled, pid)
            row = {
                **vars(filled),
                "database_bytes": size,
                "bytes_per_cell": round(size / filled.cells, 1),
                "forget_images_ms": forget,
                "start_s": round(start_s, 2),
                "resident_mib": resident_mib(pid),
                "pages": pages,
                "csv": csv,
            }
        print(json.dumps(row), file=sys.stderr)
        return row


@contextmanager
def running(folder: Path) -> Iterator[tuple[Program, str, float]]:
    """The daemon over a state folder and an empty folder of images: (it, its page, seconds until it was ready)."""
    (folder / "images").mkdir()
    port = free_port()
    config = folder / "device.toml"
    config.write_text(
        f'bundle = "{BUNDLE}"\nengine = "litert"\nstate = "state"\ntrust.unsigned = true\n[camera]\nkind = "replay"\n'
        f'source = "{folder / "images"}"\nwatch = true\n[web]\nport = {port}\n[store]\nkeep_free_mb = 100\n'
    )
    began_s = perf_counter()
    daemon = Program(bloodedge("device", "run", "--config", config), folder / "log")
    try:
        page = f"http://127.0.0.1:{port}"
        answer(f"{page}/metrics", WITHIN_S)
        yield daemon, page, perf_counter() - began_s
    finally:
        daemon.stop(signal.SIGTERM)


def addresses(filled: Filled) -> dict[str, str]:
    """What is requested, by what it shows."""
    last = filled.cells - 100
    return {
        "live": "/",
        "live data": "/api/v1/status",
        "slides": "/slides",
        "slide": f"/slides/{filled.typical}",
        "largest slide": f"/slides/{filled.largest}",
        "report": f"/slides/{filled.typical}/report",
        "report of largest slide": f"/slides/{filled.largest}/report",
        "cells": f"/api/v1/slides/{filled.typical}/cells?limit=500",
        "last cells of largest slide": f"/api/v1/slides/{filled.largest}/cells?limit=100&after={last}",
        "review": f"/review/{filled.typical}",
        "review of largest slide": f"/review/{filled.largest}",
        "kinds": f"/slides/{filled.typical}/kinds",
        "kinds of largest slide": f"/slides/{filled.largest}/kinds",
        "teach": "/teach",
        "review queue": "/teach/review",
        "health": "/health",
        "metrics": "/metrics",
    }


def export(page: str, filled: Filled, pid: int) -> dict[str, float]:
    """The largest slide as CSV, as fast as it comes."""
    before_mib = resident_mib(pid)
    forget_peak(pid)
    began_s = perf_counter()
    rows, first_s = 0, 0.0
    with urlopen(f"{page}/slides/{filled.largest}/export.csv", timeout=600) as reply:  # noqa: S310
        while piece := reply.read(PIECE_BYTES):
            first_s = first_s or perf_counter() - began_s
            rows += piece.count(b"\n")
    took_s = perf_counter() - began_s
    assert rows == filled.largest_cells + 1, f"{rows} lines"
    return {
        "rows": rows - 1,
        "rows_per_s": round((rows - 1) / took_s),
        "first_ms": round(1000 * first_s, 1),
        "grew_mib": round(peak_mib(pid) - before_mib, 1),
    }


if __name__ == "__main__":
    main()
