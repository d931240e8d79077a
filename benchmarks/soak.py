"""Half an hour of the daemon at full speed: whether memory is steady, whether every row is there, how late results are.

    python benchmarks/soak.py [--minutes 30] [--frames FOLDER] [--bundle NAME.bundle]

`bloodedge device run` as a process of its own, with LiteRT, over a folder of frames that begins again at its end, as
fast as it goes, with a Mosquitto broker, a visitor of the page (a program that requests what the page requests) and
Prometheus, which asks every 5 s. Memory is the daemon's and its capture process's resident memory, every 5 s; its slope
is that of a line fitted to the daemon's after the first fifth. Rows lost: frames that the daemon says it stored and
that are not in the database, and messages about frames with cells that a subscriber did not get.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from urllib.request import urlopen

import numpy as np
from device_loop import VISITOR
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from programs import Broker, Program, bloodedge, free_port, program

from bloodedge.files import write_json
from bloodedge.machine import hardware_name

RESULTS = Path(__file__).parent / "results" / "soak.json"
EVERY_S = 5.0
WARM_UP = 0.2
"""Share of the time before memory is looked at."""


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".soak.") as name, Broker(Path(name)) as broker:
        folder, page_port = Path(name), free_port()
        subscriber = Subscriber(broker.port)
        config = settings(folder, options, broker.port, page_port)
        with Program(bloodedge("device", "run", "--config", config), folder / "log") as daemon:
            page = f"http://127.0.0.1:{page_port}"
            answer(f"{page}/healthz", 30)
            with Program([sys.executable, "-c", VISITOR, page], folder / "visitor") as visitor:
                samples = watch(daemon.process.pid, page, options.minutes * 60)
                visited = visitor.running
            status = json.loads(answer(f"{page}/api/v1/status", 5))
            code = daemon.stop(within_s=60)
        result = report(options, samples, status, folder / "state", subscriber, code)
        result["visited_to_the_end"] = visited
        result["last_lines"] = daemon.output.splitlines()[-2:-1]
    print(json.dumps(result, indent=2))
    write_json(RESULTS, result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--frames", type=Path, help="a folder of frames (default: the simulated microscope)")
    parser.add_argument("--bundle", type=Path, help="default: the released one for such frames")
    return parser.parse_args()


def settings(folder: Path, options: argparse.Namespace, port: int, page_port: int) -> Path:
    config = folder / "device.toml"
    camera = f'kind = "replay"\nsource = "{options.frames.resolve()}"\nloop = true\n' if options.frames else ""
    bundle = f'bundle = "{options.bundle.resolve()}"\ntrust.unsigned = true\n' if options.bundle else ""
    config.write_text(
        f'{bundle}engine = "litert"\nstate = "state"\n[camera]\n{camera}[web]\nport = {page_port}\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\nboard = "soak"\n[store]\ncrops = true\n'
    )
    return config


def answer(address: str, within_s: float) -> bytes:
    end_s = monotonic() + within_s
    while True:
        try:
            with urlopen(address, timeout=5) as reply:  # noqa: S310  # this machine's own page
                return bytes(reply.read())
        except OSError:
            if monotonic() > end_s:
                raise
            sleep(0.1)


class Subscriber:
    """Messages about frames that a subscriber got, by their id."""

    def __init__(self, port: int) -> None:
        self.ids: set[str] = set()
        self.messages = 0
        self._client = Client(CallbackAPIVersion.VERSION2, "soak-listener", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = self._note
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("bloodedge/soak/frames", qos=1)
        threading.Thread(target=self._client.loop_forever, daemon=True).start()

    def _note(self, _client: object, _data: object, message: Any) -> None:
        self.messages += 1
        self.ids.add(dict(message.properties.UserProperty)["id"])


def watch(pid: int, page: str, seconds: float) -> list[dict[str, float]]:
    """Resident memory of the daemon and its children in MiB, and what Prometheus sees, every EVERY_S."""
    samples = []
    start_s = monotonic()
    while monotonic() - start_s < seconds:
        children = subprocess.run(
            [program("pgrep"), "-P", str(pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        metrics = answer(f"{page}/metrics", 10)
        samples.append(
            {
                "s": round(monotonic() - start_s, 1),
                "daemon_mib": resident_mib(pid),
                "capture_mib": sum(resident_mib(int(child)) for child in children),
                "scrape_bytes": len(metrics),
            }
        )
        sleep(EVERY_S)
    return samples


def resident_mib(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return round(int(text.split("VmRSS:")[1].split()[0]) / 1024, 2) if "VmRSS:" in text else 0.0


def report(
    options: argparse.Namespace,
    samples: list[dict[str, float]],
    status: dict[str, Any],
    state: Path,
    subscriber: Subscriber,
    code: int,
) -> dict[str, object]:
    sleep(2)  # what is still on its way from the broker
    after = [sample for sample in samples if sample["s"] >= WARM_UP * samples[-1]["s"]]
    hours = np.array([sample["s"] / 3600 for sample in after])
    slope = float(np.polyfit(hours, [sample["daemon_mib"] for sample in after], 1)[0]) * 1024**2 / 1e6
    with closing(sqlite3.connect(state / "device.sqlite")) as database:

        def count(query: str) -> int:
            return int(database.execute(query).fetchone()[0])

        frames, cells = count("SELECT count(*) FROM frames"), count("SELECT count(*) FROM cells")
        numbers = count("SELECT max(number) + 1 FROM frames")
        with_cells = count("SELECT count(DISTINCT frame) FROM cells")
        crops = count("SELECT count(*) FROM cells WHERE crop IS NOT NULL")
        waiting = {str(row[0]) for row in database.execute("SELECT id FROM outbox WHERE topic = 'frames'")}
        whole = database.execute("PRAGMA integrity_check").fetchone()[0]
        stages = dict(database.execute("SELECT stage, histogram FROM latency WHERE slide = 1"))
    images = sum(1 for _ in (state / "crops").rglob("*.png"))
    latency = stage_ms(stages["frame"])
    return {
        "command": "python benchmarks/soak.py "
        + " ".join(Path(a).name if Path(a).exists() else a for a in sys.argv[1:]),
        "cpu": hardware_name(),
        "cores": os.cpu_count(),
        "minutes": round(samples[-1]["s"] / 60, 1),
        "frames_from": options.frames.name if options.frames else "simulated microscope",
        "exit_code": code,
        "frames_stored": frames,
        "frames_per_second": round(frames / samples[-1]["s"], 1),
        "cells_stored": cells,
        "rows_lost": numbers - frames,
        "images_lost": crops - images,
        "messages_lost": with_cells - len(subscriber.ids | waiting),
        "messages_doubled": subscriber.messages - len(subscriber.ids),
        "integrity": whole,
        "level_at_the_end": {part: one["level"] for part, one in status["health"].items()},
        "frame_to_stored_ms": latency,
        "p99_over_p50": round(latency["p99"] / latency["p50"], 2),
        "daemon_mib": {"first": samples[0]["daemon_mib"], "last": samples[-1]["daemon_mib"]},
        "daemon_mib_most": max(sample["daemon_mib"] for sample in samples),
        "capture_mib_most": max(sample["capture_mib"] for sample in samples),
        "daemon_slope_mb_per_hour": round(slope, 3),
        "samples": len(samples),
    }


def stage_ms(histogram: str) -> dict[str, float]:
    from bloodedge_device.latency import LatencyHistogram

    return {k: round(v, 1) for k, v in LatencyHistogram.from_json(histogram).summary().model_dump().items()}


if __name__ == "__main__":
    main()
