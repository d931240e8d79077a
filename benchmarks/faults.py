"""What the daemon loses when something breaks, and how soon it is back: each fault many times in a row.

    python benchmarks/faults.py [--times 20] [--only NAME ...] [--broker-down-s 60]

`bloodedge device run` as a process of its own, over the simulated microscope at 10 frames a second unless a fault needs
another source. Back: seconds from the fault (or, where something is taken away, from when it is there again) until a
frame captured after it is in the database, or after a kill until the daemon started anew has stored one. Lost: frames
missing from the numbers in the database, rows that were there before and are not after, images that rows name and that
are not whole, and messages that a subscriber did not get or got in another order. Needs root (a small tmpfs), and the
Debian packages mosquitto and faketime.
"""

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import Any

import cv2
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from programs import Broker, Program, bloodedge, free_port, program

from bloodedge.files import write_json
from bloodedge.machine import hardware_name
from bloodedge.simulation import FieldSpec, SubjectStyle, render_field

RESULTS = Path(__file__).parent / "results" / "faults.json"
WITHIN_S = 30.0
CONFIG = "device.toml"


class Service(Program):
    """A daemon with a state folder, as a process of its own."""

    def __init__(self, folder: Path, camera: str = "rate = 10", more: str = "", **environment: str) -> None:
        self.folder, self.state = folder, folder / "state"
        self.bundle = folder / "a.bundle"
        shutil.copy(Path(__file__).parents[1] / "models" / "simulated.bundle", self.bundle)
        self.config = folder / CONFIG
        self._camera, self._more = camera, more
        self.write()
        super().__init__(bloodedge("device", "run", "--config", self.config), folder / "log", environment)

    def write(self, threads: int = 1) -> None:
        """The settings file."""
        self.config.write_text(
            f'bundle = "a.bundle"\nengine = "litert"\nthreads = {threads}\nstate = "state"\ntrust.unsigned = true\n'
            f"[web]\nenabled = false\n[camera]\ntimeout_s = 3\n{self._camera}\n{self._more}"
        )

    def capture_pid(self) -> int:
        """The capture process."""
        found = subprocess.run(
            [program("pgrep"), "-P", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return int(found.stdout.split()[0])

    def query(self, text: str) -> list[tuple[Any, ...]]:
        """Rows of the database as it is now."""
        with closing(sqlite3.connect(f"file:{self.state / 'device.sqlite'}?mode=ro", uri=True)) as database:
            return database.execute(text).fetchall()

    def last(self) -> int:
        """Id of the newest frame; 0 before the first."""
        try:
            return int(self.query("SELECT coalesce(max(id), 0) FROM frames")[0][0])
        except sqlite3.Error:
            return 0

    def wait_for(self, frames: int, within_s: float = WITHIN_S) -> float:
        """Wait until a frame with an id above ``frames`` is stored; gives the seconds."""
        start_s = monotonic()
        while self.last() <= frames:
            if monotonic() - start_s > within_s or not self.running:
                raise RuntimeError(f"not back within {within_s} s: {self.output[-2000:]}")
            sleep(0.02)
        return monotonic() - start_s

    def losses(self) -> int:
        """Frames missing from the numbers, and images that rows name and that are not whole."""
        gaps = self.query(
            "SELECT coalesce(sum(max(0, gap)), 0) FROM (SELECT number - dropped_before - 1"
            " - lag(number) OVER (PARTITION BY slide ORDER BY number) AS gap FROM frames)"
        )
        latest = "SELECT crop FROM cells WHERE crop IS NOT NULL ORDER BY id DESC LIMIT 200"
        named = [row[0] for row in self.query(latest)]
        broken = sum(cv2.imread(str(self.state / "crops" / str(name))) is None for name in named)
        whole = self.query("PRAGMA quick_check")[0][0] == "ok"
        return int(gaps[0][0]) + broken + (not whole)


Outcome = tuple[float, int]
"""Seconds until it was back, and what was lost."""


@contextmanager
def service(folder: Path, *arguments: str, **environment: str) -> Iterator[Service]:
    one = Service(folder, *arguments, **environment)
    try:
        one.wait_for(3)
        yield one
    finally:
        one.stop()


def camera_killed(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    with service(folder) as daemon:
        for _turn in range(times):
            yield signalled(daemon, signal.SIGKILL)


def camera_hung(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    with service(folder) as daemon:
        for _turn in range(times):
            yield signalled(daemon, signal.SIGSTOP)


def signalled(daemon: Service, number: signal.Signals) -> Outcome:
    subprocess.run(["kill", f"-{int(number)}", str(daemon.capture_pid())], check=True)
    start_s = monotonic()
    sleep(1.0)  # until frames that had been captured before are through
    daemon.wait_for(daemon.last())
    back_s = monotonic() - start_s
    daemon.wait_for(daemon.last() + 5)
    return back_s, daemon.losses()


class _Stream(BaseHTTPRequestHandler):
    """A camera on the network: motion JPEG, ten frames a second."""

    jpeg = b""

    def do_GET(self) -> None:  # the library's name
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            while not self.server.unplugged.is_set():  # type: ignore[attr-defined]
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\n\r\n" + self.jpeg + b"\r\n")
                sleep(0.1)
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        """Nothing is written."""


def plugged_in(port: int) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", port), _Stream)
    server.daemon_threads = True
    server.unplugged = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def unplug(server: ThreadingHTTPServer) -> None:
    server.unplugged.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def camera_unplugged(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    """A camera on the network that goes away for 3 s: the nearest to a pulled cable that can be had without one."""
    field = render_field(0, FieldSpec(style=SubjectStyle.of(0), um_per_px=0.15))
    _Stream.jpeg = cv2.imencode(".jpg", field.bgr, [cv2.IMWRITE_JPEG_QUALITY, 97])[1].tobytes()
    port = free_port()
    server = plugged_in(port)
    camera = f'kind = "replay"\nsource = "http://127.0.0.1:{port}/"\num_per_px = 0.15'
    with service(folder, camera) as daemon:
        for _turn in range(times):
            unplug(server)
            sleep(3)
            before = daemon.last()
            server = plugged_in(port)
            yield daemon.wait_for(before), daemon.losses()
    unplug(server)


def daemon_killed(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    """Killed in mid-write: rows seen before must be there after, every image whole, nothing half-written left."""
    with service(folder, "") as daemon:
        for number in range(times):
            sleep(0.5 + 0.037 * number)
            seen, rows = daemon.last(), daemon.query("SELECT count(*), coalesce(max(id), 0) FROM cells")[0]
            daemon.stop(signal.SIGKILL)
            survived = daemon.last() >= seen and daemon.query("SELECT count(*), max(id) FROM cells")[0] >= rows
            start_s = monotonic()
            daemon.start()
            daemon.wait_for(daemon.last())
            back_s = monotonic() - start_s
            half = len(list((daemon.state / "crops").rglob("*.partial"))) if number == times - 1 else 0
            yield back_s, daemon.losses() + (not survived) + (half > 1)


def disk_full(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    """A file system of 64 MB filled by something else for 3 s, then freed."""
    subprocess.run([program("mount"), "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    try:
        with service(folder, "rate = 10", "[store]\nkeep_free_mb = 1\nreserve_mb = 2\n") as daemon:
            for _turn in range(times):
                fill(folder / "ballast")
                sleep(3)
                before = daemon.last()
                (folder / "ballast").unlink()
                back_s = daemon.wait_for(before)
                daemon.wait_for(daemon.last() + 5)
                yield back_s, daemon.losses()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Write until nothing more fits."""
    with ballast.open("wb", buffering=0) as handle:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    handle.write(b"\0" * size)
            except OSError:
                continue


def broker_down(folder: Path, times: int, options: argparse.Namespace) -> Iterator[Outcome]:
    """Ended and started again later; every message must come, its first coming in order."""
    with Broker(folder) as server:
        more = f'[mqtt]\nhost = "127.0.0.1"\nport = {server.port}\nboard = "faults"\n'
        listener = Listener(server.port)
        with service(folder, "rate = 10", more) as daemon:
            for _turn in range(times):
                server.stop()  # it keeps its subscribers' sessions; killed, it would forget them
                sleep(options.broker_down_s)
                server.start()
                start_s = monotonic()
                waiting = daemon.query("SELECT coalesce(max(id), 0) FROM outbox")[0][0]
                while daemon.query(f"SELECT count(*) FROM outbox WHERE id <= {waiting}")[0][0]:  # noqa: S608
                    sleep(0.05)
                yield monotonic() - start_s, 0
            daemon.stop()
            sleep(3)
            expected = int(daemon.query("SELECT count(DISTINCT frame) FROM cells")[0][0])
            waiting_now = int(daemon.query("SELECT count(*) FROM outbox WHERE topic = 'frames'")[0][0])
            lost = max(0, expected - waiting_now - len(listener.first))
            disorder = sum(later <= earlier for earlier, later in zip(listener.first, listener.first[1:], strict=False))
            yield 0.0, lost + disorder


class Listener:
    """Ids of messages about frames, in the order of their first coming."""

    def __init__(self, port: int) -> None:
        self.first: list[int] = []
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            "faults-listener",
            protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=True,
        )
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("bloodedge/faults/frames", qos=1)
        self._client.on_message = self._note
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        lasting = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has none
        lasting.SessionExpiryInterval = 3600
        self._client.connect("127.0.0.1", port, clean_start=False, properties=lasting)
        self._client.loop_start()

    def _note(self, _client: object, _data: object, message: Any) -> None:
        number = int(dict(message.properties.UserProperty)["id"])
        if number not in self.first[-2000:]:
            self.first.append(number)


def database_corrupted(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    """Overwritten in its middle while the daemon is down: set aside, a new one begun, and the daemon says so."""
    with service(folder) as daemon:
        for number in range(times):
            daemon.stop(signal.SIGKILL)
            path = daemon.state / "device.sqlite"
            with closing(sqlite3.connect(path)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            size = path.stat().st_size
            with path.open("r+b") as handle:
                handle.seek(size // 3)
                handle.write(b"\xa5" * (size // 3))
            start_s = monotonic()
            daemon.start()
            while (
                len(list(daemon.state.glob("damaged-*/device.sqlite"))) <= number and monotonic() < start_s + WITHIN_S
            ):
                sleep(0.01)
            daemon.wait_for(0)
            back_s = monotonic() - start_s
            kept = len(list(daemon.state.glob("damaged-*/device.sqlite"))) == number + 1
            reported = daemon.query("SELECT count(*) FROM audit WHERE action = 'damaged database set aside'")[0][0] == 1
            daemon.wait_for(daemon.last() + 10)
            yield back_s, daemon.losses() + (not kept) + (not reported)


def bundle_corrupted(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    """A running daemon goes on with the network it has; what is damaged is refused at a reload and at a start."""
    with service(folder) as daemon:
        whole = daemon.bundle.read_bytes()
        for number in range(times):
            middle = len(whole) // 2 + 1000 * number
            daemon.bundle.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
            daemon.write(threads=2)
            refused = daemon.output.count("The reload failed")
            daemon.process.send_signal(signal.SIGHUP)
            end_s = monotonic() + 10
            while daemon.output.count("The reload failed") == refused and monotonic() < end_s:
                sleep(0.05)
            reported = daemon.output.count("The reload failed") > refused
            back_s = daemon.wait_for(daemon.last())
            other = subprocess.run(daemon.command, capture_output=True, text=True, check=False)
            plain = other.returncode == 1 and "Traceback" not in other.stderr
            daemon.bundle.write_bytes(whole)
            daemon.write(threads=1)
            yield back_s, daemon.losses() + (not reported) + (not plain)


def clock_jumped(folder: Path, times: int, _: argparse.Namespace) -> Iterator[Outcome]:
    """The wall clock set forward and back by a year, as libfaketime shows it to the daemon."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        sys.exit("faults.py: libfaketime is not installed; install it with: apt install faketime")
    stamp = folder / "faketime"
    stamp.write_text("+0")
    fake = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(stamp),
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with service(folder, **fake) as daemon:
        for number in range(times):
            stamp.write_text("+0" if number % 2 else "+365d")
            sleep(0.3)
            back_s = daemon.wait_for(daemon.last())
            end_s = monotonic() + 8
            while (logged := clock_set(daemon)) <= number and monotonic() < end_s:
                sleep(0.1)
            yield back_s, daemon.losses() + (logged <= number)


def clock_set(daemon: Service) -> int:
    """How often the audit log says that the clock was set."""
    return int(daemon.query("SELECT count(*) FROM audit WHERE action = 'clock set'")[0][0])


FAULTS: dict[str, Callable[[Path, int, argparse.Namespace], Iterator[Outcome]]] = {
    "camera process killed": camera_killed,
    "camera process hung": camera_hung,
    "camera unplugged": camera_unplugged,
    "daemon killed in mid-write": daemon_killed,
    "disk full, then freed": disk_full,
    "broker down": broker_down,
    "database corrupted": database_corrupted,
    "bundle corrupted": bundle_corrupted,
    "clock set by a year": clock_jumped,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--only", nargs="+", choices=list(FAULTS), default=list(FAULTS))
    parser.add_argument("--broker-down-s", type=float, default=60)
    options = parser.parse_args()
    for name in ("mosquitto", "mount", "pgrep"):  # before hours of work
        program(name)
    recorded = json.loads(RESULTS.read_text())["faults"] if RESULTS.exists() else {}
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="faults.", ignore_cleanup_errors=True) as folder:
            outcomes = list(FAULTS[name](Path(folder), options.times, options))
        back_s = [back for back, _ in outcomes][: options.times]
        recorded[name] = {
            "times": len(back_s),
            "back_s": {"median": round(median(back_s), 2), "worst": round(max(back_s), 2)},
            "lost": sum(lost for _, lost in outcomes),
        }
        if name == "broker down":
            recorded[name]["down_s"] = options.broker_down_s
        print(name, json.dumps(recorded[name]), flush=True)
        command = f"python benchmarks/faults.py --times {options.times} --broker-down-s {options.broker_down_s:g}"
        write_json(RESULTS, {"command": command, "cpu": hardware_name(), "faults": recorded})


if __name__ == "__main__":
    main()
