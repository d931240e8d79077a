"""What a daemon loses while strangers and accidents wear it out, and how soon it answers again; loopback only.

    python benchmarks/attack.py [--times 3] [--soak MINUTES] [--only NAME ...]

`bloodedge device run` as a process of its own over the simulated microscope, with its page on 127.0.0.1. Each class
of attack is made `--times` times (tries: connections, requests, files or deletions), then the daemon must answer and
store a new frame: back_s is how long that took, from a second after the attack on. Then, for `--soak` minutes, all
classes come at random: the slope is that of a line fitted to the daemon's resident memory after the first fifth.
Lost: frames missing from the numbers in the database, cells without an image, and images that are not whole. Nothing
leaves this machine, and no attack has more than some hundred connections at a time.
"""

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
from attacks import CLASSES, DATABASE, Target
from soak import resident_mib

from bloodedge.files import write_json
from bloodedge.machine import hardware_name

RESULTS = Path(__file__).parent / "results" / "attack.json"
START_WITHIN_S = 600.0
WARM_UP = 0.2


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


def soak(target: Target, minutes: float, names: list[str]) -> dict[str, Any]:
    """All attacks at random; how the daemon's memory and log grow."""
    chance, began_s = random.Random(1), monotonic()
    samples: list[tuple[float, float]] = []
    log_bytes, longest_s, attacks = target.log.stat().st_size, 0.0, 0
    while monotonic() - began_s < minutes * 60:
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
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES", help="all at random for so long")
    parser.add_argument("--only", nargs="+", choices=CLASSES, default=list(CLASSES), metavar="NAME")
    options = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    with tempfile.TemporaryDirectory(prefix=".attack.", dir=Path.cwd()) as folder, Target(Path(folder)) as target:
        start_s = target.await_work(START_WITHIN_S)
        found = {name: [measure(target, name) for _ in range(options.times)] for name in options.only}
        soaked = soak(target, options.soak, options.only) if options.soak else None
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
