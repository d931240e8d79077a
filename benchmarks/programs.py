"""Programs that benchmarks and tests run: where Debian has them, a process that can be restarted, a broker."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

PACKAGES = {
    "mosquitto": "mosquitto",
    "strace": "strace",
    "pgrep": "procps",
    "mount": "mount",
}
SYSTEM = ("/usr/sbin", "/sbin", "/usr/local/sbin")
"""Where the system's own programs are, which are not on every user's path."""


def program(name: str) -> str:
    """A program's path; ends the benchmark, with the package to install, where there is none."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM]))
    if found is None:
        sys.exit(f"{Path(sys.argv[0]).name}: {name} is not installed; install it with: apt install {PACKAGES[name]}")
    return found


def bloodedge(*arguments: object) -> list[str]:
    """The command line of a bloodedge command, run by this Python."""
    return [sys.executable, "-m", "bloodedge", *map(str, arguments)]


def free_port() -> int:
    """A TCP port of this machine on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status_of(port: int, path: str, headers: Mapping[str, str] | None = None) -> int:
    """The status that a server on 127.0.0.1 answers with; 0 where none answers."""
    try:
        with urlopen(Request(f"http://127.0.0.1:{port}{path}", headers=dict(headers or {})), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code
    except OSError:
        return 0


def wait_until(condition: Callable[[], bool], within_s: float, otherwise: str) -> None:
    """Wait until a condition holds; after ``within_s`` seconds, raises a RuntimeError that says ``otherwise``."""
    give_up_s = monotonic() + within_s
    while not condition():
        if monotonic() > give_up_s:
            raise RuntimeError(otherwise)
        sleep(0.02)


class Program:
    """One program in a process of its own, which can be ended and started again; its output is appended to ``log``."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self.command, self.log = list(command), log
        self.environment = {**os.environ, **(environment or {})}
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.environment)

    def stop(self, number: int = signal.SIGTERM, within_s: float = 30) -> int:
        """Send a signal and wait for the end; kills it after ``within_s`` seconds. Gives the exit code."""
        if self.running:
            self.process.send_signal(number)
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """Everything that it has printed."""
        return self.log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)


class Broker(Program):
    """A Mosquitto broker on a port of its own."""

    def __init__(self, folder: Path, *lines: str, port: int | None = None) -> None:
        """lines: of its configuration; without any it lets everybody in and keeps its messages over a restart."""
        self.port = port or free_port()
        config = folder / "mosquitto.conf"
        config.write_text(self.configuration(folder, lines))
        super().__init__([program("mosquitto"), "-c", str(config)], folder / "output")

    def configuration(self, folder: Path, lines: tuple[str, ...]) -> str:
        """What its file holds: a listener, queues that drop nothing, and the lines."""
        lines = lines or ("allow_anonymous true", "persistence true", f"persistence_location {folder}/")
        queues = ("max_queued_messages 100000", "max_inflight_messages 1000")
        return "\n".join([f"listener {self.port} 127.0.0.1", "user root", *queues, *lines, ""])

    def start(self) -> None:
        """Start it, and wait until it answers."""
        super().start()
        wait_until(self._answers, 10, "the broker does not answer")

    @property
    def address(self) -> str:
        """For ``--broker``."""
        return f"127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
