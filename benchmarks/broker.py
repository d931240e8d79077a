"""A Mosquitto broker on a free port of this machine, for benchmarks."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from programs import program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(folder: Path, port: int) -> "subprocess.Popen[bytes]":
    """A broker that keeps what it has in ``folder``, answering."""
    mosquitto = program("mosquitto")
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {folder}/\n"
        "max_queued_messages 100000\nmax_inflight_messages 1000\nuser root\n"
    )
    process = subprocess.Popen([mosquitto, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end_s = monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert monotonic() < end_s, "the broker does not answer"
            sleep(0.05)
        else:
            return process


@contextmanager
def mosquitto(folder: Path) -> Iterator[int]:
    """A running broker's port."""
    port = free_port()
    process = start(folder, port)
    try:
        yield port
    finally:
        process.kill()
        process.wait()
